"""The rules that a check adds to the monitor's: on what only it measures."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ..rules import BnStatsCold, LearningRateTooLow, TargetScale, UnchangedWeight
from ..signals.batch_norm import youngest
from ..signals.default import DEFAULT
from ..signals.loss import train_loss
from ..signals.remedy import Remedy, ask, scale_targets
from ..signals.rule import Reading, Rule
from ..signals.targets import guess, newest, penalty, target_mean, target_std
from ..signals.view import View
from ..watch.targets import BY_HEART

# Tags of what only a check measures; the first of each output, then of each weight.
WAY, UNMOVED = "check/by_heart/", "check/unmoved/"
STEPS = "check/steps"  # of the trial, told after it
SPREAD, MIXED = "check/spread", "check/mixed"
HALF = 0.5  # of batch norm's start, left after an epoch


class Fact(Rule):
    """A number that only a check measures, the first that it `reads`, and its limit."""

    is_of_model: ClassVar = True
    limit: ClassVar[float]
    below: ClassVar[bool] = True
    message: ClassVar[str]  # may name the value
    cure: ClassVar[str]

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model, or the output that is the farthest off."""
        tag = str(self.reads[0])
        found = view.under(tag) or {"": view[tag]}
        where = min(found, key=lambda x: found[x])
        yield Reading(where, found[where], self.limit, below=self.below)

    def explain(self, reading: Reading, view: View) -> str:
        unmoved = ", ".join([*view.under(UNMOVED)][:4])
        known = f" No gradient reaches {unmoved}." if unmoved else ""
        return self.message.format(reading.value) + known

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """What to look for."""
        return ask(self.cure)


class NotByHeart(Fact):
    """(L_guess - L) / (L_guess - L_floor) below 0.9, and not all labels are right.

    After 500 steps of Adam at 1e-2 on 32 examples, by a copy without dropout and
    penalties. L_guess: the loss of the best constant; L_floor: that of the targets
    themselves. Source: Google's guidelines for high-quality ML solutions.
    """

    title: ClassVar = "a batch is not learned by heart"
    reads: ClassVar = (WAY,)
    keeps: ClassVar = {UNMOVED: 0}
    limit: ClassVar = BY_HEART
    message: ClassVar = (
        "Training on one batch brings the loss {:.0%} of the way from guessing to its "
        "lowest: a model that cannot learn a few examples by heart has a bug."
    )
    cure: ClassVar = (
        "See that the loss fits output and targets, that inputs and targets are scaled "
        "and belong together, and that no layer loses what it is given."
    )


class IgnoresInput(Fact):
    """std over examples / root mean square of the outputs, below 1e-6: rounding.

    After the steps of a check, in evaluation mode, of examples that differ.
    """

    title: ClassVar = "the output does not depend on the input"
    reads: ClassVar = (SPREAD,)
    limit: ClassVar = 1e-6
    message: ClassVar = "All examples of a batch get one answer, whatever their inputs."
    cure: ClassVar = (
        "Find the layer that gives all examples the same: with kbn.capture(model) as "
        "seen: model(x), then look at seen.activations."
    )


class MixedExamples(Fact):
    """|y - y'| of an example in its batch and beside itself repeated, above 0.01.

    In evaluation mode, over the deviation of the outputs between examples.
    """

    title: ClassVar = "examples mix in evaluation"
    reads: ClassVar = (MIXED,)
    limit: ClassVar = 0.01
    below: ClassVar = False
    message: ClassVar = (
        "In evaluation mode an example's output changes by {:.2g} deviations when the "
        "others of its batch do."
    )
    cure: ClassVar = (
        "Look for a reshape, mean, softmax or normalization over axis 0, and for batch "
        "norm that is called with training=True."
    )


@dataclass(frozen=True)
class StartLoss(Rule):
    """The first loss / `loss/guess`, above `times`; a note above a third of that.

    Without the penalties of regularizers. No unit. Limit: kbn's own; of the zoo's
    healthy networks the highest start at 2.8.
    """

    title: ClassVar = "the loss starts far above guessing"

    times: float = 10.0

    reads: ClassVar = (STEPS,)
    keeps: ClassVar = dict.fromkeys(
        (train_loss, guess, penalty, target_mean, target_std), 1
    )

    def readings(self, view: View) -> Iterable[Reading]:
        first, guessed = view.first(train_loss), view.newest(guess)
        if first is not None and guessed is not None and guessed > 0:
            times = (first - (view.newest(penalty) or 0.0)) / guessed
            is_grave = times > self.times
            limit, level = self.times, "warning" if is_grave else "info"
            yield Reading("", times, limit if is_grave else limit / 3, level)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"The first loss is {view.first(train_loss):.3g}, {reading.value:.2g} "
            f"times that of guessing, {view.newest(guess):.3g}: the first steps only "
            "undo it."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Scale the targets if they are far from 0, else the inputs or the weights."""
        for name in [str(head["name"]) for head in view.record.heads]:
            mean, std = (newest(view, x, name) for x in (target_mean, target_std))
            if mean is not None and std and abs(mean) > 2 * std:
                return scale_targets(name, mean, std)
        return ask("Scale the inputs, or start the last layer with smaller weights.")


class _ScaledTargets(TargetScale):
    """Of a batch that is not learned by heart."""

    name = "target_scale"
    reads = (WAY,)  # type: ignore[assignment]

    def readings(self, view: View) -> Iterable[Reading]:
        for name, share in view.under(WAY).items():
            mean, std = (newest(view, x, name) for x in (target_mean, target_std))
            if mean is not None and std and share < NotByHeart.limit:
                value = max(abs(mean), std, 1 / std if abs(mean) < 1 else 0)
                yield Reading(name, value, self.scale)


class _ColdStatistics(BnStatsCold):
    """Where an epoch leaves more than half of a start that matters; else a note."""

    name = "bn_stats_cold"

    def readings(self, view: View) -> Iterable[Reading]:
        one, steps = youngest(view), view.record.steps_per_epoch
        momentum = view.record.batch_norm(one.where).get("momentum")
        left = float(momentum) ** steps if momentum and steps else 0.0
        if left > HALF and one.is_young:
            found = [x for x in super().readings(view) if x.is_ill]
            yield from found or [Reading(one.where, left, HALF, "info")]

    def explain(self, reading: Reading, view: View) -> str:
        if reading.level != "info":
            return super().explain(reading, view)
        named = view.record.describe(reading.where)
        return (
            f"After an epoch {reading.value:.0%} of the moving statistics of {named} "
            "will still be those that it began with."
        )


class _Unreached(UnchangedWeight):
    """Also of each weight that learning by heart has left as it was."""

    name = "unchanged_weight"
    reads = (*UnchangedWeight.reads, UNMOVED)  # type: ignore[assignment]

    def readings(self, view: View) -> Iterable[Reading]:
        yield from super().readings(view)
        for path, change in view.under(UNMOVED).items():
            yield Reading(path, change, self.change, below=True)


HEIRS = (
    _ScaledTargets(),
    _ColdStatistics(),
    _Unreached(patience=1),
    LearningRateTooLow(steps=2),  # of the 100 of a training
)
# Of a whole training, and of as many epochs as `fit` will be given.
LEFT_OUT = {"overfit", "not_learning", "schedule_length", *(x.name for x in HEIRS)}
OWN = (StartLoss(), IgnoresInput(), MixedExamples(), NotByHeart())
RULES = [*(rule for rule in DEFAULT if rule.name not in LEFT_OUT), *HEIRS, *OWN]
# What follows from another illness, if there is one.
EFFECTS = ("start_loss", "ignores_input", "not_by_heart", "unchanged_weight")
