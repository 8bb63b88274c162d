"""Batch normalization on TensorFlow: which way of computing it, and when."""

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kbn.kernels import arithmetic, reference, tensorflow_formula
from kbn.kernels.arithmetic import Moments, Tensor
from kbn.kernels.tensorflow_formula import Formula, GuardedFormula, differentiable
from kbn.kernels.tensorflow_fused import Fused, FusedOnGpu, FusedTall
from kbn.private.tensorflow import is_built_for_xla, is_onednn_enabled

# Elements of a tensor up to which the formula takes less time than the fused op, in
# training: measured on two cores, with TensorFlow's oneDNN ops and without.
SMALL = 2**17
# Elements of a sample up to which a batch of unknown size takes the formula, since a
# condition costs such small tensors a fifth more. A batch too large for it loses speed
# that the fused op has; its sums are as long as those of Keras' layer.
SMALL_SAMPLE = 2**10
# Elements up to which multiplying and adding takes less time than the fused op, in
# inference: the op cannot write into its input's buffer, and they can.
SMALL_FIXED = 2**21
# Elements per channel from which the fused op's sums lose the sixth digit. Of fewer
# channels than LANES, it adds up one element after the other.
TALL, TALL_NARROW, LANES = 200_704, 2**16, 8

WAYS = {
    "formula": Formula,
    "guarded": GuardedFormula,
    "fused": Fused,
    "tall": FusedTall,
    "gpu": FusedOnGpu,
}


def normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    """Normalize with the statistics of the batch; see `kbn.kernels`."""
    if isinstance(x, tf.RaggedTensor):
        flat, axis = _flat(x, axis)
        y, *rest = normalize_batch(flat, gamma, beta, axis, epsilon, mask, synchronized)
        return x.with_flat_values(y), *rest
    merge = _merge_replicas if synchronized and _replicas() > 1 else None
    channels = x.shape[axis]
    if mask is not None or merge is not None or not channels:
        return reference.normalize_batch(
            x, gamma, beta, axis, epsilon, mask, merge=merge
        )
    # Tensors of the right dtype: a traced function that refuses its arguments keeps its
    # lock (TensorFlow 2.21), and the next thread that calls it waits for ever.
    x = tf.convert_to_tensor(x)
    wide = tf.float64 if x.dtype == tf.float64 else tf.float32
    gamma, beta = (
        make(channels, wide) if weight is None else tf.cast(weight, wide)
        for make, weight in ((tf.ones, gamma), (tf.zeros, beta))
    )
    if not tf.executing_eagerly():
        x, gamma, beta = _sized(x, gamma, beta)
    if _under_xla():
        y, *statistics, count = _compiled(x, gamma, beta, axis, epsilon)
    else:
        traced = _traced(_plan(x, axis), len(x.shape), axis, x.dtype, epsilon)
        y, *statistics, count = traced(x, gamma, beta)
    if not tf.executing_eagerly():
        y.set_shape(x.shape)
        for values in statistics:
            values.set_shape((channels,))
    mean, variance = (tf.stop_gradient(values) for values in statistics)
    if x.shape.is_fully_defined():
        count = x.shape.num_elements() // channels
    return y, mean, variance, count


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
    if isinstance(x, tf.RaggedTensor):
        flat, axis = _flat(x, axis)
        y = normalize_fixed(flat, mean, variance, gamma, beta, axis, epsilon)
        return x.with_flat_values(y)
    given = x, mean, variance, gamma, beta, axis, epsilon
    if x.dtype == tf.float64 or _under_xla():
        return reference.normalize_fixed(*given)
    is_image = len(x.shape) == 4 and axis == 3 and x.shape[3]
    # On a GPU the fused op has no deterministic gradient here.
    fuses = is_image and is_onednn_enabled() and _known_elements(x) > SMALL_FIXED
    if not fuses or _on_gpu():
        return tensorflow_formula.normalize_fixed(*given)
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


