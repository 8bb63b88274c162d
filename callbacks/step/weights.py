"""The weights and the batch norms of a model, as they are at a look."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..diagnostics import statistics
from ..diagnostics.reading import moving_key, read
from ..diagnostics.statistics import Summary
from ..diagnostics.subjects import SUMMARY, NormWeight, Subject, Weight
from ..model.inventory import BatchNorm, Inventory, Selection
from . import probe
from .weight_samples import Movement

Key = tuple[str, str]  # (key of a subject, what is read of it)


class WeightReader:
    """What a monitor reads of the weights: distributions, and how far they moved."""

    def __init__(self, watch: Collection[str], sample_size: int) -> None:
        self._watch = watch
        self._sample_size = sample_size
        self._movement = Movement(sample_size)
        # Of kernels: when first met, with the variable; at the last look; and at that
        # of an earlier epoch.
        self._first: dict[str, tuple[Any, Summary]] = {}
        self._last: dict[str, Summary] = {}
        self._last_epoch: dict[str, Summary] = {}
        self._epoch = 0

    def before_step(self, selection: Selection) -> None:
        """Note the weights as they are, for a `read` after the step."""
        kernels = _moving(self._named(selection))
        arrays = _arrays(kernels.values())
        self._movement.before_step(kernels, arrays)
        new = {path: x for path, x in kernels.items() if not self._has_met(path, x)}
        if new:
            variables = {Weight(path).key: x for path, x in new.items()}
            rows = self._summaries({}, variables, arrays)
            self._meet(read([*map(Weight, new)], rows), new)

    def _has_met(self, path: str, weight: Any) -> bool:
        return path in self._first and self._first[path][0] is weight

    def _meet(self, subjects: Iterable[Subject], kernels: Mapping[str, Any]) -> None:
        for subject in subjects:
            if isinstance(subject, Weight) and subject.summary is not None:
                path = subject.name
                if path in kernels and not self._has_met(path, kernels[path]):
                    self._first[path] = kernels[path], subject.summary

    def saw(self, selection: Selection, subjects: Sequence[Subject]) -> None:
        """What a look has read, for later ones to compare with."""
        kernels = _moving(self._named(selection))
        self._meet(subjects, kernels)
        self._last = {
            subject.name: subject.summary
            for subject in subjects
            if isinstance(subject, Weight)
            and subject.name in kernels
            and subject.summary is not None
        }

    def non_finite(self, inventory: Inventory) -> dict[str, int]:
        """By path of each weight that is not finite: how many of its elements."""
        array = probe.backend().as_array
        found: dict[str, int] = {}
        for path, weight in inventory.weights.items():
            x = array(weight)
            with np.errstate(all="ignore"):
                is_finite = x.dtype.kind in "iub" or np.isfinite(np.sum(x))
            if not is_finite:  # or the sum is too large
                count = statistics.summarize(x, 1).non_finite
                found |= {path: count} if count else {}
        return found

    def _weight(self, path: str, kernels: Collection[str]) -> Weight:
        if path not in kernels or path not in self._first:
            return Weight(path)
        first = self._first[path][1]
        return Weight(path, first=first, last_epoch=self._last_epoch.get(path, first))

    def read(
        self, selection: Selection, epoch: int, *, is_one_step: bool
    ) -> tuple[list[Subject], dict[Key, Any]]:
        """The subjects, and rows of each, see `reading`; in this epoch.

        `is_one_step`: see `Movement.rows`.
        """
        if epoch != self._epoch:
            self._epoch, self._last_epoch = epoch, self._last
        norms, named = self._batch_norms(selection), self._named(selection)
        kernels = _moving(named)
        tracked = self._subjects(norms, named, kernels)
        first: dict[int, str] = {}
        for subject, weight in tracked:
            first.setdefault(id(weight), subject.key)
        # A variable that is two subjects is read once.
        variables = {s.key: w for s, w in tracked if first[id(w)] == s.key}
        every = [*variables.values(), *kernels.values()]
        arrays = _arrays({id(x): x for x in every}.values())
        moved = self._movement.rows(kernels, arrays, is_one_step=is_one_step)
        rows: dict[Key, Any] = self._summaries(norms, variables, arrays)
        for subject, weight in tracked:
            if subject.key not in variables:
                rows[subject.key, SUMMARY] = rows[first[id(weight)], SUMMARY]
        subjects = {subject.key: subject for subject, _ in tracked}
        for (path, what), row in moved.items():
            subject = Weight(path)  # of a batch norm's, only how far it moved
            subjects.setdefault(subject.key, subject)
            rows[subject.key, what] = row
        return [*subjects.values()], rows

    def _subjects(
        self,
        norms: Mapping[str, BatchNorm],
        named: Mapping[str, Any],
        kernels: Collection[str],
    ) -> list[tuple[Subject, Any]]:
        """Each variable with its subject: those of batch norms as theirs."""
        found: list[tuple[Subject, Any]] = [
            (NormWeight(layer, part), weight)
            for layer, norm in norms.items()
            for part, weight in norm.parts.items()
        ]
        met = {id(weight) for _, weight in found}
        return found + [
            (self._weight(path, kernels), weight)
            for path, weight in named.items()
            if id(weight) not in met
        ]

    def _batch_norms(self, selection: Selection) -> Mapping[str, BatchNorm]:
        return selection.batch_norms if NormWeight.watch in self._watch else {}

    def _named(self, selection: Selection) -> Mapping[str, Any]:
        return selection.weights if Weight.watch in self._watch else {}

    def _summaries(
        self,
        norms: Mapping[str, BatchNorm],
        weights: Mapping[str, Any],
        arrays: Mapping[int, Any],
    ) -> dict[Key, Any]:
        """Of weights by key of their subject; moments of batch norms, flat: (1, n)."""
        values = {(key, SUMMARY): arrays[id(x)] for key, x in weights.items()}
        summaries: dict[Key, Any] = {
            **statistics.summarize_all(values, self._sample_size)
        }
        for layer, norm in norms.items():
            parts = [norm.parts["moving_mean"], norm.parts["moving_variance"]]
            whole = [np.ravel(arrays[id(x)]).astype(np.float64) for x in parts]
            summaries[moving_key(layer)] = np.concatenate(whole)[None]
        return summaries


def _moving(named: Mapping[str, Any]) -> dict[str, Any]:
    """Trainable weights of two and more dimensions."""
    return {k: w for k, w in named.items() if w.trainable and len(w.shape) > 1}


def _arrays(variables: Iterable[Any]) -> dict[int, Any]:
    """Variables as arrays, by identity: they compare their values."""
    array = probe.backend().as_array
    return {id(x): array(x) for x in variables}
