"""Batch normalization on TensorFlow: the fused op, where it is right."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kbn.kernels import reference, two_pass
from kbn.kernels.reference import Moments, Tensor

try:
    # Private, TensorFlow 2.21; tf_keras decides in the same way. There is no public
    # means to learn whether a graph is built for XLA.
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
except ImportError:
    GraphOrParentsInXlaContext = None


def normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize with the statistics of the batch; see `kbn.kernels`."""
    merge = _merge_replicas if synchronized and _replicas() > 1 else None
    if mask is not None or merge is not None or not x.shape[axis]:
        return reference.normalize_batch(
            x, gamma, beta, axis, epsilon, mask, merge=merge
        )
    if not _fused_is_right(x, axis):
        return _compiled(x, gamma, beta, axis, epsilon)
    channels = x.shape[axis]
    # Tensors, not variables: a custom gradient refuses to read those by itself.
    gamma = tf.convert_to_tensor(tf.ones(channels) if gamma is None else gamma)
    beta = tf.convert_to_tensor(tf.zeros(channels) if beta is None else beta)
    image, restore = _as_image(x, axis)
    y, mean, variance = _fused(image, gamma, beta, epsilon)
    count = tf.fill((channels,), tf.cast(tf.size(image) // channels, mean.dtype))
    return restore(y), tf.stop_gradient(mean), tf.stop_gradient(variance), count


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
    if not _fused_is_right(x, axis):
        return reference.normalize_fixed(x, mean, variance, gamma, beta, axis, epsilon)
    if len(x.shape) == 4 and axis == 3:
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.ones_like(mean) if gamma is None else gamma,
            offset=tf.zeros_like(mean) if beta is None else beta,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        )
        return y
    # One multiply and one add, in Keras' order: TFLite folds them into the layer
    # before, which it cannot across the reshape that the fused op would need.
    scale = tf.math.rsqrt(variance + epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else beta - mean * scale
    wide = tf.cast(x, mean.dtype)
    y = wide * reference.along(scale, axis, x) + reference.along(shift, axis, x)
    return tf.cast(y, x.dtype)


def _fused_is_right(x: Tensor, axis: int) -> bool:
    """Whether the fused op computes this input, and computes it rightly.

    It knows no float64, and no channel axis that is empty or of unknown size. XLA
    expands it to E[x^2] - E[x]^2, which is NaN from a mean of 1000 deviations on; a
    function that was traced before and is called in a compiled one escapes this check.
    """
    if x.dtype == tf.float64 or not x.shape[axis]:
        return False
    return tf.executing_eagerly() or not _under_xla()


def _under_xla() -> bool:
    if GraphOrParentsInXlaContext is None:
        return True
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def _as_image(x: Tensor, axis: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`x` with four axes and the channels last, and the way back.

    Two transposes beside NHWC are faster than the op's own NCHW on a CPU.
    """
    rank = len(x.shape)
    order = [i for i in range(rank) if i != axis] + [axis]
    last = x if axis == rank - 1 else tf.transpose(x, order)
    # [N, 1, 1, C], not [1, N, 1, C]: the op splits its work along the first axis.
    image = last if rank == 4 else tf.reshape(last, (-1, 1, 1, x.shape[axis]))

    def restore(y: Tensor) -> Tensor:
        y = y if rank == 4 else tf.reshape(y, tf.shape(last))
        if axis != rank - 1:
            y = tf.transpose(y, [order.index(i) for i in range(rank)])
        return tf.ensure_shape(y, x.shape)

    return image, restore


def _fused(
    image: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The fused op and its gradient, run again on the centred input where it must be.

    image: (N, H, W, C). Returns y, mean and the biased variance.
    """

    @tf.custom_gradient
    def normalize(image: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        elements = tf.cast(tf.reduce_prod(tf.shape(image)[:3]), tf.float32)
        # The op gives the unbiased variance, and NaN for an empty batch.
        debias = tf.math.divide_no_nan(elements - 1, elements)

        def run(image: Tensor) -> list[Tensor]:
            y, mean, unbiased, *reserve = tf.raw_ops.FusedBatchNormV3(
                x=image,
                scale=gamma,
                offset=beta,
                mean=tf.constant([], tf.float32),
                variance=tf.constant([], tf.float32),
                epsilon=epsilon,
                is_training=True,
            )
            variance = tf.math.multiply_no_nan(unbiased, debias)
            mean = tf.math.multiply_no_nan(mean, tf.sign(elements))
            return [y, mean, variance, *reserve[:3]]

        first = run(image)
        pilot, spread = first[1], first[2]
        ill = tf.reduce_any(reference.is_ill_conditioned(pilot, spread, epsilon))
        pilot = tf.cast(pilot, image.dtype)

        def again() -> list[Tensor]:
            y, mean, *rest = run(image - pilot)
            return [y, tf.cast(pilot, mean.dtype) + mean, *rest]

        y, mean, variance, *reserve = tf.cond(ill, again, lambda: first)

        def gradient(dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # y does not change when x is shifted, so neither do its derivatives.
            shifted = tf.cond(ill, lambda: image - pilot, lambda: image)
            dx, dgamma, dbeta, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=shifted,
                scale=gamma,
                reserve_space_1=reserve[0],
                reserve_space_2=reserve[1],
                reserve_space_3=reserve[2],
                epsilon=epsilon,
                is_training=True,
            )
            return dx, dgamma, dbeta

        return (y, mean, variance), gradient

    return normalize(image, gamma, beta)


def _compiled(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For XLA and for float64: one reduced axis, or one on either side.

    XLA sums those fast, and several axes on one side not.
    """
    shape = tf.shape(x)
    last = axis == len(x.shape) - 1
    after = [] if last else [tf.reduce_prod(shape[axis + 1 :])]
    rows = tf.reshape(x, [tf.reduce_prod(shape[:axis]), x.shape[axis], *after])
    y, mean, variance, count = two_pass.normalize_batch(
        rows, gamma, beta, 1, epsilon, choose=_corrected if _on_gpu() else tf.cond
    )
    return tf.ensure_shape(tf.reshape(y, shape), x.shape), mean, variance, count


def _corrected(ill: Tensor, corrected: Any, plain: Any) -> Any:
    """A GPU would have to wait for `ill`, and sums of one input cost it one pass."""
    return corrected()


def _on_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def _merge_replicas(own: Moments) -> Moments:
    """The moments of all replicas, by one all-reduce; its gradient is one too."""
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "BatchNorm(synchronized=True) was called in training outside of a replica "
            "of its distribution strategy; call the model within `strategy.run`."
        )
    rows = tf.stack(own)  # (4, C)
    place = tf.one_hot(context.replica_id_in_sync_group, _replicas(), dtype=rows.dtype)
    rows = context.all_reduce(
        tf.distribute.ReduceOp.SUM, place[:, None, None] * rows
    )  # (R, 4, C)
    return reference.merged(own, rows)


def average_replicas(
    values: list[Tensor], weight: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The mean over the replicas by weight, by one all-reduce; see `kbn.kernels`."""
    context = tf.distribute.get_replica_context()
    if _replicas() == 1 or context is None:
        return values, weight
    weighted = [tf.where(weight > 0, value * weight, 0) for value in values]
    try:
        *sums, total = tf.unstack(
            context.all_reduce(
                tf.distribute.ReduceOp.SUM, tf.stack([*weighted, weight])
            )
        )
    except RuntimeError as error:
        # Inside tf.cond, a loop or a nested function no replica may wait for another:
        # TensorFlow 2.21 says so before anything is done.
        if "merge_call" not in str(error):
            raise
        return values, weight
    return [tf.math.divide_no_nan(value, total) for value in sums], total


def switch(
    condition: Any, then: Callable[[], Tensor], otherwise: Callable[[], Tensor]
) -> Tensor:
    """`then()` or `otherwise()`; a tensor in a graph decides when the graph runs."""
    if tf.is_tensor(condition):
        return tf.cond(tf.cast(condition, tf.bool), then, otherwise)
    return reference.switch(condition, then, otherwise)
