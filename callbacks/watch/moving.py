"""How old the moving statistics of batch norms are: what is left of their start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..signals.subjects import Array, NormStatistics
from .inventory import BatchNorm
from .layers import attribute

Norms: TypeAlias = Mapping[str, BatchNorm]
Read: TypeAlias = Callable[[Any], Array]  # a variable


@dataclass
class NormCourse:
    """The statistics of one layer, (2, C), from the moment that they were first met."""

    variable: Any
    start: Array
    last: Array
    steps: int  # of training, when they were `last`
    batches: int | None  # that a layer of ours had counted by then
    share: float | None = 1.0  # of the start in what is `last`
    calls: int = 1  # in training, in one step
    before: tuple[Array, Array | None] | None = None  # the call; and beta or gamma


class MovingStatistics:
    """Follows each batch norm from the statistics that it was first met with.

    The share of those in what they are now is the product of what each update keeps:
    `momentum`, once for each call in training, or what a layer of ours has counted. It
    is 1 again after somebody has put other values in their place.
    """

    def __init__(self) -> None:
        self._courses: dict[str, NormCourse] = {}
        self._began = 0

    @property
    def fresh(self) -> dict[str, bool]:
        """By name, whether it began with a mean of 0 and a variance of 1."""
        return {k: _is_initial(x.start) for k, x in self._courses.items()}

    def begin_fit(self, steps: int) -> None:
        """A `fit` begins after so many steps of training."""
        self._began = steps

    def before_step(self, norms: Norms, read: Read, steps: int) -> None:
        """Note the statistics before a call; `steps`: with those of the call.

        Or before all steps of a `fit`. What is met later began in one of them.
        """
        is_first = steps == self._began
        for name, norm in norms.items():
            now = _statistics(norm, read)
            if now is None:
                continue
            done = steps if is_first else steps - 1
            course = self._known(name, norm) or self._meet(
                name, norm, read, now if is_first else None
            )
            is_same = np.array_equal(now, course.last)
            is_reset = _is_initial(now) and course.share != 1.0
            if is_reset or (is_first and not is_same):
                course = self._meet(name, norm, read, now)
            if is_same or is_reset:
                course.steps = done
            course.before = now, _affine(norm, read)

    def read(
        self, norms: Norms, read: Read, steps: int, calls: Mapping[str, int]
    ) -> list[NormStatistics]:
        """What is known after a call.

        `calls`: by layer, how often a step was seen to call it in training.
        """
        found = []
        for name, norm in norms.items():
            now = _statistics(norm, read)
            if now is None:
                continue
            course = self._known(name, norm) or self._meet(name, norm, read, None)
            course.calls = calls.get(name) or course.calls
            batches = _batches(norm, read)
            if course.share is not None and not np.array_equal(now, course.last):
                steps_since = steps - course.steps
                kept = _kept(norm, course, steps_since * course.calls, batches)
                course.share = None if kept is None else course.share * kept
            updates = _updates(course, now, _affine(norm, read))
            course.last, course.steps, course.before = now, steps, None
            course.batches = batches
            found.append(
                NormStatistics(
                    name,
                    moving=now,
                    start=course.start,
                    share=course.share,
                    updates=updates,
                )
            )
        return found

    def _known(self, name: str, norm: BatchNorm) -> NormCourse | None:
        course = self._courses.get(name)
        is_its = course is not None and course.variable is norm.parts["moving_mean"]
        return course if is_its else None

    def _meet(
        self, name: str, norm: BatchNorm, read: Read, start: Array | None
    ) -> NormCourse:
        """A layer with its start; None: one that a step has built, at 0 and 1."""
        batches = _batches(norm, read)
        if start is None:
            size = int(np.prod(norm.parts["moving_mean"].shape))
            start = np.stack([np.zeros(size), np.ones(size)])
            batches = None if batches is None else 0
        variable = norm.parts["moving_mean"]
        course = NormCourse(variable, start, start, self._began, batches)
        self._courses[name] = course
        return course


def _statistics(norm: BatchNorm, read: Read) -> Array | None:
    """Mean and variance as they are now, (2, C); None of a layer that has others."""
    parts = [np.ravel(read(norm.parts[x])) for x in ("moving_mean", "moving_variance")]
    same = parts[0].shape == parts[1].shape
    return np.array(parts, np.float64) if same else None


def _affine(norm: BatchNorm, read: Read) -> Array | None:
    """What training moves of a layer that is called: beta, which no decay moves."""
    part = norm.parts.get("beta", norm.parts.get("gamma"))
    return np.array(read(part)) if part is not None and part.trainable else None


def _is_initial(statistics: Array) -> bool:
    mean, variance = statistics
    return not mean.any() and bool((variance == 1).all())


def _batches(norm: BatchNorm, read: Read) -> int | None:
    counter = attribute(norm.layer, "num_batches_tracked")
    return None if counter is None else int(np.min(read(counter)))


def _kept(
    norm: BatchNorm, course: NormCourse, updates: int, batches: int | None
) -> float | None:
    """What so many updates leave of the statistics before; None: nobody knows."""
    momentum = attribute(norm.layer, "momentum")
    if batches is not None and course.batches is not None:
        # As kbn.BatchNorm weighs its t-th batch, in an average over all or a warm-up.
        t = np.arange(course.batches + 1, batches + 1)
        kept = (t - 1) / (t if momentum is None else t + 9)
        return float(np.prod(kept if momentum is None else np.minimum(momentum, kept)))
    is_number = isinstance(momentum, int | float)
    return float(momentum) ** max(updates, 0) if is_number else None


def _updates(course: NormCourse, now: Array, affine: Array | None) -> int | None:
    """How often the call moved them; None where it did not train the layer either."""
    if course.before is None:
        return None
    statistics, old = course.before
    if not np.array_equal(statistics, now):
        return course.calls
    if old is None or affine is None or np.array_equal(old, affine):
        return None
    return 0
