"""The tensors of one step become rows of numbers, those of large ones in the graph."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..signals import registry, rows, statistics
from ..signals.statistics import Summary
from ..signals.subjects import MOMENTS, SUMMARY, Prediction, Subject
from .tensors import size_of

Key = tuple[str, str]  # (key of a subject, what is read of it)
# Up to so many elements, a tensor is given as it is: it takes less time to reduce it
# than to trace how.
SMALL = 2**17
WHOLE = 2**20  # of outputs, beside which targets are laid: 4 MiB


class Reduced(NamedTuple):
    """A tensor, reduced in a graph: see `statistics.from_moments`; and its rows."""

    size: int
    moments: Any
    sample: Any
    rows: dict[str, Any]


class Reduction:
    """Reduces what was seen of some subjects; `failed`: what could not be read.

    `subjects`: by key. A histogram reads `sample_size` elements.
    """

    def __init__(self, subjects: Mapping[str, Subject], sample_size: int) -> None:
        self.subjects = subjects
        self.failed: dict[Key, Exception] = {}
        self._sample_size = sample_size

    def of(self, subjects: Mapping[str, Subject]) -> "Reduction":
        """One of these subjects, with the same failures."""
        other = Reduction(subjects, self._sample_size)
        other.failed = self.failed
        return other

    def inside(
        self,
        key: str,
        tensor: Any,
        moments_of: Callable[[Any], Any] = statistics.moments_of,
    ) -> Any:
        """In a graph: the tensor itself, or `Reduced` if it is large.

        So a look does not keep all the outputs and gradients of a large model.
        """
        size, subject = size_of(tensor), self.subjects[key]
        if size is None or size <= (
            WHOLE if isinstance(subject, Prediction) else SMALL
        ):
            return tensor
        moments = sample = ()
        found = {}
        for what in readings(subject):
            if what == SUMMARY:
                moments = moments_of(tensor)
                sample = statistics.sample_of(tensor, self._sample_size)
            else:
                with self._left_out_if_it_fails(key, what):
                    found[what] = self._row(subject, what, tensor)
        return Reduced(size, moments, sample, found)

    def rows(self, replicas: Mapping[str, Sequence[Any]]) -> dict[Key, Any]:
        """Of what replicas gave, arrays or `Reduced`: a Summary, or (replicas, n)."""
        found: dict[Key, Any] = {}
        arrays: dict[tuple[str, int], Any] = {}
        for key, parts in replicas.items():
            subject = self.subjects[key]
            for what in readings(subject):
                if (key, what) in self.failed:
                    continue
                if what != SUMMARY:
                    with self._left_out_if_it_fails(key, what):
                        made = [self._row_of(subject, what, x) for x in parts]
                        found[key, what] = np.array(made)
                elif isinstance(parts[0], Reduced):
                    found[key, what] = statistics.merge(
                        [statistics.from_moments(*x[:3]) for x in parts]
                    )
                else:
                    arrays |= {(key, i): x for i, x in enumerate(parts)}
        return found | self._summaries(arrays)

    @contextlib.contextmanager
    def _left_out_if_it_fails(self, key: str, what: str) -> Iterator[None]:
        """A row of a user's odd layer is no reason to lose the others."""
        try:
            yield
        except Exception as error:
            self.failed[key, what] = error

    def _row_of(self, subject: Subject, what: str, x: Any) -> Any:
        if isinstance(x, Reduced):
            return x.rows[what]
        return self._row(subject, what, x)

    def _row(self, subject: Subject, what: str, x: Any) -> Any:
        if what == MOMENTS:
            return rows.moments_row(x, subject.axes)  # type: ignore[attr-defined]
        if what == subject.reads:
            return rows.scalar_row(x)
        row = registry.REGISTRY[what].row
        assert row is not None, "see readings"
        return row(x, subject)

    def _summaries(self, parts: Mapping[tuple[str, int], Any]) -> dict[Key, Any]:
        made: dict[str, list[Summary]] = {}
        found = statistics.summarize_all(parts, self._sample_size)
        for (key, _), summary in found.items():
            made.setdefault(key, []).append(summary)
        return {(key, SUMMARY): statistics.merge(x) for key, x in made.items()}


def is_safe(x: Any) -> bool:
    """Whether what was reduced of a tensor tells all: float32 was wide enough for it.

    Not of NaN and Inf, which are counted apart.
    """
    is_reduced = isinstance(x, Reduced) and x.moments.size
    return not is_reduced or statistics.are_safe(x.size, x.moments)


def readings(subject: Subject) -> Iterator[str]:
    """What a look reads of the tensor of a subject."""
    if subject.reads is not None:
        yield subject.reads
    yield from (x.tag for x in registry.of(subject) if x.row is not None)


def names_of(failed: Iterable[Key], subjects: Mapping[str, Subject]) -> dict[Key, str]:
    """What is read of a subject, for a user to read."""
    found = {}
    for key, what in failed:
        name = subjects[key].name
        found[key, what] = f"{what} of {name}".removesuffix(" of ")
        for one in registry.of(subjects[key]):
            if one.tag == what or (what == SUMMARY and one.is_histogram):
                found[key, what] = one.tag_of(name)
                break
    return found


def to_arrays(given: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What was given of subjects, as arrays; of each replica."""
    return {key: [_array(x) for x in replicas] for key, replicas in given.items()}


def _array(x: Any) -> Any:
    if isinstance(x, Reduced):
        rows = {what: np.asarray(row, np.float64) for what, row in x.rows.items()}
        return Reduced(int(x.size), np.asarray(x.moments), np.asarray(x.sample), rows)
    return np.asarray(x)
