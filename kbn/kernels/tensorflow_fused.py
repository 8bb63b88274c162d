"""Batch normalization by TensorFlow's fused op, and what it cannot sum exactly."""

from collections.abc import Callable

import tensorflow as tf

from kbn.kernels.arithmetic import Tensor, is_ill_conditioned

# A sum of so many float32 numbers, one after the other, keeps six digits.
SUM_LENGTH = 2**14


class Fused:
    """The fused op, run again on the centred input where it is ill-conditioned."""

    def __init__(self, rank: int, axis: int, epsilon: float) -> None:
        self._rank, self._axis, self._epsilon = rank, axis, epsilon

    def forward(
        self, x: Tensor, gamma: Tensor, beta: Tensor, size: Tensor
    ) -> list[Tensor]:
        """y, a shift, the mean of x - shift, the biased variance, on a GPU more."""
        image, restore = self._as_image(x)

        def run(image: Tensor) -> list[Tensor]:
            return self._run(image, gamma, beta, size)

        first = run(image)
        _, pilot, spread, *_ = first
        # A constant channel comes out right the first time: the op subtracts its mean.
        varies = spread > 1e-9 * self._epsilon
        ill = tf.reduce_any(is_ill_conditioned(pilot, spread, self._epsilon) & varies)
        pilot = tf.cast(tf.stop_gradient(pilot), image.dtype)

        def again() -> list[Tensor]:
            return [pilot, *run(image - pilot)]

        def once() -> list[Tensor]:
            return [tf.zeros_like(pilot), *first]

        shift, y, mean, variance, *workspace = tf.cond(ill, again, once)
        return [restore(y), tf.cast(shift, mean.dtype), mean, variance, *workspace]

    def backward(
        self,
        x: Tensor,
        gamma: Tensor,
        dy: Tensor,
        size: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        *workspace: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dx, dgamma and dbeta; y does not change when x is shifted, nor do they."""
        image, restore = self._as_image(x)
        shift = tf.cast(shift, image.dtype)
        shifted = tf.cond(
            tf.reduce_any(tf.not_equal(shift, 0)),
            lambda: image - shift,
            lambda: image,
        )
        # On a CPU the op reserves the mean and the biased variance.
        reserve = workspace or (mean, variance, tf.zeros((0,)))
        dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=self._as_image(dy)[0],
            x=shifted,
            scale=gamma,
            reserve_space_1=reserve[0],
            reserve_space_2=reserve[1],
            reserve_space_3=reserve[2],
            epsilon=self._epsilon,
            is_training=True,
        )
        return restore(dx), dgamma, dbeta

    def _run(
        self, image: Tensor, gamma: Tensor, beta: Tensor, size: Tensor
    ) -> list[Tensor]:
        """y, mean and the biased variance of (N, H, W, C), and what backward needs."""
        y, mean, unbiased, *reserve = tf.raw_ops.FusedBatchNormV3(
            x=image,
            scale=gamma,
            offset=beta,
            mean=tf.constant([], tf.float32),
            variance=tf.constant([], tf.float32),
            epsilon=self._epsilon,
            is_training=True,
        )
        # The op gives the unbiased variance, and NaN for an empty batch.
        debias = tf.math.divide_no_nan(size - 1, size)
        variance = tf.math.multiply_no_nan(unbiased, debias)
        mean = tf.math.multiply_no_nan(mean, tf.sign(size))
        return [y, mean, variance, *self._workspace(reserve)]

    def _workspace(self, reserve: list[Tensor]) -> list[Tensor]:
        """Select what backward needs of the tensors that the op reserves."""
        return []

    def _as_image(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """`x` with four axes and the channels last, and the way back.

        Two transposes beside NHWC are faster than the op's own NCHW on a CPU.
        """
        rank, axis = self._rank, self._axis
        order = [i for i in range(rank) if i != axis] + [axis]
        last = x if axis == rank - 1 else tf.transpose(x, order)
        # [N, 1, 1, C], not [1, N, 1, C]: the op splits its work along the first axis.
        image = last
        if rank != 4:
            image = tf.reshape(last, (-1, 1, 1, _size(last, rank - 1)))

        def restore(y: Tensor) -> Tensor:
            y = y if rank == 4 else tf.reshape(y, tf.shape(last))
            if axis != rank - 1:
                y = tf.transpose(y, [order.index(i) for i in range(rank)])
            return y

        return image, restore


class FusedOnGpu(Fused):
    """The fused op on a GPU, which reserves other numbers, and a workspace."""

    def _workspace(self, reserve: list[Tensor]) -> list[Tensor]:
        return reserve[:3]


class FusedTall(Fused):
    """For so many elements a channel that the op's own sums lose digits.

    On a CPU its sums run down the rows, one after the other. So the rows are cut into
    groups that stand side by side and are channels of their own to the op, in a view,
    and what it finds is merged (Chan, Golub & LeVeque, 1983).
    """

    def backward(
        self,
        x: Tensor,
        gamma: Tensor,
        dy: Tensor,
        size: Tensor,
        shift: Tensor,
        mean: Tensor,
        variance: Tensor,
        *_: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """dx, dgamma and dbeta."""
        dx, *sums = super().backward(x, gamma, dy, size, shift, mean, variance)
        rows, slopes = (tf.cast(self._as_rows(v), mean.dtype) for v in (x, dy))
        dbeta = _long_sum(slopes)
        dgamma = _long_sum(slopes * (rows - (shift + mean)))
        dgamma *= tf.math.rsqrt(variance + self._epsilon)
        # The op's own know their derivatives; these only have more digits.
        found = zip(sums, (dgamma, dbeta), strict=True)
        dgamma, dbeta = (own + tf.stop_gradient(exact - own) for own, exact in found)
        return dx, dgamma, dbeta

    def _run(
        self, image: Tensor, gamma: Tensor, beta: Tensor, size: Tensor
    ) -> list[Tensor]:
        mean, variance = self._moments(tf.reshape(image, (-1, tf.size(gamma))))
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=image,
            scale=gamma,
            offset=beta,
            mean=mean,
            variance=variance,
            epsilon=self._epsilon,
            is_training=False,
        )
        return [y, mean, variance]

    def _moments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, (C,) each, of the rows, (N, C)."""
        channels = tf.shape(rows)[1]
        groups, length, rest = _groups(rows)
        view = tf.reshape(rows[: groups * length], (length, 1, 1, groups * channels))
        ones = tf.ones((groups * channels,))
        own = super()._run(view, ones, tf.zeros_like(ones), tf.cast(length, tf.float32))
        means, variances = own[1:3]
        last = tf.cast(rows[groups * length :], tf.float32)  # fewer rows than groups
        some = tf.cast(tf.maximum(rest, 1), tf.float32)
        last_mean = tf.reduce_sum(last, 0) / some
        last_variance = tf.reduce_sum(tf.square(last - last_mean), 0) / some

        def table(values: Tensor, last: Tensor) -> Tensor:  # (groups + 1, C)
            return tf.concat([tf.reshape(values, (groups, channels)), last[None]], 0)

        means, variances = table(means, last_mean), table(variances, last_variance)
        size = tf.cast(groups * length + rest, tf.float32)
        share = tf.concat([tf.repeat(length, groups), [rest]], 0)
        share = tf.cast(share, tf.float32)[:, None] / size  # (groups + 1, 1)
        start = means[0]
        distance = means - start
        offset = tf.reduce_sum(share * distance, 0)
        spread = variances + tf.square(distance - offset)
        return start + offset, tf.reduce_sum(share * spread, 0)

    def _as_rows(self, x: Tensor) -> Tensor:
        image, _ = self._as_image(x)
        return tf.reshape(image, (-1, _size(image, 3)))


def _long_sum(rows: Tensor) -> Tensor:
    """The sum of the rows, (N, C), by groups."""
    groups, length, _ = _groups(rows)
    channels = tf.shape(rows)[1]
    view = tf.reshape(rows[: groups * length], (length, groups * channels))
    parts = tf.reshape(tf.reduce_sum(view, 0), (groups, channels))
    return tf.reduce_sum(parts, 0) + tf.reduce_sum(rows[groups * length :], 0)


def _groups(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The number of groups, of rows in each, and of rows that are left over."""
    size = tf.shape(rows)[0]
    groups = tf.maximum(size // SUM_LENGTH, 1)
    length = size // groups
    return groups, length, size - groups * length


def _size(x: Tensor, axis: int) -> Tensor | int:
    return tf.shape(x)[axis] if x.shape[axis] is None else x.shape[axis]
