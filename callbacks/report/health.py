"""The map of layers by time, graded by the guide values of the signals."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..alerts.alert import Alert, rank
from ..signals import registry
from ..signals.record import Record
from ..signals.registry import Signal
from .course import Array, Course, columns

WHOLE = "(model)"
COLUMNS = 60
# Severities: in the guide's healthy range, outside of it, beyond its limits, NaN.
UNKNOWN, HEALTHY, OUTSIDE, BEYOND, BROKEN = -1, 0, 1, 2, 3
WORDS = {
    UNKNOWN: "not measured",
    HEALTHY: "healthy",
    OUTSIDE: "outside guide values",
    BEYOND: "beyond guide values",
    BROKEN: "NaN or Inf",
}
# {tag of a signal that grades layers: its short name}.
MEASURES = {
    "health/non_finite/<tag>": "NaN or Inf",
    "health/dead_units/<layer>": "dead units",
    "health/saturated/<layer>": "saturated",
    "gradient_rms/<path>": "gradient",
    "update_ratio/<path>": "update ratio",
    "weight_drift/<path>": "drift",
    "weight_growth/<path>": "growth",
    "batch_norm_gap/<layer>/mean": "difference, mean",
    "batch_norm_gap/<layer>/variance": "difference, variance",
    "batch_norm_elements/<layer>": "batch norm's elements",
    "health/collapsed_channels/<layer>": "collapsed channels",
}


class Measured(NamedTuple):
    """One signal of one layer, weight or call."""

    layer: str
    where: str
    what: str
    signal: Signal
    course: Course


def measured(courses: Mapping[str, Course], record: Record) -> list[Measured]:
    """The courses of the signals in `MEASURES`, each with its layer."""
    found = []
    for tag, course in courses.items():
        one = registry.find(tag)
        if one is not None and one.tag in MEASURES:
            where = one.name_in(tag)
            layer = layer_of(where, record, one)
            if layer is not None:
                found.append(Measured(layer, where, MEASURES[one.tag], one, course))
    return found


def layer_of(where: str, record: Record, one: Signal | None = None) -> str | None:
    """The layer that a name in a tag belongs to; None if it is of no layer."""
    if one is not None and one.tag == "health/non_finite/<tag>":
        if where.startswith("inputs/"):
            return None
        where = re.sub(r"^(weights|gradients|activations|batch_norm)/", "", where)
    known = record.layer(where) or record.layer(where.rpartition("/")[0])
    if known:
        return str(known.get("name"))
    if one is not None and "<path>" in one.tag:  # a log without its record
        return where.rpartition("/")[0] or where
    return re.sub(r"#\d+$", "", where)


def severities(one: Signal, values: Array) -> Array:
    """(n,): HEALTHY, OUTSIDE, BEYOND or BROKEN for each value."""
    if one.guide is None:  # a count of NaN and Inf, which is logged where there are any
        return np.where(values > 0, BROKEN, HEALTHY)
    found = np.full(len(values), HEALTHY)
    bounds = ((one.guide.healthy, OUTSIDE), (one.guide.sick, BEYOND))
    with np.errstate(invalid="ignore"):
        for (low, high), severity in bounds:
            beyond = np.zeros(len(values), bool)
            beyond |= (values < low) if low is not None else False
            beyond |= (values > high) if high is not None else False
            found[beyond] = severity
    found[~np.isfinite(values)] = BROKEN
    return found


class Cell(NamedTuple):
    """The severity of a layer in a stretch of snapshots, and the measure behind it."""

    severity: int
    what: str  # the measure
    why: str  # and its value


@dataclass
class Row:
    """One layer: a cell for each column, and the alerts that name it."""

    layer: str
    cells: list[Cell]
    alerts: list[Alert] = field(default_factory=list)

    @property
    def worst(self) -> int:
        """The highest severity of all cells."""
        return max((cell.severity for cell in self.cells), default=UNKNOWN)

    @property
    def level(self) -> int:
        """The rank of the worst open alert: 0 to 2, -1 for none."""
        return max((rank(x.level) for x in self.open), default=-1)

    @property
    def open(self) -> list[Alert]:
        """The open alerts, the worst first."""
        found = [alert for alert in self.alerts if alert.is_open]
        return sorted(found, key=lambda alert: -rank(alert.level))

    @property
    def is_quiet(self) -> bool:
        """Whether no alert is open and no value lies beyond the guide values."""
        return self.level < 0 and self.worst <= OUTSIDE


@dataclass
class Health:
    """Rows from input to output; steps: the first of each column."""

    steps: Array
    last: int
    rows: list[Row]


def health(
    found: Sequence[Measured], alerts: Sequence[Alert], record: Record, last: int
) -> Health:
    """The health of each layer that was measured or has an alert."""
    steps = columns([s for one in found for s in one.course.steps.tolist()], COLUMNS)
    measures: dict[str, list[Measured]] = {}
    for one in found:
        measures.setdefault(one.layer, []).append(one)
    raised: dict[str, list[Alert]] = {}
    for alert in alerts:
        layer = layer_of(alert.where, record)
        is_known = layer in measures or bool(record.layer(layer or ""))
        is_whole = alert.where == record.model_name or not is_known
        raised.setdefault(WHOLE if is_whole else str(layer), []).append(alert)
    names = sorted({*measures, *raised} - {WHOLE}, key=record.position)
    rows = [
        Row(name, _cells(measures.get(name, ()), steps), raised.get(name, []))
        for name in ([WHOLE] if WHOLE in raised else []) + names
    ]
    return Health(steps, last, rows)


def _cells(found: Iterable[Measured], steps: Array) -> list[Cell]:
    """The worst value in each column; UNKNOWN before anything was measured.

    A value lasts until the next one: the last look may be at weights only.
    """
    cells = [Cell(UNKNOWN, "", "")] * len(steps)
    excess = [-math.inf] * len(steps)
    for one in found:
        values = one.course.values
        places = np.searchsorted(steps, one.course.steps, side="right") - 1
        ends = np.append(places[1:], len(steps))
        lasts = one.signal.guide is not None  # a count of NaN is logged where there are
        ends = np.maximum(ends if lasts else 0, places + 1)
        graded = zip(places, ends, severities(one.signal, values), values, strict=True)
        for first, end, severity, value in graded:
            beyond = _excess(one.signal, value)
            for i in range(first, end):
                if (severity, beyond) > (cells[i].severity, excess[i]):
                    excess[i] = beyond
                    cells[i] = Cell(int(severity), one.what, sentence(one, value))
    return cells


def _excess(one: Signal, value: float) -> float:
    """How far beyond the healthy values, in their own size: to tell the worst."""
    if one.guide is None or not math.isfinite(value):
        return math.inf
    low, high = one.guide.healthy
    if high and value > high:
        return value / high
    return low / max(value, 1e-300) if low and value < low else 0.0


def sentence(one: Measured, value: float) -> str:
    """A value in words: `dead units 0.83, healthy 0 to 0.2`."""
    guide = one.signal.guide
    healthy = f", {guide.title()}" if guide else ""
    return f"{one.what} {value:.3g}{healthy}"
