"""The weights and the batch norms of a model at a look, and how far they moved."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..signals import statistics
from ..signals.reading import SINCE_START, SINCE_STEP, moving_key, read
from ..signals.statistics import Summary, sampling_stride
from ..signals.subjects import SUMMARY, NormWeight, Subject, Weight
from . import probe
from .inventory import BatchNorm, Inventory, Selection
from .moving import MovingStatistics

Sample: TypeAlias = Any  # (at most sample_size,), an array
Arrays: TypeAlias = Mapping[int, Any]  # variables as arrays, by identity


class Movement:
    """How far weights moved in one step, and since they were first met.

    `weights`, wherever it is taken: variables by path; `arrays`: as they are then.
    """

    def __init__(self, sample_size: int) -> None:
        self._sample_size = sample_size
        self._samples = WeightSamples({}, sample_size)
        self._before: dict[str, Sample] = {}
        self._initial: dict[str, tuple[Any, Sample]] = {}  # with the variable it is of

    def before_step(self, weights: Mapping[str, Any], arrays: Arrays) -> None:
        """Note the weights as they are, for the `rows` after a step."""
        self._meet(weights, arrays)
        self._before = self._samples.take(arrays)

    def rows(
        self, weights: Mapping[str, Any], arrays: Arrays, *, is_one_step: bool
    ) -> dict[tuple[str, str], Any]:
        """Squares by path: in the step, and since the weight was first met.

        `is_one_step`: whether one step was made since `before_step`; only then is told
        how far weights moved in it.
        """
        self._meet(weights, arrays)
        before, self._before = self._before if is_one_step else {}, {}
        initial = {path: sample for path, (_, sample) in self._initial.items()}
        kinds = {SINCE_STEP: before, SINCE_START: initial}
        now = self._samples.take(arrays)
        return {
            (path, kind): squares(now[path], earlier[path])
            for kind, earlier in kinds.items()
            for path in earlier
        }

    def _meet(self, weights: Mapping[str, Any], arrays: Arrays) -> None:
        known = self._samples.weights
        if known.keys() == weights.keys() and all(
            known[k] is weights[k] for k in known
        ):
            return
        self._samples = WeightSamples(weights, self._sample_size)
        self._before = {}
        samples = self._samples.take(arrays)
        # A weight that was met before, in this model, keeps its first sample.
        self._initial = {
            path: self._initial[path]
            if path in self._initial and self._initial[path][0] is weight
            else (weight, samples[path])
            for path, weight in weights.items()
        }


class WeightSamples:
    """Takes samples of weights.

    `weights`: variables by path. A sample is every n-th element of the flat weight, n
    the smallest that leaves at most `sample_size`: of a smaller weight all elements.
    """

    def __init__(self, weights: Mapping[str, Any], sample_size: int) -> None:
        self.weights = dict(weights)
        self._strides = {
            path: sampling_stride(int(np.prod(w.shape)), w.shape[-1], sample_size)
            for path, w in self.weights.items()
        }

    def take(self, arrays: Arrays) -> dict[str, Sample]:
        """A sample of each weight, by path."""
        # Copied: the array may be the variable's own memory, which moves on.
        return {
            path: np.array(arrays[id(weight)].reshape(-1)[:: self._strides[path]])
            for path, weight in self.weights.items()
        }


def squares(now: Sample, before: Sample) -> Any:
    """(1, 4) float64 of two samples: see `Squares`."""
    wide = np.float64 if now.itemsize != 4 or now.dtype.kind != "f" else np.float32
    now, before = now.astype(wide, copy=False), before.astype(wide, copy=False)
    with np.errstate(all="ignore"):  # of weights that are not finite
        change = now - before
        parts = [(change, change), (before, before), (now, now)]
        row = [*(np.dot(*pair) for pair in parts), now.size]
    return np.array([row], np.float64)


Key = tuple[str, str]  # (key of a subject, what is read of it)


class WeightReader:
    """What a monitor reads of the weights: distributions, and how far they moved."""

    def __init__(self, watch: Collection[str], sample_size: int) -> None:
        self._watch = watch
        self._sample_size = sample_size
        self._movement = Movement(sample_size)
        self._moving = MovingStatistics()
        # Of kernels: when first met, with the variable.
        self._first: dict[str, tuple[Any, Summary]] = {}

    @property
    def fresh(self) -> dict[str, bool]:
        """Of batch norms, whether they began with a mean of 0 and a variance of 1."""
        return self._moving.fresh

    def begin_fit(self, steps: int) -> None:
        """A `fit` begins after so many steps of training."""
        self._moving.begin_fit(steps)

    def before_step(self, selection: Selection, steps: int) -> None:
        """Note the weights as they are, for a `read` after the step.

        `steps`: see `MovingStatistics.before_step`.
        """
        norms = self._batch_norms(selection)
        self._moving.before_step(norms, probe.backend().as_array, steps)
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
        self._meet(subjects, _moving(self._named(selection)))

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

    def _weight(self, path: str, kernels: Mapping[str, Any]) -> Weight:
        if path not in kernels or path not in self._first:
            return Weight(path)
        fan_in = max(1, math.prod(kernels[path].shape[:-1]))
        return Weight(path, first=self._first[path][1], fan_in=fan_in)

    def read(
        self,
        selection: Selection,
        steps: int,
        calls: Mapping[str, int],
        trained: Collection[str] | None = None,
        *,
        is_one_step: bool,
    ) -> tuple[list[Subject], dict[Key, Any]]:
        """The subjects, and rows of each, see `reading`.

        `trained`: paths of what optimizers are given, None if that is not known: how
        far others move, such as the averages of weights, says nothing of a training.
        `is_one_step`: see `Movement.rows`. `steps`, `calls`: see
        `MovingStatistics.read`.
        """
        norms, named = self._batch_norms(selection), self._named(selection)
        kernels = _moving(named)
        judged = {k: x for k, x in kernels.items() if trained is None or k in trained}
        tracked = self._subjects(norms, named, judged)
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
            if path not in judged:
                continue
            key = Weight(path).key
            if key not in subjects:  # a batch norm's, which moves
                subjects[key] = self._weight(path, judged)
            rows[key, what] = row
        ages = self._moving.read(norms, _reader(arrays), steps, calls)
        return [*subjects.values(), *ages], rows

    def _subjects(
        self,
        norms: Mapping[str, BatchNorm],
        named: Mapping[str, Any],
        kernels: Mapping[str, Any],
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
            names = ("moving_mean", "moving_variance", "gamma")
            parts = [norm.parts[name] for name in names if name in norm.parts]
            whole = [np.ravel(arrays[id(x)]).astype(np.float64) for x in parts]
            summaries[moving_key(layer)] = np.concatenate(whole)[None]
        return summaries


def _moving(named: Mapping[str, Any]) -> dict[str, Any]:
    """Trainable weights of two and more dimensions."""
    return {k: w for k, w in named.items() if w.trainable and w.ndim > 1}


def _reader(arrays: Mapping[int, Any]) -> Callable[[Any], Any]:
    """Reads a variable, unless it is among these arrays."""
    array = probe.backend().as_array

    def read_one(variable: Any) -> Any:
        known = arrays.get(id(variable))
        return array(variable) if known is None else known

    return read_one


def _arrays(variables: Iterable[Any]) -> dict[int, Any]:
    """Variables as arrays, by identity: they compare their values."""
    array = probe.backend().as_array
    return {id(x): array(x) for x in variables}
