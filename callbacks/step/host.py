"""Tensors of TensorFlow as NumPy arrays, where those are the same memory."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

# Of more elements, a tensor is summarized inside the step, so that a look does not keep
# the gradients of a large model in memory, all at the same time. A dimension that is
# not known is that of the batch.
LARGEST = 2**22
USUAL_BATCH = 32


def is_host_only() -> bool:
    """Whether tensors lie in the host's memory: there is no device but CPUs.

    There, NumPy reads them for nothing, and nothing has to be traced for them: most of
    the first look was the trace of its statistics.
    """
    return all(x.device_type == "CPU" for x in tf.config.list_logical_devices())


def array(tensor: Any) -> Any:
    """A tensor or variable as an array, without a copy if it can be."""
    return np.asarray(tf.convert_to_tensor(tensor))


def is_large(tensor: Any) -> bool:
    """Whether a tensor is too large to be kept until the step is over."""
    sizes = tensor.shape.as_list() if tensor.shape.rank is not None else [None]
    return math.prod(USUAL_BATCH if x is None else x for x in sizes) > LARGEST
