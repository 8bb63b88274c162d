"""Kinds of tensors that can be read; tensors as arrays, where there are no replicas."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np


def to_numpy(tensor: Any) -> Any:
    """A variable or tensor as an array."""
    tensor = keras.ops.convert_to_tensor(tensor)  # also of a variable on replicas
    if hasattr(tensor, "detach"):  # of torch
        return keras.ops.convert_to_numpy(tensor)
    # np.array of a scalar, in convert_to_numpy, warns: TensorFlow 2.21, NumPy 2.4.
    return np.asarray(tensor)


class Kind(NamedTuple):
    """A kind of tensor.

    `parts`: dense tensors, its numbers first, then those that say where they are.
    `dense`: one tensor, made of its parts.
    """

    fits: Callable[[Any], bool]
    parts: Callable[[Any], Sequence[Any]]
    dense: Callable[[Sequence[Any]], Any]


def _scattered(parts: Sequence[Any]) -> Any:
    import tensorflow as tf

    values, indices, shape = parts
    return tf.scatter_nd(indices[:, None], values, tf.cast(shape, indices.dtype))


def _is_dense(x: Any) -> bool:
    # Sparse and ragged tensors have `values` and no shape to look at; on torch all
    # tensors have them, as a method, and "meta" tensors have nothing in them.
    if not keras.ops.is_tensor(x) or getattr(x, "is_meta", False):
        return False
    return callable(getattr(x, "values", len))


# TensorFlow's gradient of an embedding: the rows that were looked up, some twice.
ROWS = Kind(
    lambda x: type(x).__name__ == "IndexedSlices",
    lambda x: [x.values, x.indices, x.dense_shape],
    _scattered,
)
# The first that fits; a new kind is a row.
KINDS = [
    ROWS,
    Kind(_is_dense, lambda x: [x], lambda parts: parts[0]),
]


def kind_of(x: Any) -> Kind | None:
    """The kind of a tensor; None for what cannot be read."""
    return next((kind for kind in KINDS if kind.fits(x)), None)


def is_readable(x: Any) -> bool:
    """Whether it is a tensor of numbers that a layer gives."""
    kind = kind_of(x)
    if kind is None:
        return False
    (numbers, *_) = kind.parts(x)
    dtype = getattr(numbers.dtype, "name", str(numbers.dtype)).removeprefix("torch.")
    return dtype.startswith(("float", "bfloat", "int", "uint"))


def size_of(tensor: Any) -> int | None:
    """How many elements it has; None if its graph does not know."""
    try:
        sizes = tuple(tensor.shape)
    except ValueError:  # not even how many axes
        return None
    return None if None in sizes else math.prod(sizes)


def array(tensor: Any) -> Any:
    """A tensor as an array, without a copy if it can be."""
    return keras.ops.convert_to_numpy(tensor)


def tensor(x: Any) -> Any:
    """What a batch holds, as a tensor; what is no array of numbers, as it is."""
    is_array = isinstance(x, np.ndarray) and x.dtype.kind in "fiub"
    return keras.ops.convert_to_tensor(x) if is_array else x


def without_optionals(batch: Any) -> Any:
    """A batch as `train_step` takes it: as it is."""
    return batch


def parts(x: Any) -> Sequence[Any]:
    """What each replica has of it: there is one."""
    return (x,)
