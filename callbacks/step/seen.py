"""The tensors of one step, reduced for those who want them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..diagnostics import registry, rows, statistics
from ..diagnostics.statistics import Summary, tensor_row
from ..diagnostics.subjects import MOMENTS, SUMMARY, Subject
from . import host

Key = tuple[str, str]  # (key of a subject, what is read of it)


@dataclass
class Trace:
    """What a trace knows of the tensors it gives.

    `subjects`: by key. `failed`: what could not be read, by key. `hidden`: layers and
    optimizers out of reach. `applied`: optimizers.
    """

    subjects: dict[str, Subject] = field(default_factory=dict)
    failed: dict[Key, Exception] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    applied: list[str] = field(default_factory=list)

    def fail(self, subject: Subject, error: Exception) -> None:
        """Nothing can be read of it."""
        self.failed |= {(subject.key, what): error for what in readings(subject)}


def readings(subject: Subject) -> Iterator[str]:
    """What a look reads of the tensor of a subject."""
    if subject.reads is not None:
        yield subject.reads
    yield from (x.tag for x in registry.of(subject) if x.row is not None)


def row_of(subject: Subject, what: str, x: Any, sample_size: int) -> Any:
    """What is read of a tensor, as a row; of an array, in NumPy."""
    if what == SUMMARY:
        return tensor_row(x, sample_size)
    if what == MOMENTS:
        return rows.moments_row(x, subject.axes)  # type: ignore[attr-defined]
    if what == subject.reads:
        return rows.scalar_row(x)
    row = registry.REGISTRY[what].row
    assert row is not None, "see readings"
    return row(x, subject)


class Seen:
    """The tensors of one step: `rows` reduces those that somebody wants, once each."""

    def __init__(
        self,
        trace: Trace,
        whole: Mapping[str, Sequence[Any]],
        inside: Mapping[tuple[str, str, int], Any],
        evaluated: dict[Key, Any],
    ) -> None:
        self.trace = trace
        self.evaluated = evaluated
        self._inside = inside  # rows that the step computed
        self._whole = whole  # tensors, of each replica
        self._arrays: dict[str, list[Any]] = {}
        self._made: dict[tuple[str, str, int], Any] = {}

    def rows(self, subjects: Iterable[Subject], sample_size: int) -> dict[Key, Any]:
        """A Summary or (replicas, n) by key; notes what failed."""
        found: dict[Key, Any] = {}
        parts: dict[tuple[str, int], Any] = {}
        for subject in subjects:
            for what in readings(subject):
                key = subject.key, what
                sized = (*key, sample_size if what == SUMMARY else 0)
                if sized in self._inside:
                    found[key] = self._inside[sized]
                elif sized in self._made:
                    found[key] = self._made[sized]
                elif key in self.trace.failed or subject.key not in self._whole:
                    continue
                elif what == SUMMARY:
                    arrays = self._arrays_of(subject.key)
                    parts |= {(subject.key, i): x for i, x in enumerate(arrays)}
                else:
                    try:
                        row = [
                            row_of(subject, what, x, 0)
                            for x in self._arrays_of(subject.key)
                        ]
                        found[key] = self._made[sized] = np.stack(row)
                    except Exception as error:  # no reason for a training to fail
                        self.trace.failed[key] = error
        return found | self._summaries(parts, sample_size)

    def _summaries(
        self, parts: Mapping[tuple[str, int], Any], sample_size: int
    ) -> dict[Key, Any]:
        """Of arrays, by the key of the subject and replica; merged over replicas."""
        made: dict[str, list[Summary]] = {}
        try:
            for (key, _), one in statistics.summarize_all(parts, sample_size).items():
                made.setdefault(key, []).append(one)
        except Exception as error:  # no reason for a training to fail
            self.trace.failed |= {(key, SUMMARY): error for key, _ in parts}
        found: dict[Key, Any] = {}
        for key, summaries in made.items():
            merged = statistics.merge(summaries)
            found[key, SUMMARY] = self._made[key, SUMMARY, sample_size] = merged
        return found

    def _arrays_of(self, key: str) -> list[Any]:
        if key not in self._arrays:
            self._arrays[key] = [host.array(x) for x in self._whole[key]]
        return self._arrays[key]
