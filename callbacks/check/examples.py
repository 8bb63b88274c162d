"""The first batches of what `fit` takes, and what is known of all of it."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from kbn.surgery.batches import items, length, whole

from ..watch.tensors import is_readable, to_numpy

Batch = tuple[Any, Any, Any]  # x, y, sample weights; None where there are none


@dataclass(frozen=True)
class Examples:
    """Batches, all that is known as one batch, and the steps of an epoch.

    `everything`: of a data set, what was read of it. `steps`: None if nobody knows.
    """

    batches: list[Batch]
    everything: Batch
    steps: int | None

    def few(self, count: int) -> Batch:
        """The first so many examples of the batches, or all."""
        joined = _joined(self.batches[: -(-count // _length(self.batches[0]))])
        return _rows(joined, np.arange(min(count, _length(joined))))


def read(x: Any, y: Any, weights: Any, batch_size: int, count: int) -> Examples:
    """The first `count` batches: of arrays, of examples in an order of their own.

    Raises:
        ValueError: It is nothing that `fit` takes and that can be read twice.
    """
    size = whole("batch_size", batch_size)
    is_array = isinstance(x, list | tuple | dict | str | bytes) or hasattr(x, "shape")
    if isinstance(x, keras.utils.PyDataset | Iterable) and not is_array:
        return _of_batches(x, y, weights, count)
    everything = _arrays({"x": x, "y": y, "sample_weight": weights})
    count_all = _length(everything)
    order = np.random.default_rng(0).permutation(count_all)
    size = min(size, count_all)
    starts = range(0, count_all - size + 1, size)[:count]
    batches = [_rows(everything, order[i : i + size]) for i in starts]
    return Examples(batches, everything, -(-count_all // size))


def _of_batches(x: Any, y: Any, weights: Any, count: int) -> Examples:
    kind = type(x).__name__
    if y is not None or weights is not None:
        raise ValueError(
            f"kbn.check received a {kind} as x and also y or sample_weight: a data set "
            "gives (x, y) itself. Call kbn.check(model, data)."
        )
    if isinstance(x, Iterator):
        raise ValueError(
            f"kbn.check received a {kind}, which can be read only once: `fit` would "
            "miss what is read here. Pass arrays, a tf.data.Dataset, a PyDataset or a "
            "DataLoader."
        )
    batches = [
        tree.map_structure(_array, keras.utils.unpack_x_y_sample_weight(batch))
        for batch in itertools.islice(items(x), count)
    ]
    if not batches:
        raise ValueError(f"kbn.check received a {kind} without a batch.")
    steps = length(x)
    known = steps if steps is not None and steps > 0 else None  # -1: without end
    return Examples(batches, _joined(batches), known)


def _arrays(given: dict[str, Any]) -> Batch:
    """As `fit` has them: numbers with a point in Keras' own precision."""
    found = {
        name: None if part is None else tree.map_structure(_array, part)
        for name, part in given.items()
    }
    lengths = {
        name: [len(x) if getattr(x, "ndim", 0) else repr(x)[:40] for x in leaves]
        for name, part in found.items()
        if (leaves := [x for x in tree.flatten(part) if x is not None])
    }
    known = {length for part in lengths.values() for length in part}
    if "x" not in lengths or len(known) != 1 or not isinstance(max(known), int):
        raise ValueError(
            f"kbn.check received arrays of these lengths: {lengths}. Pass x and y as "
            "arrays of one length, a list or dictionary of such for several inputs, or "
            "a data set that gives batches (x, y)."
        )
    if known == {0}:
        raise ValueError("kbn.check received arrays without an example.")
    return found["x"], found["y"], found["sample_weight"]


def _array(x: Any) -> Any:
    """As an array; what is no dense tensor as it is."""
    if hasattr(x, "detach"):  # of torch, on any backend
        x = x.detach().cpu().numpy()
    elif keras.ops.is_tensor(x):
        x = np.array(to_numpy(x)) if is_readable(x) else x
    if x is None or type(x).__module__.startswith("tensorflow."):  # ragged or sparse
        return x
    x = np.asarray(x)
    return x.astype(keras.config.floatx()) if x.dtype.kind == "f" else x


def _joined(batches: list[Batch]) -> Batch:
    """One after the other; the first alone where there are others than arrays."""
    columns = [[x for x in tree.flatten(batch)] for batch in batches]
    parts = []
    for same in zip(*columns, strict=True):
        is_none = same[0] is None
        if not is_none and not isinstance(same[0], np.ndarray):
            return batches[0]
        parts.append(None if is_none else np.concatenate(same))
    joined: Batch = tree.pack_sequence_as(batches[0], parts)
    return joined


def _length(batch: Batch) -> int:
    (first, *_) = [x for x in tree.flatten(batch) if x is not None]
    return int(first.shape[0])


def _rows(batch: Batch, rows: Any) -> Batch:
    def part(x: Any) -> Any:
        return x[rows] if isinstance(x, np.ndarray) else x

    taken: Batch = tree.map_structure(part, batch)
    return taken
