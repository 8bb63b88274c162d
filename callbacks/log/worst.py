"""Which layers are the worst: a table in TensorBoard's Text tab.

A scalar carries no name, so the charts of the worst layers cannot say whose it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.text import metadata as text_metadata

from ..diagnostics.layers import highest_of, lowest_of
from ..diagnostics.registry import REGISTRY, Diagnostic

TEXT = "health/worst"


class Row(NamedTuple):
    """The worst layer of a diagnostic at the last look that had two of them."""

    step: int
    which: str  # the worst, the lowest or the highest
    where: str
    value: float


class WorstLayers:
    """Those of the latest looks: not every look has every diagnostic."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}

    def seen(self, step: int, layers: Mapping[str, Mapping[str, float]]) -> Any:
        """With one look more: a value of a Summary proto, None if it has nothing new.

        layers: {tag of a diagnostic: {name of a layer or variable: value}}.
        """
        new = {
            tag: [*_rows(step, REGISTRY[tag], values)]
            for tag, values in layers.items()
            if len(values) > 1
        }
        if not new:
            return None
        self._rows |= new
        metadata = text_metadata.create_summary_metadata(
            display_name="Worst layers",
            description="Where each diagnostic is worst, as the dashboard draws it.",
        )
        metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
        text = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, string_val=[self.markdown().encode()]
        )
        text.tensor_shape.SetInParent()
        return summary_pb2.Summary.Value(tag=TEXT, metadata=metadata, tensor=text)

    def markdown(self) -> str:
        """A table; in bold what is not healthy."""
        table = ["| diagnostic | | layer or variable | value | healthy | step |"]
        table += ["|---|---|---|---|---|---|"]
        for tag, one in REGISTRY.items():
            for row in self._rows.get(tag, []):
                is_healthy = one.guide is None or one.guide.is_healthy(row.value)
                value = f"{row.value:.3g}" if is_healthy else f"**{row.value:.3g}**"
                where = row.where.replace("|", "&#124;")
                healthy = one.guide.range() if one.guide else ""
                cells = f"{one.name} | {row.which} | `{where}` | {value} | {healthy}"
                table.append(f"| {cells} | {row.step} |")
        return "\n".join(table)


def _rows(step: int, one: Diagnostic, values: Mapping[str, float]) -> Iterator[Row]:
    if one.guide is not None:
        found = {"worst": one.guide.worst(values)}
    else:
        found = {"lowest": lowest_of(values), "highest": highest_of(values)}
    for which, where in found.items():
        yield Row(step, which, where, values[where])
