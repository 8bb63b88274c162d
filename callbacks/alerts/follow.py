"""Follows a training, tells each diagnosis once, and says when it is over."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..signals.default import DEFAULT
from ..signals.record import Record
from ..signals.rule import Rule
from ..signals.view import Memory, View, has_any, key
from .alert import Alert, rank
from .diagnosis import Course, Symptom, explained

# Counts of weights that are NaN or Inf: only written where there are any.
BROKEN = "health/non_finite/weights/"


class Follower:
    """The alerts of one training, from what is logged of it.

    Rules find symptoms; an alert is a diagnosis, which explains what follows from it.
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
        self.grown: list[Alert] = []  # that the last entry gave other symptoms
        self.failures: dict[str, Exception] = {}
        self._courses = [
            Course(rule, suspects) for suspects in (False, True) for rule in rules
        ]
        self._told: dict[str, int] = {}  # by rule, which of the alerts is open
        keeps: dict[str, int] = {BROKEN: 0}
        for rule in rules:
            for tag in rule.reads:
                keeps.setdefault(key(tag), 0)
            for tag, count in rule.keeps.items():
                keeps[key(tag)] = max(keeps.get(key(tag), 0), count)
        self._memory = Memory(keeps)
        self._record = Record()
        self._first: int | None = None  # step of the first entry
        self._last: View | None = None

    def record(self, known: Mapping[str, Any]) -> None:
        """What the run says about itself from now on."""
        self._record = Record(known)

    def look(self, step: int, scalars: Mapping[str, float]) -> list[Alert]:
        """The alerts that an entry raises or ends: those that ended are not open."""
        view = self._memory.view(step, scalars, self._record)
        is_broken = bool(view.under(BROKEN))
        for course in self._courses:
            rule = course.rule
            if rule.name in self.failures or not has_any(view, rule.reads):
                continue
            if is_broken and not rule.reads_broken:
                continue
            try:
                course.look(view)
            except Exception as error:  # a user's rule: no reason to lose a training
                self.failures[rule.name] = error
        self._memory.keep(view)
        self._first = step if self._first is None else self._first
        self._last = view
        return self._changes(view)

    def end(self) -> list[Alert]:
        """The alerts that only the end of the training raises or ends."""
        if self._last is None:
            return []
        for course in self._courses:
            if course.rule.name not in self.failures:
                try:
                    course.end(self._last)
                except Exception as error:  # as above
                    self.failures[course.rule.name] = error
        return self._changes(self._last)

    @property
    def open(self) -> list[Alert]:
        """The alerts that are not over, the gravest first."""
        found = [alert for alert in self.alerts if alert.is_open]
        return sorted(found, key=lambda alert: -rank(alert.level))

    def _changes(self, view: View) -> list[Alert]:
        """Raise, supersede and end alerts, so that those open are the diagnoses."""
        symptoms = [x.symptom for x in self._courses if x.symptom is not None]
        due = self._diagnoses(symptoms, view)
        ill = {x.alert.rule for x in symptoms if not x.is_suspicion}
        found, self.grown = [], []
        for name, i in [*self._told.items()]:
            told, now = self.alerts[i], due.get(name)
            if now is not None and rank(now.level) <= rank(told.level):
                if now.symptoms != told.symptoms:
                    self.alerts[i] = dataclasses.replace(told, symptoms=now.symptoms)
                    self.grown.append(self.alerts[i])
                continue
            del self._told[name]
            self.alerts[i] = dataclasses.replace(
                told, resolved_step=view.step, is_superseded=name in ill
            )
            found.append(self.alerts[i])
        for name, alert in due.items():
            if name not in self._told:
                if any(x.rule == name and x.step == alert.step for x in self.alerts):
                    alert = _now(alert, view)  # it was told before, and is again
                self._told[name] = len(self.alerts)
                self.alerts.append(alert)
                found.append(alert)
        return found

    def _diagnoses(self, symptoms: Sequence[Symptom], view: View) -> dict[str, Alert]:
        """{rule: the alert that is to be open}, as grave as the gravest symptom."""
        alerts = {x.alert.rule: x.alert for x in symptoms if not x.is_suspicion}
        for symptom in symptoms:  # that has been there, and is told of from now on
            alerts.setdefault(symptom.alert.rule, _now(symptom.alert, view))
        found = {}
        for name, effects in explained(symptoms, self._is_from_start).items():
            alert = alerts[name]
            level = max([alert.level, *(x.alert.level for x in effects)], key=rank)
            if level != alert.level:
                alert = dataclasses.replace(_now(alert, view), level=level)
            names = tuple(x.alert.rule for x in effects)
            found[name] = dataclasses.replace(alert, symptoms=names)
        return found

    def _is_from_start(self, symptom: Symptom) -> bool:
        """Whether it was there before any step that the rules have seen."""
        is_untrained = self._record.begins_untrained
        if is_untrained is None:
            is_untrained = self._first == 1
        return is_untrained and symptom.began == self._first


def _now(alert: Alert, view: View) -> Alert:
    return dataclasses.replace(alert, step=view.step, epoch=view.epoch)


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
