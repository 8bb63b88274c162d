"""Batch normalization in float64 NumPy, with its derivatives worked out by hand.

Nothing here is shared with kbn: it is the second, independent computation.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Normalized:
    """What `normalize` saw and made; `count`, `mean`, `variance` have shape (C,)."""

    y: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray
    dx: np.ndarray
    dgamma: np.ndarray
    dbeta: np.ndarray


def normalize(x, gamma, beta, axis, epsilon, dy, mask=None, correction=(1.0, 0.0)):
    """Training: y, the statistics of the batch, and the gradient of sum(y * dy).

    `correction` is batch renormalization's (r, d), constants to the gradient.
    """
    x, dy = np.moveaxis(np.asarray(x, "f8"), axis, -1), np.moveaxis(dy, axis, -1)
    weights = np.ones_like(x)
    if mask is not None:
        weights *= np.moveaxis(
            np.broadcast_to(mask, np.moveaxis(x, -1, axis).shape), axis, -1
        )
    over = tuple(range(x.ndim - 1))
    count = weights.sum(over)
    size = np.maximum(count, 1)
    mean = (weights * x).sum(over) / size
    centred = x - mean
    variance = (weights * centred**2).sum(over) / size
    # A channel without elements is beta, and has no gradient.
    present = count > 0
    inverse = np.where(present, 1 / np.sqrt(variance + epsilon), 0)
    r, d = correction
    d = np.where(present, d, 0)
    normal = centred * inverse
    y = (normal * r + d) * gamma + beta

    # dy/dx directly, and through mean and variance:
    # d mean / dx = w / n,  d variance / dx = 2 w (x - mean) / n
    direct = dy * gamma * r * inverse
    dmean = -direct.sum(over)
    dvariance = -0.5 * inverse**2 * (direct * centred).sum(over)
    dx = direct + weights / size * (dmean + 2 * centred * dvariance)
    dgamma = (dy * (normal * r + d)).sum(over)
    dbeta = np.where(present, dy.sum(over), 0)
    back = [np.moveaxis(a, -1, axis) for a in (y, dx)]
    return Normalized(back[0], mean, variance, count, back[1], dgamma, dbeta)


def normalize_fixed(x, mean, variance, gamma, beta, axis, epsilon, dy):
    """Inference: y and the gradient of sum(y * dy)."""
    x, dy = np.moveaxis(np.asarray(x, "f8"), axis, -1), np.moveaxis(dy, axis, -1)
    over = tuple(range(x.ndim - 1))
    inverse = 1 / np.sqrt(np.asarray(variance, "f8") + epsilon)
    normal = (x - mean) * inverse
    y = normal * gamma + beta
    back = [np.moveaxis(a, -1, axis) for a in (y, dy * gamma * inverse)]
    return Normalized(
        back[0], mean, variance, None, back[1], (dy * normal).sum(over), dy.sum(over)
    )


class State:
    """The moving statistics, as the paper and batch renormalization move them.

    A momentum of None is the average over all batches. `batches` counts, for each
    channel, those that entered.
    """

    def __init__(
        self,
        channels,
        epsilon,
        momentum,
        renorm=None,
        renorm_momentum=0.99,
        warmup=False,
    ):
        self.moving_mean = np.zeros(channels)
        self.moving_variance = np.ones(channels)
        self.moving_stddev = np.ones(channels)
        self.renorm_mean = np.zeros(channels)
        self.renorm_stddev = np.ones(channels)
        self.batches = np.zeros(channels)
        self.epsilon, self.momentum, self.warmup = epsilon, momentum, warmup
        self.renorm, self.renorm_momentum = renorm, renorm_momentum

    def correction(self, mean, variance):
        """Batch renormalization's r and d; (1, 0) without it."""
        if self.renorm is None:
            return 1.0, 0.0
        reference = np.maximum(self.renorm_stddev, np.sqrt(self.epsilon))
        r = np.sqrt(variance + self.epsilon) / reference
        d = (mean - self.renorm_mean) / reference
        r = np.clip(r, self.renorm.get("rmin", 0), self.renorm.get("rmax", np.inf))
        dmax = self.renorm.get("dmax", np.inf)
        return r, np.clip(d, -dmax, dmax)

    def share(self):
        """The weight of the batch that was counted last, by channel."""
        count = np.maximum(self.batches, 1)
        if self.momentum is None:
            return 1 / count
        early = 10 / (count + 9) if self.warmup else 0 * count
        return np.maximum(early, 1 - self.momentum)

    def update(self, batch):
        enters = (batch.count > 0) & np.isfinite(batch.variance)
        self.batches += enters
        momentum = 1 - self.share()

        def move(name, value, momentum):
            old = getattr(self, name)
            new = np.where(enters, old * momentum + value * (1 - momentum), old)
            setattr(self, name, new)

        move("moving_mean", batch.mean, momentum)
        if self.renorm is None:
            move("moving_variance", batch.variance, momentum)
            return
        stddev = np.sqrt(batch.variance + self.epsilon)
        move("renorm_mean", batch.mean, self.renorm_momentum)
        move("renorm_stddev", stddev, self.renorm_momentum)
        move("moving_stddev", stddev, momentum)
        move(
            "moving_variance", np.maximum(self.moving_stddev**2 - self.epsilon, 0), 0.0
        )
