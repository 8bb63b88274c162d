"""The dashboard in the Custom Scalars tab; alerts and worst layers in the Text tab."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.text import metadata as text_metadata

from ..alerts.alert import Alert, and_more, rank, since
from ..alerts.explanation import command
from ..signals.guide import worst_of
from ..signals.registry import REGISTRY, Signal, find, over_layers
from .records import string_value

ALERTS, WORST = "health/report", "health/worst"  # tags
BANDS = ("activations", "gradients", "weights")
EVERY_LAYER = "Every layer"  # the category of what is drawn elsewhere as its worst


def charts(tags: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """{category: {title: regular expressions of its tags}} for a run with these tags.

    A signal of many layers is drawn as its worst and its median, and once more with
    a line a layer in the last category; one that only a single layer has, as that
    layer, named in the title. A title names the guide values.
    """
    tags = set(tags)
    by_diagnostic: dict[str, list[str]] = {}
    for tag in sorted(tags):
        one = find(tag)
        if one is not None:
            by_diagnostic.setdefault(one.tag, []).append(tag)
    drawn: dict[tuple[str, str], list[str]] = {}
    guides: dict[tuple[str, str], str] = {}
    for one in REGISTRY.values():
        for category, title, expressions in _lines(
            one, by_diagnostic.get(one.tag, []), tags
        ):
            chart = category, title
            known = drawn.setdefault(chart, [])
            known += [x for x in expressions if x not in known]
            if one.guide is not None:
                guides.setdefault(chart, f", {one.guide.title()}")
    found: dict[str, dict[str, list[str]]] = {}
    for chart in sorted(drawn, key=lambda chart: chart[0] == EVERY_LAYER):
        category, title = chart
        titles = found.setdefault(category, {})
        titles[f"{title}{guides.get(chart, '')}"] = drawn[chart]
    return found


def _lines(
    one: Signal, own: Sequence[str], tags: set[str]
) -> Iterator[tuple[str, str, list[str]]]:
    """(category, title, regular expressions) of a signal; `own`: its tags."""
    if one.chart is None or not own:
        return
    category, title = one.chart.category, one.chart.title
    all_of_it = [one.chart.tags or one.chart_regex]
    summaries = [f"^{re.escape(tag)}$" for tag in over_layers(one) if tag in tags]
    if summaries:
        yield category, title, summaries
        yield EVERY_LAYER, title, all_of_it
    elif one.is_of_layers and len(own) == 1:
        # Exactly this tag: beside a run of many layers, it would draw all of theirs.
        lone = f"{title}: {one.name_in(own[0])}"
        yield category, lone, [f"^{re.escape(own[0])}$"]
    else:
        yield category, title, all_of_it


class Layout:
    """Grows with the scalar tags of a run, so that no chart is empty.

    A chart is there as soon as one of its tags is, and so is a band of 5 to 95 % around
    the median for every tensor with quantiles. TensorBoard shows the latest layout of a
    run, and of several runs each chart once, with the data of all of them.
    """

    def __init__(self) -> None:
        self._tags: set[str] = set()
        self._written = layout_pb2.Layout()

    def grown(self, tags: Iterable[str]) -> Any:
        """Add tags; the new layout as a value of a Summary proto, or None."""
        new = set(tags) - self._tags
        if not new:
            return None
        self._tags |= new
        layout = self._layout()
        if layout == self._written:
            return None
        self._written = layout
        content = layout.SerializeToString()
        settings = metadata.create_summary_metadata()
        return string_value(metadata.CONFIG_SUMMARY_TAG, content, settings)

    def _layout(self) -> Any:
        layout = layout_pb2.Layout()
        found = charts(self._tags)
        every_layer = found.pop(EVERY_LAYER, {})
        for title, lines_of in found.items():
            layout.category.add(title=title, chart=_multilines(lines_of))
        for kind in BANDS:
            if bands := self._bands(f"quantiles/{kind}/"):
                layout.category.add(title=f"{kind.title()}, 5 to 95 %", chart=bands)
        if every_layer:
            lines = _multilines(every_layer)
            layout.category.add(title=EVERY_LAYER, chart=lines, closed=True)
        return layout

    def _bands(self, prefix: str) -> list[Any]:
        medians = [x for x in self._tags if x.startswith(prefix) and x.endswith("/p50")]
        bands = []
        for tag in sorted(median.removesuffix("/p50") for median in medians):
            band = layout_pb2.MarginChartContent.Series(
                value=f"{tag}/p50", lower=f"{tag}/p05", upper=f"{tag}/p95"
            )
            margin = layout_pb2.MarginChartContent(series=[band])
            title = tag.removeprefix(prefix)
            bands.append(layout_pb2.Chart(title=title, margin=margin))
        return bands


def _multilines(lines_of: Mapping[str, Sequence[str]]) -> list[Any]:
    return [
        layout_pb2.Chart(
            title=title, multiline=layout_pb2.MultilineChartContent(tag=tags)
        )
        for title, tags in lines_of.items()
    ]


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
        parts.append(f"- {what} in {place}. {alert.said} (`{command(alert.rule)}`)")
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
