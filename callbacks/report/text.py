"""A report as readable text, and as Markdown."""

import textwrap
from collections.abc import Iterable, Iterator

from .outline import Section, Table, printable

WIDTH = 88
WORDY = 40  # a column wider than this is written below its row


def plain(sections: Iterable[Section]) -> str:
    """For a terminal."""
    lines: list[str] = []
    for section in sections:
        title = printable(section.title)
        lines += ["", title, ("=" if section.level == 1 else "-") * len(title)]
        for sentence in section.sentences:
            lines += textwrap.wrap(printable(sentence), WIDTH) or [""]
        lines += section.drawing
        for i, table in enumerate(section.tables):
            lines += [""] * bool(i) + [*_columns(table)]
    return "\n".join(lines[1:]) + "\n"


def _columns(table: Table) -> Iterator[str]:
    rows = [[printable(cell) for cell in row] for row in (table.header, *table.rows)]
    wordy = {
        i
        for i in range(len(table.header))
        if i and max(len(row[i]) for row in rows) > WORDY
    }
    narrow = [i for i in range(len(table.header)) if i not in wordy]
    widths = {i: max(len(row[i]) for row in rows) for i in narrow}
    for k, row in enumerate(rows):
        cells = [
            row[i].rjust(widths[i]) if i in table.right else row[i].ljust(widths[i])
            for i in narrow
        ]
        yield "  ".join(cells).rstrip()
        if k:
            for i in sorted(wordy):
                yield from textwrap.wrap(
                    row[i], WIDTH, initial_indent="    ", subsequent_indent="    "
                )


def markdown(sections: Iterable[Section]) -> str:
    """For a pull request, or a note beside the weights."""
    parts: list[str] = []
    for section in sections:
        parts.append(f"{'#' * section.level} {escaped(section.title)}")
        parts += [escaped(sentence) for sentence in section.sentences]
        if section.drawing:
            parts.append("\n".join(["```text", *section.drawing, "```"]))
        parts += [_table(table) for table in section.tables if table.rows]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    rules = ["---:" if i in table.right else "---" for i in range(len(table.header))]
    rows = [map(escaped, table.header), rules, *(map(escaped, x) for x in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def escaped(text: object) -> str:
    """As Markdown shows it letter by letter."""
    shown = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    for sign in "\\`*_[]|#~":
        shown = shown.replace(sign, f"\\{sign}")
    return shown
