"""A run as its report has it: verdict, health, metrics and distributions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..alerts.alert import Alert
from ..log.logged import Histograms, LoggedRun
from ..signals.guide import worst_of
from ..signals.record import Record
from ..signals.subjects import EPOCH
from ..signals.targets import guess
from .configuration import configuration
from .course import Band, Course, band_of, courses_of
from .health import MEASURES, Health, Measured, Row, health, layer_of, measured
from .quality import Ticked, ticked
from .verdict import HEALTHY, UNKNOWN, level_of, open_of, verdict

# Beside the metrics of `fit`: tag -> name.
OTHERS = {
    "loss_gap/train_eval": "loss difference, evaluation to training mode",
    "gradient_norm/global": "gradient norm, before clipping",
    "learning_rate": "learning rate",
    "loss_scale": "loss scale",
}
WEIGHT_DRIFT, SHIFT = "weight_drift/", "activation_shift/"
SHARES_OF_ONE = ("acc", "precision", "recall")  # in the names of metrics
# Of `MEASURES`, those of a batch norm.
OF_BATCH_NORM = (
    *("difference, mean", "difference, variance"),
    *("batch norm's elements", "collapsed channels"),
)
BAND_LAYERS = 4  # layers of which bands are drawn


@dataclass(frozen=True)
class Metric:
    """One metric in training and in validation; one of them may be missing."""

    name: str
    training: Course | None
    validation: Course | None = None
    tag: str = ""  # of the training's

    @property
    def is_of_fit(self) -> bool:
        """Whether the epochs have it, not the looks."""
        return self.tag.startswith(EPOCH)

    @property
    def is_loss(self) -> bool:
        """Whether it is the loss that is trained."""
        return self.tag == f"{EPOCH}loss"

    @property
    def is_setting(self) -> bool:
        """Whether it is constant and the configuration has it."""
        if self.training is None or self.tag not in ("learning_rate", "loss_scale"):
            return False
        return self.training.minimum == self.training.maximum

    @property
    def is_share(self) -> bool:
        """Whether it is a share of 1 that people say in percent."""
        known = [course.finite for _, course in self.courses]
        is_within = all(((x >= 0) & (x <= 1)).all() for x in known)
        return is_within and any(x in self.name for x in SHARES_OF_ONE)

    @property
    def courses(self) -> Iterator[tuple[str, Course]]:
        """("training" or "validation", its course) of those there are."""
        for kind, course in (
            ("training", self.training),
            ("validation", self.validation),
        ):
            if course is not None and len(course.steps):
                yield kind, course


@dataclass
class Layer:
    """A row of the table of layers: {measure: the worst course of that measure}."""

    name: str
    kind: str
    row: Row
    measures: dict[str, Measured]


@dataclass
class BatchNorm:
    """One batch norm: its settings, and the courses of its measures."""

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
    metrics: list[Metric]
    health: Health
    layers: list[Layer]
    bands: list[Band]
    batch_norms: list[BatchNorm]
    configuration: dict[str, dict[str, str]]
    problems: list[str]
    has_batch_norm: bool | None  # None if no layer is known
    last: dict[str, float]  # of each metric of the epochs, by Keras' name
    drift: dict[str, Course]  # by path of the weight
    shift: dict[str, Course]  # by layer
    quality: list[Ticked]
    kernels: dict[str, Band]  # by path, in forward order
    steps: int
    is_running: bool
    guess: float | None  # the loss of guessing
    epochs: Course  # the last step of each, and its number

    @property
    def open(self) -> list[Alert]:
        """The alerts that are not over: the worst first, then the oldest."""
        return open_of(self.alerts)

    @property
    def best(self) -> tuple[Metric, Course, float] | None:
        """What runs are ranked by, its course, and its best value; None: nothing.

        A validated accuracy or the like if there is one, else the loss.
        """
        known = [(x, x.validation or x.training) for x in self.metrics if x.is_of_fit]
        ranked = sorted(known, key=lambda x: (x[0].validation is None, x[0].is_loss))
        for metric, course in ranked:
            if course is not None and (metric.is_share or metric.is_loss):
                best = course.minimum if metric.is_loss else course.maximum
                return metric, course, best
        return None

    @property
    def best_in_words(self) -> str:
        """`val_accuracy 97.8 %`; empty where nothing is known."""
        if self.best is None:
            return ""
        metric, _, value = self.best
        shown = f"{100 * value:.3g} %" if metric.is_share else f"{value:.4g}"
        return f"{'val_' if metric.validation else ''}{metric.name} {shown}"

    @property
    def is_healthy(self) -> bool:
        """Whether no warning is open."""
        return self.level in (HEALTHY, "info")

    @property
    def in_short(self) -> str:
        """Its verdict without the cure: `not learning since ...`."""
        so_far = " so far" * self.is_running
        if not self.is_healthy:
            said, _, _ = self.verdict.partition(". ")
            return f"{said[:1].lower()}{said[1:].rstrip('.')}{so_far and ', so far'}."
        best = f", {self.best_in_words} at best" if self.best else ""
        return f"healthy{so_far}{best}."

    @property
    def rank(self) -> tuple[int, float]:
        """The sickest first; of equals, the best."""
        levels = ("critical", "warning", UNKNOWN, "info", HEALTHY)
        if self.best is None or math.isnan(self.best[2]):
            return levels.index(self.level), math.inf
        metric, _, value = self.best
        return levels.index(self.level), value if metric.is_loss else -value

    @property
    def over(self) -> list[Alert]:
        """The alerts that are over, the newest first."""
        found = [alert for alert in self.alerts if not alert.is_open]
        return sorted(found, key=lambda x: -x.step)


def report_of(run: LoggedRun) -> RunReport:
    """The report of a run, from its log alone."""
    courses = courses_of(run.entries)
    record = Record(run.record)
    found = measured(courses, record)
    last = run.entries[-1].step if run.entries else 0
    seen = health(found, run.alerts, record, last)
    layers = _layers(seen, found, record)
    shown = layers_to_show([layer.row for layer in layers])
    return RunReport(
        name=run.name,
        directory=str(run.directory),
        level=level_of(run, courses),
        verdict=verdict(run, courses),
        alerts=run.alerts,
        metrics=metrics_of(courses),
        health=seen,
        layers=layers,
        bands=_bands(run.histograms, shown, record),
        batch_norms=_batch_norms(courses, record),
        configuration=configuration(run),
        problems=run.problems,
        has_batch_norm=None if record.is_empty else any(record.batch_norms()),
        last={
            tag.removeprefix(EPOCH): course.last
            for tag, course in courses.items()
            if tag.startswith(EPOCH)
        },
        drift=_under(WEIGHT_DRIFT, courses),
        shift=_under(SHIFT, courses),
        quality=ticked(courses, record, run.alerts),
        steps=last,
        is_running=bool(run.record.get("is_running")),
        guess=courses[guess.tag].last if guess.tag in courses else None,
        epochs=_ends(courses),
        kernels={
            path: band_of(tag, path, run.histograms[tag])
            for path, tag in _kernels(run.histograms, record).items()
        },
    )


def _ends(courses: Mapping[str, Course]) -> Course:
    known = courses.get("epoch")
    ends = {} if known is None else dict(zip(known.values, known.steps, strict=True))
    ends = {epoch: step for epoch, step in ends.items() if math.isfinite(epoch)}
    return Course(np.array([*ends.values()], np.int64), np.array([*ends], np.float64))


def _under(prefix: str, courses: Mapping[str, Course]) -> dict[str, Course]:
    """The courses of the tags with this prefix, by the rest of the tag."""
    own = {tag: course for tag, course in courses.items() if tag.startswith(prefix)}
    return {tag.removeprefix(prefix): course for tag, course in own.items()}


def metrics_of(courses: Mapping[str, Course]) -> list[Metric]:
    """Loss first, then the metrics of `fit`, then gradient norm and learning rate."""
    names = [tag.removeprefix(EPOCH) for tag in courses if tag.startswith(EPOCH)]
    # `val_` of a metric that is there, or of one that is only validated.
    bare = dict.fromkeys(name.removeprefix("val_") for name in names)
    ordered = sorted(bare, key=lambda name: (name != "loss", not name.endswith("loss")))
    found = [
        Metric(name, courses.get(tag), courses.get(f"{EPOCH}val_{name}"), tag)
        for name in ordered
        for tag in [f"{EPOCH}{name}"]
    ]
    if "loss" not in bare and "loss/train" in courses:
        known = courses["loss/train"]
        found.insert(0, Metric("loss of the snapshot's batch", known, tag="loss/train"))
    found += [
        Metric(name, courses[tag], tag=tag)
        for tag, name in OTHERS.items()
        if tag in courses
    ]
    return found


def _layers(seen: Health, found: list[Measured], record: Record) -> list[Layer]:
    """The layers in forward order, each measure at the worst of their weights."""
    grouped: dict[str, dict[str, list[Measured]]] = {}
    for one in found:
        grouped.setdefault(one.layer, {}).setdefault(one.what, []).append(one)
    return [
        Layer(
            row.layer,
            record.kind(row.layer),
            row,
            {what: _worst(several) for what, several in grouped[row.layer].items()},
        )
        for row in seen.rows
        if row.layer in grouped
    ]


def _worst(several: list[Measured]) -> Measured:
    by_place = {one.where: one for one in several}
    last = {where: one.course.last for where, one in by_place.items()}
    return by_place[worst_of(several[0].signal.guide, last)]


def _batch_norms(courses: Mapping[str, Course], record: Record) -> list[BatchNorm]:
    names = {name: tag for tag, name in MEASURES.items() if name in OF_BATCH_NORM}
    found = []
    for layer, settings in record.batch_norms():
        tags = {name: tag.replace("<layer>", layer) for name, tag in names.items()}
        own = {name: courses[tag] for name, tag in tags.items() if tag in courses}
        found.append(BatchNorm(layer, settings, own))
    return found


def _kernels(tags: Mapping[str, object], record: Record) -> dict[str, str]:
    """{path: tag} of the weights of two and more dimensions, in forward order."""
    paths = [
        path
        for tag in tags
        if tag.startswith("weights/")
        and len(record.shape(path := tag.removeprefix("weights/")) or (0, 0)) >= 2
    ]
    return {path: f"weights/{path}" for path in sorted(paths, key=record.position)}


def _bands(
    histograms: Mapping[str, Histograms], layers: Sequence[str], record: Record
) -> list[Band]:
    """Kernels and activations of these layers, in their order, kernels first."""
    tags = [*_kernels(histograms, record).values()]
    tags += [tag for tag in histograms if tag.startswith("activations/")]
    of = {tag: layer_of(tag.partition("/")[2], record) for tag in tags}
    return [
        band_of(tag, layer, histograms[tag])
        for layer in layers
        for tag in tags
        if of[tag] == layer
    ]


def layers_to_show(rows: Sequence[Row]) -> list[str]:
    """The worst layers, and the first and the last: at most four, in forward order."""
    ranked = sorted(rows, key=lambda row: (-row.level, -row.worst))
    worst = [row for row in ranked if (row.level, row.worst) > (-1, 1)]
    chosen = worst[: BAND_LAYERS - 1]
    for row in (*rows[:1], *rows[-1:], *ranked):
        if row not in chosen and len(chosen) < BAND_LAYERS:
            chosen.append(row)
    return [row.layer for row in rows if row in chosen]
