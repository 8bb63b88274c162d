"""A short training of a copy under the monitor: what its looks say, and its record."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
from keras import tree

from kbn.private import keras as private
from kbn.surgery import compiling, copying

from ..watch.tensors import tensor
from .examples import Batch

STEPS = 24  # of two epochs: rules compare their losses

Entries = list[tuple[int, Mapping[str, float]]]


class Repeated(keras.utils.PyDataset):
    """So many batches an epoch: these, one after the other, again and again."""

    def __init__(self, batches: list[Batch], steps: int) -> None:
        super().__init__()
        self._batches, self._steps = batches, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> Any:
        x, y, weights = self._batches[index % len(self._batches)]
        return keras.utils.pack_x_y_sample_weight(x, y, weights)


def copy(model: Any, x: Any) -> Any:
    """A copy that is compiled alike; x: a batch to build it with.

    Raises:
        ValueError: It cannot be copied, or not compiled.
    """
    given = tree.map_structure(tensor, x)
    twin, layers = copying.copy(model, build=lambda one: one(given, training=False))
    if type(model).compile is keras.Model.compile:
        compiling.compile_like(model, twin, layers)
    else:  # what it has kept, by the names that it has for it
        for name, value in vars(model).items():
            if isinstance(value, keras.optimizers.Optimizer | keras.losses.Loss):
                setattr(twin, name, compiling.copied(value))
        settings = private.compile_settings(model) or {}
        keras.Model.compile(twin, **compiling.copied(settings))
    if not twin.compiled:
        raise ValueError(f"The copy of {model.name!r} could not be compiled.")
    return twin


def train(model: Any, batches: list[Batch]) -> tuple[Mapping[str, Any], Entries]:
    """The record of the run and its entries; the model has been trained then."""
    if type(model).train_step is keras.Model.train_step:
        build_optimizer(model)
    # They need TensorBoard.
    from ..log.reader import read_run
    from ..monitor import TrainingMonitor

    with tempfile.TemporaryDirectory() as directory:
        monitor = TrainingMonitor(directory, rules=None)
        data = Repeated(batches, STEPS // 2)
        model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=[monitor])
        run = read_run(Path(directory))
    return run.record, [(entry.step, entry.scalars) for entry in run.entries]


def build_optimizer(model: Any) -> None:
    """Before the first step, which TensorFlow would trace twice otherwise."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