@tf.custom_gradient
def _sized(*tensors: Tensor) -> Any:
    """The tensors, with gradients of known shapes: a traced function gives them none.

    Not `tf.ensure_shape`, which has no forward mode and is an op that runs.
    """

    def gradient(*slopes: Tensor) -> list[Tensor]:
        for slope, tensor in zip(slopes, tensors, strict=True):
            slope.set_shape(tensor.shape)
        return list(slopes)

    return [tf.identity(tensor) for tensor in tensors], gradient


def _flat(x: tf.RaggedTensor, axis: int) -> tuple[Tensor, int]:
    """The elements of a ragged tensor, row after row, and where `axis` is of them."""
    if axis <= x.ragged_rank:
        raise ValueError(
            f"BatchNorm received ragged inputs of shape {tuple(x.shape)} with their "
            f"channels on axis {axis}. The channels' axis must come after the ragged "
            f"ones, so from {x.ragged_rank + 1} on."
        )
    return x.flat_values, axis - x.ragged_rank


def _under_xla() -> bool:
    """Whether the graph that is being built is compiled by XLA.

    It expands the fused op to E[x^2] - E[x]^2, which is NaN from a mean of 1000
    deviations on. A function that was traced before and is then called in a compiled
    one escapes this.
    """
    if tf.executing_eagerly():
        return False
    return bool(is_built_for_xla(tf.compat.v1.get_default_graph()))


def _plan(x: Tensor, axis: int) -> tuple[str, ...]:
    """Which ways may have to compute `x`, by its size.

    One where its size is known; else those that a larger size may lead to, in order.
    """
    if x.dtype == tf.float64:
        return ("guarded",)
    if _on_gpu():
        return ("gpu",)
    elements = _known_elements(x)
    known = x.shape.is_fully_defined()
    # Images of unknown size are no small samples, whatever their channels are.
    sized = len(x.shape) < 4 or None not in x.shape[1:]
    if not elements or (not known and sized and elements <= SMALL_SAMPLE):
        return ("guarded",)
    tall = _tall(x.shape[axis]) * x.shape[axis]
    limits = {"formula": SMALL, "fused": max(SMALL, tall), "tall": math.inf}
    plan = tuple(name for name, limit in limits.items() if elements <= limit)
    return plan[:1] if known else plan


def _tall(channels: Any) -> Any:
    """Elements per channel from which the fused op's sums are too long."""
    if isinstance(channels, int):
        return TALL if channels >= LANES else TALL_NARROW
    return tf.where(
        channels >= LANES,
        tf.constant(TALL, channels.dtype),
        tf.constant(TALL_NARROW, channels.dtype),
    )


def _known_elements(x: Tensor) -> int:
    """The elements of `x`, as if every size that is not known were 1."""
    return math.prod(size for size in x.shape if size is not None)


@functools.cache
def _traced(
    plan: tuple[str, ...], rank: int, axis: int, dtype: Any, epsilon: float
) -> Any:
    """`function(x, gamma, beta)` that returns y, mean and the biased variance.

    A `tf.function` that is traced once for all sizes: fifty layers add fifty calls to a
    graph, not fifty copies, and in eager mode a call is one op.
    """
    *smaller, largest = plan
    way = WAYS[largest](rank, axis, epsilon)
    for name in reversed(smaller):
        way = _BySize(name, WAYS[name](rank, axis, epsilon), way)
    return _function(way, rank, dtype)


def _function(way: Any, rank: int, dtype: Any) -> Any:
    wide = tf.float64 if dtype == tf.float64 else tf.float32
    weight = tf.TensorSpec((None,), wide)
    return tf.function(
        differentiable(way.forward, way.backward),
        input_signature=[tf.TensorSpec((None,) * rank, dtype), weight, weight],
        autograph=False,
    )


