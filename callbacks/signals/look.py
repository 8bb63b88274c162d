"""What one look shows: the values of all signals of what it has read."""

from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Any

from . import registry, statistics
from .registry import Signal
from .statistics import Summary
from .subjects import Array, Histogram, Layers, Subject, Whole


@dataclass
class Look:
    """Histograms and scalars by tag; `failed`: what raised instead of a value.

    `layers`: of the scalars, those of which there may be one a layer or variable, as
    {tag of the signal: {name of the layer: value}}.
    """

    histograms: dict[str, Summary] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)

    def enter(self, one: Signal, subject: Subject) -> None:
        """The value of a signal there, if it is a number."""
        value = self.value(one, subject)
        if value is None:
            return
        number = float(value)
        self.scalars[one.tag_of(subject.name)] = number
        if one.is_of_layers:
            self.layers.setdefault(one.tag, {})[subject.name] = number

    def value(self, one: Signal, subject: Subject) -> Any:
        """The value of a signal there; None if there is none, or it raised."""
        try:
            return one.of_subject(subject)
        except Exception as error:  # no reason to lose the others
            self.failed[one.tag_of(subject.name)] = error
            return None


def look(
    subjects: Iterable[Subject],
    watch: Collection[str] = (),
    past: Callable[[str], Sequence[float]] = lambda tag: (),
) -> Look:
    """The values of all signals of these subjects.

    `watch` adds the signals that are on request; `past(tag)` tells the values that
    earlier looks have shown.
    """
    subjects = list(subjects)
    seen = Look()
    shown: dict[str, Subject] = {}
    arrays: dict[str, Array] = {}
    for subject in subjects:
        for one in registry.of(subject, watch):
            if not one.is_histogram:
                seen.enter(one, subject)
                continue
            value, tag = seen.value(one, subject), one.tag_of(subject.name)
            if isinstance(value, Summary):
                seen.histograms[tag], shown[tag] = value, subject
            elif value is not None:
                arrays[tag], shown[tag] = value, subject
    # All at once: those of one size are reduced together.
    largest = max((array.size for array in arrays.values()), default=1)
    seen.histograms |= statistics.summarize_all(arrays, largest)
    for tag, subject in shown.items():
        histogram = Histogram(tag, summary=seen.histograms[tag], of=subject)
        for one in registry.of(histogram, watch):
            seen.enter(one, histogram)
    for layers in _several(seen.layers):
        for one in registry.of(layers, watch):
            seen.enter(one, layers)
    whole = Whole("", subjects=subjects, scalars=seen.scalars, past=past)
    for one in registry.of(whole, watch):
        seen.enter(one, whole)
    return seen


def _several(found: Mapping[str, Mapping[str, float]]) -> Iterator[Layers]:
    """Each signal that two layers have: of one alone, the worst says nothing."""
    for tag, values in found.items():
        if len(values) > 1:
            one = registry.REGISTRY[tag]
            yield Layers(one.name, guide=one.guide, values=values)
