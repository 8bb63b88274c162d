"""The state of Python kept as it is, while a model's Python runs once more."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from .inventory import Inventory


@contextlib.contextmanager
def python_state_kept(model: Any) -> Iterator[None]:
    """Put back what the attributes of a model, and of its layers and optimizers, were.

    A `call` that counts its calls, or keeps what it has seen last, is traced once more
    without a trace of it.
    """
    inventory = Inventory(model)
    things = [model, *inventory.layers.values(), *inventory.optimizers.values()]
    before = [
        (thing, dict(vars(thing))) for thing in things if hasattr(thing, "__dict__")
    ]
    try:
        yield
    finally:
        for thing, attributes in before:
            own = vars(thing)
            for name in own.keys() - attributes.keys():
                object.__delattr__(thing, name)
            for name, value in attributes.items():
                if name not in own or own[name] is not value:
                    object.__setattr__(thing, name, value)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Python functions may draw from these generators."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
