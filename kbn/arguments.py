"""The rules that the layer's arguments keep, each checked once, at the edge."""

import math
import operator
from typing import Any

from keras import ops

Tensor = Any
Shape = tuple[int | None, ...]


def integer(name: str, value: Any) -> int:
    """`value` as an int; neither a bool nor a float that happens to be whole."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(
            f"BatchNorm({name}={value!r}): {name} must be an integer."
        ) from None


def fraction(name: str, value: Any) -> float:
    """`value` as a float from 0 to 1."""
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError(
            f"BatchNorm({name}={value!r}): {name} must be a number from 0 to 1."
        )
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a finite float greater than 0."""
    number = _number(value)
    if not 0 < number < math.inf:
        raise ValueError(
            f"BatchNorm({name}={value!r}): {name} must be a finite number greater "
            "than 0."
        )
    return number


def clipping(value: Any) -> dict[str, float] | None:
    """`renorm_clipping`: None, or bounds by the names "rmin", "rmax" and "dmax"."""
    if value is None:
        return None
    given = f"BatchNorm(renorm_clipping={value!r}): "
    if not isinstance(value, dict) or set(value) - {"rmin", "rmax", "dmax"}:
        raise ValueError(
            f"{given}renorm_clipping must be a dictionary with no other keys than "
            "'rmin', 'rmax' and 'dmax'."
        )
    bounds = {key: _number(bound) for key, bound in value.items() if bound is not None}
    for key, bound in bounds.items():
        if not bound >= 0:
            raise ValueError(f"{given}{key} must be a number of at least 0.")
    if bounds.get("rmin", 0) > bounds.get("rmax", math.inf):
        raise ValueError(f"{given}rmin must not be greater than rmax.")
    return value


def canonical_axis(axis: int, shape: Shape) -> int:
    """`axis` counted from the front, `0 <= axis < len(shape)`."""
    rank = len(shape)
    if not -rank <= axis < rank:
        raise ValueError(
            f"BatchNorm(axis={axis}) received inputs of shape {tuple(shape)}, "
            f"whose axes are {-rank} to {rank - 1}. Did you mean axis=-1?"
        )
    return axis % rank


def aligned_mask(mask: Tensor, shape: Shape, axis: int) -> Tensor:
    """`mask` as booleans of the rank of the inputs that broadcast to their `shape`.

    A mask of the inputs' rank stays as it is. The dimensions of a lower rank are the
    leading ones of the inputs that are not `axis`, as (batch, time) of (batch, time,
    C) and of (batch, C, time).
    """
    rank, given = len(shape), len(mask.shape)
    others = [i for i in range(rank) if i != axis]
    place = others[:given] if given < rank else list(range(rank))
    sizes = dict(zip(place, mask.shape, strict=False))
    if given > rank or any(
        None not in (size, shape[i]) and size not in (1, shape[i])
        for i, size in sizes.items()
    ):
        raise ValueError(
            f"BatchNorm received a mask of shape {tuple(mask.shape)} for inputs of "
            f"shape {tuple(shape)} with their channels on axis {axis}. A mask "
            "broadcasts to the inputs, or has the sizes of their leading axes without "
            "the channels'."
        )
    mask = ops.cast(mask, "bool")
    if given == rank:
        return mask
    actual = dict(zip(place, ops.shape(mask), strict=True))
    return ops.reshape(mask, [actual.get(i, 1) for i in range(rank)])


def _number(value: Any) -> float:
    """`value` as a float; NaN, which is in no range, where it is not a number."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
