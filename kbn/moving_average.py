"""What enters the moving statistics, and when nothing may: decided here alone.

Skips channels that are empty, and those whose statistics are NaN or infinite, which
would stay in the average for ever.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from kbn import kernels
from kbn.arguments import Tensor
from kbn.kernels.arithmetic import at_least_one


class Entry(NamedTuple):
    """What a batch says of each channel; all of shape (C,), but for `count`.

    `biased` and `tracked` are its variance, the latter as it is to be tracked. `count`
    is the number of elements, an int where all channels have the same; `enters` tells
    the channels that move.
    """

    mean: Tensor
    biased: Tensor
    tracked: Tensor
    count: Tensor
    enters: Tensor


def entry(
    mean: Tensor, variance: Tensor, count: Tensor | int, channels: int, unbiased: bool
) -> Entry:
    """The statistics of a batch, pooled over its G virtual batches.

    mean, variance: (G * C,), the variance biased; count: (G * C,), or an int for all.
    Each group counts by its elements. The unbiased variance divides by the elements
    less one for each group; where no group has two, there is none.
    """
    groups: Tensor | int = 1
    if mean.shape[0] != channels:
        count = count * ops.ones_like(mean)
        count, mean, variance = (
            ops.reshape(values, (-1, channels)) for values in (count, mean, variance)
        )
        mean, variance = (ops.sum(v * count, axis=0) for v in (mean, variance))
        groups = ops.sum(ops.cast(count > 0, count.dtype), axis=0)
        count = ops.sum(count, axis=0)
        mean, variance = (v / at_least_one(count) for v in (mean, variance))
    tracked = variance
    freedom = count
    if unbiased:
        freedom = count - groups
        tracked = variance * (count / at_least_one(freedom))
    # The mean too, then: a NaN, an infinity or an overflow in it reaches the variance.
    enters = ops.isfinite(tracked)
    if not isinstance(freedom, int):
        enters = ops.logical_and(enters, freedom > 0)
    elif freedom <= 0:
        enters = ops.zeros_like(enters)
    return Entry(mean, variance, tracked, count, enters)


def track(layer: Any, mean: Tensor, variance: Tensor, count: Tensor | int) -> None:
    """Move the statistics of `layer` by those of a batch, each of shape (G * C,)."""
    channels = math.prod(layer.moving_mean.shape)
    batch = entry(mean, variance, count, channels, layer.unbiased)
    if not layer.synchronized:
        own = [batch.mean, batch.biased, batch.tracked]
        values, enters = kernels.average_replicas(own, batch.count, batch.enters)
        mean, biased, tracked = values
        batch = Entry(mean, biased, tracked, batch.count, enters)
    enters = batch.enters
    if layer.momentum is None:
        layer.num_batches_tracked.assign_add(ops.cast(ops.any(enters), "int32"))
        batches = ops.cast(layer.num_batches_tracked, batch.mean.dtype)
        take = 1 / at_least_one(batches)
        keep = 1 - take
    else:
        keep, take = layer.momentum, 1 - layer.momentum

    def move(variable: Any, value: Tensor, keep: Any = keep, take: Any = take) -> None:
        update(variable, value, keep, take, enters)

    if not layer.renorm:
        move(layer.moving_mean, batch.mean)
        move(layer.moving_variance, batch.tracked)
        return
    slow = layer.renorm_momentum, 1 - layer.renorm_momentum
    move(layer.renorm_mean, batch.mean, *slow)
    move(layer.renorm_stddev, ops.sqrt(batch.biased + layer.epsilon), *slow)
    move(layer.moving_mean, batch.mean)
    move(layer.moving_stddev, ops.sqrt(batch.tracked + layer.epsilon))
    squared = ops.square(layer.moving_stddev) - layer.epsilon
    move(layer.moving_variance, ops.relu(squared), 0, 1)


def update(
    variable: Any, value: Tensor, keep: Tensor, take: Tensor, enters: Tensor
) -> None:
    """Move `variable` to keep * variable + take * value, where it `enters`.

    value, enters: (C,); the variable has C elements. Where `enters` is False it keeps
    its own, bit for bit.
    """
    old = kernels.read(variable)
    if value.dtype != old.dtype:
        value = ops.cast(value, old.dtype)
    if len(old.shape) > 1:
        value, enters = ops.reshape(value, old.shape), ops.reshape(enters, old.shape)
    variable.assign(kernels.where(enters, old * keep + value * take, old))
