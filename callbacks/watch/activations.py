"""Activation functions: which one a layer ends with, and when its outputs are sick."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from .layers import attribute


@dataclass(frozen=True)
class Activation:
    """What kbn knows of an activation function.

    `operations`: classes of Keras that compute it in a functional model. `dies`: its
    output is exactly 0 for all inputs below some value, and so is its gradient. `flat`:
    below the first and above the second output its gradient is nearly 0.
    """

    name: str
    operations: tuple[str, ...] = ()
    dies: bool = False
    flat: tuple[float, float] | None = None


# A new activation function is a row. Leaky ReLUs neither die nor saturate.
ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("relu", ("Relu", "ReLU"), dies=True),
        Activation("relu6", ("Relu6",), dies=True),
        Activation("tanh", ("Tanh",), flat=(-0.99, 0.99)),
        Activation("softsign", ("Softsign",), flat=(-0.99, 0.99)),
        Activation("sigmoid", ("Sigmoid",), flat=(0.01, 0.99)),
        Activation("hard_sigmoid", ("HardSigmoid",), flat=(0.01, 0.99)),
    )
}
# Those of Keras whose output is `activation(...)`. A user's own layer may do anything
# after its activation, and so does an LSTM.
_ENDS_WITH_ACTIVATION = (
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def name_of(layer: Any) -> str | None:
    """Name of the activation function that gives the layer's output, if it is known.

    Returns None for leaky ReLUs, in any of their forms.
    """
    if isinstance(layer, _ENDS_WITH_ACTIVATION):
        # keras.activations.relu with a slope hides in a lambda: another name.
        name = attribute(attribute(layer, "activation"), "__name__")
        return name if isinstance(name, str) else None
    slope = attribute(layer, "negative_slope")
    if slope is not None and np.any(slope):
        return None
    if isinstance(layer, keras.layers.ReLU):
        return "relu"
    if isinstance(layer, keras.Layer):
        return None
    kind = type(layer).__name__
    known = (x.name for x in ACTIVATIONS.values() if kind in x.operations)
    return next(known, None)


def activation_of(layer: Any) -> Activation | None:
    """The row of `ACTIVATIONS` for the layer's output; None for any other function."""
    return ACTIVATIONS.get(name_of(layer) or "")


def unit_axis(layer: Any) -> int:
    """Axis of the layer's output on which its units lie, where the layer tells."""
    return 1 if attribute(layer, "data_format") == "channels_first" else -1
