"""Kinds of tensors that can be read; tensors as arrays, where there are no replicas."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from .backend import backend


def to_numpy(tensor: Any) -> Any:
    """A variable or tensor as an array."""
    if isinstance(tensor, keras.Variable):
        return backend().as_array(tensor)
    tensor = keras.ops.convert_to_tensor(tensor)
    if hasattr(tensor, "detach"):  # of torch
        return keras.ops.convert_to_numpy(tensor)
    # np.array of a scalar, in convert_to_numpy, warns: TensorFlow 2.21, NumPy 2.4.
    return np.asarray(tensor)


def dense_parts(x: Any) -> list[Any] | None:
    """The dense tensors that a tensor is made of, its numbers first; None of others.

    TensorFlow's gradient of an embedding is of the rows that were looked up.
    """
    if is_of_rows(x):
        return [x.values, x.indices, x.dense_shape]
    # Sparse and ragged tensors have `values` and no shape to look at; on torch all
    # tensors have them, as a method, and "meta" tensors have nothing in them.
    if not keras.ops.is_tensor(x) or getattr(x, "is_meta", False):
        return None
    return [x] if callable(getattr(x, "values", len)) else None


def is_of_rows(x: Any) -> bool:
    """Whether it says of which rows of a table it is, some twice."""
    return type(x).__name__ == "IndexedSlices"


def dense(parts: Sequence[Any]) -> Any:
    """One tensor, of its `dense_parts`."""
    if len(parts) == 1:
        return parts[0]
    import tensorflow as tf

    values, indices, shape = parts
    return tf.scatter_nd(indices[:, None], values, tf.cast(shape, indices.dtype))


def is_readable(x: Any) -> bool:
    """Whether it is a tensor of numbers that a layer gives."""
    parts = dense_parts(x)
    if parts is None:
        return False
    dtype = getattr(parts[0].dtype, "name", str(parts[0].dtype))
    return dtype.removeprefix("torch.").startswith(("float", "bfloat", "int", "uint"))


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
