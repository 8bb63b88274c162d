"""Batch normalization on JAX: formulas for XLA, and one derivative written by hand."""

import functools
import math
from typing import Any

import jax
from jax import lax
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero

from kbn.kernels import arithmetic
from kbn.kernels.arithmetic import Moments, Tensor

Triple = tuple[Tensor, Tensor, Tensor]


def normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
    mask: Tensor | None = None,
    synchronized: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    """Normalize with the statistics of the batch; see `kbn.kernels`.

    Under `jit` a sharded batch is one array, whose statistics are global already. In
    `shard_map` and `pmap` each shard is its own: there `synchronized` merges over the
    mesh axes that are mapped.
    """
    mapped = jax.sharding.get_abstract_mesh().manual_axes if synchronized else ()
    y, mean, variance, count = _normalize_batch(
        x, gamma, beta, mask, axis, epsilon, tuple(mapped)
    )
    elements = _elements(x, axis)
    known = mask is None and not mapped and isinstance(elements, int)
    return y, mean, variance, elements if known else count


# Compiled where nobody else does, so that a call without jit is one program from a
# cache; within a jit it is traced once for all layers of a shape.
@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mask: Tensor | None,
    axis: int,
    epsilon: float,
    mapped: tuple[str, ...],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = x.dtype
    x = x.astype(arithmetic.wide_dtype(dtype))
    count = _count(x, mask, axis)  # (C,), or () where all channels have the same
    pilot, offset, variance = _moments(x, mask, jnp.maximum(count, 1), axis)
    if mapped:
        own = Moments(count, pilot, offset, variance * jnp.maximum(count, 1))
        own = Moments(*(jnp.broadcast_to(value, pilot.shape) for value in own))
        rows = lax.all_gather(jnp.stack(own), mapped)  # (R, 4, C)
        count, pilot, offset, scatter = arithmetic.merged(own, rows)
        variance = scatter / jnp.maximum(count, 1)
    scale = lax.rsqrt(variance + epsilon)
    if mask is not None or mapped:
        # A channel without elements has no say: its output is beta, its gradients 0.
        scale = jnp.where(count > 0, scale, 0)
        beta = arithmetic.where_present(beta, count)
    if gamma is not None:
        scale = scale * gamma
    shift = -offset * scale
    if beta is not None:
        shift = shift + beta
    y = (x - _along(pilot, axis, x)) * _along(scale, axis, x) + _along(shift, axis, x)
    mean, variance = lax.stop_gradient((pilot + offset, variance))
    return y.astype(dtype), mean, variance, count


@functools.partial(jax.jit, static_argnums=(5, 6))
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
    x = x.astype(arithmetic.wide_dtype(dtype))
    scale = lax.rsqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    # Not x * scale + (beta - mean * scale), which cancels when the mean is large.
    y = (x - _along(mean, axis, x)) * _along(scale, axis, x)
    if beta is not None:
        y = y + _along(beta, axis, x)
    return y.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _moments(x: Tensor, mask: Tensor | None, size: Tensor, axis: int) -> Triple:
    """Pilot, offset and variance: the mean is pilot + offset. (C,) each.

    The pilot is an element of the batch, and a constant to the derivative. `size` is
    the number of elements of a channel, not 0.
    """
    # An element is within sqrt(N) deviations of the mean, most often within three: what
    # is left after it has its digits, whatever the mean. An offset from a rounded mean
    # would do, did XLA not compute that anew, and round it anew, in each of its loops.
    pilot = arithmetic.an_element(x, axis, mask)
    from_pilot = x - _along(pilot, axis, x)
    offset = _total(from_pilot, mask, axis) / size
    # centred: E[x^2] - E[x]^2 loses every digit once |mean| >> std
    centred = from_pilot - _along(offset, axis, x)
    return pilot, offset, _total(jnp.square(centred), mask, axis) / size


@functools.partial(_moments.defjvp, symbolic_zeros=True)
def _moments_jvp(axis: int, primals: Any, tangents: Any) -> tuple[Triple, Triple]:
    """d mean = mean(dx),  d variance = 2 * mean((x - mean) * dx).

    Its transpose is the gradient by hand, in as few passes: two sums over dy and one
    multiply-add. XLA's own goes through every sum of `_moments`.
    """
    x, mask, size = primals
    dx = tangents[0]
    found = _moments(x, mask, size, axis)
    pilot, offset, _ = found
    zero = jnp.zeros_like(pilot)
    if isinstance(dx, SymbolicZero):
        return found, (zero, zero, zero)
    centred = x - _along(lax.stop_gradient(pilot), axis, x)
    if mask is not None:
        centred = jnp.where(mask, centred, 0)
    doffset = _total(dx, mask, axis) / size
    product = _total(centred * dx, mask, axis) / size
    return found, (zero, doffset, 2 * (product - offset * doffset))


def _total(values: Tensor, mask: Tensor | None, axis: int) -> Tensor:
    """The sum over all axes but `axis`, of what counts. (C,)."""
    if mask is not None:
        values = jnp.where(mask, values, 0)
    return jnp.sum(values, _others(axis, values))


def _count(x: Tensor, mask: Tensor | None, axis: int) -> Tensor:
    """The number of elements of a channel that count: (), or with a mask (C,)."""
    elements = _elements(x, axis)
    if mask is None:
        return jnp.asarray(elements, x.dtype)
    # Integers: float32 would stop counting at 2**24.
    count = jnp.sum(mask, _others(axis, mask), dtype="int32")  # (C,) or (1,)
    entries = _elements(mask, axis)
    count = count * (elements // max(entries, 1))
    return jnp.broadcast_to(count, (x.shape[axis],)).astype(x.dtype)


def _elements(x: Tensor, axis: int) -> Any:
    """The number of elements of a channel: an int, or symbolic."""
    return math.prod(size for i, size in enumerate(x.shape) if i != axis)


def _along(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """`values`, shape (C,), in the rank of `x`; JAX can be told to promote no rank."""
    return lax.expand_dims(values, _others(axis, x))


def _others(axis: int, x: Tensor) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis)
