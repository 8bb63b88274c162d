"""Weights: their distributions, how far a step moves them, and rules on it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .loss import epoch_loss, has_learned, is_slowed, train_loss
from .optimizers import learning_rate, learning_rates
from .registry import Chart, Guide, signal
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Squares, Weight
from .view import View


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


def _with_least(weight: Weight) -> tuple[Summary, Summary, float] | None:
    pair = _with_first(weight)
    return pair and (*pair, weight.fan_in**-0.5)


@signal(
    "weight_drift/<path>",
    of=Weight,
    given=_with_least,
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


FIRST_STEPS = 10  # an optimizer's averages and weights of zeros settle in them


@dataclass(frozen=True)
class UpdateRatioLow(Rule):
    """Steps hardly move a kernel, and the network has not learned.

    r = ||w_after - w_before|| / ||w_before|| of a step below `ratio`, for trainable
    weights of two and more dimensions, after 10 steps. Left out: r = 0, of a step that
    only accumulates gradients or that loss scaling skips; embeddings, of which a batch
    touches few rows; while a schedule warms up, or has lowered the learning rate to
    less than a tenth; and once the loss has halved: near its minimum, steps are small.

    No unit. Sources: CS231n (about 1e-3), torchmortem (1e-5); measured on digits:
    healthy 7e-4 to 1.2e-2.
    """

    ratio: float = 1e-5
    patience: int = LASTING

    reads: ClassVar = (
        update_ratio,
        learning_rate,
        learning_rates,
        train_loss,
        epoch_loss,
    )
    keeps: ClassVar = {learning_rate: 1, train_loss: 1, epoch_loss: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        if view.step <= FIRST_STEPS:
            return
        excused = is_slowed(view) or has_learned(view)
        for path, ratio in view.under(update_ratio).items():
            if ratio > 0 and view.record.is_kernel(path):
                value = math.inf if excused else ratio
                yield Reading(path, value, self.ratio, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the learning rate."""
        return (
            f"A step moves {reading.where} by {reading.value:.1g} of its size, so "
            "training takes a hundred times as long as it could; 1e-3 is usual. Raise "
            f"{view.rate_of(reading.where)} tenfold, unless another alert names a layer"
            " that gets no gradient."
        )