class _BySize:
    """One way for tensors up to some size, another for larger ones, and for empty ones.

    The larger one is a function that is called, not inlined: all that it adds to the
    graph of a small tensor is one op that does not run.
    """

    def __init__(self, name: str, small: Any, large: Any) -> None:
        self._name, self._small = name, small
        called = {"autograph": False, "experimental_attributes": {"_noinline": True}}
        self._large_forward = tf.function(large.forward, **called)
        self._large_backward = tf.function(large.backward, **called)

    def forward(self, x: Tensor, gamma: Tensor, *others: Tensor) -> Any:
        """Return what the way for tensors of this size returns."""
        return tf.cond(
            self._is_small(x, gamma),
            lambda: self._small.forward(x, gamma, *others),
            lambda: self._large_forward(x, gamma, *others),
        )

    def backward(self, x: Tensor, gamma: Tensor, *others: Tensor) -> Any:
        """Return what the way for tensors of this size returns."""
        return tf.cond(
            self._is_small(x, gamma),
            lambda: self._small.backward(x, gamma, *others),
            lambda: self._large_backward(x, gamma, *others),
        )

    def _is_small(self, x: Tensor, gamma: Tensor) -> Tensor:
        size = tf.size(x, tf.int64)
        if self._name == "formula":
            # From 1 to the limit, by one comparison: 0 wraps to the largest number.
            limit = tf.constant(SMALL, tf.uint64)
            return tf.bitcast(size - 1, tf.uint64) < limit
        channels = tf.size(gamma, tf.int64)
        return size <= tf.maximum(_tall(channels) * channels, SMALL)


def _compiled(
    x: Tensor, gamma: Tensor, beta: Tensor, axis: int, epsilon: float
) -> tuple[Tensor, ...]:
    """For XLA, which is slow at sums over several axes that lie side by side.

    So those before `axis` become one, and those behind it another.
    """
    shape = tf.shape(x)
    last = axis == len(x.shape) - 1
    after = [] if last else [tf.reduce_prod(shape[axis + 1 :])]
    rows = tf.reshape(x, [tf.reduce_prod(shape[:axis]), x.shape[axis], *after])
    y, *rest = _compiled_rows(len(rows.shape), x.dtype, epsilon)(rows, gamma, beta)
    return tf.reshape(y, shape), *rest


@functools.cache
def _compiled_rows(rank: int, dtype: Any, epsilon: float) -> Any:
    return _function(GuardedFormula(rank, 1, epsilon), rank, dtype)


def _on_gpu() -> bool:
    """Whether an op that is made here and now runs on a GPU.

    Where no device is named in a graph, TensorFlow takes a GPU that is there.
    """
    if not tf.config.list_logical_devices("GPU"):
        return False
    device = tf.zeros(()).device or "GPU:0"
    return bool(tf.DeviceSpec.from_string(device).device_type == "GPU")


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
    return arithmetic.merged(own, rows)


def average_replicas(
    values: list[Tensor], count: Tensor | int, enters: Tensor
) -> tuple[list[Tensor], Tensor]:
    """The mean over the replicas by count, by one all-reduce; see `kbn.kernels`."""
    context = tf.distribute.get_replica_context()
    if _replicas() == 1 or context is None:
        return values, enters
    weight = tf.where(enters, tf.cast(count, values[0].dtype), 0)
    weighted = [tf.where(enters, value * weight, 0) for value in values]
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
        return values, enters
    return [tf.math.divide_no_nan(value, total) for value in sums], total > 0


def read(variable: Any) -> Tensor:
    """The value of a Keras variable: as such, it would be read anew by each user."""
    return tf.convert_to_tensor(variable.value)


def switch(
    condition: Any, then: Callable[[], Tensor], otherwise: Callable[[], Tensor]
) -> Tensor:
    """`then()` or `otherwise()`; a tensor in a graph decides when the graph runs."""
    if tf.is_tensor(condition):
        return tf.cond(tf.cast(condition, tf.bool), then, otherwise)
    return reference.switch(condition, then, otherwise)
