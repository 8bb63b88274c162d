"""How a training step is looked at on torch: weights, batch norm and metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from .inventory import Contents
from .probe import Asked, Recorded, Seen, of_weights, tell_of_blindness


def make(
    model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
) -> "Probe":
    """The probe of a model's training function."""
    tell_of_blindness(asked, say)
    return Probe(model, asked, contents)


def as_array(variable: Any) -> Any:
    """A variable as an array: of one on the CPU, the same memory."""
    return keras.ops.convert_to_numpy(variable.value)


def scratch_graph() -> None:
    """There are no graphs."""


class Probe:
    """See `probe.Probe`."""

    data_ends = (StopIteration,)

    def __init__(self, model: Any, asked: Asked, contents: Contents) -> None:
        self._model = model
        self._asked, self._contents = asked, contents
        self.function = model.train_function

    def steps(self, data: Any) -> int:
        """See `probe.Probe`."""
        return 1

    def attach(self, *given: Any) -> None:
        """Nothing to do: the model has its weights at any time."""

    def settle(self, returned: Any) -> None:
        """See `attach`."""

    def record(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Recorded]:
        """See `probe.Probe`; a call is given its batches in a list."""
        recorded = Recorded(iter(()))
        recorded.last = given[0][-1]
        return given, recorded

    def look(
        self, evaluates: bool, notes: Callable[[], None], *given: Any
    ) -> tuple[Any, Seen]:
        """See `probe.Probe`."""
        seen = of_weights(self._model, self._asked, self._contents)
        return self.function(*given), seen

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        return returned if isinstance(returned, dict) else {}

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; of a GPU, torch does not tell."""
        is_there = not getattr(loss, "is_cuda", False)
        return float(loss) if waits or is_there else None

    def close(self) -> None:
        """Nothing was changed."""
