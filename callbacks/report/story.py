"""The report as one tree of sections, which each writer writes down in its own way.

A chart, a table or a section is added here, and nowhere else.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ..alerts.alert import Alert, since
from .comparison import DASHES, WITHOUT, colours, differences
from .course import SHARES, Band, Course, largest_of
from .health import BEYOND, BROKEN, HEALTHY, WORDS, Health, Measured, severities
from .run_report import BatchNorm, Layer, Metric, RunReport, named

LEVELS = {"critical": "✖", "warning": "▲", "info": "●", "healthy": "✔", "unknown": "?"}
SIGNS = {BEYOND: "! ", BROKEN: "X "}
DASHED = {"validation": "2 3"}  # dotted, as in the demo's picture
# With batch norm and without, as where runs are compared; lighter on a dark page.
BLUE, ORANGE = "var(--accent)", "var(--g2)"
KERNELS = 3  # whose distributions are shown side by side, where runs are compared
SIDES = 6  # runs of which they are


# --- what a report is made of ---


@dataclass(frozen=True)
class Cell:
    """A cell of a table; all but `text` is decoration that a writer may leave out."""

    text: str = ""
    course: Course | None = None  # a small curve
    note: str = ""  # below a header, or for who points at a cell
    colour: str = ""  # of a run
    severity: int = HEALTHY


@dataclass
class Table:
    """`right`: columns of numbers; `quiet`: rows that a short table may leave out."""

    header: Sequence[str | Cell]
    rows: Sequence[Sequence[str | Cell]]
    right: Sequence[int] = ()
    quiet: Sequence[int] = ()
    folded: str = ""  # a title, where the table is shown on request


@dataclass(frozen=True)
class Line:
    """A course to draw. `colour`: as CSS has it; `dashes`: as SVG has them."""

    label: str
    course: Course
    colour: str
    dashes: str = ""


@dataclass
class Curves:
    """A chart of courses over the steps."""

    title: str
    lines: list[Line]

    @property
    def is_log(self) -> bool:
        """Whether the axis is logarithmic: all above 0, and over two decades."""
        known = [line.course for line in self.lines if len(line.course.finite)]
        low = min((course.minimum for course in known), default=0.0)
        high = max((course.maximum for course in known), default=0.0)
        return low > 0 and high / low > 100


@dataclass
class Bands:
    """A chart of quantiles over the steps; `beside`: bands that share its scale."""

    title: str
    band: Band
    colour: str
    beside: Sequence[Band] = ()


@dataclass
class Charts:
    """Charts beside each other; `words`: what they show, `table`: their numbers."""

    charts: Sequence[Curves | Bands]
    words: str = ""
    table: Table | None = None


@dataclass
class Alerts:
    """Open alerts, with what they mean and what to try."""

    alerts: Sequence[Alert]


@dataclass
class Settings:
    """{group: {name: value}}."""

    groups: dict[str, dict[str, str]]


# A str is a paragraph; of a Health, the map of layers by time is drawn.
Part: TypeAlias = str | Table | Charts | Alerts | Settings | Health


@dataclass
class Section:
    """A heading and its parts; `data`: its content as JSON has it, under `key`."""

    title: str
    parts: list[Part]
    key: str = ""
    data: Any = None


@dataclass
class Story:
    """A run, or several beside each other, each of them a story of its own."""

    title: str
    verdict: str
    level: str
    sections: list[Section] = field(default_factory=list)
    runs: list["Story"] = field(default_factory=list)
    name: str = ""
    colour: str = ""


def printable(text: object) -> str:
    """A text without line ends and control characters, which a name may have."""
    return "".join(x if x.isprintable() else "\ufffd" for x in str(text))


def number(value: float, digits: int = 4) -> str:
    """A number in a few digits: `0.1234`, `NaN`."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}"


# --- what it tells ---


def story_of(runs: Sequence[RunReport], verdict: str, level: str) -> Story:
    """The report of one run, of several, or of none."""
    if len(runs) < 2:
        own = [ORANGE if run.has_batch_norm is False else BLUE for run in runs]
        title, sections = "", []
    else:
        own = colours(runs)
        title, sections = f"{len(runs)} runs compared", [*_comparison(runs, own)]
    pairs = zip(runs, own, strict=True)
    return Story(title, verdict, level, sections, [_run(*pair) for pair in pairs])


def _run(run: RunReport, colour: str) -> Story:
    title = run.name or run.directory
    sections = [section(run, colour) for section in RUN]
    return Story(title, run.verdict, run.level, sections, [], run.name, colour)


