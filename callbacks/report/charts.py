"""Inline SVG: curves, bands, sparklines. Sizes in units that are about a pixel."""

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .course import Array, Course
from .tree import Bands, Curves, Line, number, printable

WIDTH, HEIGHT = 340, 150
LEFT, RIGHT, TOP, BOTTOM = 50, 8, 8, 18
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
            found: Array = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        found[~np.isfinite(found)] = math.nan
        return found


def axes_of(values: Iterable[Array], steps: Iterable[Array], is_log: bool) -> Axes:
    """Axes on which all finite values can be drawn."""
    known = np.concatenate([np.zeros(0), *(np.ravel(x) for x in values)])
    known = known[np.isfinite(known) & ((known > 0) | (not is_log))]
    known = np.log10(known) if is_log else known
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    if low == high:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    met = np.concatenate([np.zeros(0), *steps])
    x = (float(met.min()), float(met.max())) if len(met) else (0.0, 1.0)
    return Axes(x, (float(low), float(high)), is_log)


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
    axes = axes_of(
        [x.values for x in courses], [x.steps for x in courses], chart.is_log
    )
    parts = [_frame(axes)]
    for line in lines:
        parts += _line(line, axes)
    parts.append(_spots(axes, [(line.label, line.course) for line in lines]))
    legend = "".join(map(_entry, lines))
    log = " (log)" if chart.is_log else ""
    return _figure(chart.title + log, parts, legend)


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
        yield f'<text class="lost" x="{right:.1f}" y="{HEIGHT - BOTTOM - 2}">X</text>'


def _dashes(line: Line) -> str:
    return f' stroke-dasharray="{line.dashes}"' if line.dashes else ""


def _bands(chart: Bands) -> str:
    """5 to 95 % and 25 to 75 % around the median, over time."""
    band, colour = chart.band, chart.colour
    shown = chart.beside or [band]
    axes = axes_of([x.quantiles for x in shown], [x.steps for x in shown], False)
    x = axes.right(band.steps)
    parts = [_frame(axes)]
    known = np.isfinite(band.quantiles).all(axis=1)
    for low, high, kind in ((0, 4, "outer"), (1, 3, "inner")):
        upper = points(x[known], axes.down(band.quantiles[known, high]))
        lower = points(x[known][::-1], axes.down(band.quantiles[known, low][::-1]))
        outline = " ".join([*upper, *lower])
        style = f'style="fill:{colour};stroke:{colour}"'
        parts.append(f'<polygon class="{kind}" {style} points="{outline}"/>')
    parts += _line(Line("", band.at(0.5), colour), axes)
    told = [("5 %", band.at(0.05)), ("median", band.at(0.5)), ("95 %", band.at(0.95))]
    parts.append(_spots(axes, told))
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


def _entry(line: Line) -> str:
    lost = line.course.non_finite
    tail = f", {lost} not finite" if lost else ""
    return (
        '<span><svg class="key" viewBox="0 0 24 8"><line x1="0" y1="4" x2="24" y2="4" '
        f'style="stroke:{line.colour}"{_dashes(line)}/></svg>{escaped(line.label)} '
        f"<b>{number(line.course.last)}</b>{tail}</span>"
    )


def _frame(axes: Axes) -> str:
    """Axes with their ends, and the middle of y."""
    low, high = axes.y
    floor = HEIGHT - BOTTOM
    parts = []
    for share in (0.0, 0.5, 1.0):
        value = low * (1 - share) + high * share
        shown = 10**value if axes.is_log else value
        y = floor - share * (floor - TOP)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" '
            f'y2="{y:.1f}"/><text class="tick end" x="{LEFT - 4}" y="{y + 3.5:.1f}">'
            f"{_tick(shown)}</text>"
        )
    first, last = axes.x
    parts.append(
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 5}">step {first:g}</text>'
    )
    if last > first:
        parts.append(
            f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}">{last:,.0f}'
            "</text>"
        )
    return "".join(parts)


def _spots(axes: Axes, told: Sequence[tuple[str, Course]]) -> str:
    """Upright strips that tell on hover what lies there."""
    steps = np.unique(np.concatenate([course.steps for _, course in told]))
    if not len(steps):
        return ""
    chosen = steps[np.unique(np.linspace(0, len(steps) - 1, SPOTS).astype(int))]
    x = axes.right(chosen)
    edges = [LEFT, *((x[1:] + x[:-1]) / 2), WIDTH - RIGHT]
    parts = []
    for i, step in enumerate(chosen):
        lines = [f"step {step:,}"]
        for label, course in told:
            at = np.searchsorted(course.steps, step, side="right") - 1
            if at >= 0:
                lines.append(f"{printable(label)}: {number(float(course.values[at]))}")
        width = max(0.0, float(edges[i + 1] - edges[i]))
        text = html.escape("\n".join(lines))
        parts.append(
            f'<rect class="spot" x="{edges[i]:.1f}" y="{TOP}" width="{width:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"><title>{text}</title></rect>'
        )
    return "".join(parts)


def _tick(value: float) -> str:
    """Short enough to stand left of the axis: `1.2e9`."""
    short = number(value, 3)
    if len(short) > 7:
        short = f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-")
    return short.replace("e+", "e")
