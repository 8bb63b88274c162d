"""Batch normalization on torch: native batch norm, where it is right.

The native ops serve plain eager tensors on a CPU. Whatever transforms the call (an
export, a compiler, vmap, forward mode, a tracer, a mode) gets ordinary, branch-free
operations instead, which every transformation knows.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from kbn.kernels import reference
from kbn.kernels.arithmetic import Moments, Tensor, is_ill_conditioned, merged
from kbn.private.torch import is_transformed

# Native batch norm sums float32 naively, row after row, and one channel at a time where
# they are few. So a sum is cut into groups that stand side by side, as many as make a
# row this wide, and more where their sums would be longer than this: of 0s and 1s,
# which all round the same way, 1024 are off by 1.5e-5, 4096 by 6e-5.
ROW_WIDTH = 1024
SUM_LENGTH = 1024

# Up to so many elements, centring the batch takes less time than to test whether it is
# needed. Forward and gradients in ms, centred and asked, one core:
# (256,64) 0.24, 0.45; (1024,256) 0.82, 0.96; (1024,512) 1.44, 1.73; (2048,256) 1.55,
# 1.69; (4096,256) 2.8, 2.7.
SMALL = 2**19
# The same in inference: (16,28,28,64) 0.46, 0.56; (4096,256) 0.65, 0.70; (65536,64)
# 5.1, 3.6.
SMALL_FIXED = 2**20
# Fewer channels than these, where they lie innermost, are no work for the native op:
# (65536,1) 2.3, 0.55 by the formula; (65536,3) 2.5, 1.1; (65536,6) 2.8, 1.7.
NARROW = 8
ROW_LENGTH = 64  # in which rows of few channels are cut

PLAIN_TYPES = {torch.Tensor, torch.nn.Parameter, type(None)}


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

    `synchronized` merges over the default process group, where there is one.
    """
    gamma, beta = _widened(x, gamma), _widened(x, beta)
    together = (
        synchronized and distributed.is_available() and distributed.is_initialized()
    )
    elements = _elements_of_a_channel(x, axis)
    known = type(elements) is int  # not so in a program for any batch size
    is_empty = x.shape[axis] == 0 or (known and elements == 0)
    if mask is not None or together or is_empty:
        return reference.normalize_batch(
            x, gamma, beta, axis, epsilon, mask, merge=_merge if together else None
        )
    if not known or not _is_plain(x, gamma, beta):
        way = _by_formula
    else:
        way = _centred if _is_small(x, axis) else _native
    y, mean, variance = way(x, gamma, beta, axis, epsilon)
    # As a tensor where it is of a program for any batch size.
    return y, mean, variance, elements if known else torch.full_like(mean, elements)


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
    mean, variance = _widened(x, mean), _widened(x, variance)
    gamma, beta = _widened(x, gamma), _widened(x, beta)
    plain = _is_plain(x, gamma, beta)
    large = plain and x.numel() > SMALL_FIXED and x.shape[axis] >= NARROW
    if large and not is_ill_conditioned(mean, variance, epsilon).any():
        planes, restore = _as_planes(x, axis)
        # Copies: the statistics may move on before the backward pass needs them.
        y = _apply(planes, gamma, beta, mean.clone(), variance.clone(), epsilon)
        return restore(y)
    scale = (variance + epsilon).rsqrt()
    if gamma is not None:
        scale = scale * gamma
    mean, scale = _along(mean, axis, x), _along(scale, axis, x)
    # Not x * scale + (beta - mean * scale), which cancels when the mean is large.
    y = x - mean
    y = y.mul_(scale) if plain else y * scale
    if beta is not None:
        beta = _along(beta, axis, x)
        y = y.add_(beta) if plain else y + beta
    return y if y.dtype == x.dtype else y.to(x.dtype)


