"""Inline SVG: curves, bands, sparklines. Sizes in units that are about a pixel."""

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .course import Array, Course
from .tree import Bands, Curves, Line, number, printable

WIDTH, HEIGHT = 340, 168
LEFT, RIGHT, TOP, FLOOR = 50, 8, 8, 136
CROWD = 4  # lines, from which on an outlier is not to flatten the others
POINTS = 120  # of a line at most
SPOTS = 20  # places of a chart that tell their values on hover


def escaped(text: object) -> str:
    """A text as text and attributes of HTML have it."""
    return html.escape(printable(text))


@dataclass(frozen=True)
class Axes:
    """Ranges of a chart; x: of the steps, y: of the values, or of their logarithms."""

    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = False

    def right(self, steps: Array) -> Array:
        """(n,) from the left edge."""
        low, high = self.x
        share = (steps - low) / ((high - low) or 1.0)
        found: Array = LEFT + share * (WIDTH - LEFT - RIGHT)
        return found

    def down(self, values: Array) -> Array:
        """(n,) from the upper edge; NaN where there is nothing to draw."""
        low, high = self.y
        with np.errstate(all="ignore"):
            values = np.log10(values) if self.is_log else values
            # Halves, for a range that float64 cannot hold.
            share = (values / 2 - low / 2) / (high / 2 - low / 2)
            found: Array = FLOOR - np.clip(share, -9, 9) * (FLOOR - TOP)
        found[~np.isfinite(values)] = math.nan
        return found


