"""Random numbers that are drawn here are drawn again by whoever comes after."""

import contextlib
import random
import sys
from collections.abc import Iterator

import keras
import numpy as np

from kbn.private import keras as private
from kbn.private import tensorflow


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put back the global generators of Python, NumPy, Keras and the backend."""
    python, numpy = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, python)
        stack.callback(np.random.set_state, numpy)
        stack.enter_context(private.global_seeds_kept())
        torch = sys.modules.get("torch")
        if torch is not None and keras.backend.backend() == "torch":
            devices = [*range(torch.cuda.device_count())]
            stack.enter_context(torch.random.fork_rng(devices))
        if keras.backend.backend() == "tensorflow":
            stack.enter_context(tensorflow.eager_seeds_kept())
        yield
