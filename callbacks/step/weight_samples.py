"""How far weights moved, seen on a sample of each: bounded memory, however large."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ..diagnostics.reading import SINCE_START, SINCE_STEP
from ..diagnostics.statistics import sampling_stride

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
    """(1, 3) float64 of two samples: see `Squares`."""
    wide = np.float64 if now.itemsize != 4 or now.dtype.kind != "f" else np.float32
    now, before = now.astype(wide, copy=False), before.astype(wide, copy=False)
    with np.errstate(all="ignore"):  # of weights that are not finite
        change = now - before
        row = [np.dot(change, change), np.dot(before, before), np.dot(now, now)]
    return np.array([row], np.float64)
