"""What the monitor measures, and the rules that read it: a file a family."""

from . import (
    activations,
    batch_norm,
    collapse,
    data,
    gradients,
    loss,
    optimizers,
    overview,
    pace,
    registry,
    shift,
    targets,
    tensors,
    weights,
)

# The order of the charts, and of the table in the docs.
FAMILIES = (
    overview,
    loss,
    targets,
    gradients,
    optimizers,
    pace,
    activations,
    shift,
    collapse,
    data,
    batch_norm,
    weights,
    tensors,
)
registry.arrange([family.__name__ for family in FAMILIES])
