"""The parts of the page about one run, in the order in which they are read."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..alerts.alert import Alert
from . import charts, facts
from .charts import Line, escaped
from .course import Course
from .health import BROKEN, SICK, Measured, severities
from .heat import heat_map
from .outline import LEVELS, number
from .run_report import BatchNorm, Layer, RunReport

METRICS = 12  # of which charts are drawn
OVER = 12  # alerts that are over, shown without being asked
VALIDATION = "2 3"  # dotted, as in the demo's picture
# With batch norm and without, as where runs are compared; lighter on a dark page.
BLUE, ORANGE = "var(--accent)", "var(--g2)"


def sections(run: RunReport, colour: str | None = None) -> Iterator[str]:
    """`colour`: of the run, where there are several; else by its batch norm."""
    if colour is None:
        colour = ORANGE if run.has_batch_norm is False else BLUE
    yield from _alerts(run)
    if run.health.rows:
        yield (
            "<h2>Health of the layers</h2>"
            '<p class="dim">From input (top) to output, time from left to right. Guide '
            "values are for orientation; an alert is a judgement.</p>"
        )
        yield heat_map(run.health)
    yield from _metrics(run, colour)
    yield from _bands(run, colour)
    yield from _layers(run)
    yield from _batch_norms(run)
    yield from _configuration(run)
    if run.problems:
        items = "".join(f"<li>{escaped(problem)}</li>" for problem in run.problems)
        yield f"<h2>What could not be read</h2><ul>{items}</ul>"


def _alerts(run: RunReport) -> Iterator[str]:
    if run.open:
        yield "<h2>Open alerts, and what to try</h2>"
        yield from map(_alert, run.open)
    if run.over:
        rows = "".join(
            f"<tr><td>{LEVELS[x.level]} {escaped(x.rule)}</td><td>{escaped(x.where)}"
            f"</td><td>{escaped(facts.since(x))}</td><td>{escaped(x.ending)}</td></tr>"
            for x in run.over[:OVER]
        )
        more = f", the last {OVER} of them" if len(run.over) > OVER else ""
        yield (
            f"<details><summary>{len(run.over)} over by the end{more}</summary>"
            '<div class="scroll"><table><tr><th>alert</th><th>where</th><th>since</th>'
            f"<th>until</th></tr>{rows}</table></div></details>"
        )


def _alert(alert: Alert) -> str:
    return (
        f'<div class="alert {alert.level}"><b>{LEVELS[alert.level]} {alert.level}: '
        f"{escaped(facts.named(alert))}</b> since {escaped(facts.since(alert))} "
        f'<span class="dim">measured {escaped(facts.measure(alert))}</span>'
        f"<p>{escaped(alert.message)}</p></div>"
    )


def _metrics(run: RunReport, colour: str) -> Iterator[str]:
    if not run.metrics:
        return
    drawn = "".join(
        charts.curves(
            metric.name,
            [
                Line(kind if metric.validation else "", course, *_style(kind, colour))
                for kind, course in metric.courses
            ],
            metric.is_log,
        )
        for metric in run.metrics[:METRICS]
    )
    rows = "".join(
        f"<tr><td>{escaped(metric.name)}</td><td>{kind}</td>{_numbers(course)}</tr>"
        for metric in run.metrics
        for kind, course in metric.courses
    )
    yield f'<h2>Loss and metrics</h2><div class="charts">{drawn}</div>'
    yield (
        '<details><summary>As a table</summary><div class="scroll"><table><tr><th>'
        'metric</th><th></th><th class="n">first</th><th class="n">last</th>'
        '<th class="n">lowest</th><th class="n">highest</th><th class="n">not finite'
        f"</th></tr>{rows}</table></div></details>"
    )


def _style(kind: str, colour: str) -> tuple[str, str]:
    return colour, VALIDATION if kind == "validation" else ""


def _numbers(course: Course) -> str:
    ends = (course.first, course.last, course.minimum, course.maximum)
    cells = [*map(number, ends), str(course.non_finite)]
    return "".join(f'<td class="n">{cell}</td>' for cell in cells)


def _bands(run: RunReport, colour: str) -> Iterator[str]:
    if not run.bands:
        return
    drawn = "".join(charts.bands(band.tag, band, None, colour) for band in run.bands)
    yield (
        "<h2>How distributions move</h2>"
        '<p class="dim">Of the layers that matter most: the middle 90 % and 50 % of '
        f'weights and outputs, around the median.</p><div class="charts">{drawn}</div>'
    )


def _layers(run: RunReport) -> Iterator[str]:
    if not run.layers:
        return
    guides: dict[str, str] = {}
    for layer in run.layers:
        for what, one in layer.measures.items():
            guide = one.diagnostic.guide
            guides.setdefault(what, guide.title() if guide else "")
    header = "".join(
        f'<th>{escaped(what)}<br><span class="dim">{escaped(guide)}</span></th>'
        for what, guide in guides.items()
    )
    rows = "".join(_layer(layer, [*guides]) for layer in run.layers)
    yield (
        "<h2>Layers</h2>"
        '<p class="dim">Each over time, with its value at the end; of several weights, '
        "the worst. Bold: far beyond the guide values.</p>"
        '<div class="scroll"><table class="layers"><tr><th>layer</th><th>kind</th>'
        f"{header}</tr>{rows}</table></div>"
    )


def _layer(layer: Layer, measures: Sequence[str]) -> str:
    cells = []
    for what in measures:
        one = layer.measures.get(what)
        cells.append("<td></td>" if one is None else _cell(one))
    open_ = [x.level for x in layer.row.alerts if x.is_open]
    mark = f"{LEVELS[open_[0]]} " if open_ else ""
    name = escaped(layer.name)
    return (
        f'<tr><td title="{name}">{mark}{name}</td><td>{escaped(layer.kind)}</td>'
        f"{''.join(cells)}</tr>"
    )


def _cell(one: Measured) -> str:
    last = one.course.last
    grave = int(severities(one.diagnostic, np.array([last]))[0])
    sign = {SICK: "! ", BROKEN: "X "}.get(grave, "")
    kind = f' class="s{grave}"' if grave else ""
    span = f"{number(one.course.minimum, 3)} to {number(one.course.maximum, 3)}"
    return (
        f'<td{kind} title="{escaped(one.where)}: {span}">'
        f"{charts.sparkline(one.course)}{sign}{number(last, 3)}</td>"
    )


def _batch_norms(run: RunReport) -> Iterator[str]:
    if not run.batch_norms:
        return
    measures = [*dict.fromkeys(x for norm in run.batch_norms for x in norm.courses)]
    header = "".join(f"<th>{escaped(what)}</th>" for what in measures)
    rows = "".join(_norm(norm, measures) for norm in run.batch_norms)
    yield (
        "<h2>Batch norm</h2>"
        '<p class="dim">The gaps are those between the statistics of a batch, which '
        "training uses, and the moving ones, which inference uses.</p>"
        '<div class="scroll"><table><tr><th>layer</th><th class="n">momentum</th>'
        f'<th class="n">epsilon</th><th></th>{header}</tr>{rows}</table></div>'
    )


def _norm(norm: BatchNorm, measures: Sequence[str]) -> str:
    cells = [
        f"<td>{charts.sparkline(norm.courses[x])}{number(norm.courses[x].last, 3)}</td>"
        if x in norm.courses
        else "<td></td>"
        for x in measures
    ]
    settings = "".join(
        f'<td class="n">{escaped(norm.settings.get(name, ""))}</td>'
        for name in ("momentum", "epsilon")
    )
    frozen = "frozen" if norm.settings.get("is_frozen") else ""
    name = escaped(norm.name)
    return f"<tr><td>{name}</td>{settings}<td>{frozen}</td>{''.join(cells)}</tr>"


def _configuration(run: RunReport) -> Iterator[str]:
    rows = "".join(
        f"<tr><td>{escaped(group)}</td><td>{escaped(name)}</td>"
        f'<td class="words">{escaped(value)}</td></tr>'
        for group, values in run.configuration.items()
        for name, value in values.items()
    )
    if rows:
        yield f'<h2>Configuration</h2><div class="scroll"><table>{rows}</table></div>'
    yield f'<p class="dim">Read from the event files in {escaped(run.directory)}.</p>'
