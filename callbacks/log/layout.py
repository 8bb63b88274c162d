"""The Custom Scalars tab as a dashboard: which tags are drawn in which chart."""

import re
from collections.abc import Iterable
from typing import Any

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util.tensor_util import make_tensor_proto

from ..diagnostics.registry import REGISTRY

BANDS = ("activations", "gradients", "weights")


def charts() -> dict[str, dict[str, list[str]]]:
    """{category: {title: regular expressions of its tags}}, from the registry.

    Every run that has such tags is drawn. A title names the guide values.
    """
    guides: dict[tuple[str, str], str] = {}
    tags: dict[str, dict[str, list[str]]] = {}
    for one in REGISTRY.values():
        if one.chart is None:
            continue
        category, title = one.chart.category, one.chart.title
        drawn = tags.setdefault(category, {}).setdefault(title, [])
        expression = one.chart.tags or one.chart_regex
        drawn += [expression] if expression not in drawn else []
        if one.guide is not None:
            guides.setdefault((category, title), one.guide.title())
    return {
        category: {
            ", ".join(filter(None, (title, guides.get((category, title))))): drawn
            for title, drawn in titles.items()
        }
        for category, titles in tags.items()
    }


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
        """With these tags too: a value of a Summary proto, None if nothing is new."""
        new = set(tags) - self._tags
        if not new:
            return None
        self._tags |= new
        layout = self._layout()
        if layout == self._written:
            return None
        self._written = layout
        return summary_pb2.Summary.Value(
            tag=metadata.CONFIG_SUMMARY_TAG,
            tensor=make_tensor_proto(layout.SerializeToString()),
            metadata=metadata.create_summary_metadata(),
        )

    def _layout(self) -> Any:
        layout = layout_pb2.Layout()
        for title, lines_of in charts().items():
            lines = [
                layout_pb2.Chart(
                    title=name, multiline=layout_pb2.MultilineChartContent(tag=tags)
                )
                for name, tags in lines_of.items()
                if any(map(self._has, tags))
            ]
            if lines:
                layout.category.add(title=title, chart=lines)
        for kind in BANDS:
            if bands := self._bands(f"quantiles/{kind}/"):
                layout.category.add(title=f"{kind.title()}, 5 to 95 %", chart=bands)
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

    def _has(self, expression: str) -> bool:
        return any(re.match(expression, tag) for tag in self._tags)
