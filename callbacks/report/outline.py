"""A report in words and tables, which text and Markdown write down each in its way."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..alerts.alert import Alert
from . import facts
from .compare import differences
from .course import Course
from .health import BROKEN, MIND, SICK, UNKNOWN, Health, Row
from .run_report import RunReport

SYMBOLS = {UNKNOWN: " ", 0: "·", MIND: "-", SICK: "!", BROKEN: "X"}
LEGEND = "· healthy, - outside of the guide values, ! far beyond, X NaN or Inf"
LEVELS = {"critical": "✖", "warning": "▲", "info": "●", "healthy": "✔", "unknown": "?"}
HEALTHY_ROWS = 12  # of layers in text, beside those that are not
BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Table:
    """Cells as they are to be read; `right`: columns of numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()


@dataclass
class Section:
    """A heading, sentences, tables; `level` 1 for a run, 2 within it."""

    title: str
    level: int = 2
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    drawing: list[str] = field(default_factory=list)  # lines of equal width


def printable(text: object) -> str:
    """Without line ends and control characters, which a name may have."""
    return "".join(x if x.isprintable() else "\ufffd" for x in str(text))


def number(value: float, digits: int = 4) -> str:
    """`0.1234`, `NaN`."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}"


def sparkline(course: Course, points: int = 16) -> str:
    """Eight heights; `x` for what is not finite."""
    thin = course.thinned(points)
    low, high = thin.minimum, thin.maximum
    width = (high - low) or 1.0
    if not math.isfinite(width):
        return ""
    return "".join(
        BARS[min(7, int((x - low) / width * 8))] if math.isfinite(x) else "x"
        for x in thin.values
    )


def outline(runs: Sequence[RunReport]) -> Iterator[Section]:
    """Of all runs: the comparison first, if there is one."""
    if len(runs) > 1:
        yield Section(
            f"{len(runs)} runs compared",
            level=1,
            tables=[
                Table(
                    ["run", "", "verdict"],
                    [[run.name, LEVELS[run.level], run.verdict] for run in runs],
                ),
                Table(
                    ["what differs", *(run.name for run in runs)],
                    [[name, *cells] for name, cells in differences(runs)],
                ),
            ],
        )
    for run in runs:
        yield from _run(run)


def _run(run: RunReport) -> Iterator[Section]:
    title = run.name or run.directory
    yield Section(title, 1, [f"{LEVELS[run.level]} {run.verdict}"])
    if run.open:
        yield Section("Open alerts: what it means, what to try", tables=[_open(run)])
    if run.over:
        rows = [
            [f"{LEVELS[x.level]} {x.rule}", _where(x), facts.since(x), x.ending]
            for x in run.over
        ]
        table = Table(["alert", "where", "since", "until"], rows)
        yield Section("Alerts that are over", tables=[table])
    if metrics := [
        [metric.name, kind, *_course(course)]
        for metric in run.metrics
        for kind, course in metric.courses
    ]:
        header = ["metric", "", "first", "last", "lowest", "highest", "NaN", ""]
        yield Section("Metrics", tables=[Table(header, metrics, right=(2, 3, 4, 5, 6))])
    if run.health.rows:
        yield _health(run.health)
    if run.layers:
        yield _layers(run)
    if run.batch_norms:
        rows = [
            [norm.name, *_settings(norm.settings), *_last(norm.courses)]
            for norm in run.batch_norms
        ]
        header = ["layer", "momentum", "epsilon", "gap, mean", "gap, variance"]
        yield Section(
            "Batch norm, at the end",
            tables=[Table([*header, "elements", "collapsed"], rows, range(1, 7))],
        )
    if run.configuration:
        told = [
            f"{group}: {'; '.join(f'{name} {value}' for name, value in values.items())}"
            for group, values in run.configuration.items()
            if values
        ]
        yield Section("Configuration", sentences=told)
    if run.problems:
        yield Section("What could not be read", sentences=list(run.problems))


def _where(alert: Alert) -> str:
    return f"{alert.where} and {alert.others} more" if alert.others else alert.where


def _open(run: RunReport) -> Table:
    return Table(
        ["alert", "where", "since", "measured", "what it means, what to try"],
        [
            [
                f"{LEVELS[x.level]} {x.level}: {x.rule}",
                _where(x),
                facts.since(x),
                facts.measure(x),
                x.message,
            ]
            for x in run.open
        ],
    )


def _course(course: Course) -> list[str]:
    ends = course.first, course.last, course.minimum, course.maximum
    lost = str(course.non_finite) if course.non_finite else ""
    return [*map(number, ends), lost, sparkline(course)]


def _health(health: Health) -> Section:
    rows = _shown(health)
    left = len(health.rows) - len(rows)
    width = max(len(printable(row.layer)) for row in rows)
    drawing = []
    for row in rows:
        cells = "".join(SYMBOLS[cell.grave] for cell in row.cells)
        levels = [x.level for x in row.alerts if x.is_open]
        mark = LEVELS[levels[0]] if levels else " "
        rules = ", ".join(dict.fromkeys(x.rule for x in row.alerts if x.is_open))
        name = f"{mark} {printable(row.layer):{width}}"
        drawing.append(f"{name} {cells} {printable(rules)}".rstrip())
    sentences = [f"Layers from input to output, time from left to right: {LEGEND}."]
    sentences += [f"{left} more layers are healthy."] if left else []
    return Section("Health of the layers", sentences=sentences, drawing=drawing)


def _shown(health: Health) -> list[Row]:
    """Those that are ill, and the first few that are healthy."""
    left, rows = HEALTHY_ROWS, []
    for row in health.rows:
        is_ill = row.level >= 0 or row.worst > MIND
        if is_ill or left > 0:
            rows.append(row)
            left -= not is_ill
    return rows


def _layers(run: RunReport) -> Section:
    measures = [*dict.fromkeys(what for layer in run.layers for what in layer.measures)]
    shown = {row.layer for row in _shown(run.health)}
    rows = [
        [
            layer.name,
            layer.kind,
            *(
                number(layer.measures[what].course.last, 3)
                if what in layer.measures
                else ""
                for what in measures
            ),
        ]
        for layer in run.layers
        if layer.name in shown
    ]
    table = Table(["layer", "kind", *measures], rows, range(2, 2 + len(measures)))
    return Section("Layers, at the end", tables=[table])


def _settings(settings: object) -> list[str]:
    known = settings if isinstance(settings, dict) else {}
    return [str(known.get(name, "")) for name in ("momentum", "epsilon")]


def _last(courses: dict[str, Course]) -> list[str]:
    told = ("gap, mean", "gap, variance", "batch norm's elements", "collapsed channels")
    return [number(courses[x].last, 3) if x in courses else "" for x in told]
