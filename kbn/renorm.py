"""Batch renormalization: the correction that leads to slowly moving averages.

Ioffe (2017), https://arxiv.org/abs/1702.03275.
"""

import math

from keras import ops

from kbn.arguments import Tensor


def correction(
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
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
    reference = ops.maximum(renorm_stddev, math.sqrt(epsilon))
    r = ops.sqrt(variance + epsilon) / reference
    d = (mean - renorm_mean) / reference
    if clipping.get("rmin") is not None:
        r = ops.maximum(r, clipping["rmin"])
    if clipping.get("rmax") is not None:
        r = ops.minimum(r, clipping["rmax"])
    if clipping.get("dmax") is not None:
        d = ops.clip(d, -clipping["dmax"], clipping["dmax"])
    return ops.stop_gradient(r), ops.stop_gradient(ops.where(count > 0, d, 0))


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
    along = [-1 if i == axis else 1 for i in range(len(normal.shape))]
    return normal * ops.reshape(slope, along) + ops.reshape(shift, along)
