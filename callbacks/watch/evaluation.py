"""The loss of a batch in evaluation mode, without a trace; Python's state, kept."""

import contextlib
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from .inventory import Inventory
from .layers import DROPOUT

_log = logging.getLogger(__name__)

# What `compute_loss` takes in Keras: with other arguments it is a user's own affair.
_TAKES = ["x", "y", "y_pred", "sample_weight"]


class LossEvaluation:
    """L = model.compute_loss(x, y, model(x, training=False)) of one batch.

    `losses(loss, batch)`: (replicas, 1) float64, of `loss`, which is the method below;
    how, is a backend's affair. A model whose call runs Python, or that has no loss to
    compute, is left out, said once at debug level.
    """

    def __init__(
        self, model: Any, losses: Callable[[Callable[..., Any], Any], Any]
    ) -> None:
        self._model = model
        self._losses = losses
        takes = [*inspect.signature(type(model).compute_loss).parameters]
        self._is_possible = takes[1 : 1 + len(_TAKES)] == _TAKES
        # A user's own may be without this argument.
        self._mode = {"training": False} if "training" in takes else {}

    def __call__(self, batch: Any) -> Any:
        """(replicas, 1) float64; None where it can not be had.

        None also of a model without batch norm and dropout, and of one not yet built.
        """
        model = self._model
        if not self._is_possible or not model.built or not has_modes(model):
            return None
        try:
            return self._losses(self.loss, batch)
        except Exception as error:  # a training is not to fail for its statistics
            self._is_possible = False
            _log.debug(
                "TrainingMonitor leaves out the loss gap of %r: %r", model.name, error
            )
            return None

    def loss(self, data: Any, values: Iterable[tuple[Any, Any]] | None = None) -> Any:
        """The loss of one replica's batch; `values`: (variable, value), if not its own.

        A forward pass in a `keras.StatelessScope`, so no metric, seed or moving
        statistic of Keras changes; other variables are the caller's affair.
        """
        model = self._model
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if values is None:  # regularizers ask the scope itself for their weights
            values = [(weight, weight.value) for weight in model.trainable_variables]
        with keras.StatelessScope(values, collect_losses=True):
            y_pred = model(x, training=False)
            return model.compute_loss(x, y, y_pred, sample_weight, **self._mode)


def has_modes(model: Any) -> bool:
    """Whether a model has batch norm or dropout: layers that tell modes apart."""
    inventory = Inventory(model)  # the trace may have just built it
    layers = inventory.layers.values()
    return bool(inventory.batch_norms) or any(isinstance(x, DROPOUT) for x in layers)


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