@dataclass(frozen=True)
class UpdateRatioHigh(Rule):
    """Steps throw a kernel about.

    r, as for `UpdateRatioLow`, above `ratio`, after 10 steps; of a weight whose
    deviation is still below 1 / sqrt(inputs of a unit), beside that: from a start of
    0.02 or 0, every step is large.

    No unit. Sources: CS231n (about 1e-3), torchmortem (1e-1); measured on digits:
    healthy up to 1.2e-2, learning rate 10 0.42 to 0.89. Biases, gamma and beta go to
    6e-2 in health, and are not looked at.
    """

    ratio: float = 1e-1
    patience: int = LASTING

    reads: ClassVar = (update_ratio, weight_std)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        if view.step <= FIRST_STEPS:
            return
        stds = view.under(weight_std)
        for path, ratio in view.under(update_ratio).items():
            if view.record.is_kernel(path):
                usual = math.prod((view.record.shape(path) or [1])[:-1]) ** -0.5
                share = min(1.0, stds.get(path, usual) / usual)
                yield Reading(path, ratio * share, self.ratio)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the learning rate."""
        return (
            f"A step changes {reading.where} by {reading.value:.1g} of its size, so it "
            "jumps about its minimum or away from it; 1e-3 is usual. Lower "
            f"{view.rate_of(reading.where)} tenfold, or warm it up in the first steps."
        )


@dataclass(frozen=True)
class UnchangedWeight(Rule):
    """A trainable kernel stays as it is.

    |d - d'| of d = ||w - w_0|| / ||w_0|| at this look and the one before, below
    `change`: a weight that moves keeps its distance from the start only by chance.
    Not where a schedule has lowered the learning rate to less than a tenth, and not
    once the loss has halved and the weight has moved before: that one has arrived.

    No unit. Source: SageMaker Debugger's UnchangedTensor (no change over 3 looks).
    """

    change: float = 1e-9
    patience: int = LASTING

    reads: ClassVar = (
        distance_from_init,
        learning_rate,
        learning_rates,
        train_loss,
        epoch_loss,
    )
    keeps: ClassVar = {
        distance_from_init: 1,
        learning_rate: 1,
        train_loss: 1,
        epoch_loss: 1,
    }

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel that was looked at before."""
        slowed, learned = is_slowed(view), has_learned(view)
        for path, distance in view.under(distance_from_init).items():
            past = view.past(distance_from_init.tag_of(path), last=1)
            if past:
                excused = distance > 0 and (slowed or learned)
                value = math.inf if excused else abs(distance - past[0])
                yield Reading(path, value, self.change, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Say whether it ever moved."""
        moved = view.get(distance_from_init.tag_of(reading.where)) or 0.0
        since = "has not moved since the start" if not moved else "no longer moves"
        return (
            f"{reading.where} is trainable and {since}: no gradient reaches it, or "
            "the steps are too small to show. Check that the loss depends on the layer "
            "and that no stop_gradient lies behind it; else look for dead units behind "
            f"it, or raise {view.rate_of(reading.where)}."
        )


@dataclass(frozen=True)
class WeightDrift(Rule):
    """The distribution of a kernel has left its initial one.

    W1(w_0, w) / sigma_0 above `distance`, W1 the Wasserstein distance of the elements;
    or sigma_0 / sigma above `shrunk`. The value is that of the condition that is
    farthest beyond its limit. Kernels of at least 64 elements; not embeddings.

    In units of the initial standard deviation, in W1 of at least 1 / sqrt(inputs of a
    unit): the kernels of BERT, of GANs and of LoRA start at 0.02 or 0, to leave it.
    Source: Evidently's normed Wasserstein distance, with limits measured on digits:
    healthy 0.12 to 0.85; Adam at learning rate 1: 27. PSI and the KS statistic do not
    tell healthy training from faulty: every healthy one has a PSI above 0.1.
    """

    distance: float = 3.0
    shrunk: float = 6.0
    patience: int = LASTING

    reads: ClassVar = (weight_drift, weight_spread)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        drifts, spreads = view.under(weight_drift), view.under(weight_spread)
        for path in dict.fromkeys([*drifts, *spreads]):
            shape = view.record.shape(path)
            if shape is not None and math.prod(shape) < 64:
                continue
            if not view.record.is_kernel(path):
                continue
            spread = spreads.get(path, 1.0)
            pairs = [
                (drifts.get(path, 0.0), self.distance),
                (1 / spread if spread else math.inf, self.shrunk),
            ]
            value, limit = max(pairs, key=lambda pair: pair[0] / pair[1])
            yield Reading(path, value, limit)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the condition and the learning rate."""
        what = f"moved {reading.value:.2g} initial standard deviations"
        if reading.limit == self.shrunk:
            what = f"shrunk to a spread {reading.value:.2g} times below the initial one"
        return (
            f"The weights of {reading.where} have {what}: training has rewritten them "
            f"rather than refined them. Lower {view.rate_of(reading.where)}, or "
            f"{self._decay(reading)}."
        )

    def _decay(self, reading: Reading) -> str:
        is_shrunk = reading.limit == self.shrunk
        return "the weight decay" if is_shrunk else "add weight decay"


@dataclass(frozen=True)
class WeightExplosion(Rule):
    """A kernel has grown many times over.

    ||w|| / ||w_0|| above `growth`, ||w_0|| at least that of weights of deviation
    1 / sqrt(inputs of a unit). Not embeddings, which start near 0.

    No unit. Source: torchmortem (10 times the norm at the start); measured on digits:
    healthy up to 3.4, Adam at learning rate 0.3 10 and more.
    """

    growth: float = 6.0
    patience: int = 1

    reads: ClassVar = (weight_growth,)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        for path, growth in view.under(weight_growth).items():
            if view.record.is_kernel(path):
                yield Reading(path, growth, self.growth)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the learning rate."""
        return (
            f"{reading.where} is {reading.value:.2g} times as large as it started, "
            f"and its layer's outputs with it. Lower {view.rate_of(reading.where)}, "
            "add weight decay, or set global_clipnorm."
        )
