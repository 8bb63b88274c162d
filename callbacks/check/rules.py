"""The rules that a check adds to the monitor's: on what only it measures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..rules import BnStatsCold, LearningRateTooLow, TargetScale, UnchangedWeight
from ..signals.default import DEFAULT
from ..signals.loss import train_loss
from ..signals.remedy import Remedy, ask, scale_targets
from ..signals.rule import Reading, Rule
from ..signals.targets import LOSSES, NUMBERS, guess, newest, target_mean, target_std
from ..signals.view import Tag, View

# Tags of what only a check measures; each but the last two of one output.
WAY, STEPS_TAKEN = "check/by_heart/", "check/by_heart_steps"
UNMOVED = "check/unmoved/"
HALF = 0.5  # of batch norm's start, left after an epoch
SPREAD, MIXED = "check/spread", "check/mixed"


@dataclass(frozen=True)
class NotByHeart(Rule):
    """One batch is not learned by heart.

    (L_guess - L) / (L_guess - L_floor) below `share` after 500 steps of Adam at 1e-2 on
    32 examples, by a copy without dropout and penalties, and not all labels are right.
    L_guess is the loss of the best constant prediction, L_floor that of the targets
    themselves.

    No unit, 1 is perfect. Source: Google's guidelines for high-quality ML solutions.
    """

    title: ClassVar = "a batch is not learned by heart"

    share: float = 0.9

    reads: ClassVar = (WAY,)
    keeps: ClassVar[Mapping[Tag, int]] = {UNMOVED: 0}

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each output whose loss has a guess."""
        for name, share in view.under(WAY).items():
            yield Reading(name, share, self.share, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Say how far it came, and which weights no gradient reached."""
        steps = view.get(STEPS_TAKEN) or 0
        return (
            f"{steps:.0f} steps on one batch bring the loss of {reading.where} "
            f"{max(reading.value, 0):.0%} of the way from guessing to its lowest: a "
            f"model that cannot learn a few examples has a bug{_cut_off(view)}."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Mend what cuts the output off from the inputs or the loss."""
        if unmoved := [*view.under(UNMOVED)]:
            return ask(f"Find what keeps the gradient from {unmoved[-1]}.")
        return ask(
            "See that the loss fits the output and the targets, that targets and "
            "inputs are scaled, and that the model has units enough; then look for a "
            "layer that loses what it is given."
        )


def _cut_off(view: View) -> str:
    unmoved = [*view.under(UNMOVED)]
    return f"; no gradient reaches {', '.join(unmoved[:4])}" if unmoved else ""


@dataclass(frozen=True)
class StartLoss(Rule):
    """The loss before the first step is far above that of guessing.

    L_1 / `loss/guess` above `times`; a note above a third of that.

    No unit. Limit: kbn's own; measured on the zoo's healthy networks: up to 2.5.
    """

    title: ClassVar = "the loss starts far above guessing"

    times: float = 10.0

    reads: ClassVar = (train_loss,)
    keeps: ClassVar[Mapping[Tag, int]] = {
        train_loss: 1,
        guess: 1,
        target_mean: 1,
        target_std: 1,
    }

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model."""
        first, guessed = view.first(train_loss), view.newest(guess)
        if first is not None and guessed is not None and guessed > 0:
            times = first / guessed
            is_far = times > self.times
            limit, level = (
                (self.times, "warning") if is_far else (self.times / 3, "info")
            )
            yield Reading("", times, limit, level)

    def explain(self, reading: Reading, view: View) -> str:
        """Give both losses."""
        return (
            f"The first loss is {view.first(train_loss):.3g}, {reading.value:.2g} times "
            f"that of guessing, {view.newest(guess):.3g}: the first steps only undo it."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Scale the targets if they are far from 0, else the inputs or the weights."""
        for head in view.record.heads:
            loss, name = LOSSES.get(str(head.get("loss"))), str(head["name"])
            mean, std = (newest(view, x, name) for x in (target_mean, target_std))
            is_far = mean is not None and std and abs(mean) > 2 * std
            if loss is not None and loss.kind == NUMBERS and is_far and mean and std:
                return scale_targets(name, mean, std)
        return ask(
            "Scale the inputs to unit spread, or start the last layer with smaller "
            "weights."
        )


@dataclass(frozen=True)
class IgnoresInput(Rule):
    """After the steps of a check every example gets the same output.

    std over examples / root mean square of the outputs in evaluation mode below
    `spread`, of examples that differ.

    No unit. Limit: kbn's own, some rounding errors of float32.
    """

    title: ClassVar = "the output does not depend on the input"

    spread: float = 1e-6

    reads: ClassVar = (SPREAD,)
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model."""
        yield Reading("", view[SPREAD], self.spread, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Say that it is so."""
        return "All examples of a batch get one answer, whatever their inputs."

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Find the layer that loses the inputs."""
        return ask(
            "Find the layer whose output is the same for all examples: with kbn.capture"
            "(model) as seen: model(x), then look at seen.activations."
        )


@dataclass(frozen=True)
class MixedExamples(Rule):
    """In evaluation an example's output depends on the others of its batch.

    |y - y'| of one example beside itself repeated, over the deviation of the outputs
    between examples, above `share`.

    No unit. Limit: kbn's own.
    """

    title: ClassVar = "examples mix in evaluation"

    share: float = 0.01

    reads: ClassVar = (MIXED,)
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model."""
        yield Reading("", view[MIXED], self.share)

    def explain(self, reading: Reading, view: View) -> str:
        """Say by how much."""
        return (
            f"In evaluation mode the output of an example changes by {reading.value:.2g}"
            " of the outputs' deviation when the others of its batch are replaced."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Look for what works across the batch axis."""
        return ask(
            "Look for a reshape, mean, softmax or normalization over axis 0, and for "
            "a batch norm that is called with training=True in evaluation."
        )


class _ScaledTargets(TargetScale):
    """`TargetScale`, of a batch that was not learned by heart."""

    name = "target_scale"
    reads: ClassVar = (WAY,)

    def readings(self, view: View) -> Iterable[Reading]:
        for name, share in view.under(WAY).items():
            mean, std = (newest(view, x, name) for x in (target_mean, target_std))
            if mean is not None and std and share < NotByHeart.share:
                value = max(abs(mean), std, 1 / std if abs(mean) < 1 else 0)
                yield Reading(name, value, self.scale)


class _ColdStatistics(BnStatsCold):
    """`BnStatsCold`, where an epoch leaves more than half of the start."""

    name = "bn_stats_cold"

    def readings(self, view: View) -> Iterable[Reading]:
        steps = view.record.steps_per_epoch
        for reading in super().readings(view):
            momentum = view.record.batch_norm(reading.where).get("momentum")
            left = float(momentum) ** steps if momentum and steps else 0.0
            yield reading if left > HALF else reading._replace(value=0.0)


class _Unreached(UnchangedWeight):
    """`UnchangedWeight`, and each weight that learning by heart has left as it was."""

    name = "unchanged_weight"
    reads: ClassVar = (*UnchangedWeight.reads, UNMOVED)

    def readings(self, view: View) -> Iterable[Reading]:
        yield from super().readings(view)
        for path, change in view.under(UNMOVED).items():
            yield Reading(path, change, self.change, below=True)


EFFECTS = ("start_loss", "ignores_input", "not_by_heart", "unchanged_weight")
OWN = (NotByHeart(), StartLoss(), IgnoresInput(), MixedExamples())
HEIRS = (
    _ScaledTargets(),
    _ColdStatistics(),
    LearningRateTooLow(steps=2),
    _Unreached(patience=1),
)
# Of a whole training, and of as many epochs as `fit` will be given.
LEFT_OUT = ("overfit", "not_learning", "schedule_length")
RULES = [
    *(x for x in DEFAULT if x.name not in {*LEFT_OUT, *(one.name for one in HEIRS)}),
    *HEIRS,
    *OWN,
]
