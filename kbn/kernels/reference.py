"""Batch normalization as `kbn.kernels` defines it, in keras.ops: any backend."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

Tensor = Any

# Where mean^2 is more than this many times the variance, a native op is run on the
# centred input: its error grows with |mean| / deviation. Below 30 it is within a few
# units of the last place of x, so that ordinary inputs, ReLU outputs among them, are
# computed once.
ILL_CONDITIONED = 30.0**2


class Moments(NamedTuple):
    """Moments of a batch, relative to a pilot near its mean; each of shape (C,).

    The mean is `pilot + offset`; `scatter` is the sum of squared distances from it.
    A large mean rounds away the digits of a small offset, so the sum is kept apart.
    """

    count: Tensor
    pilot: Tensor
    offset: Tensor
    scatter: Tensor


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


def merged(own: Moments, rows: Tensor) -> Moments:
    """The moments of all replicas together, relative to this one's pilot.

    rows: (R, 4, C), the moments of each. Chan, Golub & LeVeque (1983): the scatter is
    sum(scatter_r) + sum(n_r * (mean_r - mean)^2).
    """
    count, pilot, offset, scatter = (rows[:, i] for i in range(4))  # (R, C) each
    total = ops.sum(count, axis=0)
    # Not pilot + offset, which would lose the digits of the offset.
    distance = ops.stop_gradient(pilot - own.pilot) + offset
    mean = ops.sum(count * distance, axis=0) / at_least_one(total)
    between = ops.sum(count * ops.square(distance - mean), axis=0)
    return Moments(total, own.pilot, mean, ops.sum(scatter, axis=0) + between)


def average_replicas(
    values: list[Tensor], count: Tensor | int, enters: Tensor
) -> tuple[list[Tensor], Tensor]:
    """There is one replica; see `kbn.kernels`."""
    return values, enters


def read(variable: Any) -> Tensor:
    """The value of a Keras variable."""
    return variable.value


def switch(
    condition: Any, then: Callable[[], Tensor], otherwise: Callable[[], Tensor]
) -> Tensor:
    """`then()` or `otherwise()`, by the truth of `condition`."""
    return then() if condition else otherwise()


def is_ill_conditioned(mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Where `mean`, as a native op sums it, hides digits of the deviation. (C,)."""
    return ops.logical_and(
        ops.square(mean) > ILL_CONDITIONED * (variance + epsilon),
        # A constant channel comes out right the first time.
        variance > 1e-9 * epsilon,
    )


def elements_per_channel(x: Tensor, axis: int) -> Tensor | int:
    """How many elements of `x` share an index along `axis`; an int where it is known.

    Else a scalar of the statistics' dtype.
    """
    elements = math.prod(n for i, n in enumerate(ops.shape(x)) if i != axis)
    return (
        elements
        if isinstance(elements, int)
        else ops.cast(elements, wide_dtype(x.dtype))
    )


def where_present(beta: Tensor | None, count: Tensor | int) -> Tensor | None:
    """`beta`, with no gradient to the channels that had no element."""
    if beta is None or (isinstance(count, int) and count > 0):
        return beta
    return ops.where(count > 0, beta, ops.stop_gradient(beta))


def at_least_one(count: Tensor | int) -> Tensor | int:
    """A divisor. Not `ops.maximum`, which answers float32 for float64 on torch."""
    if isinstance(count, int):
        return max(count, 1)
    return ops.where(count > 0, count, ops.ones_like(count))


def wide_dtype(dtype: Any) -> str:
    """The dtype of the statistics of inputs of `dtype`: float32, or float64 as it is.

    Not `keras.backend.result_type`: on torch it answers float32 for float64.
    """
    wide = keras.backend.standardize_dtype(dtype) == "float64"
    return "float64" if wide else "float32"


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
        count = elements_per_channel(x, axis)
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


def an_element(x: Tensor, axis: int, mask: Tensor | None = None) -> Tensor:
    """Some element that counts, of each channel; 0 where there is none. (C,)."""
    reduced = [i for i in range(len(x.shape)) if i != axis]
    if mask is None:
        first = tuple(
            slice(0, 1) if i in reduced else slice(None) for i in range(len(x.shape))
        )
        return ops.sum(x[first], axis=reduced)
    # Not -inf, which TensorFlow's enable_check_numerics takes for a mistake.
    lowest = float(np.finfo(keras.backend.standardize_dtype(x.dtype)).min)
    largest = ops.max(ops.where(mask, x, lowest), axis=reduced, initial=lowest)
    return ops.where(largest > lowest, largest, 0)


def along(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """`values`, shape (C,), as a tensor that broadcasts along `axis` of `x`."""
    if axis == len(x.shape) - 1:
        return values  # as it is: TFLite folds no other shape after a Conv1D
    return ops.reshape(values, [-1 if i == axis else 1 for i in range(len(x.shape))])
