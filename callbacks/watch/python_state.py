"""Attributes of a model's objects kept as they are, while its Python runs once more."""

import contextlib
from collections.abc import Iterator
from typing import Any

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
