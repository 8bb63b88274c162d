"""How far weights moved, seen on a sample of each: bounded memory, however large."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from ..diagnostics.reading import SINCE_START, SINCE_STEP
from ..diagnostics.statistics import sampling_stride

Sample: TypeAlias = Any  # (at most sample_size,), an array of NumPy or a tensor


class Movement:
    """How far weights moved in one step, and since they were first met.

    `weights`, wherever it is taken: variables by path, as they are at that time.
    """

    def __init__(self, sample_size: int) -> None:
        self._sample_size = sample_size
        self._samples = WeightSamples({}, sample_size)
        self._before: dict[str, Sample] = {}
        self._initial: dict[str, tuple[Any, Sample]] = {}  # with the variable it is of

    def before_step(self, weights: Mapping[str, Any]) -> None:
        """Note the weights as they are, for the `rows` after a step."""
        self._meet(weights)
        self._before = self._samples.take()

    def rows(self, weights: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
        """Squares by path: since `before_step`, and since the weight was first met."""
        self._meet(weights)
        before, self._before = self._before, {}
        initial = {path: sample for path, (_, sample) in self._initial.items()}
        kinds = {SINCE_STEP: before, SINCE_START: initial}
        now = self._samples.take()
        return {
            (path, kind): row
            for kind, earlier in kinds.items()
            if earlier
            for path, row in self._samples.compare(now, earlier).items()
        }

    def _meet(self, weights: Mapping[str, Any]) -> None:
        known = self._samples.weights
        if known.keys() == weights.keys() and all(
            known[k] is weights[k] for k in known
        ):
            return
        self._samples = WeightSamples(weights, self._sample_size)
        self._before = {}
        samples = self._samples.take()
        # A weight that was met before, in this model, keeps its first sample.
        self._initial = {
            path: self._initial[path]
            if path in self._initial and self._initial[path][0] is weight
            else (weight, samples[path])
            for path, weight in weights.items()
        }


class WeightSamples:
    """Takes samples of weights, and compares the weights with earlier samples.

    `weights`: variables by path. A sample is every n-th element of the flat weight, n
    the smallest that leaves at most `sample_size`: of a smaller weight all elements.
    """

    def __init__(self, weights: Mapping[str, Any], sample_size: int) -> None:
        self.weights = dict(weights)
        self._strides = {
            path: sampling_stride(int(np.prod(w.shape)), w.shape[-1], sample_size)
            for path, w in self.weights.items()
        }
        self._take, self._compare = _in_numpy(self._samples), _compare_in_numpy
        if keras.backend.backend() == "tensorflow":
            from . import host

            if host.is_host_only():
                self._take = self._copies
            else:
                self._take, self._compare = _in_tensorflow(self._samples)

    def take(self) -> dict[str, Sample]:
        """A sample of each weight as it is now, by path."""
        return dict(zip(self.weights, self._take(), strict=True))

    def compare(
        self, now: Mapping[str, Sample], before: Mapping[str, Sample]
    ) -> dict[str, Any]:
        """(1, 3) float64 by path: see `Squares`."""
        pairs = [[samples[path] for path in self.weights] for samples in (now, before)]
        rows = self._compare(*pairs) if self.weights else []
        return dict(zip(self.weights, rows, strict=True))

    def _copies(self) -> list[Any]:
        from .host import array

        # Copied: the array may be the variable's own memory, which moves on.
        return [
            np.array(array(weight.value).reshape(-1)[:: self._strides[path]])
            for path, weight in self.weights.items()
        ]

    def _samples(self) -> list[Any]:
        flat = keras.ops.reshape
        return [
            flat(weight.value, (-1,))[:: self._strides[path]]
            for path, weight in self.weights.items()
        ]


def _in_numpy(samples: Any) -> Any:
    # Copied: on torch the sample would be a view of the weight, which moves on.
    return lambda: [np.array(keras.ops.convert_to_numpy(x)) for x in samples()]


def _compare_in_numpy(now: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    return [
        np.array([[np.sum((a - b) ** 2), np.sum(b**2), np.sum(a**2)]])
        for a, b in (
            (np.asarray(a, np.float64), np.asarray(b, np.float64))
            for a, b in zip(now, before, strict=True)
        )
    ]


def _in_tensorflow(samples: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    def squares(x: Any) -> Any:
        return 2 * tf.cast(tf.nn.l2_loss(x), tf.float64)

    def compare(now: Sequence[Any], before: Sequence[Any]) -> Any:
        pairs = [
            (tf.cast(a, wide), tf.cast(b, wide))
            for a, b in zip(now, before, strict=True)
            for wide in [tf.float64 if a.dtype == tf.float64 else tf.float32]
        ]
        return [
            tf.stack([squares(a - b), squares(b), squares(a)])[None] for a, b in pairs
        ]

    return tf.function(samples, autograph=False), tf.function(compare, autograph=False)
