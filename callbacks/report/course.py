"""The course of one tag over a training."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from ..log.logged import Entry

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Course:
    """One value a step; steps: (n,) int64, values: (n,) float64, NaN and Inf too."""

    steps: Array
    values: Array

    @property
    def first(self) -> float:
        """NaN if there is none."""
        return float(self.values[0]) if len(self.values) else math.nan

    @property
    def last(self) -> float:
        """NaN if there is none."""
        return float(self.values[-1]) if len(self.values) else math.nan

    @cached_property
    def finite(self) -> Array:
        """The values that are."""
        return self.values[np.isfinite(self.values)]

    @property
    def non_finite(self) -> int:
        """How many values are NaN or Inf."""
        return len(self.values) - len(self.finite)

    @property
    def minimum(self) -> float:
        """Of the finite values; NaN if there is none."""
        return float(self.finite.min()) if len(self.finite) else math.nan

    @property
    def maximum(self) -> float:
        """Of the finite values; NaN if there is none."""
        return float(self.finite.max()) if len(self.finite) else math.nan

    def thinned(self, points: int) -> "Course":
        """About so many points: of each stretch its ends, so that no spike is lost."""
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


def courses_of(entries: Iterable[Entry]) -> dict[str, Course]:
    """Of every tag, in the order in which they were first logged."""
    points: dict[str, tuple[list[int], list[float]]] = {}
    for entry in entries:
        for tag, value in entry.scalars.items():
            found = points.get(tag)
            if found is None:
                found = points[tag] = ([], [])
            steps, values = found
            if not steps or steps[-1] != entry.step:
                steps.append(entry.step)
                values.append(value)
    return {
        tag: Course(np.array(steps, np.int64), np.array(values, np.float64))
        for tag, (steps, values) in points.items()
    }


def columns(steps: Sequence[int], count: int) -> Array:
    """First steps of at most `count` stretches of looks, equally many in each."""
    if not len(steps):
        return np.zeros(0, np.int64)
    unique = np.unique(np.asarray(steps, np.int64))
    starts = np.linspace(0, len(unique), min(count, len(unique)), endpoint=False)
    return unique[starts.astype(int)]
