"""One batch, learned by heart: by a copy without dropout and penalties."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from kbn.private import keras as private
from kbn.surgery import graph

from ..watch.targets import HeadProgress, Supervision, progress
from ..watch.tensors import to_numpy
from .examples import Batch
from .forward import outputs
from .trial import Repeated, build_optimizer

EXAMPLES = 32
RATE = 1e-2  # of Adam
EPOCHS, STEPS = 25, 20  # STEPS between two looks at the loss
# Arguments of layers that make training noisy.
NOISE = ("rate", "dropout", "recurrent_dropout", "stddev")


class Learned(NamedTuple):
    """`courses`: by output, how far it came; `steps` it took.

    `unmoved`: paths of the trainable weights that no step has changed.
    """

    courses: Mapping[str, HeadProgress]
    steps: int
    unmoved: list[str]


def learn(model: Any, settings: Mapping[str, Any], batch: Batch) -> Learned:
    """Train a model on one batch until it knows it; `settings`: of its `compile`."""
    _quieten(model)
    kept = ("loss", "loss_weights", "run_eagerly", "jit_compile")
    known = {name: settings[name] for name in kept if name in settings}
    model.compile(keras.optimizers.Adam(RATE), **known)
    build_optimizer(model)
    before = [to_numpy(weight).copy() for weight in model.trainable_variables]
    watch = _Watch(batch)
    data = Repeated([batch], STEPS)
    model.fit(data, epochs=EPOCHS, verbose=0, shuffle=False, callbacks=[watch])
    pairs = zip(model.trainable_variables, before, strict=True)
    unmoved = [w.path for w, was in pairs if np.array_equal(to_numpy(w), was)]
    return Learned(watch.courses, watch.steps, unmoved)


class _Watch(keras.callbacks.Callback):
    """Ends the training once the batch is known, or there is nothing to judge it by."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self._batch = batch
        self.courses: Mapping[str, HeadProgress] = {}
        self.steps = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        x, y, weights = self._batch
        self.steps += STEPS
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
