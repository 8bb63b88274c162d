"""Inputs as the kernels want them: one channel axis, each virtual batch apart.

Several channel axes become one of their product. The groups of a virtual batch size
become channels of their own, so that G groups of C channels are normalized in one go.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from kbn import kernels
from kbn.arguments import Tensor


class Folded(NamedTuple):
    """`x` and `mask` with K = `groups` * C channels on `axis`, and the way back."""

    x: Tensor
    mask: Tensor | None
    axis: int
    groups: int | Tensor
    unfold: Callable[[Tensor], Tensor]

    def tiled(self, values: Tensor | None) -> Tensor | None:
        """A weight of C elements, in its own shape, as (K,)."""
        if values is None:
            return None
        flat = kernels.read(values)
        if len(flat.shape) != 1:
            flat = ops.reshape(flat, (-1,))
        if isinstance(self.groups, int) and self.groups == 1:
            return flat
        shape = (self.groups, flat.shape[0])
        return ops.reshape(ops.broadcast_to(flat, shape), (-1,))


def fold(
    x: Tensor, mask: Tensor | None, axes: list[int], group_size: int | None = None
) -> Folded:
    """`x` with its channels on `axes`, cut along axis 0 into groups of `group_size`.

    mask: booleans of the rank of `x` that broadcast to it, or None. The last group may
    be short: it is filled up with elements that the mask leaves out.
    """
    if group_size is None or 0 in [x.shape[axis] for axis in axes]:
        return _fold_axes(x, mask, axes, 1)
    size = ops.shape(x)[0]
    groups = (size + group_size - 1) // group_size
    # An empty batch is one group without elements.
    groups = max(groups, 1) if isinstance(groups, int) else ops.maximum(groups, 1)
    rest = ops.shape(x)[1:]
    missing = groups * group_size - size
    if mask is not None:
        mask = ops.broadcast_to(mask, ops.shape(x))
    if not (isinstance(missing, int) and missing == 0):
        if mask is None:
            mask = ops.ones_like(x, dtype="bool")
        filling = (missing, *rest)
        mask = ops.concatenate([mask, ops.zeros(filling, "bool")])
        x = ops.concatenate([x, ops.zeros(filling, x.dtype)])
    cut = (groups, group_size, *rest)
    folded = _fold_axes(
        ops.reshape(x, cut),
        None if mask is None else ops.reshape(mask, cut),
        [0, *(axis + 1 for axis in axes)],
        groups,
    )

    def unfold(y: Tensor) -> Tensor:
        return ops.reshape(folded.unfold(y), (groups * group_size, *rest))[:size]

    return folded._replace(unfold=unfold)


def _fold_axes(
    x: Tensor, mask: Tensor | None, axes: list[int], groups: int | Tensor
) -> Folded:
    if len(axes) == 1:
        return Folded(x, mask, axes[0], groups, lambda y: y)
    others = [i for i in range(len(x.shape)) if i not in axes]
    order = others + axes
    moved = ops.transpose(x, order)
    shape = ops.shape(moved)
    # Their product by name: -1 cannot be inferred of an empty batch.
    merged = (*shape[: len(others)], math.prod(shape[len(others) :]))
    if mask is not None:
        mask = ops.transpose(ops.broadcast_to(mask, ops.shape(x)), order)
        mask = ops.reshape(mask, merged)

    def unfold(y: Tensor) -> Tensor:
        back = [order.index(i) for i in range(len(order))]
        return ops.transpose(ops.reshape(y, shape), back)

    return Folded(ops.reshape(moved, merged), mask, len(others), groups, unfold)
