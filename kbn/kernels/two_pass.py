"""Batch normalization in two passes and a gradient by hand, for XLA to compile."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kbn.kernels import reference
from kbn.kernels.reference import Tensor, along, at_least_one

Pair = tuple[Tensor, Tensor]
Choice = Callable[[Tensor, Callable[[], Pair], Callable[[], Pair]], Pair]


def normalize_batch(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
    choose: Choice,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize with the statistics of the batch; see `kbn.kernels`.

    The numbers of `reference.normalize_batch` without mask and replicas, in fewer
    passes over the tensor: the mean is corrected only where it is ill-conditioned, and
    with a = gamma / sqrt(variance + epsilon), z = (x - mean) / sqrt(variance +
    epsilon), each mean taken over the N elements of a channel::

        dx = a * (dy - mean(dy) - z * mean(dy * z))
        dgamma = sum(dy * z),  dbeta = sum(dy)

    Source: Ioffe & Szegedy (2015), section 3. `choose(ill, corrected, plain)` calls
    one of the two functions: where a condition makes the device wait for the host it
    may always take `corrected`.
    """
    dtype, wide = x.dtype, reference.wide_dtype(x.dtype)
    before, after = [*range(axis)], [*range(axis + 1, len(x.shape))]
    count = reference.elements_per_channel(x, axis)
    size = at_least_one(count)

    def total(values: Tensor) -> Tensor:
        if not before or not after:
            return ops.sum(values, axis=[*before, *after])
        # First of what lies together; XLA would make one slow sum of the two, were it
        # not for the difference.
        parts = ops.sum(values, axis=after)
        first = ops.sum(parts[(slice(0, 1),) * axis], axis=before)  # (C,)
        rest = ops.sum(parts - first, axis=before)
        number = math.prod(ops.shape(parts)[:axis])
        return ops.cast(number, wide) * first + rest

    @ops.custom_gradient
    def normalize(x: Tensor, gamma: Tensor, beta: Tensor) -> Any:
        x = ops.cast(x, wide)
        pilot = total(x) / size

        def from_pilot() -> Tensor:
            return x - along(pilot, axis, x)

        def plain() -> Pair:
            return ops.zeros_like(pilot), total(ops.square(from_pilot())) / size

        def corrected() -> Pair:
            # Summing a large mean took many deviations from the pilot: again, from an
            # element, which is within sqrt(N) of them; what that took, once more.
            start = reference.an_element(x, axis)
            nearer = start + total(x - along(start, axis, x)) / size
            centred = x - along(nearer, axis, x)
            rest = total(centred) / size
            variance = total(ops.square(centred)) / size - ops.square(rest)
            return (nearer - pilot) + rest, ops.relu(variance)

        first = plain()
        ill = ops.any(reference.is_ill_conditioned(pilot, first[1], epsilon))
        offset, variance = choose(ill, corrected, lambda: first)
        inverse = ops.rsqrt(variance + epsilon)
        scale = inverse * gamma
        y = from_pilot() * along(scale, axis, x)
        y = ops.cast(y + along(beta - offset * scale, axis, x), dtype)

        def gradient(*upstream: Any) -> tuple[Tensor, Tensor, Tensor]:
            dy = ops.cast(keras.tree.flatten(upstream)[0], wide)
            dbeta = total(dy)
            dgamma = (total(dy * from_pilot()) - offset * dbeta) * inverse
            slope = -scale * inverse * dgamma / size
            shift = -scale * dbeta / size - slope * offset
            dx = dy * along(scale, axis, x) + from_pilot() * along(slope, axis, x)
            return ops.cast(dx + along(shift, axis, x), dtype), dgamma, dbeta

        return (y, pilot + offset, variance), gradient

    # Tensors, not variables: a custom gradient refuses to read those by itself.
    gamma = ops.convert_to_tensor(
        ops.ones(x.shape[axis], wide) if gamma is None else gamma
    )
    beta = ops.convert_to_tensor(
        ops.zeros(x.shape[axis], wide) if beta is None else beta
    )
    y, mean, variance = normalize(x, gamma, beta)
    return y, ops.stop_gradient(mean), ops.stop_gradient(variance), count
