"""Batch normalization on torch: native batch norm, where it is right."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from kbn.kernels import reference
from kbn.kernels.reference import Tensor

# Native batch norm sums float32 naively, row after row, and one channel at a time where
# they are few. So a sum is cut into groups that stand side by side, as many as make a
# row this wide, and more where their sums would be longer than this, which keeps six
# digits.
ROW_WIDTH = 1024
SUM_LENGTH = 4096


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

    `synchronized` merges over the default process group, where there is one.
    """
    together = (
        synchronized and distributed.is_available() and distributed.is_initialized()
    )
    if mask is not None or together or not _native_can(x):
        return reference.normalize_batch(
            x, gamma, beta, axis, epsilon, mask, merge=_merge if together else None
        )
    planes, restore = _as_planes(x, axis)
    y, mean, variance = _normalize(planes, gamma, beta, epsilon)
    elements = x.numel() // x.shape[axis]
    return restore(y), mean, variance, torch.full_like(mean, elements)


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
    if not _native_can(x):
        return reference.normalize_fixed(x, mean, variance, gamma, beta, axis, epsilon)
    planes, restore = _as_planes(x, axis)
    if _ill_conditioned(mean, variance, epsilon):
        planes = planes - mean[:, None]
        mean = torch.zeros_like(mean)
    # Copies: the moving statistics may move on before the backward pass needs them.
    y = _apply(planes, gamma, beta, mean.clone(), variance.clone(), epsilon)
    return restore(y.to(x.dtype))


def _native_can(x: Tensor) -> bool:
    """Whether the native op computes `x`: on a CPU, and not an empty one.

    Elsewhere the choice by the size of the mean would make the device wait.
    """
    return x.device.type == "cpu" and x.numel() > 0


def _as_planes(x: Tensor, axis: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`x` as (N, C, M), and the way back: a view, wherever the strides allow it.

    The channels may lie elsewhere in memory than `axis` says: Keras' convolution with
    channels last is torch's with channels first, between two transposed views.
    """
    for place in (axis, min(1, x.ndim - 1), x.ndim - 1):
        moved = x.movedim(axis, place)
        if moved.is_contiguous():
            break
    else:
        place, moved = axis, x
    shape = moved.shape
    planes = moved.reshape(
        math.prod(shape[:place]), shape[place], math.prod(shape[place + 1 :])
    )
    return planes.contiguous(), lambda y: y.reshape(shape).movedim(place, axis)


def _normalize(
    planes: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and the biased variance of `planes`, (N, C, M).

    y does not change when x is shifted, so neither do its derivatives: the input is
    centred first where it must be.
    """
    mean, variance = _moments(planes.detach())
    if not _ill_conditioned(mean, variance, epsilon):
        y = _Normalization.apply(planes, gamma, beta, mean, variance, epsilon)
        return y, mean, variance
    # In float32: 16 bits would round the difference.
    centred = planes - mean[:, None]
    offset, variance = _moments(centred.detach())
    y = _Normalization.apply(centred, gamma, beta, offset, variance, epsilon)
    return y.to(planes.dtype), mean + offset, variance


def _ill_conditioned(mean: Tensor, variance: Tensor, epsilon: float) -> bool:
    """Whether x * a + b loses digits of any channel."""
    return bool(
        (mean.square() > reference.ILL_CONDITIONED * (variance + epsilon)).any()
    )


def _moments(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,) each, of `planes`, (N, C, M).

    The native op takes the groups for channels of their own, in a view. They are merged
    by Chan, Golub & LeVeque (1983), with n_g the share of group g::

        mean     = sum(n_g * mean_g)
        variance = sum(n_g * (variance_g + (mean_g - mean)^2))
    """
    size, channels, length = planes.shape
    if length > 1:
        groups, rows = size, 1
    else:
        wide = min(ROW_WIDTH // channels, size // 64)
        groups = max(wide, size // SUM_LENGTH, 1)
        rows = size // groups
    parts = [planes[: groups * rows].reshape(rows, groups * channels, length)]
    if groups * rows < size:
        parts.append(planes[groups * rows :])
    mean, variance = (
        torch.cat([values.reshape(-1, channels) for values in kind])
        for kind in zip(*(_native_moments(part) for part in parts), strict=True)
    )  # (G, C) each
    share = torch.full_like(mean[:, :1], rows / size)
    share[groups:] = 1 - groups * rows / size
    start = mean[0]
    distance = mean - start
    offset = (share * distance).sum(0)
    variance = (share * (variance + (distance - offset).square())).sum(0)
    return start + offset, variance


def _native_moments(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,) each, of `planes`, (N, C, M)."""
    dtype = torch.promote_types(planes.dtype, torch.float32)
    # The op gives its results the dtype of these, and moves them by 0.
    unused = torch.zeros(2, planes.shape[1], dtype=dtype)
    mean, variance = torch.batch_norm_update_stats(planes, *unused, 0.0)
    return mean, variance


def _apply(
    planes: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
) -> Tensor:
    """Normalize `planes`, (N, C, M), with given statistics."""
    y, _, _ = torch.native_batch_norm(
        planes, gamma, beta, mean, variance, False, 0.0, epsilon
    )
    return y


class _Normalization(torch.autograd.Function):
    """`_apply`, as a function of planes, gamma and beta, whose moments are given.

    Its backward pass is the native one, which knows its own derivative.
    """

    @staticmethod
    def forward(
        planes: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        epsilon: float,
    ) -> Tensor:
        return _apply(planes, gamma, beta, mean, variance, epsilon)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        planes, gamma, _, mean, variance, epsilon = inputs
        context.save_for_backward(planes, gamma, mean, variance)
        context.epsilon = epsilon

    @staticmethod
    def backward(context: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        planes, gamma, mean, variance = context.saved_tensors
        gradients = torch.ops.aten.native_batch_norm_backward(
            dy,
            planes,
            gamma,
            None,
            None,
            mean,
            torch.rsqrt(variance + context.epsilon),
            True,
            context.epsilon,
            list(context.needs_input_grad[:3]),
        )
        return *gradients, None, None, None


def _merge(own: reference.Moments) -> reference.Moments:
    rows = torch.zeros(
        (distributed.get_world_size(), len(own), *own.count.shape),
        dtype=own.count.dtype,
        device=own.count.device,
    )
    place = torch.zeros_like(rows[:, :1, :1])  # (R, 1, 1)
    place[distributed.get_rank()] = 1
    rows = _AllReduce.apply(rows + place * torch.stack(tuple(own)))  # (R, 4, C)
    return reference.merged(own, rows)


class _AllReduce(torch.autograd.Function):
    """The sum over all processes, whose derivative is the same sum."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _AllReduce.apply(gradient)
