"""The affine map that a batch norm is in inference, and a layer that takes it up."""

from typing import Any, NamedTuple

import keras
import numpy as np

from kbn import arguments
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
    """The map that a batch norm is in inference, for inputs of `shape`.

    Raises:
        Inexact: Its statistics are not finite.
    """
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
