"""Rules that compare what was learned with what guessing would give."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

from .learning_rate import FAR_ABOVE, LearningRateTooLow, fitting_rate, looser_clip
from .loss import (
    NO_BETTER,
    above,
    epoch_loss,
    epoch_metric,
    epoch_validation_loss,
    is_rising,
    train_eval_gap,
)
from .optimizers import learning_rate
from .remedy import USUAL, USUAL_RATE, Remedy, ask, scale_targets, set_rate
from .rule import Reading, Rule
from .subjects import EPOCH
from .targets import (
    ALL,
    LOSSES,
    NUMBERS,
    RANGES,
    guess,
    guess_error,
    guess_of_one,
    newest,
    output_spread,
    penalty,
    share_of_largest,
    target_count,
    target_mean,
    target_std,
)
from .view import Tag, View

EPOCHS = 200  # that are kept
ACCURACIES = (
    "accuracy",
    "acc",
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
)
FAR_BELOW = 0.9  # of the guess: something was learned, or learned by heart
MUCH, LITTLE = 0.8, 0.2  # rates of dropout: too much, and one to go to
VAGUE = 0.1  # of the guess, by which a penalty fell within an epoch
SAME = 0.1  # spread of the outputs, below which all examples get one answer

# What a rule is to keep for `LossCourse`.
KEEPS: dict[Tag, int] = {
    epoch_metric: EPOCHS,
    learning_rate: 1,
    train_eval_gap: 1,
    guess: 1,
    penalty: EPOCHS,
    output_spread: 1,
    target_mean: 1,
}


class LossCourse:
    """The losses of one output, an epoch each, beside what guessing would give.

    `name`: "" of the whole model. `validation`: None where an epoch has none. `error`:
    of `guess`, which is None where it is not known. `is_constant`: whether all examples
    of the last look got one answer. Penalties are taken off; the training loss of an
    epoch in which they fell far is taken to be that of validation.
    """

    def __init__(self, view: View, head: Mapping[str, Any] | None = None) -> None:
        self.view, self.head = view, head or {}
        heads = view.record.heads
        is_whole = head is None or len(heads) == 1
        self.name = "" if is_whole else str(self.head["name"])
        tag = "loss" if is_whole else f"{self.name}_loss"
        losses = _by_step(view, f"{EPOCH}{tag}")
        validation = _by_step(view, f"{EPOCH}val_{tag}")
        penalties = _by_step(view, penalty.tag) if is_whole else {}
        self.guess = newest(view, guess if is_whole else guess_of_one, self.name)
        self.penalty = max(penalties.values(), default=0.0)
        self.steps = [step for step, loss in losses.items() if math.isfinite(loss)]
        self.train: list[float] = []
        self.validation: list[float | None] = []
        before = 0.0
        for step in self.steps:
            now, value = penalties.get(step, 0.0), validation.get(step)
            evaluated = None if value is None else value - now
            is_vague = abs(now - before) > VAGUE * (self.guess or math.inf)
            train = losses[step] - max(now, before)
            if is_vague and evaluated is not None:
                train = evaluated
            self.train.append(train)
            self.validation.append(evaluated)
            before = now
        known = [str(x["name"]) for x in ([head] if head else heads)]
        errors = [newest(view, guess_error, name) for name in known]
        self.error = sum(x for x in errors if x is not None)
        spreads = [newest(view, output_spread, name) for name in known]
        self.is_constant = bool(spreads) and all(
            x is not None and x < SAME for x in spreads
        )

    def is_guessing(self, loss: float) -> bool:
        """Whether a training loss is no better than the guess, as far as is known."""
        if self.guess is None or self.guess <= 0:
            return False
        level, doubt = NO_BETTER * self.guess, 2 * self.error
        return loss >= level + (-doubt if self.is_constant else doubt)

    def is_guessing_in_validation(self, last: int) -> bool:
        """Whether none of the last epochs' validation losses was below the guess.

        With 2 % more room: the shares of other examples differ.
        """
        known = [x for x in self.validation[-last:] if x is not None]
        return all(x >= (NO_BETTER - 0.02) * (self.guess or math.inf) for x in known)

    def until(self, epoch: int) -> "LossCourse":
        """The course as it was after so many epochs."""
        other = copy.copy(self)
        other.steps, other.train = self.steps[:epoch], self.train[:epoch]
        other.validation = self.validation[:epoch]
        return other

    @property
    def brought(self) -> float:
        """By what share the last epoch's loss is below the lowest before."""
        *before, now = self.train
        return 1 - now / min(before) if before and min(before) > 0 else math.inf


