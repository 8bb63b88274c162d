"""Guide values: which values are healthy, which are not, and which is the worst."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Guide:
    """Guide values, (low, high) with None for no bound: `healthy`, and `sick` beyond.

    For orientation. Where the signal names no other source they were measured on
    small classifiers of scikit-learn's digits, healthy and faulty ones.
    """

    healthy: tuple[float | None, float | None]
    sick: tuple[float | None, float | None] = (None, None)

    def sentence(self) -> str:
        """For a description: `Guide: 0 to 0.2 is healthy; above 0.5 is not` is one."""
        ends = [
            f"{word} {limit:g}"
            for word, limit in zip(("below", "above"), self.sick, strict=True)
            if limit is not None
        ]
        beyond = f"; {' and '.join(ends)} is not" if ends else ""
        return f"Guide: {self.range()} is healthy{beyond}."

    def title(self) -> str:
        """For the title of a chart: `healthy 0 to 0.2`."""
        return f"healthy {self.range()}"

    def range(self) -> str:
        """The healthy values: `0 to 0.2`."""
        low, high = self.healthy
        if low is None:
            return f"below {high:g}"
        return f"above {low:g}" if high is None else f"{low:g} to {high:g}"

    def is_healthy(self, value: float) -> bool:
        """Whether it lies in the healthy range; NaN does not, nor does infinity."""
        low, high = self.healthy
        is_within = (low is None or value >= low) and (high is None or value <= high)
        return is_within and math.isfinite(value)

    def worst(self, values: Mapping[str, float]) -> str:
        """The name of the worst of these values; of equals, the first.

        With an upper limit only, the highest value; with a lower one only, the lowest.
        A range that begins at 0 has an upper limit only: these numbers are never below.
        With two limits, the value farthest from the middle of the range: by ratio where
        both limits are above 0, else by difference. NaN is worse than infinity, and
        infinity worse than any number.
        """
        low, high = self._limits()
        if (low is None or high is None) and all(map(math.isfinite, values.values())):
            return (max if low is None else min)(values, key=values.__getitem__)
        return max(values, key=lambda name: self._badness(values[name]))

    def direction(self) -> str:
        """As a sentence for a description: `The highest is the worst.` is one."""
        low, high = self._limits()
        if low is None or high is None:
            return f"The {'highest' if low is None else 'lowest'} is the worst."
        if low > 0:
            middle = math.sqrt(low * high)
            return f"The worst is the farthest from {middle:.2g}, by ratio."
        return f"The worst is the farthest from {(low + high) / 2:.2g}."

    def _limits(self) -> tuple[float | None, float | None]:
        low, high = self.healthy
        return (None if low == 0 and high is not None else low), high

    def _badness(self, value: float) -> tuple[int, float]:
        if not math.isfinite(value):
            return (2 if math.isnan(value) else 1), 0.0
        low, high = self._limits()
        if low is None or high is None:
            return 0, value if low is None else -value
        if low > 0:
            if value <= 0:
                return 0, math.inf
            return 0, abs(math.log(value) - (math.log(low) + math.log(high)) / 2)
        return 0, abs(value - (low + high) / 2)


def worst_of(guide: Guide | None, values: Mapping[str, float]) -> str:
    """The name of the worst of these values; without guide values, of the highest."""
    return (guide or Guide(healthy=(None, 0.0))).worst(values)