def _alerts(run: RunReport, colour: str) -> Section:
    parts: list[Part] = [Alerts(run.open)] if run.open else []
    if run.over:
        rows = [[f"{LEVELS[x.level]} {named(x)}", since(x), x.ending] for x in run.over]
        title = f"{len(rows)} over by the end"
        parts.append(Table(["alert", "since", "until"], rows, folded=title))
    title = "Open alerts, and what to try" if run.open else "Alerts"
    return Section(title, parts, "alerts", run.alerts)


def _health(run: RunReport, colour: str) -> Section:
    health = run.health
    data = {
        "steps": health.steps,
        "rows": [
            {
                "layer": row.layer,
                "cells": [WORDS[cell.severity] for cell in row.cells],
                "open": [alert.rule for alert in row.open],
            }
            for row in health.rows
        ],
    }
    words = (
        "Layers from input (top) to output, time from left to right. Guide values are "
        "for orientation; an alert is a judgement."
    )
    parts: list[Part] = [words, health] if health.rows else []
    return Section("Health of the layers", parts, "health", data)


def _metrics(run: RunReport, colour: str) -> Section:
    charts = []
    for metric in run.metrics:
        is_named = metric.validation is not None
        lines = [
            Line(kind if is_named else "", course, colour, DASHED.get(kind, ""))
            for kind, course in metric.courses
        ]
        charts.append(Curves(metric.name, lines))
    data = [{"name": x.name, **dict(x.courses)} for x in run.metrics]
    parts: list[Part] = [Charts(charts, table=_numbers(charts))] if charts else []
    return Section("Loss and metrics", parts, "metrics", data)


def _distributions(run: RunReport, colour: str) -> Section:
    charts = [Bands(band.tag, band, colour) for band in run.bands]
    data = [
        {
            "tag": band.tag,
            "steps": band.steps,
            "shares": SHARES,
            "quantiles": band.quantiles,
        }
        for band in run.bands
    ]
    words = (
        "The layers that matter most: the middle 90 % and 50 % of weights and outputs, "
        "around the median."
    )
    parts: list[Part] = [Charts(charts, words)] if charts else []
    return Section("How distributions move", parts, "bands", data)


def _layers(run: RunReport, colour: str) -> Section:
    data = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "last": {name: x.course.last for name, x in layer.measures.items()},
        }
        for layer in run.layers
    ]
    guides: dict[str, str] = {}
    for layer in run.layers:
        for name, one in layer.measures.items():
            guide = one.diagnostic.guide
            guides.setdefault(name, guide.title() if guide else "")
    table = Table(
        ["layer", "kind", *(Cell(name, note=guide) for name, guide in guides.items())],
        [
            [_name(layer), layer.kind, *(_measure(layer, x) for x in guides)]
            for layer in run.layers
        ],
        range(2, 2 + len(guides)),
        [i for i, layer in enumerate(run.layers) if layer.row.is_quiet],
    )
    words = (
        "Each measure at the end; of several weights, the worst. Marked with ! is what "
        "lies far beyond the guide values, with X what is NaN or Inf."
    )
    parts: list[Part] = [words, table] if run.layers else []
    return Section("Layers", parts, "layers", data)


def _name(layer: Layer) -> str:
    mark = f"{LEVELS[layer.row.open[0].level]} " if layer.row.open else ""
    return f"{mark}{layer.name}"


def _measure(layer: Layer, name: str) -> Cell:
    one: Measured | None = layer.measures.get(name)
    if one is None:
        return Cell()
    course = one.course
    severity = int(severities(one.diagnostic, np.array([course.last]))[0])
    text = SIGNS.get(severity, "") + number(course.last, 3)
    span = f"{number(course.minimum, 3)} to {number(course.maximum, 3)}"
    return Cell(text, course, f"{one.where}: {span}", severity=severity)


def _batch_norms(run: RunReport, colour: str) -> Section:
    norms: Sequence[BatchNorm] = run.batch_norms
    measures = [*dict.fromkeys(name for norm in norms for name in norm.courses)]
    rows: list[list[str | Cell]] = []
    for norm in norms:
        settings = [str(norm.settings.get(x, "")) for x in ("momentum", "epsilon")]
        known = [norm.courses.get(name) for name in measures]
        cells = [Cell() if x is None else Cell(number(x.last, 3), x) for x in known]
        frozen = "frozen" if norm.settings.get("is_frozen") else ""
        rows.append([norm.name, *settings, frozen, *cells])
    data = [
        {
            "name": norm.name,
            "settings": dict(norm.settings),
            "last": {name: course.last for name, course in norm.courses.items()},
        }
        for norm in norms
    ]
    words = (
        "A difference is that between the statistics of a batch, which training uses, "
        "and the moving ones, which inference uses."
    )
    header = ["layer", "momentum", "epsilon", "", *measures]
    right = [1, 2, *range(4, len(header))]
    parts: list[Part] = [words, Table(header, rows, right)] if norms else []
    return Section("Batch norm", parts, "batch_norms", data)


