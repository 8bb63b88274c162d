"""The weights and the batch norms of a model, as they are at a look."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ..diagnostics import statistics
from ..diagnostics.reading import moving_key
from ..diagnostics.statistics import tensor_row
from ..diagnostics.subjects import SUMMARY, NormWeight, Subject, Weight
from ..model.inventory import BatchNorm, Selection
from ..model.tensors import to_numpy
from .weight_samples import Movement

Key = tuple[str, str]  # (key of a subject, what is read of it)


class WeightReader:
    """What a monitor reads of the weights: distributions, and how far they moved."""

    def __init__(self, watch: Collection[str], sample_size: int) -> None:
        self._watch = watch
        self._sample_size = sample_size
        self._movement = Movement(sample_size)
        self._rows: tuple[list[Any] | None, Any] = (None, None)

    def before_step(self, selection: Selection) -> None:
        """Note the weights as they are, for a `read` after the step."""
        self._movement.before_step(_moving(self._named(selection)))

    def read(self, selection: Selection) -> tuple[list[Subject], dict[Key, Any]]:
        """The subjects, and rows of each, see `reading`."""
        norms, named = self._batch_norms(selection), self._named(selection)
        tracked = _subjects(norms, named)
        first: dict[int, str] = {}
        for subject, weight in tracked:
            first.setdefault(id(weight), subject.key)
        # A variable that is two subjects is read once.
        variables = {s.key: w for s, w in tracked if first[id(w)] == s.key}
        moved = self._movement.rows(_moving(named))
        rows: dict[Key, Any] = self._summaries(norms, variables)
        for subject, weight in tracked:
            if subject.key not in variables:
                rows[subject.key, SUMMARY] = rows[first[id(weight)], SUMMARY]
        subjects = {subject.key: subject for subject, _ in tracked}
        for (path, what), row in moved.items():
            subject = Weight(path)  # of a batch norm's, only how far it moved
            subjects.setdefault(subject.key, subject)
            rows[subject.key, what] = row
        return [*subjects.values()], rows

    def _batch_norms(self, selection: Selection) -> Mapping[str, BatchNorm]:
        return selection.batch_norms if NormWeight.watch in self._watch else {}

    def _named(self, selection: Selection) -> Mapping[str, Any]:
        return selection.weights if Weight.watch in self._watch else {}

    def _summaries(
        self, norms: Mapping[str, BatchNorm], weights: dict[str, Any]
    ) -> dict[Key, Any]:
        moving = {
            moving_key(layer): [
                norm.parts["moving_mean"],
                norm.parts["moving_variance"],
            ]
            for layer, norm in norms.items()
        }
        if keras.backend.backend() != "tensorflow":
            # One at a time: copies of all weights together are memory.
            return {
                (key, SUMMARY): statistics.summarize(to_numpy(x), self._sample_size)
                for key, x in weights.items()
            }
        if is_host_only():
            return _arrays(weights, moving, self._sample_size)
        # By identity: variables compare their values.
        key = [*((tag, id(weight)) for tag, weight in weights.items()), *moving]
        if self._rows[0] != key:
            self._rows = key, _traced_rows(weights, moving, self._sample_size)
        rows: dict[Key, Any] = self._rows[1]()
        return rows


def _subjects(
    norms: Mapping[str, BatchNorm], named: Mapping[str, Any]
) -> list[tuple[Subject, Any]]:
    """Each variable with its subject: those of batch norms as theirs."""
    found: list[tuple[Subject, Any]] = [
        (NormWeight(layer, part), weight)
        for layer, norm in norms.items()
        for part, weight in norm.parts.items()
    ]
    met = {id(weight) for _, weight in found}
    return found + [(Weight(k), v) for k, v in named.items() if id(v) not in met]


def _moving(named: Mapping[str, Any]) -> dict[str, Any]:
    """Trainable weights of two and more dimensions."""
    return {k: w for k, w in named.items() if w.trainable and len(w.shape) > 1}


def is_host_only() -> bool:
    """See `host`."""
    from . import host

    return host.is_host_only()


def _arrays(
    weights: dict[str, Any], moving: Mapping[Key, Sequence[Any]], sample_size: int
) -> dict[Key, Any]:
    """As `_traced_rows`, of weights that NumPy can read where they are."""
    from .host import array

    values = {(key, SUMMARY): array(x.value) for key, x in weights.items()}
    whole = {
        key: np.concatenate([np.ravel(array(x.value)) for x in parts])
        for key, parts in moving.items()
    }
    summaries: dict[Key, Any] = {**statistics.summarize_all(values, sample_size)}
    return summaries | {k: v.astype(np.float64)[None] for k, v in whole.items()}


def _traced_rows(
    weights: dict[str, Any], moving: Mapping[Key, Sequence[Any]], sample_size: int
) -> Callable[[], dict[Key, Any]]:
    """A function that summarizes the weights as they are when it is called.

    Those in `moving` it tells as they are, flat and one after the other: (1, n).
    """
    import tensorflow as tf

    def rows() -> dict[Key, Any]:
        values = {key: tf.convert_to_tensor(x.value) for key, x in weights.items()}
        whole = {
            key: tf.concat(
                [tf.reshape(tf.cast(x.value, tf.float64), [-1]) for x in parts], axis=0
            )
            for key, parts in moving.items()
        }
        summaries = {
            (key, SUMMARY): tensor_row(x, sample_size) for key, x in values.items()
        }
        return {key: row[None] for key, row in {**summaries, **whole}.items()}

    return tf.function(rows, autograph=False)
