"""How a training step is looked at on JAX: weights, batch norm and metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kbn.private import keras as private

from .inventory import Contents
from .probe import Asked, Recorded, Seen, of_weights, tell_of_blindness


def make(
    model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
) -> "Probe":
    """The probe of a model's training function."""
    tell_of_blindness(asked, say)
    return Probe(model, asked, contents)


def as_array(variable: Any) -> Any:
    """A variable as an array."""
    return np.asarray(variable.value)


def scratch_graph() -> None:
    """There are no graphs."""


class Probe:
    """See `probe.Probe`. Within an epoch, a model's weights are what a call returns."""

    data_ends = (StopIteration,)

    def __init__(self, model: Any, asked: Asked, contents: Contents) -> None:
        self._model = model
        self._asked, self._contents = asked, contents
        self.function = model.train_function

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

    def look(
        self, evaluates: bool, notes: Callable[[], None], *given: Any
    ) -> tuple[Any, Seen]:
        """See `probe.Probe`."""
        seen = of_weights(self._model, self._asked, self._contents)
        returned = self.function(*given)
        self.settle(returned)
        return returned, seen

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        logs, _ = returned
        return logs if isinstance(logs, dict) else {}

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; `float(loss)` takes five times as long: JAX 0.10."""
        return float(np.asarray(loss)) if waits or loss.is_ready() else None

    def close(self) -> None:
        """Nothing was changed."""
