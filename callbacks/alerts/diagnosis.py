"""Which symptoms follow from which cause: several that are open are one diagnosis."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from ..signals.remedy import together
from ..signals.rule import Reading, Rule
from ..signals.view import View
from .alert import LEVELS, Alert, rank


class Streak:
    """Looks in a row that were alike; several entries of one step are one look."""

    def __init__(self) -> None:
        self.looks = 0
        self.began = self._last = 0  # steps

    def add(self, step: int) -> None:
        """One more."""
        if not self.looks or step != self._last:
            self.began = self.began if self.looks else step
            self.looks, self._last = self.looks + 1, step

    def lasts(self, steps: int) -> bool:
        """Whether it spans so many steps; two and more take two looks."""
        return self.looks > 0 and self._last - self.began + 1 >= steps


class Place:
    """How one layer or variable fares under one rule."""

    def __init__(self) -> None:
        self.streaks = [Streak() for _ in LEVELS]  # in which it was so grave, or graver
        self.good = Streak()
        self.rank: int | None = None  # how ill it is, once it was so for long enough
        self.step: int | None = None  # of its last look

    def worsen(self, reading: Reading, step: int, patience: int) -> None:
        """Note a look at which it is ill."""
        grave = rank(reading.level)
        if step == self.step and self.streaks[0].looks:
            return
        self.step, self.good = step, Streak()
        for i, streak in enumerate(self.streaks):
            if i > grave:
                self.streaks[i] = Streak()
                continue
            streak.add(step)
            if streak.lasts(patience):
                self.rank = max(i, self.rank or 0)

    def mend(self, step: int, patience: int) -> bool:
        """Note a look at which it is good; whether it is well again."""
        if step != self.step:
            self.step = step
            self.good.add(step)
            self.streaks = [Streak() for _ in LEVELS]
        return not self.streaks[0].looks and (
            self.rank is None or self.good.lasts(patience)
        )


Key: TypeAlias = tuple[str, str]  # the kind of entries, the place


class Symptom(NamedTuple):
    """What a rule finds, before it is known what it comes from.

    `alert`: as it would be told of by itself. `began`: step of the first look at which
    one of its places was ill. A suspicion is told of only with what follows from it.
    """

    alert: Alert
    began: int
    is_suspicion: bool = False


class Course:
    """One rule, or what it suspects, and the places that are or were ill under it."""

    def __init__(self, rule: Rule, suspects: bool = False) -> None:
        self.rule = rule
        self._suspects = suspects
        self.places: dict[Key, Place] = {}
        self.latest: dict[Key, Reading] = {}  # of the places that are ill
        self.looks: Counter[str] = Counter()  # by their kind
        self.view: View | None = None  # of the last look
        self.symptom: Symptom | None = None  # while there is one

    def look(self, view: View) -> None:
        """Note what the rule measures at one entry, and judge by it."""
        rule = self.rule
        readings = [*(rule.suspicions if self._suspects else rule.readings)(view)]
        if readings:
            # What only the ends of epochs show is ended by none of the looks between.
            kind = "epoch" if view.is_of_epoch else "look"
            if self.view is None or self.view.step != view.step:
                self.looks[kind] += 1
            self.view = view
            for reading in readings:
                self._note(reading, kind, view.step)
        self._judge(view)

    def _note(self, reading: Reading, kind: str, step: int) -> None:
        where = kind, "" if self.rule.is_of_model else reading.where
        if math.isnan(reading.value):  # not a measure
            return
        if reading.is_ill:
            place = self.places.setdefault(where, Place())
            place.worsen(reading, step, self.rule.patience)
            self.latest[where] = reading
            return
        known = self.places.get(where)
        if known is not None and known.mend(step, self.rule.patience):
            del self.places[where], self.latest[where]

    def _judge(self, view: View) -> None:
        """Find the symptom, a graver one in its place, or its end."""
        ranks = {where: place.rank for where, place in self.places.items()}
        ill = {where: grave for where, grave in ranks.items() if grave is not None}
        grave = max(ill.values(), default=None)
        if grave is None:
            self._forget()
        elif self.symptom is None or grave > rank(self.symptom.alert.level):
            gravest = {k: self.latest[k] for k, v in ill.items() if v == grave}
            self.symptom = self._found(gravest, view, len(ill))

    def end(self, view: View) -> None:
        """A training is over: what was good at the last look has ended.

        What was ill at every look of a short training is a symptom from here on:
        another `fit` may go on.
        """
        if self.symptom is not None:
            places = self.places.values()
            if all(place.good.looks for place in places if place.rank is not None):
                self._forget()
            return
        found = {
            where: self.latest[where]
            for where, place in self.places.items()
            if place.streaks[0].looks == self.looks[where[0]] >= 2
        }
        for where, reading in found.items():
            self.places[where].rank = rank(reading.level)
        if found:
            self.symptom = self._found(found, view, len(found))

    def _forget(self) -> None:
        if self.symptom is not None:
            self.symptom = None
            self.places.clear()
            self.latest.clear()

    def _found(self, readings: dict[Key, Reading], view: View, count: int) -> Symptom:
        """The symptom at the first of these places in forward order."""
        position, rule, seen = view.record.position, self.rule, self.view or view
        order = sorted(readings, key=lambda x: (position(readings[x].where), x))
        reading = readings[order[0]]
        remedies = [rule.remedy(readings[x], seen) for x in order]
        remedy = together([x for x in remedies if x is not None])
        message = rule.explain(reading, seen)
        alert = Alert(
            rule=rule.name,
            level=reading.level,
            where=reading.where or view.record.model_name,
            step=view.step,
            epoch=view.epoch,
            value=reading.value,
            limit=reading.limit,
            message=f"{message} {remedy.words}" if remedy else message,
            others=count - 1,
            title=rule.title,
            remedy=remedy,
        )
        began = min(self.places[x].streaks[0].began for x in order)
        return Symptom(alert, began, self._suspects)


# The stages of an explanation: what stands in one explains what stands in a later one.
# Facts of the data and the model, however late they are known.
DATA = ("non_finite_data",)
FACTS = (
    "output_mismatch",
    "bn_not_updated",
    "bn_small_batch",
    "poor_init",
    "zero_weights",
    "strong_decay",
    "input_scale",
    "skewed",
    "target_scale",
    "not_shuffled",
    "schedule_length",
)
# What the initial weights do: only if it is there at the first look, before any step.
START = (
    "exploding_gradient",
    "gradient_imbalance",
    "saturated",
    "dead_relu",
    "vanishing_gradient",
    "bn_collapsed",
)
RATE = ("learning_rate_too_high", "learning_rate_too_low")
# What follows in training.
EFFECTS = (
    "class_imbalance",
    "bn_stats_cold",
    "weight_explosion",
    "update_ratio_high",
    "non_finite",
    "loss_scale_collapse",
    "bn_collapsed",
    "gradient_imbalance",
    "saturated",  # no gradient passes it, and none makes it
    "vanishing_gradient",
    "collapsed",
    "not_learning",  # units that die of it are no cause
    "exploding_gradient",
    "loss_spike",
    "weight_drift",
    "dead_relu",
    "unchanged_weight",
    "bn_train_eval_gap",
    "overfit",
)
STAGES = (DATA, FACTS, START, RATE, EFFECTS)
IN_ORDER = (START, EFFECTS)  # of these, the first that is there explains the others
# Causes that explain no more than these.
ONLY = {
    "bn_stats_cold": ("bn_train_eval_gap", "overfit", "class_imbalance"),
    "class_imbalance": ("not_learning", "overfit", "bn_train_eval_gap"),
    "bn_train_eval_gap": ("overfit",),
    "skewed": ("overfit",),
    "overfit": (),
    "schedule_length": ("not_learning", "learning_rate_too_low", "unchanged_weight"),
}
# A suspicion is no cause without one of these, at least a warning.
HARM = (
    "weight_explosion",
    "update_ratio_high",
    "bn_collapsed",
    "gradient_imbalance",
    "saturated",
    "vanishing_gradient",
    "collapsed",
    "not_learning",
    "exploding_gradient",
    "loss_spike",
    "weight_drift",
    "dead_relu",
)


class Placed(NamedTuple):
    """A symptom with its stage, and its place in that."""

    stage: int
    place: int
    symptom: Symptom


def explained(
    symptoms: Sequence[Symptom], is_from_start: Callable[[Symptom], bool]
) -> dict[str, list[Symptom]]:
    """{rule of each cause: the symptoms that it explains}, the first cause first.

    Rules that are in no stage, as those of a user, are causes that explain nothing.
    """
    causes: dict[str, list[Symptom]] = {}
    known: list[Placed] = []
    placed = [_place(one, is_from_start(one)) for one in symptoms]
    for one in sorted(placed, key=lambda x: (x.stage, x.place, x.symptom.is_suspicion)):
        is_suspicion = one.symptom.is_suspicion
        cause = next((x for x in known if _explains(x, one)), None)
        if cause is None and not (is_suspicion and one.symptom.alert.rule in causes):
            known.append(one)
            causes[one.symptom.alert.rule] = []
        elif cause is not None and not is_suspicion:
            causes[cause.symptom.alert.rule].append(one.symptom)
    suspicions = {x.symptom.alert.rule for x in known if x.symptom.is_suspicion}
    groundless = {x for x in suspicions if not any(map(_is_harm, causes[x]))}
    if not groundless:
        return causes
    rest = [x for x in symptoms if x.alert.rule not in groundless]
    return explained(rest, is_from_start)


def _is_harm(symptom: Symptom) -> bool:
    alert = symptom.alert
    return alert.rule in HARM and rank(alert.level) >= rank("warning")


def _place(symptom: Symptom, is_from_start: bool) -> Placed:
    rule = symptom.alert.rule
    for i, stage in enumerate(STAGES):
        if rule in stage and (stage is not START or is_from_start):
            return Placed(i, stage.index(rule), symptom)
    return Placed(len(STAGES), 0, symptom)


def _explains(cause: Placed, effect: Placed) -> bool:
    one, other = cause.symptom.alert, effect.symptom.alert
    if effect.stage == len(STAGES):
        return False
    if one.rule in ONLY and other.rule not in ONLY[one.rule]:
        return False
    if cause.symptom.is_suspicion:
        was_there = effect.symptom.began < cause.symptom.began
        if other.rule not in HARM or (was_there and other.rule in START):
            return False
    # A note explains notes alone.
    if rank(one.level) < min(rank(other.level), rank("warning")):
        return False
    is_in_order = STAGES[cause.stage] in IN_ORDER
    return cause.stage < effect.stage or is_in_order
