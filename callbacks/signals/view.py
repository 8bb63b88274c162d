"""What a rule sees: what is logged now, what was logged before, and the record."""

import functools
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from .record import Record, kind_of
from .registry import Signal
from .subjects import EPOCH

Tag: TypeAlias = str | Signal  # a tag, the beginning of tags, or a signal of its own

EARLY = 8  # values that are kept of the beginning of a tag


def key(tag: Tag) -> str:
    """What the values of a tag or signal are found by."""
    return tag if isinstance(tag, str) else tag.key


class Point(NamedTuple):
    """One value of a tag."""

    step: int
    value: float


class Series:
    """What is kept of one tag: the first and last few values, and the largest."""

    def __init__(self, keeps: int) -> None:
        self.first: float | None = None
        self.largest = -np.inf
        self.early: list[Point] = []
        self.last: deque[Point] = deque(maxlen=keeps)

    def add(self, step: int, value: float) -> None:
        """One value a step: the first that was logged."""
        if self.last and self.last[-1].step == step:
            return
        point = Point(step, value)
        if self.first is None and math.isfinite(value):
            self.first = value
        self.largest = max(self.largest, value)  # a NaN never is
        self.last.append(point)
        if len(self.early) < EARLY:
            self.early.append(point)


@dataclass(eq=False, repr=False)
class View:
    """One entry of a training, and what was kept of the entries before.

    `step`, `epoch` (from 1, None if unknown), `record`. `view[tag]` and `view.get(tag)`
    are the values of this entry, `view.under("update_ratio/")` those of all tags with
    that prefix, by the rest of the tag. A signal of `kbn.callbacks.signals` may stand
    for its tag or prefix.
    """

    step: int
    scalars: Mapping[str, float]
    _grouped: Mapping[str, Mapping[str, float]]
    epoch: int | None
    record: Record
    _memory: "Memory"

    @functools.cached_property
    def is_of_epoch(self) -> bool:
        """Whether it is what `fit` reports at the end of an epoch, and not a look."""
        return any(tag.startswith(EPOCH) for tag in self.scalars)

    def __contains__(self, tag: Tag) -> bool:
        return key(tag) in self.scalars

    def __getitem__(self, tag: Tag) -> float:
        return self.scalars[key(tag)]

    def get(self, tag: Tag) -> float | None:
        """This entry's value of a tag, None if it has none."""
        return self.scalars.get(key(tag))

    @property
    def prefixes(self) -> Iterable[str]:
        """Those that rules read and that a tag of this entry has."""
        return self._grouped.keys()

    def under(self, prefix: Tag) -> Mapping[str, float]:
        """{rest of the tag: value} of one of the prefixes that a rule reads."""
        return self._grouped.get(key(prefix), {})

    def is_first(self, prefix: Tag) -> bool:
        """Whether no earlier entry had a tag with this prefix, which a rule reads."""
        return key(prefix) not in self._memory.met

    def past(self, tag: Tag, last: int | None = None) -> list[float]:
        """Earlier values, the oldest first; the last so many of those that are kept."""
        values = [point.value for point in self._memory.series(key(tag)).last]
        return values if last is None else values[-last:]

    def newest(self, tag: Tag) -> float | None:
        """The value of this entry, else the last of those that are kept."""
        now = self.get(tag)
        return now if now is not None else next(iter(self.past(tag, last=1)), None)

    def points(self, tag: Tag) -> list[Point]:
        """As `past`, with their steps."""
        return [*self._memory.series(key(tag)).last]

    def early(self, tag: Tag) -> list[Point]:
        """The first few values with their steps, this entry's too if it is one."""
        early = self._memory.series(key(tag)).early
        now = self.get(tag)
        if now is None or len(early) == EARLY:
            return [*early]
        return [*early, Point(self.step, now)]

    def first(self, tag: Tag) -> float | None:
        """The first finite value, this entry's if there is no earlier one."""
        earlier = self._memory.series(key(tag)).first
        return self.get(tag) if earlier is None else earlier

    def largest(self, tag: Tag) -> float | None:
        """The largest value up to now, None if there is none."""
        values = [self._memory.series(key(tag)).largest, self.get(tag)]
        known = [x for x in values if x is not None and x > -np.inf]
        return max(known, default=None)

    @property
    def learning_rate(self) -> float | None:
        """Of the optimizer; of several, of the first."""
        return next(iter(self.learning_rates.values()), None)

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """{name of the optimizer: rate}; the name of an only one is empty.

        The newest that is known: at the end of a training none is logged.
        """
        only, tag = self.newest("learning_rate"), "learning_rate/"
        if only is not None:
            return {"": only}
        names = [str(one.get("name")) for one in self.record.optimizers]
        names += [x.removeprefix(tag) for x in self.scalars if x.startswith(tag)]
        rates = {name: self.newest(f"{tag}{name}") for name in names}
        return {name: rate for name, rate in rates.items() if rate is not None}

    @property
    def named_rate(self) -> str:
        """`Adam's learning rate of 0.001`, as far as it is known."""
        return self.rate_of("")

    def rate_of(self, where: str) -> str:
        """As `named_rate`, of the optimizer that trains a layer or variable.

        Where that is one of several and not known which, of each of them.
        """
        rates, told = self.learning_rates, []
        for one in self.record.optimizers_of(where) or [{}]:
            rate = rates.get("", rates.get(str(one.get("name"))))
            whose = f"{kind_of(one)}'s" if one.get("type") else "the"
            known = "" if rate is None else f" of {rate:.3g}"
            told.append(f"{whose} learning rate{known}")
        return " or ".join(told)


