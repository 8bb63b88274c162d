"""The map of layers by time, in HTML. Height says what colour says."""

from collections.abc import Sequence
from itertools import groupby

from ..alerts.alert import since
from .charts import escaped
from .health import BEYOND, BROKEN, HEALTHY, OUTSIDE, UNKNOWN, WORDS, Cell, Health, Row
from .tree import LEVELS

HEIGHTS = {HEALTHY: 0.25, OUTSIDE: 0.55, BEYOND: 1.0, BROKEN: 1.0}
FOLDED = 60  # rows, beyond which stretches of healthy layers are folded
STRETCH = 4  # layers in a row that are worth folding


def heat_map(health: Health) -> str:
    """Rows of HTML, each with a drawing that stretches; no script."""
    legend = "".join(
        f'<span><svg class="key" viewBox="0 0 24 16" preserveAspectRatio="none">'
        f"{_bar(0, 24, severity, 16)}</svg>{WORDS[severity]}</span>"
        for severity in HEIGHTS
    )
    legend += (
        '<span><svg class="key" viewBox="0 0 24 16"><rect class="open" x="1" y="1" '
        'width="22" height="14"/></svg>alert open</span>'
    )
    rows = "".join(_folded(health))
    first = int(health.steps[0]) if len(health.steps) else 0
    axis = (
        '<div class="row axis"><span></span><span class="ends"><span>step '
        f"{first:,}</span><span>{health.last:,}</span></span><span></span></div>"
    )
    return (
        f'<div class="legend">{legend}</div><div class="heat" role="table">{rows}'
        f"{axis}</div>"
    )


def _folded(health: Health) -> list[str]:
    parts: list[str] = []
    for is_quiet, group in groupby(health.rows, key=lambda row: row.is_quiet):
        rows = [*group]
        drawn = [_row(row, health) for row in rows]
        if is_quiet and len(health.rows) > FOLDED and len(rows) >= STRETCH:
            names = f"{escaped(rows[0].layer)} … {escaped(rows[-1].layer)}"
            parts.append(
                f"<details><summary>{len(rows)} layers without a finding: {names}"
                f"</summary>{''.join(drawn)}</details>"
            )
        else:
            parts += drawn
    return parts


def _row(row: Row, health: Health) -> str:
    mark, kind = "", ""
    if row.open:
        level = row.open[0].level
        mark, kind = f'<span class="mark">{LEVELS[level]}</span> ', f" {level}"
    outlines = [_open(alert.step, health) for alert in row.open]
    drawing = "".join([*_runs(row.cells, health), *outlines])
    n = max(1, len(health.steps))
    name = escaped(row.layer)
    return (
        f'<div class="row{kind}" role="row"><span class="name" title="{name}">{mark}'
        f'{name}</span><svg viewBox="0 0 {n} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(_summary(row))}">{drawing}</svg>'
        f'<span class="why">{escaped(_why(row))}</span></div>'
    )


def _runs(cells: Sequence[Cell], health: Health) -> list[str]:
    """One bar for neighbours of the same severity and measure."""
    ends = [*(int(step) - 1 for step in health.steps[1:]), health.last]
    parts, at = [], 0
    for (severity, _), group in groupby(
        cells, key=lambda x: (x.severity, x.what if x.severity > OUTSIDE else "")
    ):
        some = [*group]
        if severity != UNKNOWN:
            first, last = int(health.steps[at]), ends[at + len(some) - 1]
            why = f": {some[-1].why}" if some[-1].why and severity > HEALTHY else ""
            title = f"steps {first:,} to {last:,}, {WORDS[severity]}{why}"
            parts.append(_bar(at, len(some), severity, 1, title))
        at += len(some)
    return parts


def _bar(x: float, width: float, severity: int, full: float, title: str = "") -> str:
    height = HEIGHTS[severity] * full
    told = f"<title>{escaped(title)}</title>" if title else ""
    return (
        f'<rect class="g{severity}" x="{x:g}" y="{full - height:g}" width="{width:g}" '
        f'height="{height:g}">{told}</rect>'
    )


def _open(step: int, health: Health) -> str:
    """An outline from the step on at which an alert was raised."""
    column = sum(int(first) <= step for first in health.steps) - 1
    x = max(0, column)
    n = max(1, len(health.steps))
    return f'<rect class="open" x="{x}" y="0" width="{n - x}" height="1"/>'


def _why(row: Row) -> str:
    """The alerts or the last value of a layer, for readers who cannot hover."""
    if row.open:
        rules = ", ".join(dict.fromkeys(x.title or x.rule for x in row.open))
        oldest = min(row.open, key=lambda alert: alert.step)
        return f"{rules}, since {since(oldest)}"
    known = [cell for cell in row.cells if cell.severity != UNKNOWN]
    if known and known[-1].severity >= BEYOND:
        return known[-1].why
    return ""


def _summary(row: Row) -> str:
    known = [cell for cell in row.cells if cell.severity != UNKNOWN]
    if not known:
        return f"{row.layer}: not measured"
    return f"{row.layer}: at worst {WORDS[row.worst]}, at the end {known[-1].why}"
