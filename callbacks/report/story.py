"""The sections of a report: what it tells of one run, and of several.

A chart, a table or a section is added here, and nowhere else: the writers know the
parts of the tree, not what they tell.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from ..alerts.alert import since
from ..signals.loss import train_loss
from ..signals.registry import find
from .comparison import DASHES, WITHOUT, colours, differences
from .course import SHARES, largest_of
from .health import BEYOND, BROKEN, WORDS, Measured, severities
from .run_report import BatchNorm, Layer, Metric, RunReport
from .tree import (
    LEVELS,
    Alerts,
    Bands,
    Cell,
    Charts,
    Curves,
    Line,
    Part,
    Section,
    Settings,
    Story,
    Table,
    number,
)
from .verdict import named

SIGNS = {BEYOND: "! ", BROKEN: "X "}
DASHED = {"validation": "2 3"}  # dotted, as in the demo's picture
BLUE = "var(--accent)"
KERNELS = 3  # whose distributions are shown side by side, where runs are compared
BEST = 6  # runs of which there are charts
SHIFT_WORDS = (
    "How far what enters activation functions has moved since the snapshot before, in "
    "standard deviations."
)


def story_of(
    runs: Sequence[RunReport], verdict: str, level: str, pages: Sequence[str] = ()
) -> Story:
    """The report of one run, of several, or of none.

    `pages`: where the runs have theirs; without, they follow.
    """
    if len(runs) < 2:
        own = [BLUE] * len(runs)
        title, sections = "", []
    else:
        own = colours(runs)
        links = pages or [f"#run-{i}" for i in range(len(runs))]
        title = f"{len(runs)} runs compared"
        sections = [*_comparison(runs, own, links)]
    told = [] if pages else [_run(*pair) for pair in zip(runs, own, strict=True)]
    return Story(title, verdict, level, sections, told)


def live_story(run: RunReport) -> Story:
    """What is shown of a run while it trains: verdict, map, and the first curves."""
    charts = [
        _chart(x, run, BLUE)
        for x in run.metrics
        if x.is_of_fit or x.tag == train_loss.tag
    ]
    parts: list[Part] = [run.health] if run.health.rows else []
    parts += [Charts(charts[:3])] if charts else []
    return Story(
        "", "", "", [], [Story("", run.verdict, run.level, [Section("", parts)])]
    )


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
    charts = [_chart(x, run, colour) for x in run.metrics if not x.is_setting]
    data = [{"name": x.name, **dict(x.courses)} for x in run.metrics]
    parts: list[Part] = [Charts(charts, table=_numbers(charts))] if charts else []
    return Section("Loss and metrics", parts, "metrics", data)


def _chart(metric: Metric, run: RunReport, colour: str) -> Curves:
    is_named = metric.validation is not None
    lines = [
        Line(kind if is_named else "", course, colour, DASHED.get(kind, ""))
        for kind, course in metric.courses
    ]
    found = find(metric.tag)
    guide = found.guide if found else None
    level = _guessing(run, metric)
    return Curves(metric.name, lines, metric.is_share, level, guide, run.epochs)


def _guessing(run: RunReport, metric: Metric) -> tuple[str, float] | None:
    if run.guess is None or not (metric.is_loss or metric.tag == train_loss.tag):
        return None
    return "guessing", run.guess


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
    return Section("How distributions move", parts, "bands", data, is_folded=True)


def _quality(run: RunReport, colour: str) -> Section:
    rows = [[LEVELS[x.level], x.words, x.shown] for x in run.quality]
    quiet = [i for i, x in enumerate(run.quality) if x.level in ("healthy", "unknown")]
    data = [{"statement": x.words, "level": x.level} for x in run.quality]
    line = Line("", largest_of(run.shift.values()), colour)
    chart = Curves("largest covariate shift of a layer's inputs", [line])
    parts: list[Part] = [Table(["", "asked", "by"], rows, quiet=quiet)]
    parts += [Charts([chart], SHIFT_WORDS)] if run.shift else []
    return Section("Model quality", parts if run.quality else [], "quality", data)


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
            guide = one.signal.guide
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
    return Section("Layers", parts, "layers", data, is_folded=True)


def _name(layer: Layer) -> str:
    mark = f"{LEVELS[layer.row.open[0].level]} " if layer.row.open else ""
    return f"{mark}{layer.name}"


def _measure(layer: Layer, name: str) -> Cell:
    one: Measured | None = layer.measures.get(name)
    if one is None:
        return Cell()
    course = one.course
    severity = int(severities(one.signal, np.array([course.last]))[0])
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
    return Section("Batch norm", parts, "batch_norms", data, is_folded=True)


def _configuration(run: RunReport, colour: str) -> Section:
    known = {group: values for group, values in run.configuration.items() if values}
    parts: list[Part] = [Settings(known)] if known else []
    parts.append(f"Read from the event files in {run.directory}.")
    data = run.configuration
    return Section("Configuration", parts, "configuration", data, is_folded=True)


def _problems(run: RunReport, colour: str) -> Section:
    title = "What could not be read"
    return Section(title, [*run.problems], "problems", run.problems)


# The sections on a run, in the order in which they are read.
RUN = (
    *(_alerts, _health, _metrics, _distributions),
    *(_quality, _layers, _batch_norms, _configuration, _problems),
)


def _numbers(charts: Sequence[Curves]) -> Table:
    rows: list[list[str | Cell]] = []
    for chart in charts:
        for line in chart.lines:
            course = line.course
            ends = course.first, course.last, course.minimum, course.maximum
            lost = str(course.non_finite) if course.non_finite else ""
            shown = map(chart.number, ends)
            rows.append([chart.title, line.label, *shown, lost, Cell("", course)])
    header = ["metric", "", "first", "last", "lowest", "highest", "NaN", ""]
    return Table(header, rows, range(2, 7), folded="As a table")


# --- several runs ---


def _comparison(
    runs: Sequence[RunReport], own: Sequence[str], links: Sequence[str]
) -> Iterator[Section]:
    styles = [*zip(runs, own, _dashes(own), strict=True)]
    best = sorted(styles, key=lambda x: (-x[0].rank[0], x[0].rank[1]))[:BEST]
    few = [style for style in styles if style in best]
    charts = _shared(few)
    title = "Loss and metrics" if len(few) == len(styles) else f"The best {BEST}"
    table = Section("Runs", [_runs(runs, own, links)], "runs")
    drawn = Section(title, [Charts(charts)] if charts else [], "charts")
    yield from (table, drawn)
    yield from _drift(few)


def _runs(runs: Sequence[RunReport], own: Sequence[str], links: Sequence[str]) -> Table:
    """A row a run, the sickest first: how it went, and the settings that differ."""
    known = differences(runs)
    bests = [run.best_in_words for run in runs]
    names = {best.partition(" ")[0] for best in bests if best}
    name = f"{names.pop()} " if len(names) == 1 else ""  # of all: in the header
    rows: list[list[str | Cell]] = []
    for i in sorted(range(len(runs)), key=lambda i: runs[i].rank):
        run = runs[i]
        course = run.best[1] if run.best else None
        rows.append(
            [
                Cell(run.name, colour=own[i], link=links[i]),
                f"{LEVELS[run.level]} {'healthy' if run.is_healthy else run.in_short}",
                Cell(bests[i].removeprefix(name), course),
                f"{run.steps:,}",
                *(cells[i] for _, cells in known),
            ]
        )
    header = ["run", "verdict", f"best {name}", "steps", *(x for x, _ in known)]
    return Table(header, rows, [3], is_sortable=len(runs) > BEST)


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
            for kind, course in metric.courses if not metric.is_setting else ():
                title = f"{metric.name}, {kind}" if metric.validation else metric.name
                new = Curves(title, [], metric.is_share, _guessing(run, metric))
                chart = charts.setdefault((metric.name, kind), new)
                chart.lines.append(Line(run.name, course, colour, dashes))
    return [*charts.values()]


def _drift(styles: Sequence[Style]) -> Iterator[Section]:
    lines = [
        Line(run.name, largest_of(run.drift.values()), colour, dashes)
        for run, colour, dashes in styles
        if run.drift
    ]
    sides = [(run, colour) for run, colour, _ in styles if run.kernels]
    words = (
        "How far the distribution of a weight has moved, in its own standard "
        "deviations at the start; below, the middle 90 % and 50 % of a weight, in all "
        "runs on one scale."
    )
    parts: list[Part] = [Charts([Curves("largest drift of a weight", lines)], words)]
    shifts = [
        Line(run.name, largest_of(run.shift.values()), colour, dashes)
        for run, colour, dashes in styles
        if run.shift
    ]
    title = "largest covariate shift of a layer's inputs"
    parts += [Charts([Curves(title, shifts)], SHIFT_WORDS)] if shifts else []
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
        yield Section("Drift of the weights", parts, "drift", is_folded=True)