def _configuration(run: RunReport, colour: str) -> Section:
    known = {group: values for group, values in run.configuration.items() if values}
    parts: list[Part] = [Settings(known)] if known else []
    parts.append(f"Read from the event files in {run.directory}.")
    return Section("Configuration", parts, "configuration", run.configuration)


def _problems(run: RunReport, colour: str) -> Section:
    title = "What could not be read"
    return Section(title, [*run.problems], "problems", run.problems)


# The sections on a run, in the order in which they are read.
RUN = (
    *(_alerts, _health, _metrics, _distributions),
    *(_layers, _batch_norms, _configuration, _problems),
)


def _numbers(charts: Sequence[Curves]) -> Table:
    rows: list[list[str | Cell]] = []
    for chart in charts:
        for line in chart.lines:
            course = line.course
            ends = course.first, course.last, course.minimum, course.maximum
            lost = str(course.non_finite) if course.non_finite else ""
            shown = map(number, ends)
            rows.append([chart.title, line.label, *shown, lost, Cell("", course)])
    header = ["metric", "", "first", "last", "lowest", "highest", "NaN", ""]
    return Table(header, rows, range(2, 7), folded="As a table")


# --- several runs ---


def _comparison(runs: Sequence[RunReport], own: Sequence[str]) -> Iterator[Section]:
    names = [Cell(run.name, colour=x) for run, x in zip(runs, own, strict=True)]
    verdicts: list[list[str | Cell]] = [
        [name, LEVELS[run.level], run.verdict]
        for name, run in zip(names, runs, strict=True)
    ]
    yield Section("", [Table(["run", "", "verdict"], verdicts)])
    styles = [*zip(runs, own, _dashes(own), strict=True)]
    if charts := _shared(styles):
        yield Section("Loss and metrics", [Charts(charts)])
    rows = [[name, *cells] for name, cells in differences(runs)]
    yield Section("What differs", [Table(["", *names], rows)])
    yield from _drift(styles)


Style: TypeAlias = tuple[RunReport, str, str]  # a run, its colour and its dashes


def _dashes(own: Sequence[str]) -> list[str]:
    """Dashes that tell, beside its colour, a run from others of its kind."""
    kinds = [colour in WITHOUT for colour in own]
    return [DASHES[kinds[:i].count(x) % len(DASHES)] for i, x in enumerate(kinds)]


def _shared(styles: Sequence[Style]) -> list[Curves]:
    """A chart for each metric, with a line for each run."""
    charts: dict[tuple[str, str], Curves] = {}
    for run, colour, dashes in styles:
        for metric in run.metrics:
            for kind, course in metric.courses:
                title = _title(metric, kind)
                chart = charts.setdefault((metric.name, kind), Curves(title, []))
                chart.lines.append(Line(run.name, course, colour, dashes))
    return [*charts.values()]


def _title(metric: Metric, kind: str) -> str:
    return f"{metric.name}, {kind}" if metric.validation else metric.name


def _drift(styles: Sequence[Style]) -> Iterator[Section]:
    lines = [
        Line(run.name, largest_of(run.drift.values()), colour, dashes)
        for run, colour, dashes in styles
        if run.drift
    ]
    sides = [(run, colour) for run, colour, _ in styles if run.kernels][:SIDES]
    words = (
        "How far the distribution of a weight has moved, in its own standard "
        "deviations at the start; below, the middle 90 % and 50 % of a weight, in all "
        "runs on one scale."
    )
    parts: list[Part] = [Charts([Curves("largest drift of a weight", lines)], words)]
    paths = dict.fromkeys(path for run, _ in sides for path in run.kernels)
    shared = [path for path in paths if all(path in run.kernels for run, _ in sides)]
    for path in (shared or [*paths])[:KERNELS]:
        known = [(run, colour) for run, colour in sides if path in run.kernels]
        beside = [run.kernels[path] for run, _ in known]
        charts = [
            Bands(f"{path}: {run.name}", run.kernels[path], colour, beside)
            for run, colour in known
        ]
        parts.append(Charts(charts))
    if lines or sides:
        yield Section("Drift of the weights", parts)
