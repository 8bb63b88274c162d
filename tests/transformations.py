"""What people wrap around a layer: a table of transformations, a module a backend.

A row is a function that takes the layer's class, Keras' or ours, does with it what its
name says, and returns the numbers that a user would see: arrays, nested as it likes.
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

BACKEND = keras.backend.backend()


class Row(NamedTuple):
    """One transformation; `within` is how far the numbers of two layers may differ.

    Relative to the largest number of an array. The default is for float32. `is_long`:
    for `make test-long` only.
    """

    name: str
    run: Callable[[type], Any]
    within: float
    is_long: bool = False


class Table(list[Row]):
    """Rows in their order; `row` and `modes` add the function that they decorate."""

    def row(
        self, name: str, within: float = 2e-5, is_long: bool = False
    ) -> Callable[[Any], Any]:
        assert name not in {row.name for row in self}, f"{name} stands there already"

        def add(run):
            self.append(Row(name, run, within, is_long))
            return run

        return add

    def modes(
        self,
        name: str,
        within: float = 2e-5,
        inference: bool = False,
        is_long: bool = False,
    ) -> Callable[[Any], Any]:
        """A row of a function that takes `training` last; two with `inference`."""

        def add(run):
            self.row(f"{name}, training", within, is_long)(
                lambda layer_class: run(layer_class, True)
            )
            if inference:
                self.row(f"{name}, inference", within, is_long)(
                    lambda layer_class: run(layer_class, False)
                )
            return run

        return add


def rows():
    """Those of the backend of this run."""
    return importlib.import_module(f"tests.transformations_{BACKEND}").TABLE


def draw(shape, seed=0, dtype="float32"):
    """Numbers of mean 0.5 and deviation 1.5, as NumPy has them."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 1.5, size=shape).astype(dtype)


def tried(row, layer_class):
    """Its numbers, or the exception."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    try:
        return keras.tree.map_structure(_as_array, row.run(layer_class))
    except Exception as error:  # which one is what the table tells
        return error


def _as_array(value):
    if hasattr(value, "detach"):  # torch
        value = value.detach()
    return np.asarray(keras.ops.convert_to_numpy(value), "f8")
