"""How distributions move: quantiles over time, from histograms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..alerts.record import Record
from ..log.logged import Histograms
from .course import Array
from .health import Health, layer_of

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
LAYERS = 4  # of which bands are drawn


@dataclass(frozen=True)
class Band:
    """Quantiles of one tensor; steps: (n,), quantiles: (n, 5) at 5 to 95 %."""

    tag: str
    layer: str
    steps: Array
    quantiles: Array


def quantiles_of(rows: Array) -> Array:
    """(5,) from (n, 3) rows of left edge, right edge, count; NaN of nothing finite."""
    counts = np.where(np.isfinite(rows[:, 2]), rows[:, 2], 0).astype(np.float64)
    if counts.sum() <= 0 or not np.isfinite(rows[:, :2]).all():
        return np.full(len(SHARES), np.nan)
    filled = counts > 0
    ends = np.cumsum(counts[filled])
    starts = ends - counts[filled]
    wanted = np.array(SHARES) * ends[-1]
    bins = np.minimum(np.searchsorted(ends, wanted), len(ends) - 1)
    low, high = (rows[filled, i].astype(np.float64)[bins] for i in (0, 1))
    share = (wanted - starts[bins]) / (ends - starts)[bins]
    # Not low + share * (high - low), whose difference may overflow.
    found: Array = np.where(low == high, low, low * (1 - share) + high * share)
    return found


def band_of(tag: str, layer: str, histograms: Iterable[Any]) -> Band:
    """The band of the histograms of one tag."""
    known = [(rows.step, quantiles_of(rows.array())) for rows in histograms]
    steps = np.array([step for step, _ in known], np.int64)
    return Band(tag, layer, steps, np.array([q for _, q in known]).reshape(-1, 5))


def kernels_of(histograms: Mapping[str, Histograms], record: Record) -> dict[str, Band]:
    """Of the weights of two and more dimensions, by path, in forward order."""
    paths = [
        path
        for tag in histograms
        if tag.startswith("weights/")
        and len(record.shape(path := tag.removeprefix("weights/")) or ()) >= 2
    ]
    return {
        path: band_of(f"weights/{path}", path, histograms[f"weights/{path}"])
        for path in sorted(paths, key=record.position)
    }


def bands_of(
    histograms: Mapping[str, Histograms], layers: Sequence[str], record: Record
) -> list[Band]:
    """Activations and kernels of these layers, in their order."""
    by_layer: dict[str, list[str]] = {}
    for tag in histograms:
        kind, _, where = tag.partition("/")
        if kind not in ("weights", "activations"):
            continue
        shape = record.shape(where)
        if kind == "weights" and len(shape or (0, 0)) < 2:
            continue
        layer = layer_of(where, record)
        if layer is not None:
            by_layer.setdefault(layer, []).append(tag)
    return [
        band_of(tag, layer, histograms[tag])
        for layer in layers
        # Weights first, then what the layer gives.
        for tag in sorted(by_layer.get(layer, ()), key=lambda tag: tag[0] == "a")
    ]


def layers_that_matter(health: Health, names: Sequence[str]) -> list[str]:
    """The illest, and the first and the last, at most four, in forward order."""
    rows = {row.layer: row for row in health.rows}

    def illness(name: str) -> tuple[int, int]:
        row = rows.get(name)
        return (row.level, row.worst) if row else (-1, -1)

    ill = sorted(names, key=lambda name: tuple(-x for x in illness(name)))
    chosen = [name for name in ill if illness(name) > (-1, 1)][: LAYERS - 1]
    for name in (*names[:1], *names[-1:], *ill):
        if name not in chosen and len(chosen) < LAYERS:
            chosen.append(name)
    return [name for name in names if name in chosen]
