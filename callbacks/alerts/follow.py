"""Follows a training, raises alerts once on entry, and says when they are over."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..signals.default import DEFAULT
from ..signals.record import Record
from ..signals.rule import Reading, Rule
from ..signals.view import Memory, View, has_any, key
from .alert import LEVELS, Alert, rank

# Counts of weights that are NaN or Inf: only written where there are any.
BROKEN = "health/non_finite/weights/"


class Streak:
    """Looks in a row that were alike; several entries of one step are one look."""

    def __init__(self) -> None:
        self.looks = 0
        self._began = self._last = 0  # steps

    def add(self, step: int) -> None:
        """One more."""
        if not self.looks or step != self._last:
            self._began = self._began if self.looks else step
            self.looks, self._last = self.looks + 1, step

    def lasts(self, steps: int) -> bool:
        """Whether it spans so many steps; two and more take two looks."""
        return self.looks > 0 and self._last - self._began + 1 >= steps


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


class Course:
    """One rule, and the places that are or were ill under it."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.places: dict[Key, Place] = {}
        self.latest: dict[Key, Reading] = {}  # of the places that are ill
        self.looks: Counter[str] = Counter()  # by their kind
        self.view: View | None = None  # of the last look
        self.open: int | None = None  # index of its alert

    def look(self, readings: Iterable[Reading], view: View) -> None:
        """Note what the rule measured at one entry."""
        readings = [*readings]
        if not readings:
            return
        # What only the ends of epochs show is ended by none of the looks between.
        kind = "epoch" if view.is_of_epoch else "look"
        if self.view is None or self.view.step != view.step:
            self.looks[kind] += 1
        self.view = view
        for reading in readings:
            where = kind, "" if self.rule.is_of_model else reading.where
            if math.isnan(reading.value):  # not a measure
                continue
            if reading.is_ill:
                place = self.places.setdefault(where, Place())
                place.worsen(reading, view.step, self.rule.patience)
                self.latest[where] = reading
            else:
                self._good(where, view.step)

    def _good(self, where: Key, step: int) -> None:
        place = self.places.get(where)
        if place is not None and place.mend(step, self.rule.patience):
            del self.places[where], self.latest[where]

    def ill(self) -> dict[Key, int]:
        """{place: how ill} of those that were so for long enough."""
        ranks = {where: place.rank for where, place in self.places.items()}
        return {where: grave for where, grave in ranks.items() if grave is not None}

    def has_recovered(self) -> bool:
        """Whether every ill place was good when it was looked at last."""
        places = self.places.values()
        return all(place.good.looks for place in places if place.rank is not None)

    def end(self) -> dict[Key, Reading]:
        """What was true at every look of a short training.

        They count as ill from here on: another `fit` may go on.
        """
        found = {
            where: self.latest[where]
            for where, place in self.places.items()
            if place.streaks[0].looks == self.looks[where[0]] >= 2
        }
        for where, reading in found.items():
            self.places[where].rank = rank(reading.level)
        return found


