"""The report as one self-contained HTML page: no script, nothing loaded."""

import html
from collections.abc import Iterator

from ..alerts.alert import Alert, since
from .charts import curve, escaped, figure
from .course import Course
from .health import Health
from .heat import heat_map
from .run_report import measure, named
from .style import CSS
from .tree import (
    LEVELS,
    Alerts,
    Cell,
    Charts,
    Part,
    Section,
    Settings,
    Story,
    Table,
)

SHOWN = 8  # runs of which all is shown, so that a page stays small
ROOMY = 4  # runs that are unfolded
DRAWN = 24  # charts of a section at most
WORDY = 24  # letters of a cell that is to be wrapped late


def page(story: Story) -> str:
    """A whole document."""
    title = story.title or (story.runs[0].title if story.runs else "kbn")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}: health</title><style>{CSS}</style></head>\n"
        f"<body>{''.join(_body(story))}</body></html>\n"
    )


def notebook(document: str) -> str:
    """The page in a frame, so that its style and the notebook's stay apart."""
    return (
        f'<iframe srcdoc="{html.escape(document)}" title="Health of the training" '
        'style="width:100%;height:760px;border:0" sandbox=""></iframe>'
    )


def _body(story: Story) -> Iterator[str]:
    if story.title or not story.runs:
        yield _head(story)
    yield from map(_section, story.sections)
    if not story.title:
        for run in story.runs:
            yield _head(run)
            yield from map(_section, run.sections)
        return
    order = [*LEVELS]  # the worst first
    ranked = sorted(story.runs, key=lambda run: order.index(run.level))
    for run in story.runs:
        if run in ranked[:SHOWN]:
            is_open = " open" if len(story.runs) <= ROOMY else ""
            yield (
                f'<details class="run"{is_open}><summary>{_swatch(run.colour)}'
                f"{escaped(run.title)}</summary>{_verdict(run)}"
                f"{''.join(map(_section, run.sections))}</details>"
            )
    if ranked[SHOWN:]:
        yield _paragraph(
            f"{len(ranked[SHOWN:])} more runs, the healthiest, are in the tables only: "
            "ask for them alone to see their layers."
        )


def _head(story: Story) -> str:
    title = f"<h1>{escaped(story.title)}</h1>" if story.title else ""
    return title + _verdict(story)


def _verdict(story: Story) -> str:
    return (
        f'<p class="verdict {story.level}"><span class="mark">{LEVELS[story.level]}'
        f"</span> {escaped(story.verdict)}</p>"
    )


def _section(section: Section) -> str:
    if not section.parts:
        return ""
    title = f"<h2>{escaped(section.title)}</h2>" if section.title else ""
    return title + "".join(map(_part, section.parts))


def _part(part: Part) -> str:
    match part:
        case str():
            return _paragraph(part)
        case Table():
            return _table(part)
        case Charts():
            drawn = "".join(map(figure, part.charts[:DRAWN]))
            table = _table(part.table) if part.table else ""
            words = _paragraph(part.words) if part.words else ""
            return f'{words}<div class="charts">{drawn}</div>{table}'
        case Alerts():
            return "".join(map(_alert, part.alerts))
        case Settings():
            rows = [
                [group, name, value]
                for group, values in part.groups.items()
                for name, value in values.items()
            ]
            return _table(Table([], rows))
        case Health():
            return heat_map(part)


def _paragraph(words: str) -> str:
    return f'<p class="dim">{escaped(words)}</p>'


def _alert(alert: Alert) -> str:
    return (
        f'<div class="alert {alert.level}"><b>{LEVELS[alert.level]} {alert.level}: '
        f"{escaped(named(alert))}</b> since {escaped(since(alert))} "
        f'<span class="dim">measured {escaped(measure(alert))}</span>'
        f"<p>{escaped(alert.said)}</p></div>"
    )


def _table(table: Table) -> str:
    header = "".join(
        _tag("th", table, i, f"{escaped(cell.text)}{_below(cell.note)}", cell)
        for i, cell in enumerate(map(_cell, table.header))
    )
    rows = [
        "".join(
            _tag("td", table, i, f"{_curve(cell.course)}{escaped(cell.text)}", cell)
            for i, cell in enumerate(map(_cell, row))
        )
        for row in table.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in [header, *rows] if row)
    drawn = f'<div class="scroll"><table>{body}</table></div>'
    if not table.folded:
        return drawn
    return f"<details><summary>{escaped(table.folded)}</summary>{drawn}</details>"


def _cell(cell: str | Cell) -> Cell:
    return cell if isinstance(cell, Cell) else Cell(cell)


def _tag(tag: str, table: Table, column: int, content: str, cell: Cell) -> str:
    kinds = {
        "n": column in table.right,
        "words": len(cell.text) > WORDY,
        f"s{cell.severity}": cell.severity,
    }
    kind = " ".join(name for name, is_so in kinds.items() if is_so)
    note = cell.note or (cell.text if column == 0 else "")
    attributes = f' class="{kind}"' if kind else ""
    attributes += f' title="{escaped(note)}"' if note and tag == "td" else ""
    return f"<{tag}{attributes}>{_swatch(cell.colour)}{content}</{tag}>"


def _below(note: str) -> str:
    return f'<br><span class="dim">{escaped(note)}</span>' if note else ""


def _curve(course: Course | None) -> str:
    return "" if course is None else curve(course)


def _swatch(colour: str) -> str:
    return f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
