"""Updates the moving statistics; skips batches that are empty or not finite.

Skips channels that are empty, and those whose statistics are NaN or infinite, which
would stay in the average for ever.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from kbn import kernels
from kbn.arguments import Tensor
from kbn.kernels.arithmetic import at_least_one

# Share of a warm-up's t-th batch: WINDOW / (t + WINDOW - 1). TensorFlow's
# ExponentialMovingAverage(num_updates) has the same, with t counted from 0.
WINDOW = 10


class Entry(NamedTuple):
    """The statistics of a batch; all of shape (C,), but for `count`.

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
    if layer.momentum is None or layer.warmup:
        batches = _count(layer.num_batches_tracked, enters)
        take = _share(ops.cast(batches, batch.mean.dtype), layer.momentum)
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
    stddev = ops.reshape(kernels.read(layer.moving_stddev), (-1,))
    squared = ops.square(stddev) - layer.epsilon
    move(layer.moving_variance, ops.relu(squared), 0, 1)


def full(momentum: float) -> int:
    """The first batch of a warm-up whose share is that of every later one."""
    return max(math.ceil(round(WINDOW / (1 - momentum), 6)) - WINDOW + 1, 1)


def _count(counter: Any, enters: Tensor) -> Tensor:
    """Count a batch in the channels that it enters. How many there are now, (C,)."""
    old = ops.reshape(kernels.read(counter), (-1,))
    new = old + ops.cast(enters, old.dtype)
    counter.assign(ops.reshape(new, counter.shape))
    return new


def _share(batches: Tensor, momentum: float | None) -> Tensor:
    """The weight of a channel's t-th batch: 1 / t, or that of a warm-up."""
    if momentum is None:
        return 1 / at_least_one(batches)
    early = WINDOW / (batches + (WINDOW - 1))
    late = ops.zeros_like(early) + (1 - momentum)
    return kernels.where(early > late, early, late)


def update(
    variable: Any, value: Tensor, keep: Tensor, take: Tensor, enters: Tensor
) -> None:
    """Move `variable` to keep * variable + take * value, where it `enters`.

    value, enters: (C,), as `keep` and `take` may be; the variable has C elements. Where
    `enters` is False it keeps its own, bit for bit.
    """
    old = kernels.read(variable)
    if value.dtype != old.dtype:
        value = ops.cast(value, old.dtype)
    shape = old.shape
    if len(shape) > 1:
        old = ops.reshape(old, (-1,))
    new = kernels.where(enters, old * keep + value * take, old)
    variable.assign(ops.reshape(new, shape) if len(shape) > 1 else new)
