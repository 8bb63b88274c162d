"""What one look shows: the values of all diagnostics of what it has read."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from . import registry, statistics
from .registry import Diagnostic
from .statistics import Summary
from .subjects import Histogram, Subject, Whole


@dataclass
class Look:
    """Histograms and scalars by tag; `failed`: what raised instead of a value."""

    histograms: dict[str, Summary] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)

    def enter(self, one: Diagnostic, subject: Subject) -> None:
        """The value of a diagnostic there, if it has one."""
        tag = one.tag_of(subject.name)
        try:
            value = one.of_subject(subject)
        except Exception as error:  # no reason to lose the others
            self.failed[tag] = error
            return
        if value is None:
            return
        if not one.is_histogram:
            self.scalars[tag] = float(value)
        elif isinstance(value, Summary):
            self.histograms[tag] = value
        else:
            self.histograms[tag] = statistics.summarize(value, value.size)


def look(
    subjects: Iterable[Subject],
    watch: Collection[str] = (),
    past: Callable[[str], Sequence[float]] = lambda tag: (),
) -> Look:
    """The values of all diagnostics of these subjects.

    `watch` adds the diagnostics that are on request; `past(tag)` tells the values that
    earlier looks have shown.
    """
    subjects = list(subjects)
    seen = Look()
    for subject in subjects:
        for one in _wanted(subject, watch):
            before = len(seen.histograms)
            seen.enter(one, subject)
            if len(seen.histograms) > before:
                _enter_histogram(seen, one.tag_of(subject.name), subject, watch)
    whole = Whole("", subjects=subjects, scalars=seen.scalars, past=past)
    for one in _wanted(whole, watch):
        seen.enter(one, whole)
    return seen


def _enter_histogram(
    seen: Look, tag: str, subject: Subject, watch: Collection[str]
) -> None:
    shown = Histogram(tag, summary=seen.histograms[tag], of=subject)
    for one in _wanted(shown, watch):
        seen.enter(one, shown)


def _wanted(subject: Subject, watch: Collection[str]) -> list[Diagnostic]:
    return [x for x in registry.of(subject) if x.watch is None or x.watch in watch]