def where(condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`x` where `condition`, else `y`: Keras' own takes four times as long."""
    return torch.where(condition, x, y)


def _is_plain(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> bool:
    """Whether all evidence says that nothing but autograd sees this call.

    Then the native ops may compute it, and a choice may look at the data.
    """
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"  # elsewhere the choice would make the device wait
        and type(x) in PLAIN_TYPES
        and type(gamma) in PLAIN_TYPES
        and type(beta) in PLAIN_TYPES
        and not torch.jit.is_tracing()
        and not is_transformed()
    )


def _is_small(x: Tensor, axis: int) -> bool:
    """Whether centring takes less time than a test, and its sums are short enough."""
    return bool(x.numel() <= SMALL and _elements_of_a_channel(x, axis) <= SUM_LENGTH)


def _elements_of_a_channel(x: Tensor, axis: int) -> Any:
    return math.prod([size for i, size in enumerate(x.shape) if i != axis])


def _by_formula(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and the biased variance in ordinary operations, without a branch."""
    reduced = [i for i in range(x.ndim) if i != axis]
    wide = x.to(_wide_dtype(x))
    if not reduced:  # of no axes, torch takes all
        wide, reduced = wide[None], [0]
    # Any constant would do: y and its derivatives do not change when x is shifted.
    pilot = wide.detach().mean(reduced, keepdim=True)
    centred = wide - pilot
    offset = centred.mean(reduced, keepdim=True)
    centred = centred - offset
    variance = centred.square().mean(reduced, keepdim=True)
    scale = (variance + epsilon).rsqrt()
    if gamma is not None:
        scale = scale * _along(gamma, axis, x)
    y = centred * scale
    if beta is not None:
        y = y + _along(beta, axis, x)
    mean = (pilot + offset).detach().reshape(-1)
    return y.to(x.dtype).reshape(x.shape), mean, variance.detach().reshape(-1)


class _NarrowNormalization(torch.autograd.Function):
    """The formula, of which several rows of few channels are one long row.

    Vectorized loops are as long as a row, and native batch norm has a thread a channel.
    """

    @staticmethod
    def forward(
        context: Any,
        planes: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        epsilon: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = _LongRows(planes)
        x = wide.rows(planes)
        pilot = wide.average(x)
        centred = x - wide.along(pilot)
        offset = wide.average(centred)
        centred -= wide.along(offset)
        variance = wide.average(centred.square())
        inverse = (variance + epsilon).rsqrt()
        y = centred * wide.along(inverse if gamma is None else inverse * gamma)
        if beta is not None:
            y += wide.along(beta)
        context.save_for_backward(planes, gamma, beta, centred, inverse)
        context.epsilon = epsilon
        mean = pilot + offset
        context.mark_non_differentiable(mean, variance)
        return y.view(planes.shape).to(planes.dtype), mean, variance

    @staticmethod
    def backward(context: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        planes, gamma, beta, centred, inverse = context.saved_tensors
        if torch.is_grad_enabled():  # it will be differentiated itself
            return *_gradients(dy, context), None
        wide = _LongRows(planes)
        dy = wide.rows(dy)
        mean = wide.average(dy)
        slope = wide.average(dy * centred) * inverse
        scale = inverse if gamma is None else inverse * gamma
        dx = dy * wide.along(scale)
        dx.addcmul_(centred, wide.along(-slope * inverse * scale))
        dx -= wide.along(mean * scale)
        elements = planes.shape[0]
        return (
            dx.view(planes.shape).to(planes.dtype),
            None if gamma is None else slope * elements,
            None if beta is None else mean * elements,
            None,
        )


def _gradients(dy: Tensor, context: Any) -> list[Tensor | None]:
    """The gradients of the formula, as functions of its inputs and of `dy`."""
    planes, gamma, beta, *_ = context.saved_tensors
    y, _, _ = _by_formula(planes, gamma, beta, 1, context.epsilon)
    needs = context.needs_input_grad[:3]
    inputs = zip((planes, gamma, beta), needs, strict=True)
    needed = [value for value, need in inputs if need]
    found = iter(torch.autograd.grad(y, needed, dy, create_graph=True))
    return [next(found) if need else None for need in needs]


class _LongRows:
    """Views `planes`, (N, C, 1), as (N / k, k * C), and channels as (k * C,)."""

    def __init__(self, planes: Tensor) -> None:
        size, channels, _ = planes.shape
        self.copies = 1 if channels == 1 else math.gcd(size, ROW_LENGTH)
        self.shape = size // self.copies, self.copies * channels

    def rows(self, planes: Tensor) -> Tensor:
        """`planes` as long rows, in float32 or wider."""
        return planes.to(_wide_dtype(planes)).reshape(self.shape)

    def average(self, rows: Tensor) -> Tensor:
        """The mean of each channel."""
        found = rows.mean(0)
        return found if self.copies == 1 else found.view(self.copies, -1).mean(0)

    def along(self, values: Tensor) -> Tensor:
        """One value for each column."""
        return values if self.copies == 1 else values.repeat(self.copies)


def _centred(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and the biased variance of few elements, with few calls."""
    shape, elements = x.shape, _elements_of_a_channel(x, axis)
    rank = len(shape)
    contiguous = x.is_contiguous()
    if contiguous and axis == rank - 1:
        rows, reduced = x if rank == 2 else x.view(elements, shape[axis]), [0]
    elif contiguous and axis == 1:
        rows, reduced = x, [0, *range(2, rank)]
    else:
        planes, restore = _as_planes(x, axis)
        y, *moments = _centred(planes, gamma, beta, 1, epsilon)
        return restore(y), *moments
    pilot = rows.detach().mean(reduced, dtype=_wide_dtype(x), keepdim=True)
    centred = rows - pilot
    # The op moves these by all of the way. Its third result would be 1 / deviation.
    offset, variance = pilot.new_zeros(2, shape[axis]).unbind()
    y, _, _ = torch.native_batch_norm(
        centred, gamma, beta, offset, variance, True, 1.0, epsilon
    )
    if rows is not x:
        y = y.view(shape)
    # It has Bessel's correction.
    variance = variance * ((elements - 1) / elements) if elements > 1 else 0 * offset
    mean = pilot.view(-1) + offset
    return y if y.dtype == x.dtype else y.to(x.dtype), mean, variance


def _along(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """`values`, shape (C,), as a tensor that broadcasts along `axis` of `x`."""
    after = x.ndim - 1 - axis
    return values.reshape(-1, *[1] * after) if after else values


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _widened(x: Tensor, values: Tensor | None) -> Tensor | None:
    """`values` as wide as the statistics of `x`: `model.double()` casts weights."""
    if values is None or values.dtype == (wide := _wide_dtype(x)):
        return values
    return values.to(wide)


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


def _native(
    x: Tensor, gamma: Tensor | None, beta: Tensor | None, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and the biased variance by the native op, or by long rows."""
    planes, restore = _as_planes(x, axis)
    _, channels, length = planes.shape
    is_narrow = length == 1 and channels < NARROW
    normalize = _NarrowNormalization.apply if is_narrow else _normalize
    y, *moments = normalize(planes, gamma, beta, epsilon)
    return restore(y), *moments


def _normalize(
    planes: Tensor, gamma: Tensor | None, beta: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and the biased variance of `planes`, (N, C, M).

    y does not change when x is shifted, so neither do its derivatives: the input is
    centred first where it must be.
    """
    mean, variance = _moments(planes.detach())
    if not is_ill_conditioned(mean, variance, epsilon).any():
        y = _Normalization.apply(planes, gamma, beta, mean, variance, epsilon)
        return y, mean, variance
    # In float32: 16 bits would round the difference.
    centred = planes - mean[:, None]
    offset, variance = _moments(centred.detach())
    y = _Normalization.apply(centred, gamma, beta, offset, variance, epsilon)
    return y.to(planes.dtype), mean + offset, variance


def _moments(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (C,) each, of `planes`, (N, C, M).

    The native op takes the groups for channels of their own, in a view. They are merged
    by Chan, Golub & LeVeque (1983), with n_g the share of group g::

        mean     = sum(n_g * mean_g)
        variance = sum(n_g * (variance_g + (mean_g - mean)^2))
    """
    size, channels, length = planes.shape
    groups, rows = 1, size
    if length == 1:
        wide = min(ROW_WIDTH // channels, size // 64)
        groups = max(wide, size // SUM_LENGTH, 1)
        rows = size // groups
    whole = groups * rows
    mean, variance = _merged_groups(planes[:whole], groups, channels)
    if whole < size:
        rest = _native_moments(planes[whole:])
        share = whole / size
        distance = rest[0] - mean
        variance = share * (variance + (1 - share) * distance.square())
        variance = variance + (1 - share) * rest[1]
        mean = mean + (1 - share) * distance
    return mean, variance


def _merged_groups(planes: Tensor, groups: int, channels: int) -> tuple[Tensor, Tensor]:
    """The moments of `groups` equal groups of rows, merged."""
    if groups == 1:
        return _native_moments(planes)
    rows = planes.reshape(-1, groups * channels, 1)
    mean, variance = (m.view(groups, channels) for m in _native_moments(rows))
    between, mean = torch.var_mean(mean, 0, correction=0)
    return mean, variance.mean(0) + between


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

    Its backward pass is the native one, which knows its own derivative. No
    `setup_context`, with which every call reads the signature of `forward`: 70
    microseconds instead of 20.
    """

    @staticmethod
    def forward(
        context: Any,
        planes: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        epsilon: float,
    ) -> Tensor:
        context.save_for_backward(planes, gamma, mean, variance)
        context.epsilon = epsilon
        return _apply(planes, gamma, beta, mean, variance, epsilon)

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
            context.needs_input_grad[:3],
        )
        return *gradients, None, None, None


def _merge(own: Moments) -> Moments:
    rows = torch.zeros(
        (distributed.get_world_size(), len(own), *own.count.shape),
        dtype=own.count.dtype,
        device=own.count.device,
    )
    place = torch.zeros_like(rows[:, :1, :1])  # (R, 1, 1)
    place[distributed.get_rank()] = 1
    rows = _AllReduce.apply(rows + place * torch.stack(tuple(own)))  # (R, 4, C)
    return merged(own, rows)


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
