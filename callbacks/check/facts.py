"""What a check has measured, by tag, and why the rest is missing."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..signals.batch_norm import channel_elements
from .examples import Examples
from .forward import Outputs
from .rules import STEPS
from .trial import Entries

ELEMENTS = channel_elements.key


class Facts:
    """What each part of a check fills in.

    `scalars`: of all data. `outputs`: of the first batch, none where the model is not
    called on it. `texts`: of lines. `why_none`, `why_no_call`, `why_not_learned`: why
    a part has filled in nothing.
    """

    def __init__(self, given: Examples) -> None:
        self.given = given
        self.scalars: dict[str, float] = {}
        self.record: Mapping[str, Any] = {}
        self.entries: Entries = []
        self.outputs: Outputs = {}
        self.texts: Mapping[str, str | None] = {}
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
        last = (others or [first])[-1][0]
        found = {"epoch": 2.0, **self._own}
        if self.entries:
            found |= {STEPS: last, "trainable": self._trainable()}
        elements = [x for tag, x in first[1].items() if tag.startswith(ELEMENTS)]
        if elements:
            found["elements"] = min(elements)
        yield last + 1, found

    def _trainable(self) -> int:
        layers = self.record.get("layers") or ()
        return sum(bool(x["trainable"]) for one in layers for x in one["weights"])

    def first(self, tag: str) -> Any:
        """The first value of a tag, or the text of a line; None if there is none."""
        looks = (scalars for _, scalars in self.all_entries())
        known = next((x[tag] for x in looks if tag in x), None)
        return self.texts.get(tag) if known is None else known

    def why_not(self, line: str) -> str:
        """Why there is nothing to say on a line."""
        if line == "batch norm" and self.entries:
            return "there is none that trains"
        if self.why_none or not self.entries:
            return f"not checked, {self.why_none or 'no step can be made'}"
        no_guess = self.record.get("no_guess")
        why = {
            "first loss": no_guess,
            "inputs": self.why_no_call,
            "examples": self.why_no_call,
            "by heart": self.why_not_learned or no_guess,
        }
        return f"not checked, {why.get(line) or 'nothing of it was seen'}"
