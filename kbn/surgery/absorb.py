"""Layers that can take up an affine map, scale * x + shift, in weights of their own.

After: layer(x) * scale + shift = layer'(x). Before: layer(x * scale + shift) =
layer'(x). Both for each channel, in float64, for a layer without activation (after) or
whose every output is a sum over whole windows (before).
"""

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from kbn import arguments
from kbn.private import keras as private
from kbn.surgery.graph import Layer

Array = Any


class Inexact(Exception):
    """No weights of a layer would give the same outputs; says why."""


class Affine(NamedTuple):
    """x * scale + shift along `axes` of a tensor of `rank` axes.

    scale, shift: float64, with one axis for each of `axes`, which count from the front.
    """

    scale: Array
    shift: Array
    axes: list[int]
    rank: int

    def behind_means(self, layer: Layer) -> "Affine":
        """The same map behind a mean over all axes but the first and the channels'.

        Raises:
            Inexact: It is another one at other places.
        """
        channels = 1 if layer.data_format == "channels_first" else self.rank - 1
        if self.axes != [channels]:
            raise Inexact(f"'{layer.name}' behind it takes means over its channels")
        return self if layer.keepdims else self._replace(axes=[1], rank=2)


class Taken(NamedTuple):
    """The weights of a layer by name, in float64, and what of its config is other."""

    weights: dict[str, Array]
    changes: dict[str, Any]


def of_batch_norm(layer: Layer, shape: tuple[int | None, ...]) -> Affine:
    """The map that a batch norm is for inputs of `shape`; Inexact if not finite."""
    axes = arguments.canonical_axes(layer.axis, shape)

    def read(variable: object) -> Array:
        values = np.asarray(keras.ops.convert_to_numpy(variable), "float64")
        return values.reshape([shape[axis] for axis in axes])

    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(read(layer.moving_variance) + layer.epsilon)
        if layer.gamma is not None:
            scale = scale * read(layer.gamma)
        shift = -read(layer.moving_mean) * scale
        if layer.beta is not None:
            shift = shift + read(layer.beta)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Inexact("its statistics are not finite")
    return Affine(scale, shift, axes, len(shape))


DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    *DEPTHWISE,
    *SEPARABLE,
    *TRANSPOSED,
)
TAKERS = (layers.Dense, *CONVOLUTIONS)


def own(layer: Layer) -> Taken:
    """The weights of `layer` as they are; Inexact where it takes nothing up at all."""
    if type(layer) not in TAKERS:
        raise Inexact("cannot take it up")
    if layer.quantization_mode is not None:
        raise Inexact("is quantized")
    if getattr(layer, "lora_enabled", False):
        raise Inexact("has LoRA weights")
    weights = {
        variable.name: np.asarray(keras.ops.convert_to_numpy(variable), "float64")
        for variable in private.own_variables(layer)
    }
    return Taken(weights, {})


def after(layer: Layer, taken: Taken, affine: Affine) -> Taken:
    """The weights of `layer` with `affine` behind it, or Inexact with the reason."""
    if layer.activation not in (None, keras.activations.linear):
        raise Inexact("has an activation")
    if layer.activity_regularizer is not None:
        raise Inexact("has a regularizer of its output")
    _check_axis(layer, affine)
    scale, shift = affine.scale, affine.shift
    weights = dict(taken.weights)
    if isinstance(layer, DEPTHWISE):
        kernel = weights["kernel"]  # (window, C, multiplier): C * multiplier channels
        weights["kernel"] = kernel * scale.reshape(kernel.shape[-2:])
    elif isinstance(layer, SEPARABLE):
        weights["pointwise_kernel"] = weights["pointwise_kernel"] * scale
    elif isinstance(layer, TRANSPOSED):  # (window, filters, C)
        weights["kernel"] = weights["kernel"] * scale[:, None]
    else:  # (window, C, filters), or Dense's (C, units)
        weights["kernel"] = weights["kernel"] * scale
    weights["bias"] = weights.get("bias", 0) * scale + shift
    return Taken(weights, {**taken.changes, "use_bias": True})


def before(layer: Layer, taken: Taken, affine: Affine) -> Taken:
    """The weights of `layer` with `affine` before it, or Inexact with the reason."""
    _check_axis(layer, affine)
    if isinstance(layer, TRANSPOSED):
        raise Inexact("sums over a part of its window at the border")
    # A window of one place has nothing to pad, and a padded one sees zeros that the
    # shift has not moved.
    padded = isinstance(layer, CONVOLUTIONS) and layer.padding != "valid"
    if padded and any(size > 1 for size in layer.kernel_size):
        raise Inexact(f"pads its inputs (padding={layer.padding!r})")
    scale, shift = affine.scale, affine.shift
    weights = dict(taken.weights)
    if isinstance(layer, DEPTHWISE):
        kernel = weights["kernel"]  # (window, C, multiplier)
        moved = _summed(kernel * shift[:, None]).reshape(-1)
        weights["kernel"] = kernel * scale[:, None]
    elif isinstance(layer, SEPARABLE):
        kernel = weights["depthwise_kernel"]
        moved = _summed(kernel * shift[:, None]).reshape(-1)
        moved = moved @ _summed(weights["pointwise_kernel"])
        weights["depthwise_kernel"] = kernel * scale[:, None]
    else:
        kernel = weights["kernel"]  # (window, C / groups, filters)
        groups = getattr(layer, "groups", 1)

        def grouped(values: Array) -> Array:  # (C / groups, filters)
            each = kernel.shape[-1] // groups
            return np.repeat(values.reshape(groups, -1), each, axis=0).T

        moved = _summed(kernel * grouped(shift)).sum(axis=0)
        weights["kernel"] = kernel * grouped(scale)
    weights["bias"] = weights.get("bias", 0) + moved
    return Taken(weights, {**taken.changes, "use_bias": True})


def check_bias(layer: Layer, taken: Taken, shape: tuple[int | None, ...]) -> None:
    """Inexact for a bias that Keras adds along another axis of outputs of `shape`."""
    axis, size = _channels(layer, len(shape)), taken.weights["bias"].size
    confused = axis != len(shape) - 1 and shape[-1] in (size, None)
    if size > 1 and confused and bias_goes_astray():
        raise Inexact(
            "gets its bias added along the last axis where that is as long as "
            f"axis {axis}, a defect of Keras"
        )


@functools.cache
def bias_goes_astray() -> bool:
    """Whether Keras adds a bias along the last axis that it was not made for.

    Keras 3.15.1 does on TensorFlow, where the last axis has its size:
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/numpy.py
    """
    bias = keras.ops.convert_to_tensor([[[0.0], [1.0]]])
    added = keras.ops.add(keras.ops.zeros((1, 2, 2)), bias)
    return float(added[0, 0, 1]) != 0


def _summed(kernel: Array) -> Array:
    """The sum over the window: all axes but the last two."""
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)))


def _channels(layer: Layer, rank: int) -> int:
    """The axis of the channels in inputs and outputs of `rank` axes."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else rank - 1


def _check_axis(layer: Layer, affine: Affine) -> None:
    channels = _channels(layer, affine.rank)
    if affine.axes != [channels]:
        raise Inexact(
            f"has its channels on axis {channels}, the batch norm on "
            f"{', '.join(map(str, affine.axes))}"
        )
