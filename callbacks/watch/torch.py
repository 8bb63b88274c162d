"""How a training step is looked at on torch: weights, batch norm and metrics."""

from typing import Any

import keras

from . import plain
from .probe import Recorded
from .weights_probe import WeightsProbe
from .weights_probe import scratch_graph as scratch_graph

host = plain


def as_array(variable: Any) -> Any:
    """A variable as an array: of one on the CPU, the same memory."""
    return keras.ops.convert_to_numpy(variable.value)


class Probe(WeightsProbe):
    """See `probe.Probe`."""

    def steps(self, data: Any) -> int:
        """See `probe.Probe`."""
        return 1

    def record(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Recorded]:
        """See `probe.Probe`; a call is given its batches in a list."""
        recorded = Recorded(iter(()))
        recorded.last = given[0][-1]
        return given, recorded

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; of a GPU, torch does not tell."""
        is_there = not getattr(loss, "is_cuda", False)
        return float(loss) if waits or is_there else None


make = Probe