class Memory:
    """Sorts the tags of each entry by what rules read, and keeps earlier values.

    keeps: {tag or prefix: how many earlier values of it rules look at}; a prefix ends
    in a slash. One with 0 is only sorted.
    """

    def __init__(self, keeps: Mapping[str, int]) -> None:
        self._keeps = dict(keeps)
        self._series: dict[str, Series] = {}
        self._groups: dict[str, tuple[tuple[str, str], ...]] = {}
        self._kept: dict[str, int] = {}
        self._step: int | None = None  # of the last entry
        self._tags: set[str] = set()  # that have a value at this step
        self._epoch: int | None = None
        self.met: set[str] = set()  # prefixes that an entry before had

    def view(self, step: int, scalars: Mapping[str, float], record: Record) -> View:
        """What rules see of an entry, which is not kept yet."""
        # As an event file keeps them: a log read back gives the same alerts. It has one
        # value of a tag at a step, the first, in float32.
        if step != self._step:
            self._step, self._tags = step, set()
        scalars = {tag: x for tag, x in scalars.items() if tag not in self._tags}
        self._tags |= scalars.keys()
        with np.errstate(over="ignore"):
            rounded = np.array([*scalars.values()], np.float64).astype(np.float32)
        values = dict(zip(scalars, rounded.tolist(), strict=True))
        grouped: dict[str, dict[str, float]] = {}
        groups = self._groups
        for tag, value in values.items():
            found = groups.get(tag)
            if found is None:
                found = self._meet(tag)
            for prefix, rest in found:
                grouped.setdefault(prefix, {})[rest] = value
        epoch = values.get("epoch", math.nan)
        if math.isfinite(epoch):
            self._epoch = int(epoch)
        return View(step, values, grouped, self._epoch, record, self)

    def keep(self, view: View) -> None:
        """Keep an entry for the views to come."""
        self.met.update(view.prefixes)
        for tag in self._kept.keys() & view.scalars.keys():
            series = self._series.get(tag)
            if series is None:
                series = self._series[tag] = Series(self._kept[tag])
            series.add(view.step, view.scalars[tag])

    def series(self, tag: str) -> Series:
        """What is kept of a tag; empty if nothing is."""
        return self._series.get(tag) or Series(1)

    def _meet(self, tag: str) -> tuple[tuple[str, str], ...]:
        """(prefix, rest) for each prefix that a new tag has."""
        prefixes = [x for x in self._keeps if x.endswith("/") and tag.startswith(x)]
        keeps = max(self._keeps.get(x, 0) for x in [tag, *prefixes])
        if keeps:
            self._kept[tag] = keeps
        self._groups[tag] = tuple((x, tag.removeprefix(x)) for x in prefixes)
        return self._groups[tag]


def has_any(view: View, reads: Iterable[Tag]) -> bool:
    """Whether the entry has a tag that a rule reads."""
    keys = map(key, reads)
    return any(view.under(x) if x.endswith("/") else x in view for x in keys)
