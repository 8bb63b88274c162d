"""Weights: their distributions, how far a step moves them, and rules on it."""

import math

import numpy as np

from .registry import Chart, Guide, signal
from .statistics import Summary
from .subjects import Squares, Weight


@signal(
    "weights/<path>",
    of=Weight,
    given=lambda weight: None if weight.summary is None else (weight.summary,),
    is_histogram=True,
)
def weights(summary: Summary) -> Summary:
    """All elements of one variable, after the step; those of batch norm are apart.

    A distribution that does not move does not learn; one that grows without end
    diverges.
    """
    return summary


@signal(
    "update_ratio/<path>",
    of=Weight,
    given=lambda weight: weight.since_step and weight.since_step[:2],
    unit="share of the weight's norm",
    guide=Guide(healthy=(1e-4, 1e-2), sick=(1e-5, 1e-1)),
    source="CS231n, cs231n.github.io/neural-networks-3/#ratio",
    chart=Chart("Health", "update ratio of the weights"),
)
def update_ratio(change: float, before: float) -> float | None:
    """`||w_after - w_before|| / ||w_before||` of the looked-at step.

    Around 1e-3 is usual. Trainable weights of two and more dimensions; above
    `sample_size` elements, of a sample of them. A step that only accumulates gradients,
    or that loss scaling skips, is 0. Left out while the weight is 0, as many are before
    their first step.

    change, before: sums of squares of the difference and of the weight before.
    """
    return math.sqrt(change / before) if before > 0 else None


@signal(
    "distance_from_init/<path>",
    of=Weight,
    given=lambda weight: weight.since_start and weight.since_start[:2],
    unit="share of the first norm",
    guide=Guide(healthy=(None, 1), sick=(None, 10)),
    source="Cockpit (Schneider et al., 2021, arXiv:2102.06604), relative here",
    chart=Chart("Health", "distance of the weights from the start"),
)
def distance_from_init(change: float, initial: float) -> float | None:
    """`||w - w_0|| / ||w_0||`, w after the looked-at step.

    Of the weights of `update_ratio`. w_0 is the weight when this monitor first met it:
    before the first step of its first `fit` on this model, not of a later one; of a
    weight born in that step, after it. Left out for weights that began as 0. Beyond 10
    the initial values are forgotten.

    change, initial: sums of squares of the difference and of w_0.
    """
    return math.sqrt(change / initial) if initial > 0 else None


def _from_start(
    weight: Weight, moved: Squares | None
) -> tuple[float, float, float] | None:
    """Sums of squares: of w_0, of the weight now or of its move, the least for w_0."""
    start = weight.since_start
    if start is None or moved is None:
        return None
    other = moved.now if moved is start else moved.change
    return start.before, other, start.elements / weight.fan_in


def _of_start(initial: float, other: float, least: float = 0.0) -> float | None:
    start = max(initial, least)
    return math.sqrt(other / start) if start > 0 else None


@signal(
    "weight_growth/<path>",
    of=Weight,
    given=lambda weight: _from_start(weight, weight.since_start),
    unit="multiple of the first norm",
    guide=Guide(healthy=(0.3, 3), sick=(None, 6)),
    chart=Chart("Health", "norm of the weights beside the first"),
)
def weight_growth(initial: float, now: float, least: float = 0.0) -> float | None:
    """`||w|| / ||w_0||`, w after the looked-at step; of the weights of `update_ratio`.

    `||w_0||` counts as that of weights of deviation `1 / sqrt(inputs of a unit)` where
    it is less: what starts small, or as 0, is meant to grow.

    initial, now, least: sums of squares.
    """
    return _of_start(initial, now, least)


@signal(
    "update_from_init/<path>",
    of=Weight,
    given=lambda weight: _from_start(weight, weight.since_step),
    unit="share of the first norm",
    guide=Guide(healthy=(1e-5, 0.3), sick=(1e-6, 1)),
    chart=Chart("Health", "update of the weights beside their start"),
)
def update_from_init(initial: float, change: float, least: float = 0.0) -> float | None:
    """`||w_after - w_before|| / ||w_0||` of the looked-at step.

    `||w_0||` as in `weight_growth`. Unlike `update_ratio` it does not shrink when too
    high a learning rate has made the weights large.

    initial, change, least: sums of squares.
    """
    return _of_start(initial, change, least)


def _with_first(weight: Weight) -> tuple[Summary, Summary] | None:
    if weight.first is None or weight.summary is None:
        return None
    return weight.first, weight.summary


@signal(
    "weight_drift/<path>",
    of=Weight,
    given=lambda one: (pair := _with_first(one)) and (*pair, one.fan_in**-0.5),
    unit="first standard deviations",
    guide=Guide(healthy=(0, 1), sick=(None, 3)),
    source="the normed Wasserstein distance of Evidently",
    chart=Chart("Health", "drift of the weight distributions"),
)
def weight_drift(first: Summary, now: Summary, least: float = 0.0) -> float | None:
    """`W_1(w_0, w) / sigma_0`: how far the distribution of a weight has moved.

    W_1 is the earth mover's distance, read from the quantiles of the two histograms;
    sigma_0 the standard deviation when this monitor first met the weight, or
    `1 / sqrt(inputs of a unit)` where that is more: what starts small is meant to move
    far in its own units. Of the weights of `update_ratio`.

    least: for sigma_0.
    """
    sigma = max(first.std if _has_spread(first) else 0.0, least)
    if not (sigma and first.count and now.count):
        return None
    return float(np.mean(np.abs(now.grid - first.grid))) / sigma


@signal(
    "weight_spread/<path>",
    of=Weight,
    given=_with_first,
    unit="multiple of the first standard deviation",
    guide=Guide(healthy=(0.3, 3), sick=(0.17, 6)),
    chart=Chart("Health", "spread of the weights beside the first"),
)
def weight_spread(first: Summary, now: Summary) -> float | None:
    """`sigma / sigma_0` of a weight; as `weight_drift`."""
    return now.std / first.std if _has_spread(first) and now.count else None


def _has_spread(summary: Summary) -> bool:
    # Of a constant, float32 leaves a spread of rounding errors.
    return summary.std > 1e-6 * abs(summary.mean)


@signal(
    "weight_std/<path>",
    of=Weight,
    given=lambda weight: None if weight.first is None else (weight.summary,),
    unit="that of the weight",
    guide=Guide(healthy=(1e-3, 1), sick=(1e-6, None)),
    chart=Chart("Health", "standard deviation of the weights"),
)
def weight_std(summary: Summary) -> float | None:
    """Standard deviation of the weights of `update_ratio`, after the step.

    All equal, the units of a layer learn the same.
    """
    return summary.std if summary.count else None
