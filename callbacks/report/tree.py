"""The tree of a report: stories of runs, their sections, and the parts of those."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..alerts.alert import Alert
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


@dataclass
class Table:
    """`right`: columns of numbers; `quiet`: rows that a short table may leave out."""

    header: Sequence[str | Cell]
    rows: Sequence[Sequence[str | Cell]]
    right: Sequence[int] = ()
    quiet: Sequence[int] = ()
    folded: str = ""  # a title, where the table is shown on request


@dataclass(frozen=True)
class Line:
    """A course to draw. `colour`: as CSS has it; `dashes`: as SVG has them."""

    label: str
    course: Course
    colour: str
    dashes: str = ""


@dataclass
class Curves:
    """A chart of courses over the steps."""

    title: str
    lines: list[Line]

    @property
    def is_log(self) -> bool:
        """Whether the axis is logarithmic: all above 0, and over two decades."""
        known = [line.course for line in self.lines if len(line.course.finite)]
        low = min((course.minimum for course in known), default=0.0)
        high = max((course.maximum for course in known), default=0.0)
        return low > 0 and high / low > 100


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
    """A heading and its parts; `data`: its content as JSON has it, under `key`."""

    title: str
    parts: list[Part]
    key: str = ""
    data: Any = None


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
