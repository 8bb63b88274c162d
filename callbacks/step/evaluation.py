"""The loss of a batch in evaluation mode, seen without leaving a trace."""

import inspect
import logging
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from ..model.inventory import Inventory
from .batches import spec_key, without_optionals

_log = logging.getLogger(__name__)

DROPOUT = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
# Kinds of nodes that write to state of their own, which no scope of Keras keeps back.
# A Python function may have a state of its own, which one more call would change.
_WRITES = ("Assign", "Resource", "Stateful", "LookupTable", "PyFunc", "EagerPyFunc")
_READS = {
    "LookupTableExportV2",
    "LookupTableFindV2",
    "LookupTableSizeV2",
    "PyFuncStateless",
    "ResourceGather",
    "ResourceGatherNd",
    "StatefulPartitionedCall",
}
# What `compute_loss` takes in Keras: with other arguments it is a user's own affair.
_TAKES = ["x", "y", "y_pred", "sample_weight"]


class LossEvaluation:
    """L = model.compute_loss(x, y, model(x, training=False)) of one batch.

    A forward pass in a `keras.StatelessScope`, so no metric, seed or moving statistic
    of Keras changes. A model that keeps state in other variables, or that has no loss
    to compute, is left out, said once at debug level.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._functions: dict[Any, Any] = {}
        takes = [*inspect.signature(type(model).compute_loss).parameters]
        self._is_possible = takes[1 : 1 + len(_TAKES)] == _TAKES
        # A user's own may be without this argument.
        self._mode = {"training": False} if "training" in takes else {}

    def __call__(self, batch: Any) -> Any:
        """(replicas, 1) float64; None where it can not be had. `batch`: `take_batch`'s.

        None also of a model without batch norm and dropout, and of one not yet built.
        """
        model = self._model
        if not self._is_possible or not model.built or not has_modes(model):
            return None
        try:
            key = spec_key(tree.map_structure(tf.type_spec_from_value, batch))
            if key not in self._functions:
                # Concrete: TensorFlow counts the traces of all models' together.
                function = tf.function(self._losses).get_concrete_function(batch)
                writes = writers(function)
                if writes:
                    raise ValueError(f"its call changes state by {sorted(writes)}")
                self._functions[key] = function
            return self._functions[key](batch)
        except Exception as error:  # a training is not to fail for its statistics
            self._is_possible = False
            _log.debug(
                "TrainingMonitor leaves out the loss gap of %r: %r", model.name, error
            )
            return None

    @tf.autograph.experimental.do_not_convert
    def _losses(self, batch: Any) -> Any:
        strategy = self._model.distribute_strategy
        batch = without_optionals(batch)
        losses = strategy.run(self._replica_loss, args=(batch,))
        return tf.stack(strategy.experimental_local_results(losses))

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


def writers(concrete_function: Any) -> set[str]:
    """Types of the nodes in a traced function that write to variables or tables."""
    graph = concrete_function.graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    return {
        node.op
        for node in nodes
        if node.op.startswith(_WRITES) and node.op not in _READS
    }
