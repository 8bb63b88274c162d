"""What a training leaves in memory: its scalars, and how many steps it tried."""

from collections import deque
from collections.abc import Mapping

POINTS = 10_000  # of one tag; then the oldest goes


class History:
    """The scalars by tag, one value a step, the last 10 000 of them."""

    def __init__(self) -> None:
        self._points: dict[str, deque[tuple[int, float]]] = {}

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append what one look saw, but for tags that have a value at this step."""
        for tag, value in scalars.items():
            points = self._points.setdefault(tag, deque(maxlen=POINTS))
            if not points or points[-1][0] != step:
                points.append((step, float(value)))

    def values(self, tag: str) -> list[float]:
        """The values of one tag, in the order of writing."""
        return [value for _, value in self._points.get(tag, ())]

    def by_tag(self) -> dict[str, tuple[list[int], list[float]]]:
        """{tag: (steps, values)}."""
        return {
            tag: ([step for step, _ in points], self.values(tag))
            for tag, points in self._points.items()
        }


class StepCount:
    """How many steps `fit` tried, and how many of them an optimizer did not apply."""

    def __init__(self) -> None:
        self._skipped: dict[str, int] = {}  # in all fits so far
        self.begin_fit(None, {})

    def begin_fit(self, steps: int | None, applied: Mapping[str, int]) -> None:
        """`steps` of an epoch, None if unknown; `applied` so far by each optimizer."""
        self._steps = steps
        self._applied = dict(applied)
        self._before = dict(self._skipped)
        self._tried = self._in_epoch = 0

    def begin_epoch(self) -> None:
        """Another epoch of `fit`."""
        self._tried += self._in_epoch
        self._in_epoch = 0

    def add(self, steps: int) -> None:
        """A call of so many steps; the last call of an epoch may be cut short."""
        self._in_epoch += steps
        if self._steps is not None:
            self._in_epoch = min(self._in_epoch, self._steps)

    def skipped(self, optimizer: str, applied: int) -> int | None:
        """Steps of this optimizer that were tried and not applied; None: unknown."""
        if self._steps is None or optimizer not in self._applied:
            return None
        tried = self._tried + self._in_epoch
        skipped = tried - (applied - self._applied[optimizer])
        self._skipped[optimizer] = self._before.get(optimizer, 0) + skipped
        return self._skipped[optimizer]
