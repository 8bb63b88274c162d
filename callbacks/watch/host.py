"""Tensors of TensorFlow as NumPy arrays: on a CPU, the same memory."""

from typing import Any

import numpy as np
import tensorflow as tf


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
