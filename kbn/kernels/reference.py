"""Batch normalization as `kbn.kernels` defines it, in keras.ops: any backend."""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from kbn.kernels.arithmetic import (
    Moments,
    Tensor,
    along,
    an_element,
    at_least_one,
    where_present,
    wide_dtype,
)


def normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
    *,
    merge: Callable[[Moments], Moments] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize with the statistics of the batch; see `kbn.kernels`.

    `merge` turns the moments of this replica into those of all replicas, relative to
    the pilot of this one; without it there is one replica, always in step.
    """
    dtype = x.dtype
    x = ops.cast(x, wide_dtype(dtype))
    centred, moments = _moments(x, axis, mask)
    if merge is not None:
        count = moments.count * ops.ones_like(moments.pilot)
        moments = merge(moments._replace(count=count))
    count, pilot, offset, scatter = moments
    variance = scatter / at_least_one(count)
    scale = ops.rsqrt(variance + epsilon)
    if mask is not None or merge is not None:
        # A channel without elements has no say: its output is beta, its gradients 0.
        scale = ops.where(count > 0, scale, 0)
        beta = where_present(beta, count)
    if gamma is not None:
        scale = scale * gamma
    shift = -offset * scale
    if beta is not None:
        shift = shift + beta
    y = centred * along(scale, axis, x) + along(shift, axis, x)
    mean = ops.stop_gradient(pilot + offset)
    return ops.cast(y, dtype), mean, ops.stop_gradient(variance), count


def normalize_fixed(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
) -> Tensor:
    """Normalize with given statistics; see `kbn.kernels`."""
    dtype = x.dtype
    x = ops.cast(x, wide_dtype(dtype))
    scale = ops.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    # Not x * scale + (beta - mean * scale), which cancels when the mean is large.
    y = (x - along(mean, axis, x)) * along(scale, axis, x)
    if beta is not None:
        y = y + along(beta, axis, x)
    return ops.cast(y, dtype)


def average_replicas(
    values: list[Tensor], count: Tensor | int, enters: Tensor
) -> tuple[list[Tensor], Tensor]:
    """There is one replica; see `kbn.kernels`."""
    return values, enters


def read(variable: Any) -> Tensor:
    """The value of a Keras variable."""
    return variable.value


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`x` where `condition`, else `y`."""
    return ops.where(condition, x, y)


def switch(
    condition: Any, then: Callable[[], Tensor], otherwise: Callable[[], Tensor]
) -> Tensor:
    """`then()` or `otherwise()`, by the truth of `condition`."""
    return then() if condition else otherwise()


def _moments(x: Tensor, axis: int, mask: Tensor | None) -> tuple[Tensor, Moments]:
    """`x - pilot`, and the moments of `x` by the corrected two-pass algorithm.

    Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance". The
    pilot is the mean as the backend sums it, which may be off by many standard
    deviations when the mean is large; `offset` mends that. Any constant would do as the
    pilot, so no gradient flows through it.
    """
    reduced = [i for i in range(len(x.shape)) if i != axis]
    shape = ops.shape(x)
    channels = shape[axis]

    def total(values: Tensor) -> Tensor:
        if mask is not None:
            values = ops.where(mask, values, 0)
        return ops.sum(values, axis=reduced)

    if mask is None:
        count = _elements_per_channel(x, axis)
    else:
        elements = math.prod(shape[i] for i in reduced)  # per channel
        mask_shape = ops.shape(mask)
        entries = math.prod(mask_shape[i] for i in reduced)
        # Integers: float32 would stop counting at 2**24.
        count = ops.sum(ops.cast(mask, "int32"), axis=reduced)  # (C,) or (1,)
        count = count * (elements // ops.maximum(entries, 1))
        count = ops.cast(ops.broadcast_to(count, (channels,)), x.dtype)

    size = at_least_one(count)
    # An element of the batch is within sqrt(N) deviations of the mean: sums of what is
    # left after it hold hundreds of times more digits, and under XLA cost nothing.
    start = ops.stop_gradient(an_element(x, axis, mask))
    pilot = start + ops.stop_gradient(total(x - along(start, axis, x))) / size
    centred = x - along(pilot, axis, x)
    offset = total(centred) / size
    # centred: E[x^2] - E[x]^2 of x itself loses every digit once |mean| >> std
    scatter = total(ops.square(centred)) - size * ops.square(offset)
    return centred, Moments(count, pilot, offset, ops.relu(scatter))


def _elements_per_channel(x: Tensor, axis: int) -> Tensor | int:
    """The number of elements of a channel of `x`; an int where it is known.

    Else a scalar of the statistics' dtype.
    """
    elements = math.prod(n for i, n in enumerate(ops.shape(x)) if i != axis)
    return (
        elements
        if isinstance(elements, int)
        else ops.cast(elements, wide_dtype(x.dtype))
    )
