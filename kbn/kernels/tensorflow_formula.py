"""Batch normalization in TensorFlow's plain ops: two passes, a gradient by hand.

For small tensors, where the fused op takes several times as long; for float64, which
that op refuses; and for XLA, where that op is not exact.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kbn.kernels import arithmetic
from kbn.kernels.arithmetic import Tensor

Forward = Callable[[Tensor, Tensor, Tensor, Tensor], list[Tensor]]
Backward = Callable[..., tuple[Tensor, Tensor, Tensor]]


def differentiable(
    forward: Forward, backward: Backward
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`function(x, gamma, beta)` that returns y, mean, variance and size.

    The size is the number of elements per channel. `forward(x, gamma, beta, size)`
    returns y, a shift, the mean of x - shift, the biased variance, and maybe a
    workspace; `backward(x, gamma, dy, size, shift, offset, variance, *workspace)`
    returns dx, dgamma and dbeta.
    """

    @tf.custom_gradient
    def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        size = tf.cast(tf.size(x) // tf.size(gamma), gamma.dtype)
        y, *moments = forward(x, gamma, beta, size)
        shift, offset, variance, *_ = moments

        def gradient(dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return backward(x, gamma, dy, size, *moments)

        return (y, shift + offset, variance, size), gradient

    return normalize


class Formula:
    """Two passes along `axis` of tensors of `rank`, from an element of each channel.

    The `pilot` is that element: it is within sqrt(N) deviations of the mean, most often
    within three, so what is left after it has its digits, whatever the mean::

        offset = mean(x - pilot),  variance = mean((x - pilot - offset)^2)
    """

    def __init__(self, rank: int, axis: int, epsilon: float) -> None:
        self._axis = axis
        self._before, self._after = [*range(axis)], [*range(axis + 1, rank)]
        self._epsilon = epsilon

    def forward(
        self, x: Tensor, gamma: Tensor, beta: Tensor, size: Tensor
    ) -> list[Tensor]:
        """y, the pilot, the offset and the biased variance."""
        narrow = x.dtype
        # Of x before the cast: one row of a tensor holds all of its memory.
        pilot = tf.cast(tf.stop_gradient(self._an_element(x)), gamma.dtype)
        x = tf.cast(x, gamma.dtype)
        from_pilot = x - self._along(pilot)
        offset = self._mean(from_pilot, size)
        # centred: E[x^2] - E[x]^2 of x itself loses every digit once |mean| >> std
        squares = tf.math.squared_difference(from_pilot, self._along(offset))
        variance = self._mean(squares, size)
        scale = tf.math.rsqrt(variance + self._epsilon) * gamma
        y = from_pilot * self._along(scale) + self._along(beta - offset * scale)
        return [tf.cast(y, narrow), pilot, offset, variance]

    def backward(
        self,
        x: Tensor,
        gamma: Tensor,
        dy: Tensor,
        size: Tensor,
        pilot: Tensor,
        offset: Tensor,
        variance: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dx, dgamma and dbeta.

        With z = (x - mean) / sqrt(variance + epsilon), each mean taken over the N
        elements of a channel (Ioffe & Szegedy, 2015, section 3)::

            dx = gamma / sqrt(variance + epsilon) * (dy - mean(dy) - z * mean(dy * z))
            dgamma = sum(dy * z),  dbeta = sum(dy)
        """
        narrow = x.dtype
        # Once dy is there: else TensorFlow finds the same difference in `forward`, and
        # keeps it until now, in float32 whatever x is.
        with tf.control_dependencies([dy]):
            centred = tf.cast(x, gamma.dtype) - self._along(pilot)
        dy = tf.cast(dy, gamma.dtype)
        inverse = tf.math.rsqrt(variance + self._epsilon)
        dbeta = self._total(dy)
        dgamma = (self._total(dy * centred) - offset * dbeta) * inverse
        share = 1 / self._divisor(size)
        slope = dgamma * inverse * share
        shift = dbeta * share - slope * offset
        dx = dy - (centred * self._along(slope) + self._along(shift))
        dx = dx * self._along(inverse * gamma)
        return tf.cast(dx, narrow), dgamma, dbeta

    def _an_element(self, x: Tensor) -> Tensor:
        """The first element of each channel. (C,)."""
        rank = len(x.shape)
        return x[tuple(slice(None) if i == self._axis else 0 for i in range(rank))]

    def _mean(self, values: Tensor, size: Tensor) -> Tensor:
        return tf.reduce_mean(values, [*self._before, *self._after])

    def _total(self, values: Tensor) -> Tensor:
        return tf.reduce_sum(values, [*self._before, *self._after])

    def _divisor(self, size: Tensor) -> Tensor:
        return size

    def _along(self, values: Tensor) -> Tensor:
        """`values`, (C,), as a tensor that broadcasts along the axis."""
        if not self._after:
            return values
        return tf.reshape(values, [-1] + [1] * len(self._after))


class GuardedFormula(Formula):
    """The formula for tensors that may be empty, and for those that XLA compiles."""

    def _an_element(self, x: Tensor) -> Tensor:
        return arithmetic.an_element(x, self._axis)

    def _mean(self, values: Tensor, size: Tensor) -> Tensor:
        return self._total(values) / self._divisor(size)

    def _divisor(self, size: Tensor) -> Tensor:
        return tf.maximum(size, 1)

    def _total(self, values: Tensor) -> Tensor:
        if not self._before or not self._after:
            return super()._total(values)
        # First of what lies together; XLA would make one slow sum of the two, were it
        # not for the difference.
        parts = tf.reduce_sum(values, self._after)
        first = tf.reduce_sum(parts[(slice(0, 1),) * self._axis], self._before)  # (C,)
        rest = tf.reduce_sum(parts - first, self._before)
        number = tf.reduce_prod(tf.shape(parts)[: self._axis])
        return tf.cast(number, first.dtype) * first + rest


def normalize_fixed(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
) -> Tensor:
    """With given statistics: one multiply and one add, in Keras' order.

    TFLite folds them into the layer before, which it cannot across a reshape.
    """
    scale = tf.math.rsqrt(variance + epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    y = tf.cast(x, mean.dtype) * arithmetic.along(scale, axis, x)
    return tf.cast(y + arithmetic.along(shift, axis, x), x.dtype)
