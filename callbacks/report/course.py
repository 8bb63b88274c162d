"""The course of one tag over a training: of a scalar, or of a histogram's quantiles."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ..log.logged import Entry, Rows
from ..signals.statistics import quantiles_between

Array: TypeAlias = np.ndarray[Any, Any]
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Course:
    """One value a step; steps: (n,) int64, values: (n,) float64, NaN and Inf too."""

    steps: Array
    values: Array

    @property
    def first(self) -> float:
        """The first value; NaN if there is none."""
        return float(self.values[0]) if len(self.values) else math.nan

    @property
    def last(self) -> float:
        """The last value; NaN if there is none."""
        return float(self.values[-1]) if len(self.values) else math.nan

    @cached_property
    def finite(self) -> Array:
        """The values that are neither NaN nor Inf."""
        return self.values[np.isfinite(self.values)]

    @property
    def non_finite(self) -> int:
        """How many values are NaN or Inf."""
        return len(self.values) - len(self.finite)

    @property
    def minimum(self) -> float:
        """The lowest finite value; NaN if there is none."""
        return float(self.finite.min()) if len(self.finite) else math.nan

    @property
    def maximum(self) -> float:
        """The highest finite value; NaN if there is none."""
        return float(self.finite.max()) if len(self.finite) else math.nan

    def thinned(self, points: int) -> "Course":
        """About so many points: the ends of each stretch, so that no spike is lost."""
        n = len(self.values)
        if n <= points:
            return self
        bounds = np.linspace(0, n, max(2, points // 2) + 1).astype(int)
        chosen = {0, n - 1}
        for low, high in itertools.pairwise(bounds):
            part = self.values[low:high]
            known = np.flatnonzero(np.isfinite(part))
            if len(known) < len(part):  # what is not finite is to be seen, too
                chosen.add(low + int(np.flatnonzero(~np.isfinite(part))[0]))
            if len(known):
                chosen.add(low + int(known[np.argmin(part[known])]))
                chosen.add(low + int(known[np.argmax(part[known])]))
        index = sorted(chosen)
        return Course(self.steps[index], self.values[index])


@dataclass(frozen=True)
class Band:
    """Quantiles of one tensor; steps: (n,), quantiles: (n, 5) at 5 to 95 %."""

    tag: str
    layer: str
    steps: Array
    quantiles: Array

    def at(self, share: float) -> Course:
        """The course of one of the quantiles."""
        return Course(self.steps, self.quantiles[:, SHARES.index(share)])


def courses_of(entries: Iterable[Entry]) -> dict[str, Course]:
    """The course of every tag, in the order in which they were first logged."""
    points: dict[str, tuple[list[int], list[float]]] = {}
    for entry in entries:
        for tag, value in entry.scalars.items():
            found = points.get(tag)
            if found is None:
                found = points[tag] = ([], [])
            steps, values = found
            # Two processes may have logged one step.
            if not steps or steps[-1] != entry.step:
                steps.append(entry.step)
                values.append(value)
    return {
        tag: Course(np.array(steps, np.int64), np.array(values, np.float64))
        for tag, (steps, values) in points.items()
    }


def largest_of(courses: Iterable[Course]) -> Course:
    """The largest value at each step; NaN is larger than any number."""
    largest: dict[int, float] = {}
    for course in courses:
        pairs = zip(course.steps.tolist(), course.values.tolist(), strict=True)
        for step, value in pairs:
            known = largest.get(step, -math.inf)
            largest[step] = known if value <= known else value
    steps = sorted(largest)
    return Course(np.array(steps, np.int64), np.array([largest[x] for x in steps]))


def quantiles_of(rows: Array) -> Array:
    """(5,) from (n, 3) rows of left edge, right edge, count; NaN of nothing finite."""
    counts = np.where(np.isfinite(rows[:, 2]), rows[:, 2], 0).astype(np.float64)
    if counts.sum() <= 0 or not np.isfinite(rows[:, :2]).all():
        return np.full(len(SHARES), np.nan)
    edges = np.append(rows[:1, 0], rows[:, 1]).astype(np.float64)
    return quantiles_between(edges, counts, SHARES)


def band_of(tag: str, layer: str, histograms: Iterable[Rows]) -> Band:
    """The band of the histograms of one tag."""
    known = [(rows.step, quantiles_of(rows.array())) for rows in histograms]
    steps = np.array([step for step, _ in known], np.int64)
    return Band(tag, layer, steps, np.array([q for _, q in known]).reshape(-1, 5))


def columns(steps: Sequence[int], count: int) -> Array:
    """First steps of at most `count` stretches, with equally many snapshots in each."""
    if not len(steps):
        return np.zeros(0, np.int64)
    unique = np.unique(np.asarray(steps, np.int64))
    starts = np.linspace(0, len(unique), min(count, len(unique)), endpoint=False)
    return unique[starts.astype(int)]
