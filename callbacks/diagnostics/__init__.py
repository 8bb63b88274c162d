"""What the monitor measures: each diagnostic in one place, in a file a family."""

from . import (
    activations,
    alerts,
    batch_norm,
    gradients,
    layers,
    loss,
    optimizers,
    registry,
    tensors,
    weights,
)

# The order of the charts, and of the table in the docs.
FAMILIES = (
    alerts,
    loss,
    gradients,
    optimizers,
    activations,
    batch_norm,
    weights,
    tensors,
    layers,
)
registry.arrange([family.__name__ for family in FAMILIES])
