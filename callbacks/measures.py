"""What a training step measures of a tensor inside the graph, on TensorFlow.

Each is a row of float64, as a histogram's is, so that a look is one read-back; the rows
of replicas are merged on the host, by the functions of `diagnostics`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

SATURATED: dict[str, tuple[float, float]] = {  # below and above which an output is
    "tanh": (-0.99, 0.99),
    "softsign": (-0.99, 0.99),
    "sigmoid": (0.01, 0.99),
    "hard_sigmoid": (0.01, 0.99),
}


def active_row(x: Any, axis: int) -> Any:
    """(1 + units,): elements per unit, then how many of each unit's are not zero."""
    return _traced(_active)(_by_channel(x, [axis]))


def saturated_row(x: Any, activation: str) -> Any:
    """(2,): elements, and how many are saturated as outputs of `activation`."""
    low, high = SATURATED[activation]
    flat = tf.reshape(x, [-1])
    return _traced(_outside)(flat, tf.cast(low, x.dtype), tf.cast(high, x.dtype))


def moments_row(x: Any, axes: Sequence[int]) -> Any:
    """(1 + 2 C,): elements per channel, then mean and biased variance of each."""
    wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
    return _traced(_moments)(_by_channel(wide, axes))


def _by_channel(x: Any, axes: Sequence[int]) -> Any:
    """(elements, channels)."""
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
    # One function for all tensors, not inlined: see statistics.
    kept = {"_noinline": True}
    return tf.function(row, reduce_retracing=True, experimental_attributes=kept)


def _active(x: Any) -> Any:
    # float32 counts to 2^24; beyond, it still tells 1 % of a unit's elements.
    active = tf.reduce_sum(tf.cast(tf.not_equal(x, 0), tf.float32), axis=0)
    return _row(tf.shape(x)[0], active)


def _outside(x: Any, low: Any, high: Any) -> Any:
    outside = tf.logical_or(x < low, x > high)
    return _row(tf.size(x), [tf.reduce_sum(tf.cast(outside, tf.float32))])


def _moments(x: Any) -> Any:
    rounded = tf.reduce_mean(x, axis=0)
    # centred: E[x^2] - E[x]^2 loses every digit once |mean| >> std
    rest = x - rounded
    lost = tf.reduce_mean(rest, axis=0)
    variance = tf.reduce_mean(tf.square(rest), axis=0) - tf.square(lost)
    return _row(tf.shape(x)[0], rounded + lost, tf.maximum(variance, 0))


def _row(count: Any, *parts: Any) -> Any:
    head = tf.cast(count, tf.float64)[None]
    return tf.concat([head, *(tf.cast(part, tf.float64) for part in parts)], axis=0)
