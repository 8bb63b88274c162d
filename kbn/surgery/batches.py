"""Batches of a model's inputs, read from whatever Keras trains on."""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

Inputs = Any

# An iterator does not say whether it ends. After so many batches it is asked for.
ENDLESS = 10_000


class Batches:
    """The inputs x of `data`, batch by batch, as often as it is iterated.

    Arrays are cut into batches: an array, a list or dictionary of arrays (several
    inputs), or a tuple (x, y) or (x, y, sample_weight) with such an x. Everything else
    gives batches: x, (x, y) or (x, y, sample_weight). Only x is used.

    `size`: how many batches there are, None where nobody knows; `is_iterator`: whether
    they can be read only once.
    """

    def __init__(self, data: Any, batch_size: int, steps: int | None) -> None:
        self.steps = None if steps is None else whole("steps", steps)
        self._data, self._batch_size = data, whole("batch_size", batch_size)
        self.is_iterator = False
        there: int | None  # how many batches; -1: without end; None: nobody knows
        if _is_arrays(data):
            self._data = x = data[0] if isinstance(data, tuple) else data
            lengths = {int(array.shape[0]) for array in keras.tree.flatten(x)}
            if len(lengths) != 1:
                raise ValueError(
                    "The arrays of `data` must have the same length, received "
                    f"{', '.join(map(str, sorted(lengths)))}. A list of arrays is "
                    "several inputs; batches may be given as a list of tuples (x,)."
                )
            self._read, there = self._cut, -(-lengths.pop() // self._batch_size)
        elif isinstance(data, keras.utils.PyDataset | Iterable) and not isinstance(
            data, str | bytes
        ):
            self._read, there = self._elements, length(data)
            # A tf.data.Dataset is no iterator, and made only to be asked it would read.
            self.is_iterator = isinstance(data, Iterator)
        else:
            raise ValueError(
                "Expected `data` to be arrays, or to give batches (a tf.data.Dataset, "
                "a PyDataset, a DataLoader, a generator, a list of batches), received "
                f"{type(data).__name__}."
            )
        if there == -1 and self.steps is None:
            raise ValueError(
                f"`data` is a {type(data).__name__} that never ends: say how many "
                "batches to read with steps=..."
            )
        bounds = [size for size in (there, self.steps) if size not in (None, -1)]
        self.size = min(bounds, default=None)

    def __iter__(self) -> Iterator[Inputs]:
        number = 0
        for number, batch in enumerate(itertools.islice(self._read(), self.steps), 1):
            if self.is_iterator and self.steps is None and number > ENDLESS:
                raise ValueError(
                    f"`data` is a {type(self._data).__name__} that gave {ENDLESS} "
                    "batches and goes on. Say how many to read with steps=..."
                )
            yield keras.tree.map_structure(_tensor, batch)
        if self.steps is not None and 0 < number < self.steps:
            warnings.warn(
                f"`data` ended after {number} of steps={self.steps} batches.",
                stacklevel=2,
            )

    def _cut(self) -> Iterator[Inputs]:
        arrays = keras.tree.flatten(self._data)
        for start in range(0, int(arrays[0].shape[0]), self._batch_size):
            stop = start + self._batch_size
            # A table of pandas has its rows elsewhere.
            parts = [getattr(x, "iloc", x)[start:stop] for x in arrays]
            yield keras.tree.pack_sequence_as(self._data, parts)

    def _elements(self) -> Iterator[Inputs]:
        for batch in items(self._data):
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]


def whole(name: str, value: Any) -> int:
    """`value` as an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(
            f"Expected {name} to be an integer from 1, received {value!r}."
        )
    return int(value)


def _is_array(x: Any) -> bool:
    """Arrays, tensors of any framework, tables of pandas."""
    return hasattr(x, "shape") and hasattr(x, "__getitem__")


def _is_arrays(data: Any) -> bool:
    """Whether `data` is to be cut into batches."""
    if isinstance(data, tuple):
        return 1 <= len(data) <= 3 and _is_arrays(data[0])
    if isinstance(data, list):
        return bool(data) and all(map(_is_array, data))
    if isinstance(data, dict):
        return bool(data) and all(map(_is_array, keras.tree.flatten(data)))
    return _is_array(data)


def items(data: Any) -> Iterator[Any]:
    """Its batches: of a PyDataset without on_epoch_end, where it may shuffle itself."""
    if not isinstance(data, keras.utils.PyDataset):
        return iter(data)
    known = data.num_batches
    numbers = itertools.count() if known is None else range(known)
    return (data[number] for number in numbers)


def length(data: Any) -> int | None:
    """The number of batches: -1 where they never end, None where nobody knows."""
    if isinstance(data, keras.utils.PyDataset):
        return -1 if data.num_batches is None else int(data.num_batches)
    cardinality = getattr(data, "cardinality", None)  # of a tf.data.Dataset
    if callable(cardinality):
        known = int(cardinality())
        return known if known >= -1 else None
    try:
        return len(data)
    except TypeError:  # a DataLoader of an iterable data set has one that raises
        return None


def _tensor(x: Any) -> Any:
    """`x` as a model of this backend takes it."""
    if x is None or keras.ops.is_tensor(x):
        return x
    if hasattr(x, "detach"):  # a tensor of torch, on another backend
        return x.detach().cpu().numpy()
    if type(x).__module__.split(".")[0] == keras.backend.backend():
        return x  # ragged or sparse, of TensorFlow
    return np.asarray(x)
