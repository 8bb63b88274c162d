"""What a check has measured."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .by_heart import Learned
from .examples import Examples
from .forward import Outputs
from .trial import Entries


class Facts:
    """What each part of a check fills in, and why a part has not.

    `scalars`: of all data. `own`: of the check's own measurements, after the trial.
    """

    def __init__(self, given: Examples) -> None:
        self.given = given
        self.scalars: dict[str, float] = {}
        self.record: Mapping[str, Any] = {}
        self.entries: Entries = []
        self.outputs: Outputs = {}
        self.learned: Learned | None = None
        self.why_none = self.why_no_call = self.why_not_learned = ""
        self._own: dict[str, float] = {}

    def measure(self, tag: str, value: float) -> None:
        """Note what only a check measures; NaN is no measure."""
        if np.isfinite(value):
            self._own[tag] = value

    def all_entries(self) -> Iterator[tuple[int, Mapping[str, float]]]:
        """The looks of the trial, with what is known of all data; then the rest."""
        first, *others = self.entries or [(1, {})]
        yield first[0], {"epoch": 1.0, **first[1], **self.scalars}
        yield from others
        step = (others[-1] if others else first)[0] + 1
        yield step, {"epoch": 2.0, **self._own}

    def newest(self, tag: str) -> float | None:
        """The last value of a tag."""
        found = [x[tag] for _, x in (*self.entries, (0, self._own)) if tag in x]
        return found[-1] if found else None

    def first(self, tag: str) -> float | None:
        """The first value of a tag."""
        return next((x[tag] for _, x in self.entries if tag in x), None)
