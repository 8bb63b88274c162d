"""The report of one run or of several: one object, shown in several ways."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..alerts.alert import Alert
from ..log.logged import LoggedRun
from ..log.reader import find_runs, read_run
from . import text
from .comparison import names
from .comparison import verdict as several
from .page import SHOWN, page, part_of_a_page
from .run_report import RunReport, report_of
from .story import story_of
from .tree import Story
from .verdict import HEALTHY, UNKNOWN


class Report:
    """How one training went, or several beside each other, from their logs alone.

    `print(report)` is a text, in a notebook it shows itself, `save` writes a page.

    `verdict`: one sentence. `level`: that of the worst alert that is open at the end,
    "critical", "warning" or "info"; "healthy"; "unknown" where no rules were applied,
    or nothing is logged. `open_alerts`; `runs`: a `RunReport` each, with alerts,
    metrics, health of layers over time, table of layers, bands, batch norms,
    configuration, and the problems that reading met.

    Args:
        runs: Logs that `log.reader.read_run` read. `Report.read` takes directories.

    Example:
        >>> import keras, kbn, numpy as np
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> monitor = kbn.callbacks.TrainingMonitor("logs")
        >>> x, y = np.ones((32, 4)), np.zeros((32, 1))
        >>> _ = model.fit(x, y, callbacks=[monitor], verbose=0)
        >>> kbn.callbacks.Report.read("logs").verdict
        'Healthy at the end of 1 step, 1 epoch.'
    """

    def __init__(self, runs: Sequence[LoggedRun]) -> None:
        if isinstance(runs, str | os.PathLike):
            raise TypeError(f"Report({runs!r}): did you mean Report.read({runs!r})?")
        self.runs: list[RunReport] = [report_of(run) for run in runs]
        for run, name in zip(self.runs, names(self.runs), strict=True):
            run.name = name

    @classmethod
    def read(cls, *directories: str | os.PathLike[str]) -> "Report":
        """The report of all runs in these directories and below them.

        Raises:
            FileNotFoundError: There is no log of kbn's in one of them.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report.read().runs  # of no directory
            []
        """
        runs = []
        for directory in map(Path, directories):
            found = find_runs(directory)
            if not found:
                raise FileNotFoundError(
                    f"There is no log of TrainingMonitor's in {str(directory)!r}: "
                    "expected a file events.out.tfevents.*.kbn there or below it."
                )
            for place in found:
                inner = place.relative_to(directory).as_posix()
                own = directory.name or str(directory)
                name = own if inner == "." else inner
                if inner != "." and len(directories) > 1:
                    name = f"{own}/{inner}"
                runs.append(read_run(place, name))
        return cls(runs)

    @property
    def level(self) -> str:
        """The level of the worst run.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).level
            'unknown'
        """
        order = ("critical", "warning", "info", UNKNOWN, HEALTHY)
        levels = {run.level for run in self.runs}
        return next((x for x in order if x in levels), UNKNOWN)

    @property
    def verdict(self) -> str:
        """How the training went, in one sentence.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).verdict
            'Nothing is logged of a training here.'
        """
        if not self.runs:
            return "Nothing is logged of a training here."
        if len(self.runs) == 1:
            return self.runs[0].verdict
        return several(self.runs)

    @property
    def open_alerts(self) -> list[Alert]:
        """The open alerts of all runs, the worst of each run first.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).open_alerts
            []
        """
        return [alert for run in self.runs for alert in run.open]

    def _story(self, pages: Sequence[str] = ()) -> Story:
        return story_of(self.runs, self.verdict, self.level, pages)

    def __str__(self) -> str:
        return text.plain(self._story())

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Report):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        return part_of_a_page(self._story())

    def to_html(self) -> str:
        """The page: self-contained, for a browser.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).to_html()[:15]
            '<!DOCTYPE html>'
        """
        return page(self._story())

    def to_markdown(self) -> str:
        """The text with Markdown's tables.

        Example:
            >>> import kbn
            >>> print(kbn.callbacks.Report([]).to_markdown(), end="")
            ? Nothing is logged of a training here.
        """
        return text.markdown(self._story())

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it.

        A number that is not finite is null, and `not_finite` counts them.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).to_dict()["not_finite"]
            0
        """
        return text.data_of(self._story())

    def to_json(self) -> str:
        """`to_dict` as strictly valid JSON.

        Example:
            >>> import kbn
            >>> import json
            >>> report = kbn.callbacks.Report([])
            >>> json.loads(report.to_json()) == report.to_dict()
            True
        """
        return json.dumps(self.to_dict(), allow_nan=False, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a `.html`, `.md`, `.json` or `.txt` file; returns its path.

        Of more than eight runs, each has a page of its own in a directory beside it.

        Raises:
            ValueError: The name ends otherwise.
            OSError: It cannot be written.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).save("report.html").name
            'report.html'
        """
        place = Path(path)
        ways = {
            ".html": self.to_html,
            ".md": self.to_markdown,
            ".json": self.to_json,
            ".txt": self.__str__,
        }
        if place.suffix.lower() not in ways:
            raise ValueError(
                f"Report.save({str(path)!r}): expected a name that ends in "
                f"{', '.join(ways)}"
            )
        content = ways[place.suffix.lower()]()
        if place.suffix.lower() == ".html" and len(self.runs) > SHOWN:
            content = page(self._story(self._save_runs(place)))
        place.write_text(content, encoding="utf-8")
        return place

    def _save_runs(self, place: Path) -> list[str]:
        """A page for each run, in a directory beside that of all; their addresses."""
        directory = place.with_name(f"{place.stem}-runs")
        directory.mkdir(exist_ok=True)
        links = []
        for i, run in enumerate(self.runs):
            bare = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name)[:60]
            own = directory / f"{i:03}-{bare}.html"
            story = story_of([run], run.verdict, run.level)
            own.write_text(page(story), encoding="utf-8")
            links.append(f"{quote(directory.name)}/{own.name}")
        return links
