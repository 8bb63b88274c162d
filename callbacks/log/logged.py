"""The content of one run's log."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..alerts.alert import Alert

KEPT = 64  # histograms of a tag at most


class Entry(NamedTuple):
    """The scalars of one event. `seconds`: wall time, since 1970."""

    step: int
    seconds: float
    scalars: Mapping[str, float]


class Rows(NamedTuple):
    """A histogram at one step, as it is in the file."""

    step: int
    content: bytes
    dtype: str

    def array(self) -> "np.ndarray[Any, Any]":
        """(n, 3): left edge, right edge, count."""
        return np.frombuffer(self.content, self.dtype).reshape(-1, 3)


class Histograms:
    """The histograms of one tag: 64 at most, evenly spaced, and the last."""

    def __init__(self) -> None:
        self._kept: list[Rows] = []
        self._last: Rows | None = None
        self._stride, self._met = 1, 0

    def add(self, rows: Rows) -> None:
        """Add one more; when there are too many, every other one goes."""
        self._last = rows
        if self._met % self._stride == 0:
            self._kept.append(rows)
            if len(self._kept) > KEPT:
                del self._kept[1::2]
                self._stride *= 2
        self._met += 1

    def drop_from(self, step: int) -> None:
        """Forget those of this step and later ones: the training began again there."""
        self._kept = [rows for rows in self._kept if rows.step < step]
        if self._last is not None and self._last.step >= step:
            self._last = self._kept[-1] if self._kept else None

    def __iter__(self) -> Iterator[Rows]:
        yield from self._kept
        if self._last is not None and self._kept[-1:] != [self._last]:
            yield self._last

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass
class LoggedRun:
    """One run, in the order of writing.

    `record`: the newest run record; empty if there is none. `alerts`: all that were
    raised, with how they ended. `problems`: sentences on what could not be read, or was
    passed over.
    """

    name: str
    directory: Path
    entries: list[Entry] = field(default_factory=list)
    record: Mapping[str, Any] = field(default_factory=dict)
    histograms: dict[str, Histograms] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether no snapshot of a training was read."""
        return not self.entries
