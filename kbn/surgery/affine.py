"""What a batch norm is in inference, and the weights of a layer that takes it up."""

from typing import Any, NamedTuple

Array = Any


class Affine(NamedTuple):
    """x * scale + shift along `axes` of a tensor of `rank` axes.

    scale, shift: float64, with one axis for each of `axes`, which count from the front.
    """

    scale: Array
    shift: Array
    axes: list[int]
    rank: int


class Taken(NamedTuple):
    """The weights of a layer by name, in float64, and what of its config is other."""

    weights: dict[str, Array]
    changes: dict[str, Any]


class Inexact(Exception):
    """The layer has no weights that would give the same; says why."""
