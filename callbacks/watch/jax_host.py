"""Arrays of JAX, of which other processes may hold a part."""

from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from .tensors import parts as parts
from .tensors import tensor as tensor
from .tensors import without_optionals as without_optionals


def array(x: Any) -> Any:
    """An array of NumPy, whole, without a copy if it can be.

    Of parts elsewhere, all processes have to ask for it together.
    """
    is_here = not isinstance(x, jax.Array) or x.is_fully_addressable
    if not (is_here or x.is_fully_replicated):
        x = process_allgather(x, tiled=True)
    return np.asarray(x)
