"""Which activation function a layer's output has just come from."""

from typing import Any

import keras
import numpy as np

from .probe import attribute

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
# Operations of a functional model, such as keras.ops.relu(x), by their class.
_OPERATIONS = {
    "Relu": "relu",
    "ReLU": "relu",
    "Relu6": "relu6",
    "Tanh": "tanh",
    "Softsign": "softsign",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hard_sigmoid",
}


def activation_of(layer: Any) -> str | None:
    """Name of the activation function that gives the layer's output, if it is known.

    A leaky ReLU, in any of its forms, is none that this knows.
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
    return None if isinstance(layer, keras.Layer) else _operation(layer)


def _operation(layer: Any) -> str | None:
    return _OPERATIONS.get(type(layer).__name__)


def unit_axis(layer: Any) -> int:
    """Axis of the layer's output on which its units lie, where the layer tells."""
    return 1 if attribute(layer, "data_format") == "channels_first" else -1
