"""Batch normalization on JAX: the formula that XLA makes the fewest passes of."""

from typing import Any

import jax

from kbn.kernels import reference, two_pass
from kbn.kernels.reference import Tensor


def normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize with the statistics of the batch; see `kbn.kernels`.

    Under `jit` a sharded batch is one array, whose statistics are global already. In
    `shard_map` and `pmap` each shard is its own: there `synchronized` merges over the
    mesh axes that are mapped. Forward-mode differentiation raises, but with a mask or
    merged: the gradient of the rest is written by hand.
    """
    mapped = jax.sharding.get_abstract_mesh().manual_axes

    def merge(own: reference.Moments) -> reference.Moments:
        rows = jax.lax.all_gather(jax.numpy.stack(own), mapped)  # (R, 4, C)
        return reference.merged(own, rows)

    together = synchronized and mapped
    if mask is None and not together:
        return two_pass.normalize_batch(x, gamma, beta, axis, epsilon, choose=_choose)
    return reference.normalize_batch(
        x, gamma, beta, axis, epsilon, mask, merge=merge if together else None
    )


def _choose(ill: Tensor, corrected: Any, plain: Any) -> Any:
    """By `ill` on a CPU. A GPU would wait for it: there, corrected in any case."""
    return jax.lax.platform_dependent(
        cpu=lambda: jax.lax.cond(ill, corrected, plain), default=corrected
    )
