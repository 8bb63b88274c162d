"""The rules that the layer's arguments keep, each checked once, at the edge."""

import math
import operator
from collections.abc import Mapping
from typing import Any

from keras import ops

Tensor = Any
Shape = tuple[int | None, ...]


# {what PyTorch and Keras' other layers call an argument: what to write instead}.
INSTEAD = {
    "affine": "Did you mean center={0!r}, scale={0!r}?",
    "data_format": "Did you mean axis=-1 (channels last) or axis=1 (channels first)?",
    "eps": "Did you mean epsilon={0!r}?",
}


def refuse_slips(given: Mapping[str, Any]) -> None:
    """Raise a TypeError that names the argument which was meant, if that is known.

    Of the others Keras says that it does not know them.
    """
    for name in given.keys() & INSTEAD.keys():
        value = given[name]
        raise TypeError(
            f"BatchNorm({name}={value!r}): there is no argument {name}. "
            f"{INSTEAD[name].format(value)}"
        )


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


def axis(value: Any) -> int | list[int]:
    """`axis`: an integer, or a list of them; a list of one is that one."""
    if not isinstance(value, list | tuple):
        return integer("axis", value)
    axes = [integer("axis", item) for item in value]
    if not axes:
        raise ValueError(f"BatchNorm(axis={value!r}): axis must name an axis.")
    return axes if len(axes) > 1 else axes[0]


def fraction(name: str, value: Any) -> float:
    """`value` as a float from 0 to 1."""
    number = _number(value)
    if not 0 <= number <= 1:
        raise ValueError(
            f"BatchNorm({name}={value!r}): {name} must be a number from 0 to 1, the "
            "share of the old average that is kept: for PyTorch's 0.1 give 0.9."
        )
    return number


def check_warmup(momentum: float | None) -> None:
    """Refuse a `momentum` for which `warmup=True` has no meaning."""
    if momentum is None:
        raise ValueError(
            "BatchNorm(momentum=None, warmup=True): momentum=None is a warm-up without "
            "an end; leave one of them out."
        )
    if momentum == 1:
        raise ValueError(
            "BatchNorm(momentum=1.0, warmup=True): with a momentum of 1 the warm-up "
            "has no end. Give a momentum below 1, or momentum=None for the average "
            "over all batches."
        )


def group_size(value: Any) -> int | None:
    """`virtual_batch_size`: None, or an integer of at least 1."""
    if value is None:
        return None
    size = integer("virtual_batch_size", value)
    if size < 1:
        raise ValueError(
            f"BatchNorm(virtual_batch_size={value!r}): virtual_batch_size must be at "
            "least 1."
        )
    return size


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


def canonical_axes(axis: int | list[int], shape: Shape) -> list[int]:
    """`axis` as axes counted from the front, in their order in `shape`."""
    rank = len(shape)
    given = axis if isinstance(axis, list) else [axis]

    def received() -> str:
        # Only for an error: torch.jit.trace warns when a traced size becomes text.
        return f"BatchNorm(axis={axis}) received inputs of shape {tuple(shape)}"

    if not all(-rank <= one < rank for one in given):
        # BatchNorm(64), as one writes BatchNorm1d(64) in PyTorch.
        is_size = any(one in shape for one in given)
        hint = " The layer counts the channels itself." if is_size else ""
        raise ValueError(
            f"{received()}, whose axes are {-rank} to {rank - 1}. Did you mean "
            f"axis=-1?{hint}"
        )
    axes = sorted(one % rank for one in given)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{received()}: it names one of their axes twice.")
    return axes


def channel_sizes(axis: int | list[int], shape: Shape) -> list[int]:
    """The sizes of `shape` along `axis`, all of which must be known."""
    sizes = [shape[one] for one in canonical_axes(axis, shape)]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise ValueError(
            f"BatchNorm(axis={axis}) received inputs of shape {tuple(shape)}, whose "
            "size along that axis is not known. Give it a size, for instance in "
            "keras.Input(shape=...)."
        )
    return known


def aligned_mask(mask: Tensor, shape: Shape) -> Tensor:
    """`mask` as booleans of the rank of the inputs that broadcast to their `shape`.

    The mask's dimensions are the inputs' leading ones: a (batch, time) mask of (batch,
    time, C) becomes (batch, time, 1).
    """
    given = tuple(mask.shape)
    missing = len(shape) - len(given)
    if missing < 0 or any(
        None not in (size, full) and size not in (1, full)
        for size, full in zip(given, shape, strict=False)
    ):
        raise ValueError(
            f"BatchNorm received a mask of shape {given} for inputs of shape "
            f"{tuple(shape)}. The mask's dimensions are the leading ones of the "
            "inputs, each of their size or 1: (batch, time) for inputs of (batch, "
            "time, C), (batch, 1, time) for inputs of (batch, C, time)."
        )
    mask = ops.cast(mask, "bool")
    if not missing:
        return mask
    return ops.reshape(mask, (*ops.shape(mask), *[1] * missing))


def _number(value: Any) -> float:
    """`value` as a float; NaN, which is in no range, where it is not a number."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
