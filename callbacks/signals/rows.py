"""What a training step measures of a tensor.

Each is a row of float64, as a summary is; the rows of replicas are merged on the host.
Of a tensor in a graph, of known shape, the same row in float32, or float64 of float64,
by few ops: there are hundreds of tensors, and each op is traced and optimized.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PIECE = 1024  # elements of each channel that are reduced at once
SAMPLE = 2**16  # elements of which moments of units are, as of a histogram


def active_row(x: Any, axis: int, rest: float = 0.0, within: float = 0.0) -> Any:
    """(1 + units,): elements per unit, then how many of each unit's are not at rest.

    At rest: at most `within` from `rest`.
    """
    if isinstance(x, np.ndarray):
        rows = _rows_by_channel(x, [axis])
        return np.concatenate([[len(rows)], _active_of(rows, rest, within)])
    from keras import ops

    others = _others(x, [axis])
    is_active = ops.not_equal(x, ops.cast(rest, x.dtype))
    if within:
        is_active = ops.abs(x - ops.cast(rest, x.dtype)) > ops.cast(within, x.dtype)
    # float32 counts to 2^24; beyond, it still tells 1 % of a unit's elements.
    active = ops.sum(ops.cast(is_active, "float32"), axis=others)
    return _row(x, _count(x, others), active)


def outside_row(x: Any, low: float, high: float) -> Any:
    """(2,): elements, and how many are below `low` or above `high`."""
    if isinstance(x, np.ndarray):
        outside = np.count_nonzero((x < low) | (x > high))
        return np.array([x.size, outside], np.float64)
    from keras import ops

    outside = (x < ops.cast(low, x.dtype)) | (x > ops.cast(high, x.dtype))
    return _row(x, math.prod(x.shape), ops.sum(ops.cast(outside, "float32")))


def moments_row(x: Any, axes: Sequence[int]) -> Any:
    """(1 + 2 C,): elements per channel, then mean and biased variance of each."""
    if isinstance(x, np.ndarray):
        return _moments_of(_rows_by_channel(x, axes))
    from keras import ops

    others = _others(x, axes)
    wide = ops.cast(x, wide_dtype(x))
    rounded = ops.mean(wide, axis=others, keepdims=True)
    # centred: E[x^2] - E[x]^2 loses every digit once |mean| >> std
    rest = wide - rounded
    lost = ops.mean(rest, axis=others)
    variance = ops.mean(ops.square(rest), axis=others) - ops.square(lost)
    mean = ops.squeeze(rounded, others) + lost
    kept = sorted(axis % len(x.shape) for axis in axes)
    order = [kept.index(axis % len(x.shape)) for axis in axes]
    parts = [ops.transpose(part, order) for part in (mean, ops.maximum(variance, 0))]
    return _row(x, _count(x, others), *parts)


def spread_row(x: Any) -> Any:
    """(3,): examples, mean variance between them, and mean square of all elements."""
    if isinstance(x, np.ndarray):
        wide = x if x.dtype == np.float64 else x.astype(np.float32)
        variance = wide.var(axis=0).mean() if wide.size else 0.0
        square = np.square(wide).mean() if wide.size else 0.0
        return np.array([len(x), variance, square], np.float64)
    from keras import ops

    wide = ops.cast(x, wide_dtype(x))
    variance = ops.mean(ops.var(wide, axis=0))
    return _row(x, x.shape[0], variance, ops.mean(ops.square(wide)))


def units_row(x: Any, axis: int) -> Any:
    """(2 + 2 units,): examples, noise, then mean and deviation of each unit.

    Over batch x space, of a tensor of two and more dimensions; of a large one, every
    n-th place. `noise`: the sum of the variances that means and deviations have because
    the batch is a sample of examples, of normal distributions.
    """
    from keras import ops

    xp: Any = np if isinstance(x, np.ndarray) else ops
    stride = -(-math.prod(x.shape) // SAMPLE)
    if axis == 1 and len(x.shape) > 2:  # (N, C, places)
        wide = xp.reshape(x, (*x.shape[:2], -1))[:, :, ::stride]
        wide = xp.swapaxes(wide, 1, 2)
    else:
        wide = xp.reshape(x, (x.shape[0], -1, x.shape[-1]))[:, ::stride]
    wide = wide.astype(np.float64) if xp is np else ops.cast(wide, wide_dtype(x))
    of_examples = xp.mean(wide, axis=1)  # (N, C)
    mean = xp.mean(of_examples, axis=0)
    variance = xp.mean(xp.square(wide - mean), axis=(0, 1))
    # Means and deviations: 1 and 1/2 of the variance over the examples.
    noise = 1.5 * xp.sum(xp.var(of_examples, axis=0)) / max(x.shape[0] - 1, 1)
    parts = x.shape[0], noise, mean, xp.sqrt(variance)
    if xp is np:
        return np.concatenate([np.reshape(part, -1) for part in parts])
    return _row(x, *parts)


def scalar_row(x: Any) -> Any:
    """(1,): a tensor of one number."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float64).reshape(1)
    return _row(x, x)


def _rows_by_channel(x: Any, axes: Sequence[int]) -> Any:
    """(elements, channels)."""
    axes = [axis % x.ndim for axis in axes]
    others = [axis for axis in range(x.ndim) if axis not in axes]
    channels = math.prod(x.shape[axis] for axis in axes)
    return x.transpose(others + axes).reshape(-1, channels)


def _active_of(x: Any, rest: float, within: float) -> Any:
    """Of an array (elements, units): half the time of `count_nonzero` on an axis."""
    active = np.zeros(x.shape[1])
    for i in range(0, len(x), PIECE):
        piece = x[i : i + PIECE]
        is_active = np.abs(piece - rest) > within if within else piece != rest
        ones = np.ones(len(piece), np.float32)
        active += ones @ is_active.astype(np.float32)
    return active


def _moments_of(x: Any) -> Any:
    """Of an array (elements, channels): sums in float64, of pieces in float32."""
    count, channels = x.shape
    if not count:
        return np.array([0.0, *[np.nan] * (2 * channels)])
    wide = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
    pieces = [wide[i : i + PIECE] for i in range(0, count, PIECE)]
    sizes = np.array([len(piece) for piece in pieces])
    means, squares = [], []
    for piece in pieces:
        ones = np.full(len(piece), 1 / len(piece), piece.dtype)
        rounded = ones @ piece
        rest = piece - rounded
        # centred: E[x^2] - E[x]^2 loses every digit once |mean| >> std
        lost = (ones @ rest).astype(np.float64)
        square = ones @ np.square(rest, out=rest)
        means.append(rounded + lost)
        squares.append(np.maximum(square - np.square(lost), 0))
    mean = np.average(means, axis=0, weights=sizes)
    spread = np.array(squares) + np.square(np.array(means) - mean)
    variance = np.average(spread, axis=0, weights=sizes)
    return np.concatenate([[float(count)], mean, variance])


def _others(x: Any, axes: Sequence[int]) -> tuple[int, ...]:
    kept = {axis % len(x.shape) for axis in axes}
    return tuple(axis for axis in range(len(x.shape)) if axis not in kept)


def _count(x: Any, axes: Sequence[int]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def wide_dtype(x: Any) -> str:
    """In which a tensor in a graph is reduced."""
    from keras import backend

    is_wide = backend.standardize_dtype(x.dtype) == "float64"
    return "float64" if is_wide else "float32"


def _row(x: Any, *parts: Any) -> Any:
    from keras import ops

    flat = [ops.reshape(ops.cast(part, wide_dtype(x)), [-1]) for part in parts]
    return ops.concatenate(flat)
