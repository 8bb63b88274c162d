"""The scalars of a training, in memory."""

import importlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

BYTES = 2**25  # of all tags together, 32 MiB
POINT = 16  # bytes: a step and a value


class History:
    """The scalars by tag; beyond `size_bytes`, the last of them.

    Each tag has the same share: with 500 tags, the last 4 194 snapshots.
    """

    def __init__(self, size_bytes: int = BYTES) -> None:
        self._size_bytes = size_bytes
        self._points: dict[str, tuple[array[int], array[float]]] = {}

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Append the scalars of one snapshot."""
        for tag, value in scalars.items():
            if tag not in self._points:
                self._points[tag] = array("q"), array("d")
            steps, values = self._points[tag]
            steps.append(step)
            values.append(float(value))
        share = max(1, self._size_bytes // POINT // max(1, len(self._points)))
        for points in self._points.values():
            # An eighth at a time, for the rest moves up each time.
            if len(points[0]) > share:
                for part in points:
                    del part[: len(part) - share + share // 8]

    @property
    def size_bytes(self) -> int:
        """The size of all steps and values that are kept."""
        return sum(POINT * len(steps) for steps, _ in self._points.values())

    def values(self, tag: str, last: int | None = None) -> list[float]:
        """The values of one tag, in the order of writing; only the `last` so many."""
        _, values = self._points.get(tag, ((), ()))
        return [*values] if last is None else [*values[-last:]]

    def by_tag(self) -> dict[str, tuple[list[int], list[float]]]:
        """{tag: (steps, values)}."""
        return {
            tag: ([*steps], [*values]) for tag, (steps, values) in self._points.items()
        }


def to_frame(by_tag: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Any:
    """A pandas DataFrame of {tag: (steps, values)}, by step.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ImportError(
            "to_frame() needs pandas, which is not installed: run pip install pandas, "
            "or use `history`, {tag: (steps, values)}."
        ) from error
    columns = {
        tag: pandas.Series(values, index=steps, dtype="float64")
        for tag, (steps, values) in by_tag.items()
    }
    frame = pandas.DataFrame(columns)
    return frame.sort_index().rename_axis("step")
