"""The tree of a report: stories of runs, their sections, and the parts of those."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..alerts.alert import Alert
from ..signals.guide import Guide
from .course import Band, Course
from .health import HEALTHY, Health

LEVELS = {"critical": "✖", "warning": "▲", "info": "●", "healthy": "✔", "unknown": "?"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table; all but `text` is decoration that a writer may leave out."""

    text: str = ""
    course: Course | None = None  # a small curve
    note: str = ""  # below a header, or for who points at a cell
    colour: str = ""  # of a run
    severity: int = HEALTHY
    link: str = ""


@dataclass
class Table:
    """`right`: columns of numbers; `quiet`: rows that a short table may leave out."""

    header: Sequence[str | Cell]
    rows: Sequence[Sequence[str | Cell]]
    right: Sequence[int] = ()
    quiet: Sequence[int] = ()
    folded: str = ""  # a title, where the table is shown on request
    is_sortable: bool = False


@dataclass(frozen=True)
class Line:
    """A course to draw. `colour`: as CSS has it; `dashes`: as SVG has them."""

    label: str
    course: Course
    colour: str
    dashes: str = ""


@dataclass
class Curves:
    """A chart of courses over the steps.

    `is_share`: of 1, shown as percent. `level`: a value to compare with, and its name.
    `guide`: healthy values. `epochs`: (last step, number) of each epoch.
    """

    title: str
    lines: list[Line]
    is_share: bool = False
    level: tuple[str, float] | None = None
    guide: Guide | None = None
    epochs: Course | None = None

    def number(self, value: float) -> str:
        """A value as the chart has it: `97.8 %`."""
        return f"{number(100 * value, 3)} %" if self.is_share else number(value)


@dataclass
class Bands:
    """A chart of quantiles over the steps; `beside`: bands that share its scale."""

    title: str
    band: Band
    colour: str
    beside: Sequence[Band] = ()


@dataclass
class Charts:
    """Charts beside each other; `words`: what they show, `table`: their numbers."""

    charts: Sequence[Curves | Bands]
    words: str = ""
    table: Table | None = None


@dataclass
class Alerts:
    """Open alerts, with what they mean and what to try."""

    alerts: Sequence[Alert]


@dataclass
class Settings:
    """{group: {name: value}}."""

    groups: dict[str, dict[str, str]]


# A str is a paragraph; of a Health, the map of layers by time is drawn.
Part: TypeAlias = str | Table | Charts | Alerts | Settings | Health


@dataclass
class Section:
    """A heading and its parts; `data`: its content as JSON has it, under `key`.

    `is_folded`: whether a page shows it on request.
    """

    title: str
    parts: list[Part]
    key: str = ""
    data: Any = None
    is_folded: bool = False


@dataclass
class Story:
    """A run, or several beside each other, each of them a story of its own."""

    title: str
    verdict: str
    level: str
    sections: list[Section] = field(default_factory=list)
    runs: list["Story"] = field(default_factory=list)
    name: str = ""
    colour: str = ""


def printable(text: object) -> str:
    """A text without line ends and control characters, which a name may have."""
    return "".join(x if x.isprintable() else "\ufffd" for x in str(text))


def number(value: float, digits: int = 4) -> str:
    """A number in a few digits: `0.1234`, `NaN`."""
    if math.isnan(value):
        return "NaN"
    return f"{value:.{digits}g}"
