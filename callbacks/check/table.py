"""What a check has found: a line for each thing that was looked at."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ..alerts.alert import COLOURS, Alert
from ..signals.remedy import Remedy

MARKS = {"ok": "ok", "note": "note", "failed": "FAILED", "skipped": "-"}
SHADES = {
    "ok": "#2b8a3e",
    "note": COLOURS["info"],
    "failed": COLOURS["critical"],
    "skipped": "#868e96",
}
WIDTH = 88


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Args:
        name: What it is.
        status: "ok", "note", "failed" or "skipped".
        text: What was measured, or why nothing was.
        alerts: Diagnoses by the monitor's names, each with its remedy.

    Example:
        >>> from kbn.callbacks.check.table import Line
        >>> Line("examples", "ok", "the output of one does not depend on others").status
        'ok'
    """

    name: str
    status: str
    text: str
    alerts: tuple[Alert, ...] = ()


class Check:
    """What `kbn.check` returns: `lines`, printed as a table, or shown in a notebook."""

    def __init__(self, title: str, lines: Sequence[Line]) -> None:
        self.title = title
        self.lines = tuple(lines)

    @property
    def ok(self) -> bool:
        """Whether no line has failed; notes and what was skipped do not count."""
        return all(line.status != "failed" for line in self.lines)

    @property
    def alerts(self) -> list[Alert]:
        """The diagnoses of all lines, notes too."""
        return [alert for line in self.lines for alert in line.alerts]

    @property
    def remedies(self) -> list[Remedy]:
        """What to try, in the order of the lines."""
        return [alert.remedy for alert in self.alerts if alert.remedy is not None]

    def __str__(self) -> str:
        wide = max(len(line.name) for line in self.lines)
        shown, skipped = [self.headline], dict[str, list[str]]()
        for line in self.lines:
            texts = [line.text, *(f"{x.rule}: {x.said}" for x in line.alerts)]
            if line.status == "skipped":
                skipped.setdefault(line.text, []).append(line.name)
                continue
            start = f"{MARKS[line.status]:>6}  {line.name:<{wide}}  "
            for text in filter(None, texts):
                shown += _wrapped(start, text)
                start = " " * len(start)
        for text, names in skipped.items():
            shown += _wrapped(f"{MARKS['skipped']:>6}  ", f"{', '.join(names)}: {text}")
        return "\n".join(shown)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="color:{SHADES[line.status]}"><b>{MARKS[line.status]}</b>'
            f'</td><td>{html.escape(line.name)}</td><td style="text-align:left">'
            f"{html.escape(line.text)}{''.join(x._repr_html_() for x in line.alerts)}"
            "</td></tr>"
            for line in self.lines
        )
        return f"<div><b>{html.escape(self.headline)}</b><table>{rows}</table></div>"

    @property
    def headline(self) -> str:
        """How many lines failed, in words."""
        failed = sum(line.status == "failed" for line in self.lines)
        looked = sum(line.status != "skipped" for line in self.lines)
        said = f"{failed} of {looked} lines failed" if failed else "nothing failed"
        return f"{self.title}: {said}"


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
    )
