"""The map of layers by time. Height and hatching say what colour says."""

from collections.abc import Sequence
from itertools import groupby

from . import facts
from .charts import escaped
from .health import BROKEN, HEALTHY, MIND, SICK, UNKNOWN, WORDS, Cell, Health, Row
from .outline import LEVELS

HEIGHTS = {HEALTHY: 0.25, MIND: 0.55, SICK: 1.0, BROKEN: 1.0}
FOLDED = 60  # rows, beyond which stretches of healthy layers are folded
STRETCH = 4  # layers in a row that are worth folding


def heat_map(health: Health) -> str:
    """Rows of HTML, each with a drawing that stretches; no script."""
    if not health.rows:
        return ""
    legend = "".join(
        f'<span><svg class="key" viewBox="0 0 24 16" preserveAspectRatio="none">'
        f"{_bar(0, 24, grave, 16)}</svg>{WORDS[grave]}</span>"
        for grave in HEIGHTS
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


def _is_quiet(row: Row) -> bool:
    return row.level < 0 and row.worst <= MIND


def _folded(health: Health) -> list[str]:
    parts: list[str] = []
    for is_quiet, group in groupby(health.rows, key=_is_quiet):
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
    alerts = [alert for alert in row.alerts if alert.is_open]
    mark, kind = "", ""
    if alerts:
        worst = max(alerts, key=lambda alert: list(LEVELS)[::-1].index(alert.level))
        kind = f" {worst.level}"
        mark = f'<span class="mark">{LEVELS[worst.level]}</span> '
    drawing = "".join(
        [*_runs(row.cells, health), *(_open(alert.step, health) for alert in alerts)]
    )
    n = max(1, len(health.steps))
    name = escaped(row.layer)
    return (
        f'<div class="row{kind}" role="row"><span class="name" title="{name}">{mark}'
        f'{name}</span><svg viewBox="0 0 {n} 1" preserveAspectRatio="none" role="img" '
        f'aria-label="{escaped(_summary(row))}">{drawing}</svg>'
        f'<span class="why">{escaped(_why(row))}</span></div>'
    )


def _runs(cells: Sequence[Cell], health: Health) -> list[str]:
    """Neighbours of the same kind and cause are one bar."""
    parts, at = [], 0
    for (grave, _), group in groupby(cells, key=lambda x: (x.grave, _cause(x))):
        some = [*group]
        if grave != UNKNOWN:
            first, last = int(health.steps[at]), _end(at + len(some), health)
            why = f": {some[-1].why}" if some[-1].why and grave > HEALTHY else ""
            title = f"steps {first:,} to {last:,}, {WORDS[grave]}{why}"
            parts.append(_bar(at, len(some), grave, 1, title))
        at += len(some)
    return parts


def _cause(cell: Cell) -> str:
    """The measure, without its value."""
    return cell.why.partition(",")[0].rpartition(" ")[0] if cell.grave > MIND else ""


def _end(column: int, health: Health) -> int:
    steps = health.steps
    return int(steps[column]) - 1 if column < len(steps) else health.last


def _bar(x: float, width: float, grave: int, full: float, title: str = "") -> str:
    height = HEIGHTS[grave] * full
    told = f"<title>{escaped(title)}</title>" if title else ""
    return (
        f'<rect class="g{grave}" x="{x:g}" y="{full - height:g}" width="{width:g}" '
        f'height="{height:g}">{told}</rect>'
    )


def _open(step: int, health: Health) -> str:
    """An outline from the step on at which an alert was raised."""
    column = sum(int(first) <= step for first in health.steps) - 1
    x = max(0, column)
    n = max(1, len(health.steps))
    return f'<rect class="open" x="{x}" y="0" width="{n - x}" height="1"/>'


def _why(row: Row) -> str:
    """In a few words, for those who cannot hover."""
    alerts = [alert for alert in row.alerts if alert.is_open]
    if alerts:
        rules = ", ".join(dict.fromkeys(alert.rule for alert in alerts))
        oldest = min(alerts, key=lambda alert: alert.step)
        return f"{rules}, since {facts.since(oldest)}"
    known = [cell for cell in row.cells if cell.grave != UNKNOWN]
    if known and known[-1].grave >= SICK:
        return known[-1].why
    return ""


def _summary(row: Row) -> str:
    known = [cell for cell in row.cells if cell.grave != UNKNOWN]
    if not known:
        return f"{row.layer}: not measured"
    return f"{row.layer}: at worst {WORDS[row.worst]}, at the end {known[-1].why}"
