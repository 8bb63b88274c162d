"""In TensorBoard's Text tab: the alerts, and a table of the worst layers.

A scalar carries no name, so the charts of the worst layers cannot say whose it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tensorboard.plugins.text import metadata as text_metadata

from ..alerts.alert import Alert, and_more, rank, since
from ..signals.guide import worst_of
from ..signals.registry import REGISTRY
from .records import string_value

ALERTS, WORST = "health/report", "health/worst"  # tags


def alerts_text(alerts: Sequence[Alert]) -> Any:
    """All alerts up to now as a value of a Summary proto, in Markdown."""
    description = "What is wrong with this training, and what to try."
    return _value(ALERTS, "Alerts", description, alert_list(alerts))


def alert_list(alerts: Sequence[Alert]) -> str:
    """A list in Markdown: the open alerts first, of those the worst, the newest on top.

    Not a table: TensorBoard makes columns so narrow that it breaks every word.
    """
    parts = []
    for alert in sorted(alerts, key=lambda x: (not x.is_open, -rank(x.level), -x.step)):
        mark = "**" if alert.is_open else ""
        ending = f", {alert.ending}" if alert.ending else ""
        what = f"{mark}{alert.level}: {alert.title or alert.rule}{mark}"
        place = f"`{alert.where}`{and_more(alert.others)}, since {since(alert)}{ending}"
        parts.append(f"- {what} in {place}. {alert.said} (`{alert.rule}`)")
    return "\n".join(parts)


class Row(NamedTuple):
    """The worst layer of a signal at the last snapshot that had two of them."""

    step: int
    where: str
    value: float


class WorstLayers:
    """The worst layers so far; a snapshot without a signal leaves its row alone."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def seen(self, step: int, layers: Mapping[str, Mapping[str, float]]) -> Any:
        """The table after one more snapshot, as a value of a Summary proto.

        None if the snapshot has nothing new. layers: {tag of a signal: {name of a
        layer or variable: value}}.
        """
        new = {
            tag: Row(step, where, values[where])
            for tag, values in layers.items()
            if len(values) > 1
            for where in [worst_of(REGISTRY[tag].guide, values)]
        }
        if not new:
            return None
        self._rows |= new
        description = "Where each signal is worst, as the dashboard draws it."
        return _value(WORST, "Worst layers", description, self._table())

    def _table(self) -> str:
        rows = []
        for tag, one in REGISTRY.items():
            if (row := self._rows.get(tag)) is None:
                continue
            is_healthy = one.guide is None or one.guide.is_healthy(row.value)
            value = f"{row.value:.3g}" if is_healthy else f"**{row.value:.3g}**"
            healthy = one.guide.range() if one.guide else ""
            rows.append((one.name, f"`{row.where}`", value, healthy, str(row.step)))
        header = ("signal", "worst layer or variable", "value", "healthy", "step")
        return _markdown(header, rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "&#124;") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in (header, *escaped)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _value(tag: str, name: str, description: str, markdown: str) -> Any:
    metadata = text_metadata.create_summary_metadata(name, description)
    return string_value(tag, markdown.encode(), metadata)
