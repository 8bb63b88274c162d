"""What a training leaves in memory: its scalars."""

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
