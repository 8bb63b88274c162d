"""The loss of a batch in evaluation mode, seen without leaving a trace."""

import inspect
import logging
from typing import Any

import keras
import tensorflow as tf

from .batches import flat, spec_of
from .inventory import Inventory
from .layers import DROPOUT
from .pruned import PrunedStep
from .python_state import python_state_kept

_log = logging.getLogger(__name__)

# What `compute_loss` takes in Keras: with other arguments it is a user's own affair.
_TAKES = ["x", "y", "y_pred", "sample_weight"]


class LossEvaluation:
    """L = model.compute_loss(x, y, model(x, training=False)) of one batch.

    A forward pass in a `keras.StatelessScope`, so no metric, seed or moving statistic
    of Keras changes; other variables are put back. A model whose call runs Python, or
    that has no loss to compute, is left out, said once at debug level.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._functions: dict[Any, Any] = {}
        self._kept: list[Any] = []
        self._name = ""  # of the losses in the last trace
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
            spec = spec_of(batch)
            key = str(spec)
            if key not in self._functions:
                self._functions[key] = self._traced(spec)
            return self._functions[key](flat(batch), None)
        except Exception as error:  # a training is not to fail for its statistics
            self._is_possible = False
            _log.debug(
                "TrainingMonitor leaves out the loss gap of %r: %r", model.name, error
            )
            return None

    def _traced(self, spec: Any) -> PrunedStep:
        with python_state_kept(self._model):
            function = tf.function(self._losses).get_concrete_function(spec)
        # Not what the function returns: that waits for all that it does.
        names = {"losses": self._name}
        pruned = PrunedStep(function.graph, names, lambda x, _: x["losses"])
        # The bodies of its loops are gone with it: TensorFlow 2.21 ends the process.
        self._kept.append(function)
        if pruned.runs_python:  # it may have a state of its own
            raise ValueError("its call runs a Python function")
        return pruned

    @tf.autograph.experimental.do_not_convert
    def _losses(self, batch: Any) -> Any:
        strategy = self._model.distribute_strategy
        losses = strategy.run(self._replica_loss, args=(batch,))
        stacked = tf.stack(strategy.experimental_local_results(losses))
        self._name = stacked.name
        return stacked

    def _replica_loss(self, data: Any) -> Any:
        model = self._model
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        # Regularizers ask the scope itself for their weights.
        values = [(weight, weight.value) for weight in model.trainable_variables]
        with keras.StatelessScope(values, collect_losses=True):
            y_pred = model(x, training=False)
            loss = model.compute_loss(x, y, y_pred, sample_weight, **self._mode)
        return tf.cast(loss, tf.float64)[None]


def has_modes(model: Any) -> bool:
    """Whether a model has batch norm or dropout: layers that tell modes apart."""
    inventory = Inventory(model)  # the trace may have just built it
    layers = inventory.layers.values()
    return bool(inventory.batch_norms) or any(isinstance(x, DROPOUT) for x in layers)