@dataclass(frozen=True)
class NotLearning(Rule):
    """The loss is no better than that of the best constant prediction.

    After `steps` optimizer steps and two epochs: in none of the last three epochs was
    the loss, in training or in validation, below 0.99 of `loss/guess`, and the last one
    brought less than `brought`. Or in none of three epochs was the accuracy above the
    share of the largest class by two standard errors, that share below 0.9, nor the
    loss below 0.97 of the guess. Not while the learning rate rises. Penalties do not
    count. Over when the loss falls below the guess, or by 5 %.

    Only where the guess is known: Keras' own step, and losses of Keras of which the
    best constant has a closed form.

    No unit: loss / guess. Source of the guess: Keras' own losses, asked; limits:
    measured on healthy networks that start slowly.
    """

    title: ClassVar = "nothing is learned from the inputs"

    brought: float = 0.015
    steps: int = 100

    reads: ClassVar = (epoch_loss,)
    keeps: ClassVar = LearningRateTooLow.keeps | KEEPS | {share_of_largest: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        if is_rising(view):
            return
        for course in courses(view):
            if course.guess is None or course.guess <= 0 or not course.train:
                continue
            is_ill = self._is_stuck(course) or self._is_inaccurate(course)
            ratio = course.train[-1] / course.guess
            # Ill at or above the limit, or by its accuracy alone.
            value = max(ratio, NO_BETTER) + 1e-6 if is_ill else min(ratio, NO_BETTER)
            yield Reading(course.name, value, NO_BETTER)

    def _is_stuck(self, course: LossCourse) -> bool:
        is_ill = False
        for epoch in range(2, len(course.train) + 1):
            now = course.until(epoch)
            last = now.train[-3:]
            is_guessing = all(map(now.is_guessing, last))
            if not is_guessing or not now.is_guessing_in_validation(3):
                is_ill = False
            elif now.steps[-1] >= self.steps and now.brought < self.brought:
                is_ill = True
        return is_ill

    def _is_inaccurate(self, course: LossCourse) -> bool:
        view = course.view
        if course.name or course.steps[-1] < self.steps or len(course.train) < 3:
            return False
        name = str(course.head["name"])
        share, count = (
            newest(view, one, name) for one in (share_of_largest, target_count)
        )
        if share is None or not count or share >= 0.9:
            return False
        limit = share + 2 * math.sqrt(share * (1 - share) / count)
        tags = [f"{EPOCH}{x}{y}" for x in ("", "val_") for y in ACCURACIES]
        found = [[*_by_step(view, tag).values()][-3:] for tag in tags if tag in view]
        is_low = all(len(x) == 3 and max(x) <= limit for x in found)
        assert course.guess is not None, "see readings"
        is_high = min(course.train[-3:]) >= 0.97 * course.guess
        return bool(found) and is_low and is_high

    def explain(self, reading: Reading, view: View) -> str:
        course = next(x for x in courses(view) if x.name == reading.where)
        of = f" of the output {course.name}" if course.name else ""
        answer = ", and every example gets one answer" if course.is_constant else ""
        return (
            f"After {len(course.train)} epochs the loss{of}, {course.train[-1]:.3g}, "
            f"is no better than {course.guess:.3g}, that of always giving one answer"
            f"{answer}: nothing is learned from the inputs."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """What is unusual: nothing that is trained, dropout, a clip, the rate.

        A rate that would have moved the weights by 1e-2 in the first steps, where that
        is far above this one.
        """
        if view.record.is_frozen:
            return ask(
                "Set trainable=True where the model is to learn, and compile again: no "
                "weight of it is trainable."
            )
        rates = {x["name"]: x.get("dropout") or 0.0 for x in view.record.layers}
        if much := {name: rate for name, rate in rates.items() if rate > MUCH}:
            highest = max(much.values())
            return Remedy(
                "layer",
                "rate",
                tuple(much),
                old=highest,
                new=LITTLE,
                words=f"Lower the rate of {', '.join(much)} from {highest:g} to "
                f"{LITTLE:g}.",
            )
        if clip := looser_clip(view, reading.where):
            return clip
        rate, kind = view.learning_rate, view.record.optimizer
        usual = USUAL.get(kind, USUAL_RATE)
        if rate is not None and kind and not usual / 50 <= rate <= 10 * usual:
            return set_rate(view, "", usual)
        fitting = fitting_rate(view, "")
        if rate is not None and fitting is not None and fitting > FAR_ABOVE * rate:
            more = "; and see that labels belong to their inputs"
            return set_rate(view, "", fitting, is_raised=True, more=more)
        return ask(
            f"Try {view.named_rate} ten times lower, then ten times higher; inputs "
            "scaled to unit spread; and see that labels belong to their inputs."
        )


@dataclass(frozen=True)
class TargetScale(Rule):
    """Targets are far from unit scale, and the loss shows it.

    The larger of |mean| and standard deviation of the targets above `scale`, or the
    deviation below 1 / `scale`, of an output without a bounded activation; and after
    two epochs the loss lies above that of guessing and will not reach it in the epochs
    that are planned, at the rate of the last two epochs. Networks that scale their
    outputs, or learn anyway, are left alone.

    In units of the target. Limit: kbn's own; a last layer of unit scale reaches tens.
    """

    title: ClassVar = "the targets are far from unit scale"

    scale: float = 20.0

    reads: ClassVar = (epoch_loss,)
    keeps: ClassVar = KEEPS

    def readings(self, view: View) -> Iterable[Reading]:
        for course in courses(view):
            name = str(course.head["name"])
            mean, std = (newest(view, x, name) for x in (target_mean, target_std))
            loss = LOSSES.get(str(course.head.get("loss")))
            reach = RANGES.get(str(course.head.get("activation")), ALL)
            if loss is None or loss.kind != NUMBERS or reach != ALL:
                continue
            if mean is None or not std or course.guess is None or not course.train:
                continue
            value = max(abs(mean), std, 1 / std if abs(mean) < 1 else 0)
            is_harmed = len(course.train) > 1 and self._is_late(course)
            yield Reading(name, value if is_harmed else 0.0, self.scale)

    def _is_late(self, course: LossCourse) -> bool:
        """Whether guessing is out of reach of the epochs that are left."""
        planned = (course.view.record.known.get("fit") or {}).get("epochs") or 0
        assert course.guess is not None, "see readings"
        left = max(planned - len(course.train), 0)
        above = course.train[-1] - course.guess
        fall = (course.train[-3:][0] - course.train[-1]) / (len(course.train[-3:]) - 1)
        is_far = above > 0.02 * course.guess + 2 * course.error
        is_stuck = course.is_constant and course.is_guessing(course.train[-1])
        return is_stuck or (is_far and (fall <= 0 or above / fall > left))

    def explain(self, reading: Reading, view: View) -> str:
        mean, std = (newest(view, x, reading.where) for x in (target_mean, target_std))
        return (
            f"The targets {reading.where} have mean {mean:.3g} and standard deviation "
            f"{std:.3g}, far from what a network gives at first, and the loss is still "
            "no better than that of guessing."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Train on standardized targets: less their mean, over their deviation."""
        mean, std = (newest(view, x, reading.where) for x in (target_mean, target_std))
        assert mean is not None, "see readings"
        assert std, "see readings"
        return scale_targets(
            reading.where,
            mean,
            std,
            f", or let the model end with keras.layers.Rescaling({std:.4g}, "
            f"{mean:.4g})",
        )


@dataclass(frozen=True)
class ClassImbalance(Rule):
    """One class has nearly all labels.

    `targets/<name>/share_of_largest` above `share`, of at least 100 labels. Level
    "info"; "warning" where it harms: after five epochs, or two and 100 steps, no
    validation loss was below that of guessing by the shares, while training is far
    below it, or no longer falls. Not where evaluation of the training batches is as
    bad, which batch norm's lag does.

    No unit, 0 to 1. Limit: kbn's own.
    """

    title: ClassVar = "one class has nearly all labels"

    share: float = 0.9

    reads: ClassVar = (epoch_loss, share_of_largest)
    keeps: ClassVar = KEEPS

    def readings(self, view: View) -> Iterable[Reading]:
        for head in view.record.heads:
            name = str(head["name"])
            share, count = (
                newest(view, one, name) for one in (share_of_largest, target_count)
            )
            if share == 1 and epoch_loss not in view:
                continue  # the first batches of sorted data have one class too
            if share is not None and count is not None and count >= 100:
                is_harmed = epoch_loss in view and self._harms(LossCourse(view, head))
                yield Reading(
                    name, share, self.share, "warning" if is_harmed else "info"
                )

    def _harms(self, course: LossCourse) -> bool:
        if len(course.train) < 2 or not course.guess:
            return False
        if course.steps[-1] < 100 and len(course.train) < 5:
            return False
        if any(x is not None for x in course.validation):
            return (
                course.is_guessing_in_validation(len(course.train))
                and not _lags(course.view)
                and (
                    course.train[-1] < FAR_BELOW * course.guess
                    or course.brought < NotLearning.brought
                )
            )
        is_guessing = all(map(course.is_guessing, course.train[-3:]))
        return is_guessing and course.brought < NotLearning.brought

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"{reading.value:.1%} of the labels {reading.where} are of one class: an "
            "accuracy below that is worse than always giving it, and one above says "
            "little."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Weight the classes by 1 / frequency."""
        times = reading.value / max(1 - reading.value, 1e-3)
        return Remedy(
            "fit",
            "class_weight",
            (reading.where,),
            new="balanced",
            words="Look at recall and precision, and weigh the classes with "
            f"fit(class_weight=...), the rare ones by up to {times:.0f}, or draw them "
            "more often.",
        )


@dataclass(frozen=True)
class Overfit(Rule):
    """Validation gets worse while training gets better.

    (L_val - L_train) / |L_train| above `gap`, and the mean of the last `epochs`
    validation losses above the lowest before by as much, while L_train has fallen since
    then. Over when validation comes within a fifth of that. Level "info"; "warning"
    where no validation loss was below that of guessing (`loss/guess`) and the training
    loss is below 0.9 of it. Not where evaluation of the training batches is as bad,
    which batch norm's lag does, nor where one class has nearly all labels.

    No unit. Sources: SageMaker Debugger's Overfit (0.1), UMLAUT (rising validation).
    """

    title: ClassVar = "examples are learned by heart"

    gap: float = 0.1
    epochs: int = 3

    reads: ClassVar = (epoch_validation_loss,)
    keeps: ClassVar = KEEPS
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        if epoch_loss not in view or _lags(view):
            return
        course = LossCourse(view)
        pairs = [
            (a, b)
            for a, b in zip(course.train, course.validation, strict=True)
            if b is not None and math.isfinite(b)
        ]
        if not pairs:
            return
        train, validation = pairs[-1]
        value = (validation - train) / abs(train) if train else 0.0
        is_ill = self._rises(pairs)
        level = "info"
        if self._is_worse_than_guessing(course):
            is_ill, level = True, "warning"
        yield Reading("", value if is_ill else 0.0, self.gap, level)

    def _rises(self, pairs: Sequence[tuple[float, float]]) -> bool:
        is_ill = False
        for now in range(self.epochs + 1, len(pairs) + 1):
            lowest, since = min((pairs[i][1], i) for i in range(now))
            slack = self.gap * abs(lowest)
            train, validation = pairs[now - 1]
            last = fmean(x for _, x in pairs[now - self.epochs : now])
            if is_ill:
                is_ill = validation > lowest + slack / 5
            else:
                is_long = now - 1 - since >= self.epochs
                is_high = min(last, validation) > lowest + slack
                is_apart = validation - train > self.gap * abs(train)
                is_ill = is_long and is_high and is_apart and train < pairs[since][0]
        return is_ill

    def _is_worse_than_guessing(self, course: LossCourse) -> bool:
        view, known = course.view, course.guess
        if not known or known <= 0 or len(course.train) < 2 or course.steps[-1] < 100:
            return False
        shares = [
            newest(view, share_of_largest, str(head["name"]))
            for head in view.record.heads
        ]
        is_even = all(x is None or x < ClassImbalance.share for x in shares)
        gap = max(view.past(train_eval_gap, last=1), default=0.0)
        evaluated = course.train[-1] * (1 + max(gap, 0.0))  # of training batches
        return (
            is_even
            and evaluated < FAR_BELOW * known
            and course.is_guessing_in_validation(len(course.train))
        )

    def explain(self, reading: Reading, view: View) -> str:
        if reading.level == "warning":
            course = LossCourse(view)
            return (
                f"The training loss is {course.train[-1]:.3g}, but that of validation "
                f"was never below {course.guess:.3g}, which guessing gives: the "
                "network learns its examples by heart, and nothing general."
            )
        return (
            "The validation loss has been above its lowest for "
            f"{self.epochs} epochs and is {above(reading.value)} training's: "
            "the network learns its examples by heart."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """More data, augmentation, weight decay or dropout; or stop earlier."""
        if reading.level == "warning":
            return ask(
                "Check that labels belong to their inputs (one shuffled without the "
                "other?), and that both data sets are prepared alike."
            )
        return ask(
            "Stop at the best epoch (keras.callbacks.EarlyStopping with "
            "restore_best_weights=True), or add data, augmentation, dropout or weight "
            "decay."
        )


def courses(view: View) -> Iterator[LossCourse]:
    """Of each output that has a loss of Keras."""
    for head in view.record.heads:
        yield LossCourse(view, head)


def _by_step(view: View, tag: str) -> dict[int, float]:
    """{step: value} of a tag, this entry's with them."""
    found = {point.step: point.value for point in view.points(tag)}
    return found | ({view.step: view[tag]} if tag in view else {})


def _lags(view: View) -> bool:
    """Whether the network in evaluation mode is another one than the one that trains.

    Known of the training batches at the first look of each epoch.
    """
    gap = view.past(train_eval_gap, last=1)
    has_norm = any(True for _ in view.record.batch_norms())
    return gap[0] > 0.5 if gap else has_norm
