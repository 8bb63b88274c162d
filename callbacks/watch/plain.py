"""Tensors and batches of a backend that has neither replicas nor optionals."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


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
