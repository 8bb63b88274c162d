"""The Custom Scalars tab as a dashboard: which tags are drawn in which chart."""

import re
from collections.abc import Iterable
from typing import Any

from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util.tensor_util import make_tensor_proto

# {category: {chart: regular expression of its tags}}; every run that has them is drawn.
LINES = {
    "Training": {
        "loss": r"^epoch/(val_)?loss$",
        "metrics": r"^epoch/(?!(val_)?loss$)",
        "gradient norm, before clipping": r"^gradient_norm/(global|suggested_clip)$",
        "learning rate": r"^learning_rate(/|$)",
        "loss scale": r"^loss_scale(/|$)",
        "skipped steps": r"^skipped_steps(/|$)",
    },
    "Health": {
        "NaN and Inf": r"^health/non_finite/",
        "dead units": r"^health/dead_units/",
        "saturated units": r"^health/saturated/",
        "update ratio of the weights": r"^update_ratio/",
        "distance of the weights from the start": r"^distance_from_init/",
    },
    "Training beside evaluation": {
        "loss gap, evaluation to training mode": r"^loss_gap/train_eval$",
        "batch norm's gap, mean": r"^batch_norm_gap/.+/mean$",
        "batch norm's gap, variance": r"^batch_norm_gap/.+/variance$",
    },
}
BANDS = ("activations", "gradients", "weights")


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
        for title, charts in LINES.items():
            lines = [
                layout_pb2.Chart(
                    title=name, multiline=layout_pb2.MultilineChartContent(tag=[tag])
                )
                for name, tag in charts.items()
                if self._has(tag)
            ]
            if lines:
                layout.category.add(title=title, chart=lines)
        for kind in BANDS:
            if bands := self._bands(f"quantiles/{kind}/"):
                layout.category.add(title=f"{kind.title()}, 5 to 95 %", chart=bands)
        return layout

    def _bands(self, prefix: str) -> list[Any]:
        medians = [x for x in self._tags if x.startswith(prefix) and x.endswith("/p50")]
        charts = []
        for tag in sorted(median.removesuffix("/p50") for median in medians):
            band = layout_pb2.MarginChartContent.Series(
                value=f"{tag}/p50", lower=f"{tag}/p05", upper=f"{tag}/p95"
            )
            margin = layout_pb2.MarginChartContent(series=[band])
            title = tag.removeprefix(prefix)
            charts.append(layout_pb2.Chart(title=title, margin=margin))
        return charts

    def _has(self, expression: str) -> bool:
        return any(re.match(expression, tag) for tag in self._tags)
