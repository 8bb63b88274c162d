"""Tensors of TensorFlow, as NumPy arrays: on a CPU, the same memory; and batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree


def array(tensor: Any) -> Any:
    """A tensor as an array, without a copy if it can be."""
    return np.asarray(tf.convert_to_tensor(tensor))


def as_array(variable: Any) -> Any:
    """A variable of Keras as an array, as `array`."""
    value = variable.value
    if not isinstance(value, tf.Variable) or hasattr(value, "values"):
        return array(value)  # of several replicas
    # A fifth of the time of `convert_to_tensor`, and there are hundreds of variables.
    return np.asarray(
        tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    )


def tensor(x: Any) -> Any:
    """What a batch holds, as a tensor of whatever kind."""
    is_composite = isinstance(x, tf.__internal__.CompositeTensor)
    return x if is_composite else tf.convert_to_tensor(x)


def without_optionals(batch: Any) -> Any:
    """A batch as `train_step` takes it: Keras' data pipeline may say None by one."""
    return tree.map_structure(
        lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch
    )


def parts(x: Any) -> Sequence[Any]:
    """What each replica has of it."""
    return x.values if isinstance(x, tf.distribute.DistributedValues) else (x,)
