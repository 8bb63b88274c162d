"""Weights: their distributions, and how far they move."""

import math

from .registry import Chart, Guide, diagnostic
from .statistics import Summary
from .subjects import Weight


@diagnostic(
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


@diagnostic(
    "update_ratio/<path>",
    of=Weight,
    given=lambda weight: weight.since_step,
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


@diagnostic(
    "distance_from_init/<path>",
    of=Weight,
    given=lambda weight: weight.since_start,
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
