"""Rules on how the weights move: too far, not at all, away from where they began."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .learning_rate import lower
from .loss import epoch_loss, has_learned, is_slowed, train_loss
from .optimizers import learning_rate, learning_rates
from .remedy import Remedy, ask, change_rate
from .rule import LASTING, Reading, Rule
from .view import View
from .weights import (
    distance_from_init,
    update_ratio,
    weight_drift,
    weight_growth,
    weight_spread,
    weight_std,
)

FIRST_STEPS = 10  # an optimizer's averages and weights of zeros settle in them


@dataclass(frozen=True)
class UpdateRatioHigh(Rule):
    """Steps throw a kernel about.

    r = ||w_after - w_before|| / ||w_before|| of a step above `ratio`, for trainable
    weights of two and more dimensions, after 10 steps; of a weight whose deviation is
    still below 1 / sqrt(inputs of a unit), beside that: from a start of 0.02 or 0,
    every step is large.

    No unit. Sources: CS231n (about 1e-3), torchmortem (1e-1); measured on digits:
    healthy up to 1.2e-2, learning rate 10 0.42 to 0.89. Biases, gamma and beta go to
    6e-2 in health, and are not looked at.
    """

    title: ClassVar = "steps are too large"

    ratio: float = 1e-1
    patience: int = LASTING

    reads: ClassVar = (update_ratio, weight_std)

    def readings(self, view: View) -> Iterable[Reading]:
        if view.step <= FIRST_STEPS:
            return
        stds = view.under(weight_std)
        for path, ratio in view.under(update_ratio).items():
            if view.record.is_kernel(path):
                usual = math.prod((view.record.shape(path) or [1])[:-1]) ** -0.5
                share = min(1.0, stds.get(path, usual) / usual)
                yield Reading(path, ratio * share, self.ratio)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"A step changes {reading.where} by {reading.value:.1g} of its size, so it "
            "jumps about its minimum or away from it; 1e-3 is usual."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """The learning rate by which a step would change the weight by 1e-2."""
        return change_rate(view, reading.where, 1e-2 / reading.value)


@dataclass(frozen=True)
class UnchangedWeight(Rule):
    """A trainable kernel stays as it is.

    |d - d'| of d = ||w - w_0|| / ||w_0|| at this look and the one before, below
    `change`: a weight that moves keeps its distance from the start only by chance.
    Not where a schedule has lowered the learning rate to less than a tenth, and not
    once the loss has halved and the weight has moved before: that one has arrived.

    No unit. Source: SageMaker Debugger's UnchangedTensor (no change over 3 looks).
    """

    title: ClassVar = "a weight does not move"

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
        slowed, learned = is_slowed(view), has_learned(view)
        for path, distance in view.under(distance_from_init).items():
            past = view.past(distance_from_init.tag_of(path), last=1)
            if past:
                excused = distance > 0 and (slowed or learned)
                value = math.inf if excused else abs(distance - past[0])
                yield Reading(path, value, self.change, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        moved = view.get(distance_from_init.tag_of(reading.where)) or 0.0
        since = "has not moved since the start" if not moved else "no longer moves"
        return (
            f"{reading.where} is trainable and {since}: no gradient reaches it, or "
            "the steps are too small to show."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Find what cuts the weight off: no gradient, or an optimizer without it."""
        if view.newest(train_loss) == 0:
            return ask(
                "The loss is 0: see whether all sample weights or class weights are."
            )
        return ask(
            "Check that the loss depends on the layer and that no stop_gradient lies "
            "behind it; else look for dead units behind it, or raise "
            f"{view.rate_of(reading.where)}."
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

    title: ClassVar = "weights are rewritten"

    distance: float = 3.0
    shrunk: float = 6.0
    patience: int = LASTING

    reads: ClassVar = (weight_drift, weight_spread)

    def readings(self, view: View) -> Iterable[Reading]:
        drifts, spreads = view.under(weight_drift), view.under(weight_spread)
        for path in dict.fromkeys([*drifts, *spreads]):
            is_small = math.prod(view.record.shape(path) or [64]) < 64
            if is_small or not view.record.is_kernel(path):
                continue
            spread = spreads.get(path, 1.0)
            pairs = [
                (drifts.get(path, 0.0), self.distance),
                (1 / spread if spread else math.inf, self.shrunk),
            ]
            value, limit = max(pairs, key=lambda pair: pair[0] / pair[1])
            yield Reading(path, value, limit)

    def explain(self, reading: Reading, view: View) -> str:
        what = f"moved {reading.value:.2g} initial standard deviations"
        if reading.limit == self.shrunk:
            what = f"shrunk to a spread {reading.value:.2g} times below the initial one"
        return (
            f"The weights of {reading.where} have {what}: training has rewritten them "
            "rather than refined them."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A learning rate that fits the first steps, at most a tenth of this one."""
        return lower(view, reading.where)


@dataclass(frozen=True)
class WeightExplosion(Rule):
    """A kernel has grown many times over.

    ||w|| / ||w_0|| above `growth`, ||w_0|| at least that of weights of deviation
    1 / sqrt(inputs of a unit). Not embeddings, which start near 0. Not while the loss
    is below half of the first: few or small inputs take large weights.

    No unit. Source: torchmortem (10 times the norm at the start); measured on digits:
    healthy up to 3.4, Adam at learning rate 0.3 10 and more.
    """

    title: ClassVar = "weights explode"

    growth: float = 6.0
    patience: int = 1

    reads: ClassVar = (weight_growth, train_loss, epoch_loss)
    keeps: ClassVar = {train_loss: 1, epoch_loss: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        for reading in self.suspicions(view):
            yield reading._replace(value=0.0) if has_learned(view) else reading

    def suspicions(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        for path, growth in view.under(weight_growth).items():
            # What is not finite is another illness.
            if view.record.is_kernel(path) and growth < math.inf:
                yield Reading(path, growth, self.growth)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"{reading.where} is {reading.value:.2g} times as large as it started, "
            "and its layer's outputs with it."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A learning rate that fits the first steps, at most a tenth of this one."""
        return lower(view, reading.where)
