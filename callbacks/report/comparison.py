"""The parts of the page about several runs beside each other."""

from collections.abc import Iterator, Sequence

import numpy as np

from . import charts
from .charts import Line, escaped
from .compare import DASHES, WITHOUT, colours, differences
from .course import Course
from .outline import LEVELS
from .run_report import RunReport
from .sections import METRICS

KERNELS = 3  # of which the distributions are shown side by side
SIDES = 6  # runs that are


def comparison(runs: Sequence[RunReport]) -> Iterator[str]:
    """Verdicts, curves in one chart, differences, drift side by side."""
    colour = colours(runs)
    yield _verdicts(runs, colour)
    yield from _curves(runs, colour)
    header = "".join(
        f"<th>{_swatch(c)}{escaped(run.name)}</th>"
        for run, c in zip(runs, colour, strict=True)
    )
    rows = "".join(
        f"<tr><td>{escaped(what)}</td>"
        + "".join(f'<td class="words">{escaped(cell)}</td>' for cell in cells)
        + "</tr>"
        for what, cells in differences(runs)
    )
    yield (
        '<h2>What differs</h2><div class="scroll"><table><tr><th></th>'
        f"{header}</tr>{rows}</table></div>"
    )
    yield from _drift(runs, colour)


def _swatch(colour: str) -> str:
    return f'<span class="swatch" style="background:{colour}"></span>'


def _verdicts(runs: Sequence[RunReport], colour: Sequence[str]) -> str:
    rows = "".join(
        f"<tr><td>{_swatch(c)}{escaped(run.name)}</td><td class='{run.level}'>"
        f'<b>{LEVELS[run.level]}</b></td><td class="words">{escaped(run.verdict)}</td>'
        "</tr>"
        for run, c in zip(runs, colour, strict=True)
    )
    return f'<div class="scroll"><table>{rows}</table></div>'


def dashes(colour: Sequence[str]) -> list[str]:
    """Beside its colour, the dashes that tell a run from others of its kind."""
    met = {True: 0, False: 0}
    found = []
    for one in colour:
        kind = one in WITHOUT
        found.append(DASHES[met[kind] % len(DASHES)])
        met[kind] += 1
    return found


def _curves(runs: Sequence[RunReport], colour: Sequence[str]) -> Iterator[str]:
    names = dict.fromkeys(
        (metric.name, kind)
        for run in runs
        for metric in run.metrics
        for kind, _ in metric.courses
    )
    drawn = []
    for name, kind in names:
        lines, is_log = [], []
        for run, c, dash in zip(runs, colour, dashes(colour), strict=True):
            for metric in run.metrics:
                course = dict(metric.courses).get(kind)
                if metric.name == name and course is not None:
                    lines.append(Line(run.name, course, c, dash))
                    is_log.append(metric.is_log)
        title = name if len(lines) == 0 or (name, "validation") not in names else ""
        title = title or f"{name}, {kind}"
        positive = all(x.course.minimum > 0 for x in lines)
        drawn.append(charts.curves(title, lines, any(is_log) and positive))
    if drawn:
        yield "<h2>Loss and metrics</h2>"
        yield f'<div class="charts">{"".join(drawn[: 2 * METRICS])}</div>'


def _drift(runs: Sequence[RunReport], colour: Sequence[str]) -> Iterator[str]:
    lines = [
        Line(run.name, _largest(run), c, dash)
        for run, c, dash in zip(runs, colour, dashes(colour), strict=True)
        if run.drift
    ]
    sides = [(run, c) for run, c in zip(runs, colour, strict=True) if run.kernels][
        :SIDES
    ]
    if not lines and not sides:
        return
    yield (
        "<h2>Drift of the weights</h2>"
        '<p class="dim">How far the distribution of a weight has moved, in its own '
        "standard deviations at the start; below, the middle 90 % and 50 % of a "
        "weight, in all runs on one scale.</p>"
    )
    if lines:
        drawn = charts.curves("largest drift of a weight", lines)
        yield f'<div class="charts">{drawn}</div>'
    paths = dict.fromkeys(path for run, _ in sides for path in run.kernels)
    shared = [path for path in paths if all(path in run.kernels for run, _ in sides)]
    for path in (shared or [*paths])[:KERNELS]:
        pairs = [(run, c, run.kernels[path]) for run, c in sides if path in run.kernels]
        axes = charts.axes_of(
            [band.quantiles for *_, band in pairs],
            [band.steps for *_, band in pairs],
            False,
        )
        figures = "".join(
            charts.bands(f"{path}: {run.name}", band, axes, c) for run, c, band in pairs
        )
        yield f'<div class="pair">{figures}</div>'


def _largest(run: RunReport) -> Course:
    """Over all weights, at each step."""
    largest: dict[int, float] = {}
    for course in run.drift.values():
        for step, value in zip(
            course.steps.tolist(), course.values.tolist(), strict=True
        ):
            known = largest.get(step, -np.inf)
            # NaN stays: it is the largest drift there is.
            largest[step] = value if not value <= known else known
    steps = sorted(largest)
    return Course(np.array(steps, np.int64), np.array([largest[x] for x in steps]))
