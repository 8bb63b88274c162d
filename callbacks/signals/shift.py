"""Covariate shift: how far what enters activation functions moves in training."""

import math
from typing import Any

import numpy as np

from . import rows
from .registry import Chart, signal
from .subjects import Array, Entering


def _units(x: Any, entering: Entering) -> Any:
    return rows.units_row(x, entering.unit_axis) if len(x.shape) > 1 else np.zeros(1)


def _two_looks(entering: Entering) -> tuple[Array, Array, bool] | None:
    now, before = entering.rows[activation_shift.tag], entering.earlier
    if before is None or now.shape[1] < 2 or now.shape[1] != before.shape[1]:
        return None
    return merged(before), merged(now), entering.is_noisy


def merged(replicas: Array) -> Array:
    """One row of those of replicas: see `rows.units_row`."""
    counts, noises = replicas[:, 0], replicas[:, 1]
    half = replicas.shape[1] // 2 + 1
    means, stds = replicas[:, 2:half], replicas[:, half:]
    share = counts / counts.sum()
    mean = share @ means
    variance = share @ (np.square(stds) + np.square(means - mean))
    noise = np.square(share) @ noises
    return np.concatenate([[counts.sum(), noise], mean, np.sqrt(variance)])


@signal(
    "activation_shift/<layer>",
    of=Entering,
    row=_units,
    given=_two_looks,
    unit="standard deviations at the look before",
    source="internal covariate shift, Ioffe and Szegedy, 2015 (arXiv:1502.03167); "
    "that it need not be why batch norm helps, Santurkar et al., 2018 "
    "(arXiv:1805.11604)",
    chart=Chart("Health", "covariate shift, of what enters the activations"),
)
def activation_shift(before: Array, now: Array, is_noisy: bool = True) -> float | None:
    """How far what enters an activation function has moved since the look before.

    `sqrt((sum((m - m')^2 + (s - s')^2) - noise) / sum(s'^2))`: m, s are mean and
    deviation of each unit over batch x space at this look, m', s' at the look before:
    the Wasserstein distance W_2 of normal distributions, unit by unit.

    Two batches differ even if the network does not: `noise` is how much they would,
    1.5 times the variance of the means over examples, divided by their number, of
    both looks. Of what a batch norm gave there is none, nor where both looks have the
    same batch. What is left is 0 if it is less.

    So it takes batches of one kind: shuffled, and of more than a few examples. More
    steps between two looks are more shift: compare runs of the same `log_freq`. Not of
    the model's outputs, nor of layers with a mask. Behind a batch norm only gamma and
    beta can move it. No limit is known: healthy networks without batch norm have up to
    4.5 between the first looks, and less than 0.3 later.

    before, now: (2 + 2 units,), examples, noise, means and deviations.
    """
    scale = float(np.square(before[2 + (len(before) - 2) // 2 :]).sum())
    change = float(np.square(now[2:] - before[2:]).sum())
    noise = float(now[1] + before[1]) if is_noisy else 0.0
    if not (math.isfinite(change) and scale > 0 and min(now[0], before[0]) > 1):
        return None
    return math.sqrt(max(change - noise, 0.0) / scale)
