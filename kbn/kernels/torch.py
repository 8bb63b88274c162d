"""Batch normalization on torch."""

from typing import Any

import torch
from torch import distributed

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

    `synchronized` merges over the default process group, where there is one.
    """
    together = (
        synchronized and distributed.is_available() and (distributed.is_initialized())
    )
    return reference.normalize_batch(
        x, gamma, beta, axis, epsilon, mask, merge=_merge if together else None
    )


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
