"""What one look saw: rows of numbers become summaries and scalars."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from . import diagnostics, statistics
from .diagnostics import Moments
from .statistics import Summary

Array: TypeAlias = np.ndarray[Any, Any]
Arrays: TypeAlias = Mapping[str, Array]  # tag -> (replicas, row)

QUANTILES = {"p05": 0.05, "p50": 0.50, "p95": 0.95}
SUMMARIZED = ("weights/", "gradients/", "activations/", "batch_norm/")


@dataclass
class Look:
    """Histograms and scalars by tag."""

    histograms: dict[str, Summary] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)

    def add_summaries(
        self, summaries: Mapping[str, Summary], quantiles: bool = False
    ) -> None:
        """Histograms, and the scalars that follow from them."""
        self.histograms |= summaries
        for tag, summary in summaries.items():
            if summary.non_finite:
                self.scalars[f"health/non_finite/{tag}"] = float(summary.non_finite)
            is_batch_norm = tag.startswith("batch_norm/")
            if quantiles and summary.count and not is_batch_norm:
                values = summary.quantiles([*QUANTILES.values()]).tolist()
                for name, value in zip(QUANTILES, values, strict=True):
                    self.scalars[f"quantiles/{tag}/{name}"] = value
        # Those of a second application in the same step are named gradients/...#1.
        norms = [
            summary.norm
            for tag, summary in summaries.items()
            if tag.startswith("gradients/") and "#" not in tag
        ]
        if norms:
            self.scalars["gradient_norm/global"] = diagnostics.global_norm(norms)

    def add_measures(self, arrays: Arrays) -> None:
        """Scalars of rows that are no summaries, and histograms of batch moments."""
        for tag, rows in arrays.items():
            kind = tag.split("/")[0]
            if kind in ("update_ratio", "distance_from_init"):
                self._add(tag, getattr(diagnostics, kind)(*rows[0]))
            elif tag.startswith("health/dead_units/"):
                elements, active = rows[:, 0].sum(), rows[:, 1:].sum(axis=0)
                self._add(tag, diagnostics.dead_units(active, elements))
            elif tag.startswith("health/saturated/"):
                elements, outside = rows.sum(axis=0)
                self._add(tag, diagnostics.saturated(outside, elements))
            elif kind == "moments":
                self._add_moments(tag.removeprefix("moments/"), rows, arrays)
        if {"loss/trained", "loss/evaluated"} <= arrays.keys():
            # Replicas: the mean of their losses, in either mode.
            losses = (
                arrays[f"loss/{mode}"].mean() for mode in ("trained", "evaluated")
            )
            gap = diagnostics.train_eval_gap(*map(float, losses))
            self._add("loss_gap/train_eval", gap)

    def _add_moments(self, call: str, rows: Array, arrays: Arrays) -> None:
        parts = [Moments(r[0], *np.split(r[1:], 2)) for r in rows]
        batch = diagnostics.merge_moments(parts)
        if not batch.elements:
            return
        for name, values in (("mean", batch.mean), ("variance", batch.variance)):
            tag = f"batch_norm/{call}/batch_{name}"
            self.add_summaries({tag: statistics.summarize(values, values.size)})
        # Further calls of a shared layer, name#1, have the same moving statistics.
        layer = call if f"moving/{call}" in arrays else call.rpartition("#")[0]
        mean, variance = np.split(arrays[f"moving/{layer}"][0], 2)
        gap = f"batch_norm_gap/{call}"
        self._add(f"{gap}/mean", diagnostics.mean_gap(batch, mean))
        self._add(f"{gap}/variance", diagnostics.variance_gap(batch, variance))

    def _add(self, tag: str, value: float | None) -> None:
        if value is not None:  # None: the formula has no value here
            self.scalars[tag] = float(value)


def read_back(rows: Mapping[str, Any]) -> dict[str, Any]:
    """TensorFlow's rows, (replicas, n) each, in one transfer from the device.

    What is an array already, or a summary, stays as it is.
    """
    import tensorflow as tf

    arrays = {k: v for k, v in rows.items() if isinstance(v, np.ndarray | Summary)}
    order, rows = [*rows], {k: v for k, v in rows.items() if k not in arrays}

    # Those of one width together: a hundred reshapes take longer than most of them.
    widths: dict[int, list[str]] = {}
    for tag, row in rows.items():
        widths.setdefault(int(row.shape[1]), []).append(tag)
    if not widths:
        return arrays
    groups = [tf.concat([rows[tag] for tag in tags], 0) for tags in widths.values()]
    flat = tf.concat([tf.reshape(group, [-1]) for group in groups], 0).numpy()
    for width, tags in widths.items():
        for tag in tags:
            size = int(rows[tag].shape[0]) * width
            arrays[tag], flat = flat[:size].reshape(-1, width), flat[size:]
    return {tag: arrays[tag] for tag in order}


def split(arrays: Mapping[str, Any]) -> tuple[dict[str, Summary], dict[str, Array]]:
    """Those that are summaries, merged over the replicas, and the others."""
    summaries, others = {}, {}
    for tag, rows in arrays.items():
        if isinstance(rows, Summary):
            summaries[tag] = rows
        elif tag.startswith(SUMMARIZED):
            summaries[tag] = _merged(rows)
        else:
            others[tag] = rows
    return summaries, others


def _merged(rows: Iterable[Array]) -> Summary:
    return statistics.merge([*map(statistics.from_row, rows)])
