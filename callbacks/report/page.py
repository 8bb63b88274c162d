"""The report as one self-contained HTML page: nothing is loaded."""

from collections.abc import Iterator, Sequence

from ..alerts.alert import Alert, and_more, since
from ..alerts.explanation import command
from .charts import curve, escaped, figure
from .health import Health
from .heat import heat_map
from .style import CSS
from .tree import LEVELS, Alerts, Cell, Charts, Part, Section, Settings, Story, Table
from .verdict import measure

SHOWN = 8  # runs of which all is shown, so that a page stays small
ROOMY = 4  # runs that are unfolded
DRAWN = 24  # charts of a section at most
WORDY = 24  # letters of a cell that is to be wrapped late


# Sorts a table by the column whose header is clicked.
SORT = """<script>for (const table of document.querySelectorAll("table.sort"))
  [...table.rows[0].cells].forEach((head, i) => head.onclick = () => {
    const sign = (head.dataset.up = head.dataset.up > 0 ? -1 : 1);
    const text = (row) => row.cells[i].textContent.replace(/,/g, "");
    const number = (row) => parseFloat(text(row).match(/-?[\\d.]+(e[-+]?\\d+)?/));
    const order = (a, b) => number(a) - number(b) || text(a).localeCompare(text(b));
    [...table.rows].slice(1).sort((a, b) => sign * order(a, b))
      .forEach((row) => table.tBodies[0].append(row));
  });</script>"""


def page(story: Story) -> str:
    """A whole document."""
    title = story.title or (story.runs[0].title if story.runs else "kbn")
    body = "".join(_body(story))
    script = SORT if 'class="sort"' in body else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}: health</title><style>{CSS}</style></head>\n"
        f'<body class="kbn page">{body}{script}</body></html>\n'
    )


def part_of_a_page(story: Story) -> str:
    """The same, to stand in a notebook, in its width, height and colours."""
    body = "".join(_body(story))
    return f'<div class="kbn"><style>{CSS}</style>{body}</div>'


def _body(story: Story) -> Iterator[str]:
    if story.title or not story.runs:
        yield _head(story)
        yield _contents(story.sections)
    yield from map(_section, story.sections)
    if not story.title:
        for run in story.runs:
            yield _head(run)
            yield _contents(run.sections)
            yield from map(_section, run.sections)
        return
    order = [*LEVELS]  # the worst first
    ranked = sorted(story.runs, key=lambda run: order.index(run.level))
    for i, run in enumerate(story.runs):
        if run in ranked[:SHOWN]:
            is_open = " open" if len(story.runs) <= ROOMY else ""
            yield (
                f'<details class="run" id="run-{i}"{is_open}><summary>'
                f"{_swatch(run.colour)}{escaped(run.title)}</summary>{verdict(run)}"
                f"{''.join(_section(x, f'run-{i}-') for x in run.sections)}</details>"
            )
    if ranked[SHOWN:]:
        yield _paragraph(
            f"{len(ranked[SHOWN:])} more runs, the healthiest, are in the table only: "
            "ask for them alone to see their layers."
        )


def _head(story: Story) -> str:
    title = f"<h1>{escaped(story.title)}</h1>" if story.title else ""
    return title + verdict(story)


def verdict(story: Story) -> str:
    """The verdict of a run, or of several."""
    return (
        f'<p class="verdict {story.level}"><span class="mark">{LEVELS[story.level]}'
        f"</span> {escaped(story.verdict)}</p>"
    )


def _contents(sections: Sequence[Section]) -> str:
    links = [
        f'<a href="#{x.key}">{escaped(x.title)}</a>'
        for x in sections
        if x.parts and x.key
    ]
    return f"<nav>{''.join(links)}</nav>" if len(links) > 1 else ""


def _section(section: Section, prefix: str = "") -> str:
    if not section.parts:
        return ""
    title = f"<h2>{escaped(section.title)}</h2>" if section.title else ""
    body = "".join(map(_part, section.parts))
    if section.is_folded:
        title, body = f"<details><summary>{title}</summary>{body}</details>", ""
    anchor = f' id="{prefix}{section.key}"' if section.key else ""
    return f"<section{anchor}>{title}{body}</section>"


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
    what = f"{LEVELS[alert.level]} {alert.level}: {alert.title or alert.rule}"
    place = f"in {alert.where}{and_more(alert.others)}, since {since(alert)}"
    words = f"Measured {measure(alert)}. To read more: {command(alert.rule)}"
    return (
        f'<details class="alert {alert.level}"><summary><b>{escaped(what)}</b> '
        f'{escaped(place)}</summary><p class="ink">{escaped(alert.said)}</p>'
        f"{_paragraph(words)}</details>"
    )


def _table(table: Table) -> str:
    header = "".join(
        _tag("th", table, i, f"{escaped(cell.text)}{_below(cell.note)}", cell)
        for i, cell in enumerate(map(_cell, table.header))
    )
    rows = [
        "".join(
            _tag("td", table, i, _shown(cell), cell)
            for i, cell in enumerate(map(_cell, row))
        )
        for row in table.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in [header, *rows] if row)
    kind = ' class="sort"' if table.is_sortable else ""
    drawn = f'<div class="scroll"><table{kind}><tbody>{body}</tbody></table></div>'
    if not table.folded:
        return drawn
    return f"<details><summary>{escaped(table.folded)}</summary>{drawn}</details>"


def _shown(cell: Cell) -> str:
    text, drawn = escaped(cell.text), curve(cell.course) if cell.course else ""
    return drawn + (f'<a href="{escaped(cell.link)}">{text}</a>' if cell.link else text)


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


def _swatch(colour: str) -> str:
    return f'<span class="swatch" style="background:{colour}"></span>' if colour else ""
