"""The losses of a batch in evaluation mode, by a traced function of TensorFlow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .batches import flat, spec_of
from .pruned import PrunedStep
from .python_state import python_state_kept


class TracedLosses:
    """See `LossEvaluation`; variables that are none of Keras' are put back."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._functions: dict[Any, Any] = {}
        self._kept: list[Any] = []

    def __call__(self, loss: Callable[[Any], Any], batch: Any) -> Any:
        """(replicas, 1) float64, a tensor."""
        spec = spec_of(batch)
        key = str(spec)
        if key not in self._functions:
            self._functions[key] = self._traced(loss, spec)
        return self._functions[key](flat(batch), None)

    def _traced(self, loss: Callable[[Any], Any], spec: Any) -> PrunedStep:
        strategy = self._model.distribute_strategy
        names = []

        @tf.autograph.experimental.do_not_convert
        def one(data: Any) -> Any:
            return tf.cast(loss(data), tf.float64)[None]

        @tf.autograph.experimental.do_not_convert
        def losses(batch: Any) -> Any:
            found = strategy.run(one, args=(batch,))
            stacked = tf.stack(strategy.experimental_local_results(found))
            names.append(stacked.name)
            return stacked

        with python_state_kept(self._model):
            function = tf.function(losses).get_concrete_function(spec)
        # Not what the function returns: that waits for all that it does.
        named = {"losses": names[-1]}
        pruned = PrunedStep(function.graph, named, lambda x, _: x["losses"])
        # The bodies of its loops are gone with it: TensorFlow 2.21 ends the process.
        self._kept.append(function)
        if pruned.runs_python:  # it may have a state of its own
            raise ValueError("its call runs a Python function")
        return pruned
