"""What a training step measures of a tensor.

Each is a row of float64, as a summary is; the rows of replicas are merged on the host.
Of a tensor in a graph, the same row in TensorFlow, by few ops: there are hundreds of
tensors, and each op is traced and optimized.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

PIECE = 1024  # elements of each channel that are reduced at once


def active_row(x: Any, axis: int, rest: float = 0.0, within: float = 0.0) -> Any:
    """(1 + units,): elements per unit, then how many of each unit's are not at rest.

    At rest: at most `within` from `rest`.
    """
    if isinstance(x, np.ndarray):
        rows = _rows_by_channel(x, [axis])
        return np.concatenate([[len(rows)], _active_of(rows, rest, within)])
    import tensorflow as tf

    others = _others(x, [axis])
    is_active = tf.not_equal(x, tf.cast(rest, x.dtype))
    if within:
        is_active = tf.abs(x - tf.cast(rest, x.dtype)) > tf.cast(within, x.dtype)
    # float32 counts to 2^24; beyond, it still tells 1 % of a unit's elements.
    active = tf.reduce_sum(tf.cast(is_active, tf.float32), axis=others)
    return _row(_count(x, others), active)


def outside_row(x: Any, low: float, high: float) -> Any:
    """(2,): elements, and how many are below `low` or above `high`."""
    if isinstance(x, np.ndarray):
        outside = np.count_nonzero((x < low) | (x > high))
        return np.array([x.size, outside], np.float64)
    import tensorflow as tf

    outside = (x < tf.cast(low, x.dtype)) | (x > tf.cast(high, x.dtype))
    return _row(tf.size(x), tf.reduce_sum(tf.cast(outside, tf.float32)))


def moments_row(x: Any, axes: Sequence[int]) -> Any:
    """(1 + 2 C,): elements per channel, then mean and biased variance of each."""
    if isinstance(x, np.ndarray):
        return _moments_of(_rows_by_channel(x, axes))
    import tensorflow as tf

    others = _others(x, axes)
    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    rounded = tf.reduce_mean(wide, axis=others, keepdims=True)
    # centred: E[x^2] - E[x]^2 loses every digit once |mean| >> std
    rest = wide - rounded
    lost = tf.reduce_mean(rest, axis=others)
    variance = tf.reduce_mean(tf.square(rest), axis=others) - tf.square(lost)
    mean = tf.squeeze(rounded, others) + lost
    kept = sorted(axis % x.shape.rank for axis in axes)
    order = [kept.index(axis % x.shape.rank) for axis in axes]
    parts = [tf.transpose(part, order) for part in (mean, tf.maximum(variance, 0))]
    return _row(_count(x, others), *parts)


def scalar_row(x: Any) -> Any:
    """(1,): a tensor of one number."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float64).reshape(1)
    import tensorflow as tf

    return tf.reshape(tf.cast(x, tf.float64), [1])


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


def _others(x: Any, axes: Sequence[int]) -> list[int]:
    rank = x.shape.rank
    kept = {axis % rank for axis in axes}
    return [axis for axis in range(rank) if axis not in kept]


def _count(x: Any, axes: Sequence[int]) -> Any:
    import tensorflow as tf

    return tf.reduce_prod(tf.gather(tf.shape(x), axes))


def _row(*parts: Any) -> Any:
    import tensorflow as tf

    return tf.concat(
        [tf.reshape(tf.cast(part, tf.float64), [-1]) for part in parts], axis=0
    )