def axes_of(values: Sequence[Array], steps: Iterable[Array], *, by: int = 0) -> Axes:
    """Axes on which all finite values can be drawn, of `by` lines all but outliers.

    Logarithmic over two decades of values above 0, if `by` is not 0.
    """
    known = np.concatenate([np.zeros(0), *(np.ravel(x) for x in values)])
    known = known[np.isfinite(known)]
    lines = [x[np.isfinite(x)] for x in values[:by]]
    if len(lines := [x for x in lines if len(x)]) >= CROWD:
        low, high = (np.median([end(x) for x in lines]) for end in (np.min, np.max))
        width = 2 * (high - low)  # that of the line in the middle
        known = known[(known >= low - width) & (known <= high + width)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    is_log = bool(by) and low > 0 and high / 100 > low
    if is_log:
        low, high = np.log10(low), np.log10(high)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    met = np.concatenate([np.zeros(0), *steps])
    x = (float(met.min()), float(met.max())) if len(met) else (0.0, 1.0)
    return Axes(x, (float(low), float(high)), is_log)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About so many round numbers from `low` to `high`."""
    half = (high / 2 - low / 2) / count
    if not 0 < half < math.inf:
        return [low]
    power = 10.0 ** math.floor(math.log10(half * 2))
    width = next(x * power for x in (1, 2, 5, 10) if x * power >= half * 1.999)
    first, last = math.ceil(low / width), math.floor(high / width)
    return [i * width for i in range(first, last + 1)]


def points(x: Array, y: Array) -> list[str]:
    """The unbroken stretches of a line, for polylines."""
    stretches: list[list[str]] = [[]]
    for right, down in zip(x, y, strict=True):
        if math.isnan(down):
            stretches.append([])
        else:
            stretches[-1].append(f"{right:.1f},{down:.1f}")
    return [" ".join(part) for part in stretches if part]


def figure(chart: Curves | Bands) -> str:
    """A chart with its legend; empty if there is nothing to draw."""
    return _bands(chart) if isinstance(chart, Bands) else _curves(chart)


def _curves(chart: Curves) -> str:
    lines = [
        replace(line, course=line.course.thinned(POINTS))
        for line in chart.lines
        if len(line.course.steps)
    ]
    if not lines:
        return ""
    courses = [line.course for line in lines]
    values = [x.values for x in courses]
    values += [np.array(chart.level[1:])] if chart.level else []
    axes = axes_of(values, [x.steps for x in courses], by=len(lines))
    inside = [*_guide(chart, axes), *_level(chart, axes)]
    for line in lines:
        inside += _line(line, axes)
    told = [(line.label, line.course) for line in lines]
    parts = [_frame(axes, chart), _inside(inside)]
    parts.append(_spots(axes, told, chart))
    if chart.level is not None:
        name, value = chart.level
        same = Course(courses[0].steps, np.full(len(courses[0].steps), value))
        lines.append(Line(name, same, "var(--dim)", "4 3"))
    legend = "".join(_entry(line, chart) for line in lines)
    log = " (log)" if axes.is_log else ""
    return _figure(chart.title + log, parts, legend)


def _inside(parts: Iterable[str]) -> str:
    """Cut off at the edges of the chart."""
    width, height = WIDTH - LEFT - RIGHT, FLOOR - TOP + 2
    return (
        f'<svg x="{LEFT}" y="{TOP - 1}" width="{width}" height="{height}" '
        f'viewBox="{LEFT} {TOP - 1} {width} {height}">{"".join(parts)}</svg>'
    )


def _guide(chart: Curves, axes: Axes) -> Iterator[str]:
    """The healthy values as a band."""
    if chart.guide is not None:
        ends = [x if x is not None else math.inf for x in chart.guide.healthy]
        low = -math.inf if chart.guide.healthy[0] is None else ends[0]
        span = 10.0 ** np.array(axes.y) if axes.is_log else np.array(axes.y)
        floor, top = axes.down(np.clip([low, ends[1]], *span)).tolist()
        yield (
            f'<rect class="guide" x="{LEFT}" y="{top:.1f}" width="{WIDTH}" '
            f'height="{max(0.0, floor - top):.1f}"/>'
        )


def _level(chart: Curves, axes: Axes) -> Iterator[str]:
    if chart.level is not None:
        (y,) = axes.down(np.array(chart.level[1:]))
        yield f'<line class="level" x1="0" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}"/>'


def _line(line: Line, axes: Axes) -> Iterator[str]:
    """A course: its stretches, a dot for one of a single point, X for NaN and Inf."""
    x, y = axes.right(line.course.steps), axes.down(line.course.values)
    stroke = f'style="stroke:{line.colour}"{_dashes(line)}'
    for part in points(x, y):
        if " " in part:
            yield f'<polyline class="line" {stroke} points="{part}"/>'
        else:
            right, down = part.split(",")
            fill = f'style="fill:{line.colour}"'
            yield f'<circle cx="{right}" cy="{down}" r="2.5" {fill}/>'
    for right in x[~np.isfinite(line.course.values)]:
        yield f'<text class="lost" x="{right:.1f}" y="{FLOOR - 2}">X</text>'


def _dashes(line: Line) -> str:
    return f' stroke-dasharray="{line.dashes}"' if line.dashes else ""


def _bands(chart: Bands) -> str:
    """5 to 95 % and 25 to 75 % around the median, over time."""
    band, colour = chart.band, chart.colour
    shown = chart.beside or [band]
    axes = axes_of([x.quantiles for x in shown], [x.steps for x in shown])
    x = axes.right(band.steps)
    parts = [_frame(axes, Curves("", []))]
    known = np.isfinite(band.quantiles).all(axis=1)
    for low, high, kind in ((0, 4, "outer"), (1, 3, "inner")):
        upper = points(x[known], axes.down(band.quantiles[known, high]))
        lower = points(x[known][::-1], axes.down(band.quantiles[known, low][::-1]))
        outline = " ".join([*upper, *lower])
        style = f'style="fill:{colour};stroke:{colour}"'
        parts.append(f'<polygon class="{kind}" {style} points="{outline}"/>')
    parts += _line(Line("", band.at(0.5), colour), axes)
    told = [("5 %", band.at(0.05)), ("median", band.at(0.5)), ("95 %", band.at(0.95))]
    parts.append(_spots(axes, told, Curves("", [])))
    legend = ", ".join(f"{name} {number(course.last, 3)}" for name, course in told)
    return _figure(chart.title, parts, f"at the end: {legend}")


def curve(course: Course) -> str:
    """A small line, without axes; a mark for what is not finite."""
    thin = course.thinned(20)
    low, high = thin.minimum, thin.maximum
    width = (high - low) or 1.0
    n = max(1, len(thin.values) - 1)
    x = np.arange(len(thin.values)) * (56 / n) + 2
    with np.errstate(all="ignore"):
        y = 14 - (thin.values - low) / width * 12
    y[~np.isfinite(y)] = math.nan
    parts = [f'<polyline points="{part}"/>' for part in points(x, y) if " " in part]
    return f'<svg class="spark" viewBox="0 0 60 16">{"".join(parts)}</svg>'


def _figure(title: str, parts: Sequence[str], legend: str) -> str:
    name = escaped(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{name}">{"".join(parts)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _entry(line: Line, chart: Curves) -> str:
    lost = line.course.non_finite
    tail = f", {lost} not finite" if lost else ""
    return (
        '<span><svg class="key" viewBox="0 0 24 8"><line x1="0" y1="4" x2="24" y2="4" '
        f'style="stroke:{line.colour}"{_dashes(line)}/></svg>{escaped(line.label)} '
        f"<b>{chart.number(line.course.last)}</b>{tail}</span>"
    )


def _frame(axes: Axes, chart: Curves) -> str:
    """Lines at round values; below, round steps and the ends of round epochs."""
    low, high = axes.y
    if axes.is_log:
        values = [10.0**x for x in ticks(low, high, 5) if x == round(x)]
    else:
        values = ticks(low, high, 5)
    parts = []
    for value, y in zip(values, axes.down(np.array(values)), strict=True):
        shown = chart.number(value) if chart.is_share else _tick(value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" '
            f'y2="{y:.1f}"/><text class="tick end" x="{LEFT - 4}" y="{y + 3.5:.1f}">'
            f"{shown}</text>"
        )
    steps = [x for x in ticks(*axes.x, 4) if x == round(x)] or [axes.x[0]]
    parts += _below("step", FLOOR + 16, axes, [(x, f"{x:,.0f}") for x in steps])
    if chart.epochs is not None and len(chart.epochs.steps):
        known = dict(zip(chart.epochs.values, chart.epochs.steps, strict=True))
        wanted = [x for x in ticks(0, max(known), 4) if x in known] or [max(known)]
        marks = [(float(known[x]), f"{x:g}") for x in wanted]
        parts += _below("epoch", FLOOR + 27, axes, marks)
    return "".join(parts)


def _below(
    name: str, y: float, axes: Axes, marks: Iterable[tuple[float, str]]
) -> Iterator[str]:
    yield f'<text class="tick end" x="{LEFT - 4}" y="{y}">{name}</text>'
    for step, shown in marks:
        (x,) = axes.right(np.array([step]))
        if LEFT <= x <= WIDTH - RIGHT:
            kind = "end" if x > WIDTH - RIGHT - 12 else "middle"
            yield f'<text class="tick {kind}" x="{x:.1f}" y="{y}">{shown}</text>'


def _spots(axes: Axes, told: Sequence[tuple[str, Course]], chart: Curves) -> str:
    """Upright strips that tell on hover what lies there."""
    steps = np.unique(np.concatenate([course.steps for _, course in told]))
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, SPOTS).astype(int))]
    x = axes.right(chosen)
    edges = [LEFT, *((x[1:] + x[:-1]) / 2), WIDTH - RIGHT]
    parts = []
    for i, step in enumerate(chosen):
        lines = [f"step {step:,}{_epoch(step, chart.epochs)}"]
        for label, course in told:
            at = np.searchsorted(course.steps, step, side="right") - 1
            if at >= 0:
                value = chart.number(float(course.values[at]))
                lines.append(f"{printable(label)} {value}".strip())
        width = max(0.0, float(edges[i + 1] - edges[i]))
        text = html.escape("\n".join(lines))
        parts.append(
            f'<rect class="spot" x="{edges[i]:.1f}" y="{TOP}" width="{width:.1f}" '
            f'height="{FLOOR - TOP}"><title>{text}</title></rect>'
        )
    return "".join(parts)


def _epoch(step: int, epochs: Course | None) -> str:
    if epochs is None or not len(epochs.steps):
        return ""
    at = min(int(np.searchsorted(epochs.steps, step)), len(epochs.steps) - 1)
    return f", epoch {epochs.values[at]:g}"


def _tick(value: float) -> str:
    """Short enough to stand left of the axis: `1.2e9`."""
    short = number(value, 3)
    if len(short) > 7:
        short = f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-")
    return short.replace("e+", "e")
