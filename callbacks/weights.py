"""The weights and the batch norms of a model, as they are at a look."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from . import look, probe, statistics
from .statistics import Summary, tensor_row
from .weight_samples import Movement


class Weights:
    """What a monitor reads of the weights: histograms, and how far they moved."""

    def __init__(
        self, watch: Collection[str], select: probe.Select, sample_size: int
    ) -> None:
        self._watch = watch
        self._select = select
        self._sample_size = sample_size
        self._movement = Movement(sample_size)
        self._rows: tuple[list[Any] | None, Any] = (None, None)

    def before_step(self, model: Any) -> None:
        """Note the weights as they are, for a `read` after the step."""
        self._movement.before_step(_moving(self._named(model)))

    def read(
        self, model: Any, rows: Mapping[str, Any]
    ) -> tuple[dict[str, Summary], dict[str, Any]]:
        """Summaries and measures by tag, those of a twin's `rows` among them."""
        norms, named = self._batch_norms(model), self._named(model)
        tags = _by_tag(norms, named)
        first: dict[int, str] = {}
        for tag, weight in tags.items():
            first.setdefault(id(weight), tag)
        # Tags that mean the same variable: it is read once.
        same = {tag: first[id(w)] for tag, w in tags.items() if first[id(w)] != tag}
        weights = {tag: weight for tag, weight in tags.items() if tag not in same}
        moved = self._movement.rows(_moving(named))
        if keras.backend.backend() == "tensorflow":
            own = self._rows_of(norms, weights)
            found, measures = look.split(look.read_back({**rows, **own, **moved}))
        else:
            measures = moved
            found = {
                tag: statistics.summarize(probe.to_numpy(weight), self._sample_size)
                for tag, weight in weights.items()
            }
        return {**found, **{alias: found[tag] for alias, tag in same.items()}}, measures

    def _batch_norms(self, model: Any) -> dict[str, dict[str, Any]]:
        if "batch_norm" not in self._watch:
            return {}
        return probe.batch_norms(model, self._select)

    def _named(self, model: Any) -> dict[str, Any]:
        if "weights" not in self._watch:
            return {}
        return probe.named_weights(model, self._select)

    def _rows_of(
        self, norms: Mapping[str, Any], weights: dict[str, Any]
    ) -> dict[str, Any]:
        moving = {
            f"moving/{layer}": [parts["moving_mean"], parts["moving_variance"]]
            for layer, parts in norms.items()
        }
        if is_host_only():
            return weight_arrays(weights, moving, self._sample_size)
        # By identity: variables compare their values.
        key = [*((tag, id(weight)) for tag, weight in weights.items()), *moving]
        if self._rows[0] != key:
            self._rows = key, weight_rows(weights, moving, self._sample_size)
        rows: dict[str, Any] = self._rows[1]()
        return rows


def _by_tag(norms: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Each variable once: those of batch norms as theirs."""
    tags = {
        f"batch_norm/{layer}/{part}": weight
        for layer, parts in norms.items()
        for part, weight in parts.items()
    }
    met = {id(weight) for weight in tags.values()}
    return tags | {f"weights/{k}": v for k, v in named.items() if id(v) not in met}


def _moving(named: Mapping[str, Any]) -> dict[str, Any]:
    """Trainable weights of two and more dimensions."""
    return {k: w for k, w in named.items() if w.trainable and len(w.shape) > 1}


def is_host_only() -> bool:
    """See `host`."""
    from . import host

    return host.is_host_only()


def weight_arrays(
    weights: dict[str, Any], moving: Mapping[str, Sequence[Any]], sample_size: int
) -> dict[str, Any]:
    """As `weight_rows`, of weights that NumPy can read where they are."""
    from .host import array

    values = {tag: array(x.value) for tag, x in weights.items()}
    whole = {
        tag: np.concatenate([np.ravel(array(x.value)) for x in parts])
        for tag, parts in moving.items()
    }
    summaries: dict[str, Any] = {**statistics.summarize_all(values, sample_size)}
    return summaries | {k: v.astype(np.float64)[None] for k, v in whole.items()}


def weight_rows(
    weights: dict[str, Any], moving: Mapping[str, Sequence[Any]], sample_size: int
) -> Callable[[], dict[str, Any]]:
    """A function that summarizes the weights as they are when it is called.

    Those in `moving` it tells as they are, flat and one after the other: (1, n).
    """
    import tensorflow as tf

    def rows() -> dict[str, Any]:
        values = {tag: tf.convert_to_tensor(x.value) for tag, x in weights.items()}
        whole = {
            tag: tf.concat(
                [tf.reshape(tf.cast(x.value, tf.float64), [-1]) for x in parts], axis=0
            )
            for tag, parts in moving.items()
        }
        summaries = {tag: tensor_row(x, sample_size) for tag, x in values.items()}
        return {tag: row[None] for tag, row in {**summaries, **whole}.items()}

    return tf.function(rows, autograph=False)
