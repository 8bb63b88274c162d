"""The report as Markdown, as text for a terminal, and as data for JSON."""

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from ..alerts.alert import Alert, since
from ..alerts.explanation import command
from .course import Course
from .health import BEYOND, BROKEN, OUTSIDE, UNKNOWN, Health, Row
from .tree import LEVELS, Alerts, Cell, Charts, Part, Settings, Story, Table, printable
from .verdict import measure, named

WIDTH = 88
QUIET_ROWS = 12  # of layers, beside those that are not healthy
SYMBOLS = {UNKNOWN: " ", 0: "·", OUTSIDE: "-", BEYOND: "!", BROKEN: "X"}
LEGEND = "· healthy, - outside of the guide values, ! far beyond, X NaN or Inf."
BARS = "▁▂▃▄▅▆▇█"
Item = TypeVar("Item")


def plain(story: Story) -> str:
    """The text for a terminal: nothing escaped, and lines of at most 88 letters."""

    def wrapped(words: str) -> str:
        return "\n".join(textwrap.wrap(printable(words), WIDTH))

    return "\n\n".join(_blocks(story, printable, wrapped)) + "\n"


def markdown(story: Story) -> str:
    """Markdown for a pull request, or a note beside the weights."""
    return "\n\n".join(_blocks(story, escaped, escaped)) + "\n"


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


Writer = Callable[[str], str]


def _blocks(story: Story, word: Writer, words: Writer) -> Iterator[str]:
    """Paragraphs and tables; `word` writes a heading or a cell, `words` a paragraph."""
    if story.title:
        yield f"# {word(story.title)}"
    if story.title or not story.runs:
        yield words(f"{LEVELS[story.level]} {story.verdict}")
    for section in story.sections:
        blocks = [block for part in section.parts for block in _part(part)]
        if blocks and section.title:
            yield f"## {word(section.title)}"
        for block in blocks:
            yield (
                _table(block, word)
                if isinstance(block, Table)
                else (block if block.startswith("```") else words(block))
            )
    for run in story.runs:
        yield from _blocks(run, word, words)


def _part(part: Part) -> Iterator[str | Table]:
    match part:
        case str():
            yield part
        case Table():
            if part.folded:
                yield f"{part.folded}:"
            rows, rest = _loud(part.rows, part.quiet)
            yield Table(part.header, rows, part.right)
            yield from rest
        case Charts():
            if part.table:
                yield Table(part.table.header, part.table.rows, part.table.right)
        case Alerts():
            for alert in part.alerts:
                yield (
                    f"{LEVELS[alert.level]} {alert.level}: {named(alert)} since "
                    f"{since(alert)}, measured {measure(alert)}. {alert.said} "
                    f"({command(alert.rule)})"
                )
        case Settings():
            for group, values in part.groups.items():
                yield f"{group}: {'; '.join(f'{k} {x}' for k, x in values.items())}"
        case Health():
            quiet = [i for i, row in enumerate(part.rows) if row.is_quiet]
            layers, rest = _loud(part.rows, quiet)
            yield LEGEND
            yield "\n".join(["```text", *_map(layers), "```"])
            yield from rest


def _loud(rows: Sequence[Item], quiet: Sequence[int]) -> tuple[list[Item], list[str]]:
    """The rows without most of the quiet ones, and a sentence on those left out."""
    left = {*quiet[QUIET_ROWS:]}
    shown = [row for i, row in enumerate(rows) if i not in left]
    return shown, [f"{len(left)} more layers are healthy."] * bool(left)


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


def _table(table: Table, word: Writer) -> str:
    rows = [[word(_text(cell)) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    is_right = [i in table.right for i in range(len(widths))]
    lines = [
        " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        )
        for row in rows
    ]
    pairs = zip(widths, is_right, strict=True)
    rule = " | ".join("-" * (width - right) + ":" * right for width, right in pairs)
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


POINTS = 200  # of a curve at most


def data_of(story: Story) -> dict[str, Any]:
    """The report with None for each number that is not finite, and their count."""
    runs = [
        {
            "name": run.name,
            "level": run.level,
            "verdict": run.verdict,
            **{section.key: section.data for section in run.sections},
        }
        for run in story.runs
    ]
    lost: list[float] = []
    known = {"verdict": story.verdict, "level": story.level, "runs": runs}
    return {"format": 1, **_plain(known, lost), "not_finite": len(lost)}


def _plain(value: Any, lost: list[float]) -> Any:
    """`value` as JSON has it; what is not finite is appended to `lost`."""
    match value:
        case Alert():
            return value.to_dict()
        case Course():
            thin = value.thinned(POINTS)
            known = {"steps": thin.steps, "values": thin.values}
            counts = {"points": len(value.steps), "not_finite": value.non_finite}
            return _plain(known, lost) | counts
        case Mapping():
            return {str(name): _plain(x, lost) for name, x in value.items()}
        case np.ndarray():
            return _plain(value.tolist(), lost)
        case list() | tuple():
            return [_plain(x, lost) for x in value]
        case float() if not math.isfinite(value):
            lost.append(value)
            return None
    return value
