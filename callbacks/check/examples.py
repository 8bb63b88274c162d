"""The first batches of what `fit` takes, and what is known of all of it."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from ..watch.tensors import is_readable, to_numpy

Batch = tuple[Any, Any, Any]  # x, y, sample weights; None where there are none


@dataclass(frozen=True)
class Examples:
    """Batches, and the length of an epoch.

    `steps`: of an epoch, None if nobody knows. `whole`: all examples as one batch, of
    arrays; of a data set the batches that were read are all that is known.
    """

    batches: list[Batch]
    steps: int | None
    whole: Batch | None

    @property
    def first(self) -> Batch:
        """The first batch."""
        return self.batches[0]

    @property
    def everything(self) -> Batch:
        """All that is known."""
        return self.whole or self.rows(sum(map(_length, self.batches)))

    def rows(self, count: int) -> Batch:
        """The first so many examples, or fewer: of the first batches, joined."""
        needed = -(-count // _length(self.first))
        parts = self.batches[:needed]
        if len(parts) == 1 or not all(map(_is_dense, parts)):
            return _rows(self.first, np.arange(min(count, _length(self.first))))
        joined: Batch = tree.map_structure(lambda *x: np.concatenate(x), *parts)
        return _rows(joined, np.arange(min(count, _length(joined))))


def read(x: Any, y: Any, weights: Any, batch_size: int, count: int) -> Examples:
    """The first `count` batches: of arrays, of examples in an order of their own.

    Raises:
        ValueError: It is nothing that `fit` takes and that can be read twice.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise ValueError(f"kbn.check(batch_size={batch_size!r}): expected an integer.")
    if batch_size < 1:
        raise ValueError(f"kbn.check(batch_size={batch_size}): expected 1 or more.")
    if _gives_batches(x):
        return _of_batches(x, y, weights, count)
    whole = _whole(x, y, weights)
    length = _length(whole)
    order = np.random.default_rng(0).permutation(length)
    size = min(batch_size, length)
    full = min(count, length // size)
    batches = [_rows(whole, order[i * size : (i + 1) * size]) for i in range(full)]
    return Examples(batches, math.ceil(length / batch_size), whole)


def _of_batches(x: Any, y: Any, weights: Any, count: int) -> Examples:
    kind = type(x).__name__
    if y is not None or weights is not None:
        raise ValueError(
            f"kbn.check(model, x, y) received a {kind} as x and also y or sample_weight"
            ": a data set gives (x, y) itself. Call kbn.check(model, data)."
        )
    if isinstance(x, Iterator):
        raise ValueError(
            f"kbn.check received a {kind}, which can be read only once, so that `fit` "
            "would miss what is read here. Pass arrays, a tf.data.Dataset, a "
            "PyDataset or a DataLoader."
        )
    found: Iterable[Any] = x
    if isinstance(x, keras.utils.PyDataset):
        # By its items, without on_epoch_end, where it may shuffle itself.
        known = x.num_batches
        found = (x[i] for i in (itertools.count() if known is None else range(known)))
    batches = [
        tree.map_structure(_array, keras.utils.unpack_x_y_sample_weight(batch))
        for batch in itertools.islice(found, count)
    ]
    if not batches:
        raise ValueError(f"kbn.check received a {kind} without a batch.")
    return Examples(batches, _steps(x), None)


def _gives_batches(x: Any) -> bool:
    is_array = isinstance(x, list | tuple | dict | str | bytes) or hasattr(x, "shape")
    return isinstance(x, keras.utils.PyDataset | Iterable) and not is_array


def _steps(data: Any) -> int | None:
    """How many batches there are; None of a data set without end, or if unknown."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    cardinality = getattr(data, "cardinality", None)  # of a tf.data.Dataset
    try:
        steps = int(cardinality()) if callable(cardinality) else len(data)
    except TypeError:  # a DataLoader of an iterable data set has no length
        return None
    return steps if steps > 0 else None


def _whole(x: Any, y: Any, weights: Any) -> Batch:
    found = []
    for name, given in (("x", x), ("y", y), ("sample_weight", weights)):
        array = None if given is None else tree.map_structure(_array, given)
        for one in tree.flatten(array):
            if one is not None and (getattr(one, "ndim", 0) == 0 or not len(one)):
                what = type(given).__name__ if given is one else repr(one)
                raise ValueError(
                    f"kbn.check received {name}={what!s:.80}: expected arrays of at "
                    "least one example, or a data set that gives batches (x, y)."
                )
        found.append(tree.map_structure(_as_fit_has_it, array))
    lengths = {len(one) for one in tree.flatten(found) if one is not None}
    if x is None or len(lengths) != 1:
        shown = {
            name: [len(one) for one in tree.flatten(part) if one is not None]
            for name, part in zip(("x", "y", "sample_weight"), found, strict=True)
            if part is not None
        }
        raise ValueError(
            f"kbn.check received arrays of different lengths: {shown}. Each example "
            "needs its input and its target; a list is several inputs."
        )
    return found[0], found[1], found[2]


def _array(x: Any) -> Any:
    """As an array; what is no dense tensor as it is."""
    if x is None:
        return None
    if hasattr(x, "detach"):  # of torch, on any backend
        return x.detach().cpu().numpy()
    if keras.ops.is_tensor(x):
        return np.array(to_numpy(x)) if is_readable(x) else x
    if type(x).__module__.startswith("tensorflow."):
        return x  # ragged or sparse
    return np.asarray(x)


def _as_fit_has_it(x: Any) -> Any:
    is_float = isinstance(x, np.ndarray) and x.dtype.kind == "f"
    return x.astype(keras.config.floatx()) if is_float else x


def _is_dense(batch: Batch) -> bool:
    leaves = [x for x in tree.flatten(batch) if x is not None]
    return all(isinstance(x, np.ndarray) for x in leaves)


def _length(batch: Batch) -> int:
    (first, *_) = [x for x in tree.flatten(batch) if x is not None]
    return int(first.shape[0])


def _rows(batch: Batch, rows: Any) -> Batch:
    def part(x: Any) -> Any:
        return x[rows] if isinstance(x, np.ndarray) else x

    taken: Batch = tree.map_structure(part, batch)
    return taken
