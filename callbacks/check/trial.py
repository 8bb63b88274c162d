"""Copies of a model: called, trained under the monitor, or on one batch by heart."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import tree

from kbn.private import keras as private
from kbn.private import tensorflow
from kbn.surgery import compiling, copying, graph

from ..watch.evaluation import random_state_kept
from ..watch.targets import HeadProgress, Supervision, progress
from ..watch.tensors import is_readable, tensor, to_numpy
from .examples import Batch

STEPS = 24  # of two epochs: rules compare their losses
# By heart: so many examples, Adam's rate, and steps between two looks at the loss.
EXAMPLES, RATE = 32, 1e-2
BY_HEART_EPOCHS, BY_HEART_STEPS = 25, 20
# Arguments of layers that make training noisy.
NOISE = ("rate", "dropout", "recurrent_dropout", "stddev")

Entries: TypeAlias = list[tuple[int, Mapping[str, float]]]
Outputs: TypeAlias = Mapping[tuple[Any, ...], Any]


@contextlib.contextmanager
def seeds_kept() -> Iterator[None]:
    """Put back the global generators of Python, NumPy, Keras and the backend."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(random_state_kept())
        stack.enter_context(private.global_seeds_kept())
        torch = sys.modules.get("torch")
        if torch is not None and keras.backend.backend() == "torch":
            devices = [*range(torch.cuda.device_count())]
            stack.enter_context(torch.random.fork_rng(devices))
        if keras.backend.backend() == "tensorflow":
            stack.enter_context(tensorflow.eager_seeds_kept())
        yield


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


# --- by heart ---


def learn(model: Any, settings: Mapping[str, Any], batch: Batch) -> "ByHeart":
    """Train a model on one batch until it knows it; `settings`: of its `compile`."""
    _quieten(model)
    kept = ("loss", "loss_weights", "run_eagerly", "jit_compile")
    known = {name: settings[name] for name in kept if name in settings}
    model.compile(keras.optimizers.Adam(RATE), **known)
    build_optimizer(model)
    before = [to_numpy(weight).copy() for weight in model.trainable_variables]
    watch = ByHeart(batch)
    data = Repeated([batch], BY_HEART_STEPS)
    model.fit(data, epochs=BY_HEART_EPOCHS, verbose=0, shuffle=False, callbacks=[watch])
    pairs = zip(model.trainable_variables, before, strict=True)
    watch.unmoved = [w.path for w, was in pairs if np.array_equal(to_numpy(w), was)]
    return watch


class ByHeart(keras.callbacks.Callback):
    """Ends the training once the batch is known, or there is nothing to judge it by.

    `courses`: by output, how far it came; `steps` it took. `unmoved`: paths of the
    trainable weights that no step has changed.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch = batch
        self.courses: Mapping[str, HeadProgress] = {}
        self.steps = 0
        self.unmoved: list[str] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """See how far it came."""
        x, y, weights = self._batch
        self.steps += BY_HEART_STEPS
        # Batch norm by the batch's own statistics, as in training.
        given = Supervision(y, weights, outputs(self.model, x, training=True))
        self.courses = progress(self.model, given)
        if all(course.is_known for course in self.courses.values()):
            self.model.stop_training = True


def _quieten(model: Any) -> None:
    """Take dropout, noise and penalties from all layers of a model."""
    for layer in graph.descendants(model):
        is_keras = type(layer).__module__.partition(".")[0] == "keras"
        for name in NOISE:
            if is_keras and isinstance(vars(layer).get(name), float):
                setattr(layer, name, 0.0)
        if getattr(layer, "activity_regularizer", None) is not None:
            layer.activity_regularizer = None
        for variable in private.own_variables(layer):
            variable.regularizer = None


# --- called ---


def outputs(model: Any, x: Any, training: bool) -> Outputs:
    """{path in y_pred: array}, by a model that is built."""
    with keras.StatelessScope():
        given = model(tree.map_structure(tensor, x), training=training)
    return {
        tuple(path): to_numpy(keras.ops.cast(one, "float32"))
        for path, one in tree.flatten_with_path(given)
        if is_readable(one)
    }


def shapes(structure: Any) -> Any:
    """Of the arrays in a structure, for a user to read."""
    return tree.map_structure(lambda x: getattr(x, "shape", None), structure)


def spread(given: Outputs) -> float:
    """How far outputs differ between examples, beside their size: the largest.

    std over examples / root mean square; 0 if all examples get one answer, NaN if it
    cannot be told: of one example, or where an output is not finite.
    """
    found = [0.0]
    for one in given.values():
        if not one.ndim or len(one) < 2 or not np.isfinite(one).all():
            return np.nan
        size = np.sqrt(np.square(one, dtype=np.float64).mean())
        if size > 0:
            found.append(float(one.std(axis=0, dtype=np.float64).max() / size))
    return max(found)


def mixed(model: Any, x: Any, given: Outputs) -> float:
    """How far the first example's output depends on the others of its batch.

    |y_1 - y'_1|, y' of a batch of that example alone, repeated, beside the deviation of
    y between examples; the largest over the outputs, in evaluation mode.
    """
    alone = outputs(model, tree.map_structure(_of_first, x), training=False)
    found = [0.0]
    for path, one in given.items():
        other = alone[path]
        if one.shape != other.shape or not one.ndim or not np.isfinite(one).all():
            continue
        # What rounding makes of numbers of this size is no difference.
        scale = one.std(axis=0).max() + 1e-3 * np.abs(one).max()
        apart = np.abs(one[0] - other[0]).max()
        found.append(float(apart / scale) if scale else 0.0)
    return max(found)


def _of_first(x: Any) -> Any:
    return np.repeat(x[:1], len(x), axis=0) if isinstance(x, np.ndarray) else x
