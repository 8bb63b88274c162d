"""A probe that sees weights and no tensors of a step, as on JAX and torch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ..signals.own import Named, Tensors, evaluate
from .inventory import Contents
from .probe import Asked, Seen


class WeightsProbe:
    """See `probe.Probe`; what a backend does otherwise, its own probe says."""

    data_ends = (StopIteration,)

    def __init__(
        self, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> None:
        self.function = model.train_function
        self._model = model
        self._asked = asked
        self._contents = contents
        if {"gradients", "activations"} & {*asked.watch}:
            say(
                "cannot see gradients and activations on the "
                f"{keras.backend.backend()} backend: it logs metrics, weights and "
                "batch norm. For all of it set KERAS_BACKEND=tensorflow."
            )

    def attach(self, *given: Any) -> None:
        """Nothing to do: the model has its weights at any time."""

    def settle(self, returned: Any) -> None:
        """See `attach`."""

    def look(
        self, evaluates: bool, notes: Callable[[], None], *given: Any
    ) -> tuple[Any, Seen]:
        """See `probe.Probe`; signals of the user's own are of the weights before."""
        seen = Seen()
        if self._asked.signals:
            weights = self._contents.of(self._model).weights
            makers = {path: functools.partial(_value, x) for path, x in weights.items()}
            tensors = Tensors(Named({}), Named({}), Named(makers))
            seen.own = evaluate(self._asked.signals, tensors, seen.failed)
        returned = self.function(*given)
        self.settle(returned)
        return returned, seen

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        return returned if isinstance(returned, dict) else {}

    def close(self) -> None:
        """Nothing was changed."""


def scratch_graph() -> None:
    """There are no graphs."""


def _value(weight: Any) -> Any:
    return keras.ops.convert_to_tensor(weight)
