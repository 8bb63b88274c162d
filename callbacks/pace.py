"""How long steps take between looks, and how much memory the process has held."""

import sys
import time
from collections.abc import Iterator

from .signals.subjects import Pace


class Stopwatch:
    """Runs from the end of a look to the beginning of the next, without validation.

    It reads the clock at looks alone: the steps between cost nothing.
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._began: tuple[float, int] | None = None  # with the steps until then
        self._paused: float | None = None
        self._lap: tuple[int, float] | None = None

    def start(self) -> None:
        """A `fit` begins."""
        self._started = self._started or time.perf_counter()
        self._began = self._paused = self._lap = None

    @property
    def seconds(self) -> float | None:
        """Since the first `fit` began."""
        if self._started is None:
            return None
        return round(time.perf_counter() - self._started, 1)

    def before_look(self, steps: int) -> None:
        """A look begins, after so many steps."""
        if self._began is not None:
            began, count = self._began
            self._lap = steps - count, time.perf_counter() - began
        self._began = None

    def after_look(self, steps: int) -> None:
        """It is over, and with it so many steps."""
        self._began, self._lap = (time.perf_counter(), steps), None

    def pause(self) -> None:
        """What comes is no training."""
        self._paused = time.perf_counter()

    def go_on(self) -> None:
        """It is over."""
        if self._began is not None and self._paused is not None:
            began, count = self._began
            self._began = began + time.perf_counter() - self._paused, count
        self._paused = None

    def read(self, batch_size: int | None) -> Iterator[Pace]:
        """What it shows, if steps were made between the last two looks."""
        if self._lap is not None and self._lap[0] > 0:
            yield Pace("", *self._lap, batch_size, peak_memory())


def peak_memory() -> float | None:
    """MiB that this process has held at most; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)