class Follower:
    """The alerts of one training, from what is logged of it.

    The same entries give the same alerts, live and from a log that is read back.

    A rule that raises an exception is left out from then on: see `failures`, and say
    so to whoever wrote it.

    Args:
        rules: The default rules, or others.

    Example:
        >>> from kbn.callbacks.alerts.follow import Follower
        >>> follower = Follower()
        >>> for step in (20, 40, 60):
        ...     found = follower.look(step, {"health/dead_units/hidden": 0.75})
        >>> [(alert.rule, alert.where, alert.step) for alert in found]
        [('dead_relu', 'hidden', 60)]
    """

    def __init__(self, rules: Sequence[Rule] = DEFAULT) -> None:
        self.alerts: list[Alert] = []  # all, the oldest first, with how they ended
        self.failures: dict[str, Exception] = {}
        self._courses = [Course(rule) for rule in rules]
        keeps: dict[str, int] = {BROKEN: 0}
        for rule in rules:
            for tag in rule.reads:
                keeps.setdefault(key(tag), 0)
            for tag, count in rule.keeps.items():
                keeps[key(tag)] = max(keeps.get(key(tag), 0), count)
        self._memory = Memory(keeps)
        self._record = Record()
        self._last: View | None = None

    def record(self, known: Mapping[str, Any]) -> None:
        """What the run says about itself from now on."""
        self._record = Record(known)

    def look(self, step: int, scalars: Mapping[str, float]) -> list[Alert]:
        """The alerts that an entry raises or ends: those that ended are not open."""
        view = self._memory.view(step, scalars, self._record)
        found: list[Alert] = []
        is_broken = bool(view.under(BROKEN))
        for course in self._courses:
            rule = course.rule
            if rule.name in self.failures or not has_any(view, rule.reads):
                continue
            if is_broken and not rule.reads_broken:
                continue
            try:
                course.look(rule.readings(view), view)
                found += self._changes(course, view)
            except Exception as error:  # a user's rule: no reason to lose a training
                self.failures[rule.name] = error
        self._memory.keep(view)
        self._last = view
        return found

    def end(self) -> list[Alert]:
        """The alerts that only the end of the training raises or ends."""
        found: list[Alert] = []
        if self._last is None:
            return found
        for course in self._courses:
            if course.rule.name in self.failures:
                continue
            if course.open is not None:
                if course.has_recovered():
                    found.append(self._resolve(course, self._last))
                continue
            try:
                readings = course.end()
                if readings:
                    found.append(self._raise(course, readings, self._last))
            except Exception as error:  # as above
                self.failures[course.rule.name] = error
        return found

    @property
    def open(self) -> list[Alert]:
        """The alerts that are not over, the gravest first."""
        found = [alert for alert in self.alerts if alert.is_open]
        return sorted(found, key=lambda alert: -rank(alert.level))

    def _changes(self, course: Course, view: View) -> list[Alert]:
        """Raise, supersede or resolve the alert of a rule."""
        ill = course.ill()
        found = []
        grave = max(ill.values(), default=None)
        if course.open is not None:
            alert = self.alerts[course.open]
            is_worse = grave is not None and grave > rank(alert.level)
            if grave is not None and not is_worse:
                return []
            found.append(self._resolve(course, view, is_worse))
        if grave is not None:
            readings = {k: course.latest[k] for k, v in ill.items() if v == grave}
            found.append(self._raise(course, readings, view, len(ill)))
        return found

    def _resolve(self, course: Course, view: View, is_worse: bool = False) -> Alert:
        """End the open alert of a rule."""
        assert course.open is not None, "there is one"
        if not is_worse:
            course.places.clear()
            course.latest.clear()
        ended = dataclasses.replace(
            self.alerts[course.open], resolved_step=view.step, is_superseded=is_worse
        )
        self.alerts[course.open] = ended
        course.open = None
        return ended

    def _raise(
        self,
        course: Course,
        readings: Mapping[Key, Reading],
        view: View,
        places: int | None = None,
    ) -> Alert:
        """Add the alert of the first of these places in forward order."""
        position = view.record.position
        where = min(readings, key=lambda x: (position(readings[x].where), x))
        reading = readings[where]
        alert = Alert(
            rule=course.rule.name,
            level=reading.level,
            where=reading.where or view.record.model_name,
            step=view.step,
            epoch=view.epoch,
            value=reading.value,
            limit=reading.limit,
            message=course.rule.explain(reading, course.view or view),
            others=(len(readings) if places is None else places) - 1,
        )
        course.open = len(self.alerts)
        self.alerts.append(alert)
        return alert


def alerts_of(
    entries: Iterable[tuple[int, Mapping[str, float]] | Mapping[str, Any]],
    rules: Sequence[Rule] = DEFAULT,
) -> list[Alert]:
    """The alerts of a whole training, as a log has it.

    entries: records, and (step, scalars), in the order in which they were logged.

    Raises:
        Exception: Whatever a rule raises.
    """
    follower = Follower(rules)
    for entry in entries:
        if isinstance(entry, Mapping):
            follower.record(entry)
        else:
            follower.look(*entry)
    follower.end()
    for error in follower.failures.values():
        raise error
    return follower.alerts
