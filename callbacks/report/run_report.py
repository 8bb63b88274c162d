"""What a report tells of one run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..alerts.alert import Alert, rank
from ..alerts.record import Record
from ..log.logged import LoggedRun
from . import facts
from .bands import Band, bands_of, kernels_of, layers_that_matter
from .course import Course, courses_of
from .health import MEASURES, Health, Measured, Row, health, measured

WEIGHT_DRIFT = "weight_drift/"


@dataclass
class Layer:
    """A row of the table of layers: {measure: the worst course of that measure}."""

    name: str
    kind: str
    row: Row
    measures: dict[str, Measured]


@dataclass
class BatchNorm:
    """One batch norm: its settings, and the courses of what is known of it."""

    name: str
    settings: Mapping[str, Any]
    courses: dict[str, Course]


@dataclass
class RunReport:
    """One run: see `Report` for what the names mean."""

    name: str
    directory: str
    level: str
    verdict: str
    alerts: list[Alert]
    metrics: list[facts.Metric]
    health: Health
    layers: list[Layer]
    bands: list[Band]
    batch_norms: list[BatchNorm]
    configuration: dict[str, dict[str, str]]
    problems: list[str]
    has_batch_norm: bool | None
    drift: dict[str, Course] = field(default_factory=dict)  # by path of the weight
    kernels: dict[str, Band] = field(default_factory=dict)  # by path

    @property
    def open(self) -> list[Alert]:
        """The alerts that are not over: the gravest first, then the oldest."""
        found = [alert for alert in self.alerts if alert.is_open]
        return sorted(found, key=lambda x: (-rank(x.level), x.step))

    @property
    def over(self) -> list[Alert]:
        """The alerts that are over, the newest first."""
        found = [alert for alert in self.alerts if not alert.is_open]
        return sorted(found, key=lambda x: -x.step)


def report_of(run: LoggedRun) -> RunReport:
    """All that is told of a run, from its log alone."""
    courses = courses_of(run.entries)
    record = Record(run.record)
    found = measured(courses, record)
    last = run.entries[-1].step if run.entries else 0
    seen = health(found, run.alerts, record, last)
    layers = _layers(seen, found, record)
    matter = layers_that_matter(seen, [layer.name for layer in layers])
    return RunReport(
        name=run.name,
        directory=str(run.directory),
        level=facts.level_of(run),
        verdict=facts.verdict(run, courses),
        alerts=run.alerts,
        metrics=facts.metrics_of(courses),
        health=seen,
        layers=layers,
        bands=bands_of(run.histograms, matter, record),
        batch_norms=_batch_norms(courses, record),
        configuration=facts.configuration(run),
        problems=run.problems,
        has_batch_norm=facts.has_batch_norm(record),
        drift={
            tag.removeprefix(WEIGHT_DRIFT): course
            for tag, course in courses.items()
            if tag.startswith(WEIGHT_DRIFT)
        },
        kernels=kernels_of(run.histograms, record),
    )


def _layers(seen: Health, found: list[Measured], record: Record) -> list[Layer]:
    """Of each layer and measure, the course that ended worst, of several weights."""
    rows = {row.layer: row for row in seen.rows}
    layers: dict[str, Layer] = {}
    for one in found:
        layer = layers.get(one.layer)
        if layer is None:
            kind = record.kind(one.layer)
            layer = Layer(one.layer, kind, rows[one.layer], {})
            layers[one.layer] = layer
        known = layer.measures.get(one.what)
        if known is None or _is_worse(one, known):
            layer.measures[one.what] = one
    return sorted(layers.values(), key=lambda layer: record.position(layer.name))


def _is_worse(one: Measured, other: Measured) -> bool:
    guide = one.diagnostic.guide
    counts_down = guide is not None and guide.sick[1] is None
    ours, theirs = one.course.last, other.course.last
    return ours < theirs if counts_down else ours > theirs


def _batch_norms(courses: Mapping[str, Course], record: Record) -> list[BatchNorm]:
    names = [name for name, _ in record.batch_norms()]
    told = {"gap, mean", "gap, variance", "batch norm's elements", "collapsed channels"}
    tags = {tag: what for tag, what in MEASURES.items() if what in told}
    return [
        BatchNorm(
            name,
            record.batch_norm(name),
            {
                what: courses[found]
                for tag, what in tags.items()
                if (found := tag.replace("<layer>", name)) in courses
            },
        )
        for name in names
    ]
