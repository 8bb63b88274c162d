"""The dashboard in TensorBoard's Custom Scalars tab."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from ..diagnostics.registry import REGISTRY, Diagnostic, find, over_layers
from .records import string_value

BANDS = ("activations", "gradients", "weights")
EVERY_LAYER = "Every layer"  # the category of what is drawn elsewhere as its worst


class Lines(NamedTuple):
    """The lines of one diagnostic in one chart; `tags`: regular expressions."""

    category: str
    title: str
    tags: Sequence[str]


def charts(tags: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """{category: {title: regular expressions of its tags}} for a run with these tags.

    A diagnostic of many layers is drawn as its worst and its median,
    and once more with a line a layer in the last category; one that only a single layer
    has, as that layer, named in the title. A title names the guide values.
    """
    tags = set(tags)
    by_diagnostic: dict[str, list[str]] = {}
    for tag in sorted(tags):
        one = find(tag)
        if one is not None:
            by_diagnostic.setdefault(one.tag, []).append(tag)
    found: dict[str, dict[str, list[str]]] = {}
    guides: dict[tuple[str, str], str] = {}
    last: dict[str, list[str]] = {}
    for one in REGISTRY.values():
        for lines in _lines(one, by_diagnostic.get(one.tag, []), tags):
            is_last = lines.category == EVERY_LAYER
            titles = last if is_last else found.setdefault(lines.category, {})
            drawn = titles.setdefault(lines.title, [])
            drawn += [tag for tag in lines.tags if tag not in drawn]
            if one.guide is not None:
                guides.setdefault((lines.category, lines.title), one.guide.title())
    if last:
        found[EVERY_LAYER] = last
    return {
        category: {
            ", ".join(filter(None, (title, guides.get((category, title))))): drawn
            for title, drawn in titles.items()
        }
        for category, titles in found.items()
    }


def _lines(one: Diagnostic, own: Sequence[str], tags: set[str]) -> Iterator[Lines]:
    """The charts of a diagnostic; `own`: its tags, of all the `tags` of the run."""
    if one.chart is None or not own:
        return
    category, title = one.chart.category, one.chart.title
    all_of_it = [one.chart.tags or one.chart_regex]
    summaries = [f"^{re.escape(tag)}$" for tag in over_layers(one) if tag in tags]
    if summaries:
        yield Lines(category, title, summaries)
        yield Lines(EVERY_LAYER, title, all_of_it)
    elif one.is_of_layers and len(own) == 1:
        # Exactly this tag: beside a run of many layers, it would draw all of theirs.
        title = f"{title}: {one.name_in(own[0])}"
        yield Lines(category, title, [f"^{re.escape(own[0])}$"])
    else:
        yield Lines(category, title, all_of_it)


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
