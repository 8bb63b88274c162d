"""The report as text for a terminal, and as Markdown."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from ..alerts.alert import since
from .course import Course
from .health import BEYOND, BROKEN, OUTSIDE, UNKNOWN, Health, Row
from .run_report import measure, named
from .story import (
    LEVELS,
    Alerts,
    Cell,
    Charts,
    Part,
    Section,
    Settings,
    Story,
    Table,
    printable,
)

WIDTH = 88
WORDY = 40  # a column wider than this is written below its row
QUIET_ROWS = 12  # of layers, beside those that are not healthy
SYMBOLS = {UNKNOWN: " ", 0: "·", OUTSIDE: "-", BEYOND: "!", BROKEN: "X"}
LEGEND = "· healthy, - outside of the guide values, ! far beyond, X NaN or Inf."
BARS = "▁▂▃▄▅▆▇█"
Item = TypeVar("Item")


class Heading(NamedTuple):
    """`level`: 1 for a run, 2 within it."""

    level: int
    title: str


class Drawing(NamedTuple):
    """Lines that stay as they are."""

    lines: list[str]


Block: TypeAlias = str | Heading | Drawing | Table


def plain(story: Story) -> str:
    """The text for a terminal."""
    lines: list[str] = []
    after: Block = ""
    for block in _blocks(story):
        match block:
            case Heading():
                title = printable(block.title)
                lines += ["", title, ("=" if block.level == 1 else "-") * len(title)]
            case str():
                lines += textwrap.wrap(printable(block), WIDTH) or [""]
            case Drawing():
                lines += block.lines
            case Table():
                lines += [""] * isinstance(after, Table) + [*_columns(block)]
        after = block
    return "\n".join(lines).lstrip("\n") + "\n"


def markdown(story: Story) -> str:
    """Markdown for a pull request, or a note beside the weights."""
    parts = []
    for block in _blocks(story):
        match block:
            case Heading():
                parts.append(f"{'#' * block.level} {escaped(block.title)}")
            case str():
                parts.append(escaped(block))
            case Drawing():
                parts.append("\n".join(["```text", *block.lines, "```"]))
            case Table():
                parts.append(_pipes(block))
    return "\n\n".join(parts) + "\n"


def sparkline(course: Course, points: int = 16) -> str:
    """A course in eight heights; `x` for what is not finite."""
    thin = course.thinned(points)
    low, high = thin.minimum, thin.maximum
    width = (high - low) or 1.0
    if not math.isfinite(width):
        return ""
    return "".join(
        BARS[min(7, int((x - low) / width * 8))] if math.isfinite(x) else "x"
        for x in thin.values
    )


def escaped(text: object) -> str:
    """A text that Markdown shows letter by letter."""
    shown = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*_[]|#~":
        shown = shown.replace(sign, f"\\{sign}")
    return shown


def _blocks(story: Story) -> Iterator[Block]:
    if story.title:
        yield Heading(1, story.title)
    if story.title or not story.runs:
        yield f"{LEVELS[story.level]} {story.verdict}"
    for section in story.sections:
        yield from _section(section)
    for run in story.runs:
        yield from _blocks(run)


def _section(section: Section) -> Iterator[Block]:
    if all(isinstance(part, Charts) and not part.table for part in section.parts):
        return  # nothing that a text can show
    if section.title:
        yield Heading(2, section.title)
    for part in section.parts:
        yield from _part(part)


def _part(part: Part) -> Iterator[Block]:
    match part:
        case str():
            yield part
        case Table():
            if part.folded:
                yield f"{part.folded}:"
            rows, left = _loud(part.rows, part.quiet)
            yield Table(part.header, rows, part.right)
            yield from _rest(left)
        case Charts():
            if part.table:
                yield Table(part.table.header, part.table.rows, part.table.right)
        case Alerts():
            yield _alerts(part)
        case Settings():
            for group, values in part.groups.items():
                yield f"{group}: {'; '.join(f'{k} {x}' for k, x in values.items())}"
        case Health():
            yield LEGEND
            quiet = [i for i, row in enumerate(part.rows) if row.is_quiet]
            layers, left = _loud(part.rows, quiet)
            yield Drawing([*_map(layers)])
            yield from _rest(left)


def _loud(rows: Sequence[Item], quiet: Sequence[int]) -> tuple[list[Item], int]:
    """All rows but those that are quiet, of which only the first; how many are left."""
    left = {*quiet[QUIET_ROWS:]}
    return [row for i, row in enumerate(rows) if i not in left], len(left)


def _rest(left: int) -> Iterator[str]:
    if left:
        yield f"{left} more layers are healthy."


def _alerts(part: Alerts) -> Table:
    rows = [
        [f"{LEVELS[x.level]} {x.level}: {named(x)}", since(x), measure(x), x.message]
        for x in part.alerts
    ]
    return Table(["alert", "since", "measured", "what it means, what to try"], rows)


def _map(rows: Sequence[Row]) -> Iterator[str]:
    width = max(len(printable(row.layer)) for row in rows)
    for row in rows:
        cells = "".join(SYMBOLS[cell.severity] for cell in row.cells)
        mark = LEVELS[row.open[0].level] if row.open else " "
        rules = ", ".join(dict.fromkeys(alert.rule for alert in row.open))
        name = f"{mark} {printable(row.layer):{width}}"
        yield f"{name} {cells} {printable(rules)}".rstrip()


def _text(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return cell
    return cell.text or (sparkline(cell.course) if cell.course else "")


def _columns(table: Table) -> Iterator[str]:
    rows = [[printable(_text(x)) for x in row] for row in (table.header, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wordy = [i for i, width in enumerate(widths) if i and width > WORDY]
    for k, row in enumerate(rows):
        cells = [
            cell.rjust(widths[i]) if i in table.right else cell.ljust(widths[i])
            for i, cell in enumerate(row)
            if i not in wordy
        ]
        yield "  ".join(cells).rstrip()
        for i in wordy * bool(k):
            yield from textwrap.wrap(
                row[i], WIDTH, initial_indent="    ", subsequent_indent="    "
            )


def _pipes(table: Table) -> str:
    rules = ["---:" if i in table.right else "---" for i in range(len(table.header))]
    header, *rows = (
        [escaped(_text(cell)) for cell in row] for row in (table.header, *table.rows)
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *rows))
