"""How a training step is looked at on JAX: weights, batch norm and metrics."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kbn.private import keras as private

from . import plain
from .probe import Recorded
from .weights_probe import WeightsProbe
from .weights_probe import scratch_graph as scratch_graph

host = plain


def as_array(variable: Any) -> Any:
    """A variable as an array."""
    return np.asarray(variable.value)


class Probe(WeightsProbe):
    """See `probe.Probe`. Within an epoch, a model's weights are what a call returns."""

    def steps(self, state: Any, iterator: Any) -> int:
        """See `probe.Probe`; `train_on_batch` hands over a generator of one batch."""
        is_own = private.is_of_train_on_batch(iterator)
        return 0 if is_own else self._model.steps_per_execution

    def attach(self, state: Any, *given: Any) -> None:
        """Let the variables have the values of a state of Keras' trainer."""
        private.attach_jax_state(self._model, state)

    def settle(self, returned: Any) -> None:
        """See `attach`."""
        self.attach(returned[1])

    def record(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Recorded]:
        """See `probe.Probe`."""
        state, iterator = given
        recorded = Recorded(iterator)
        return (state, recorded), recorded

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        return super().losses(returned[0])

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; `float(loss)` takes five times as long: JAX 0.10."""
        return float(np.asarray(loss)) if waits or loss.is_ready() else None


make = Probe
