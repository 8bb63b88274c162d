"""The page: one self-contained HTML document, the same in four places."""

import html
from collections.abc import Iterable, Sequence

from .charts import escaped
from .compare import colours
from .comparison import comparison
from .outline import LEVELS
from .run_report import RunReport
from .sections import sections
from .style import CSS

SHOWN = 8  # runs of which all is shown, so that a page stays small
ROOMY = 4  # runs that are unfolded


def page(runs: Sequence[RunReport], verdict: str, level: str) -> str:
    """A whole document. Nothing in it is loaded from elsewhere, and nothing runs."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escaped(title)}: health</title>"
        f"<style>{CSS}</style></head>\n"
        f"<body>{body(runs, verdict, level)}</body></html>\n"
    )


def notebook(document: str) -> str:
    """The page in a frame, so that its style and the notebook's stay apart."""
    return (
        f'<iframe srcdoc="{html.escape(document)}" title="Health of the training" '
        'style="width:100%;height:760px;border:0" sandbox=""></iframe>'
    )


def body(runs: Sequence[RunReport], verdict: str, level: str) -> str:
    """What stands in the page."""
    if not runs:
        return _verdict(verdict, level)
    if len(runs) == 1:
        return "".join([_head(runs[0]), *sections(runs[0])])
    shown = _shown(runs)
    parts = [
        f"<h1>{len(runs)} runs compared</h1>",
        _verdict(verdict, level),
        *comparison(runs),
        *(_folded(run, colour, len(runs)) for run, colour in shown),
    ]
    if left := len(runs) - len(shown):
        parts.append(
            f'<p class="dim">{left} more runs, the healthiest, are in the tables only: '
            "ask for them alone to see their layers.</p>"
        )
    return "\n".join(parts)


def _shown(runs: Sequence[RunReport]) -> list[tuple[RunReport, str]]:
    """At most eight, the illest first to be kept, in their order."""
    order = [*LEVELS]
    ranked = sorted(range(len(runs)), key=lambda i: order.index(runs[i].level))
    kept = {*ranked[:SHOWN]}
    pairs = zip(runs, colours(runs), strict=True)
    return [pair for i, pair in enumerate(pairs) if i in kept]


def _head(run: RunReport) -> str:
    return f"<h1>{escaped(run.name)}</h1>{_verdict(run.verdict, run.level)}"


def _verdict(sentence: str, level: str) -> str:
    return (
        f'<p class="verdict {level}"><span class="mark">{LEVELS[level]}</span> '
        f"{escaped(sentence)}</p>"
    )


def _folded(run: RunReport, colour: str, count: int) -> str:
    parts: Iterable[str] = sections(run, colour)
    is_open = " open" if count <= ROOMY else ""
    return (
        f'<details class="run"{is_open}><summary><span class="swatch" '
        f'style="background:{colour}"></span>{escaped(run.name)}</summary>'
        f"{_verdict(run.verdict, run.level)}{''.join(parts)}</details>"
    )
