"""Types that all kernels use, and the arithmetic of channels."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

Tensor = Any

# mean^2 / (variance + epsilon) from which a native op is run on the centred input: its
# error grows with |mean| / deviation. Below 30 deviations it is within a few units of
# the last place of x, so that ordinary inputs, ReLU outputs among them, are computed
# once.
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


def is_ill_conditioned(mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Where a native op loses digits of the deviation to the mean. (C,), booleans.

    Its input is centred first there. In operators, which every backend's tensors have:
    on torch, those of Keras take several times as long.
    """
    return mean * mean > ILL_CONDITIONED * (variance + epsilon)


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
