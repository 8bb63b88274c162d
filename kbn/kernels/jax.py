"""Batch normalization on JAX.

Its derivative is that of the formula, as JAX takes it. A `custom_vjp` with the backward
pass in two sums was tried: under jit on a CPU it took the same time within noise, and
forward mode would be lost.
"""

import jax

from kbn.kernels import reference
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
    mesh axes that are mapped.
    """
    mapped = jax.sharding.get_abstract_mesh().manual_axes

    def merge(own: reference.Moments) -> reference.Moments:
        rows = jax.lax.all_gather(jax.numpy.stack(own), mapped)  # (R, 4, C)
        return reference.merged(own, rows)

    return reference.normalize_batch(
        x,
        gamma,
        beta,
        axis,
        epsilon,
        mask,
        merge=merge if synchronized and mapped else None,
    )
