"""What a training step measures of a tensor.

Each is a row of float64, as a summary is, so that a look is one read-back; the rows of
replicas are merged on the host. Of an array, the same row in NumPy.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PIECE = 1024  # elements of each channel that are reduced at once


def active_row(x: Any, axis: int) -> Any:
    """(1 + units,): elements per unit, then how many of each unit's are not zero."""
    if isinstance(x, np.ndarray):
        rows = _rows_by_channel(x, [axis])
        return np.concatenate([[len(rows)], _active_of(rows)])
    return _traced(_active)(_by_channel(x, [axis]))


def outside_row(x: Any, low: float, high: float) -> Any:
    """(2,): elements, and how many are below `low` or above `high`."""
    import tensorflow as tf

    if isinstance(x, np.ndarray):
        outside = np.count_nonzero((x < low) | (x > high))
        return np.array([x.size, outside], np.float64)
    flat = tf.reshape(x, [-1])
    return _traced(_outside)(flat, tf.cast(low, x.dtype), tf.cast(high, x.dtype))


def moments_row(x: Any, axes: Sequence[int]) -> Any:
    """(1 + 2 C,): elements per channel, then mean and biased variance of each."""
    import tensorflow as tf

    if isinstance(x, np.ndarray):
        return _moments_of(_rows_by_channel(x, axes))
    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    return _traced(_moments)(_by_channel(wide, axes))


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


def _active_of(x: Any) -> Any:
    """Of an array (elements, units): half the time of `count_nonzero` on an axis."""
    active = np.zeros(x.shape[1])
    for i in range(0, len(x), PIECE):
        piece = (x[i : i + PIECE] != 0).astype(np.float32)
        active += np.ones(len(piece), np.float32) @ piece
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


def _by_channel(x: Any, axes: Sequence[int]) -> Any:
    """(elements, channels)."""
    import tensorflow as tf

    rank = x.shape.rank
    axes = [axis % rank for axis in axes]
    others = [axis for axis in range(rank) if axis not in axes]
    order = others + axes
    if order != sorted(order):
        x = tf.transpose(x, order)
    channels = x.shape[len(others) :].num_elements()
    if channels is None:
        channels = tf.reduce_prod(tf.shape(x)[len(others) :])
    return tf.reshape(x, [-1, channels])


@functools.cache
def _traced(row: Callable[..., Any]) -> Any:
    import tensorflow as tf

    # One function for all tensors, not inlined: see statistics.
    kept = {"_noinline": True}
    return tf.function(row, reduce_retracing=True, experimental_attributes=kept)


def _active(x: Any) -> Any:
    import tensorflow as tf

    # float32 counts to 2^24; beyond, it still tells 1 % of a unit's elements.
    active = tf.reduce_sum(tf.cast(tf.not_equal(x, 0), tf.float32), axis=0)
    return _row(tf.shape(x)[0], active)


def _outside(x: Any, low: Any, high: Any) -> Any:
    import tensorflow as tf

    outside = tf.logical_or(x < low, x > high)
    return _row(tf.size(x), [tf.reduce_sum(tf.cast(outside, tf.float32))])


def _moments(x: Any) -> Any:
    import tensorflow as tf

    rounded = tf.reduce_mean(x, axis=0)
    # centred: E[x^2] - E[x]^2 loses every digit once |mean| >> std
    rest = x - rounded
    lost = tf.reduce_mean(rest, axis=0)
    variance = tf.reduce_mean(tf.square(rest), axis=0) - tf.square(lost)
    return _row(tf.shape(x)[0], rounded + lost, tf.maximum(variance, 0))


def _row(count: Any, *parts: Any) -> Any:
    import tensorflow as tf

    head = tf.cast(count, tf.float64)[None]
    return tf.concat([head, *(tf.cast(part, tf.float64) for part in parts)], axis=0)
