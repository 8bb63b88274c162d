"""Batch renormalization: the correction that leads to slowly moving averages.

Ioffe (2017), https://arxiv.org/abs/1702.03275.
"""

import math

from keras import ops

from kbn.arguments import Tensor
from kbn.kernels.arithmetic import along


def correction(
    mean: Tensor,
    variance: Tensor,
    count: Tensor | int,
    renorm_mean: Tensor,
    renorm_stddev: Tensor,
    epsilon: float,
    clipping: dict[str, float],
) -> tuple[Tensor, Tensor]:
    """r = stddev / renorm_stddev and d = (mean - renorm_mean) / renorm_stddev, clipped.

    All of shape (C,), and constants to the gradient. A channel without elements
    (`count` is 0) has nothing to correct.
    """
    # Early in training the average may still be near 0.
    reference = _within(renorm_stddev, math.sqrt(epsilon))
    rmin, rmax, dmax = (clipping.get(key) for key in ("rmin", "rmax", "dmax"))
    r = _within(ops.sqrt(variance + epsilon) / reference, rmin or 0, rmax)
    d = (mean - renorm_mean) / reference
    if dmax is not None:
        d = _within(d, -dmax, dmax)
    if not (isinstance(count, int) and count > 0):
        d = ops.where(count > 0, d, ops.zeros_like(d))
    return ops.stop_gradient(r), ops.stop_gradient(d)


def corrected(
    normal: Tensor,
    r: Tensor,
    d: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axis: int,
) -> Tensor:
    """(normal * r + d) * gamma + beta, with the (C,) values along `axis`."""
    slope, shift = r, d
    if gamma is not None:
        slope, shift = r * gamma, d * gamma
    if beta is not None:
        shift = shift + beta
    return normal * along(slope, axis, normal) + along(shift, axis, normal)


def _within(values: Tensor, low: float, high: float | None = None) -> Tensor:
    """`values` clipped. Keras' own `clip` rounds the bounds to float32 on torch."""
    lowest = ops.zeros_like(values) + low
    values = ops.where(values < lowest, lowest, values)
    if high is None:
        return values
    highest = ops.zeros_like(values) + high
    return ops.where(values > highest, highest, values)
