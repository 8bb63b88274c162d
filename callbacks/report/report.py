"""The report of one run or of several: one object, shown in several ways."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..alerts.alert import Alert
from ..log.logged import LoggedRun
from ..log.reader import find_runs, read_run
from . import facts, text
from .bands import SHARES, Band
from .compare import names
from .course import Course
from .health import WORDS, Health
from .outline import outline
from .page import notebook, page
from .run_report import BatchNorm, Layer, RunReport, report_of

FORMAT = 1
POINTS = 200  # of a curve at most, in JSON


class Report:
    """How one training went, or several beside each other, from their logs alone.

    `print(report)` is a text, in a notebook it shows itself, `save` writes a page.

    `verdict`: one sentence. `level`: "critical", "warning" or "info", of the gravest
    alert that is open at the end; "healthy"; "unknown" where no rules were applied, or
    nothing is logged. `open_alerts`; `runs`: a `RunReport` each, with alerts, metrics,
    health of layers over time, table of layers, bands, batch norms, configuration, and
    the problems that reading met.

    Args:
        runs: What `log.reader.read_run` read; of directories, use `Report.read`.

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
        """Of all runs in these directories and below them.

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
        """Of the run that is worst.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).level
            'unknown'
        """
        order = ("critical", "warning", "info", facts.UNKNOWN, facts.HEALTHY)
        levels = {run.level for run in self.runs}
        return next((x for x in order if x in levels), facts.UNKNOWN)

    @property
    def verdict(self) -> str:
        """One sentence.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).verdict
            'Nothing is logged of a training here.'
        """
        if not self.runs:
            return "Nothing is logged of a training here."
        if len(self.runs) == 1:
            return self.runs[0].verdict
        healthy = sum(run.level == facts.HEALTHY for run in self.runs)
        ill = [run.name for run in self.runs if run.level in ("critical", "warning")]
        rest = f"; ill: {', '.join(ill)}" if ill else ""
        return f"{healthy} of {len(self.runs)} runs are healthy{rest}."

    @property
    def open_alerts(self) -> list[Alert]:
        """Of all runs, the gravest of each run first.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).open_alerts
            []
        """
        return [alert for run in self.runs for alert in run.open]

    def __str__(self) -> str:
        return text.plain(outline(self.runs)) if self.runs else f"{self.verdict}\n"

    def __repr__(self) -> str:
        return f"<Report: {self.verdict}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Report):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def _repr_html_(self) -> str:
        return notebook(self.to_html())

    def to_html(self) -> str:
        """The page: self-contained, for a browser.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).to_html()[:15]
            '<!DOCTYPE html>'
        """
        return page(self.runs, self.verdict, self.level)

    def to_markdown(self) -> str:
        """The text with Markdown's tables.

        Example:
            >>> import kbn
            >>> print(kbn.callbacks.Report([]).to_markdown())
            Nothing is logged of a training here.
            <BLANKLINE>
        """
        return text.markdown(outline(self.runs)) if self.runs else f"{self.verdict}\n"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: null for what is not finite; `not_finite` counts those.

        Example:
            >>> import kbn
            >>> kbn.callbacks.Report([]).to_dict()["not_finite"]
            0
        """
        known = {
            "format": FORMAT,
            "verdict": self.verdict,
            "level": self.level,
            "runs": [_run(run) for run in self.runs],
        }
        counted, lost = _as_json(known)
        found: dict[str, Any] = counted
        return {**found, "not_finite": lost}

    def to_json(self) -> str:
        """Of `to_dict`, strictly valid.

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
        place.write_text(content, encoding="utf-8")
        return place


def _run(run: RunReport) -> dict[str, Any]:
    return {
        "name": run.name,
        "level": run.level,
        "verdict": run.verdict,
        "alerts": [alert.to_dict() for alert in run.alerts],
        "metrics": [
            {"name": x.name, **{kind: _course(course) for kind, course in x.courses}}
            for x in run.metrics
        ],
        "health": _health(run.health),
        "layers": [_layer(layer) for layer in run.layers],
        "bands": [_band(band) for band in run.bands],
        "batch_norms": [_norm(norm) for norm in run.batch_norms],
        "configuration": run.configuration,
        "problems": run.problems,
    }


def _course(course: Course) -> dict[str, Any]:
    thin = course.thinned(POINTS)
    return {
        "steps": thin.steps.tolist(),
        "values": thin.values.tolist(),
        "points": len(course.steps),
        "not_finite": course.non_finite,
    }


def _health(health: Health) -> dict[str, Any]:
    return {
        "steps": health.steps.tolist(),
        "rows": [
            {
                "layer": row.layer,
                "cells": [WORDS[cell.grave] for cell in row.cells],
                "open": [x.rule for x in row.alerts if x.is_open],
            }
            for row in health.rows
        ],
    }


def _layer(layer: Layer) -> dict[str, Any]:
    last = {what: one.course.last for what, one in layer.measures.items()}
    return {"name": layer.name, "kind": layer.kind, "last": last}


def _band(band: Band) -> dict[str, Any]:
    return {
        "tag": band.tag,
        "steps": band.steps.tolist(),
        "shares": list(SHARES),
        "quantiles": band.quantiles.tolist(),
    }


def _norm(norm: BatchNorm) -> dict[str, Any]:
    last = {what: course.last for what, course in norm.courses.items()}
    return {"name": norm.name, "settings": dict(norm.settings), "last": last}


def _as_json(value: Any) -> tuple[Any, int]:
    """With None for what is not finite, and how many there were."""
    if isinstance(value, Mapping):
        parts = {str(k): _as_json(v) for k, v in value.items()}
        return {k: x for k, (x, _) in parts.items()}, sum(n for _, n in parts.values())
    if isinstance(value, list | tuple | np.ndarray):
        items = [_as_json(x) for x in value]
        return [x for x, _ in items], sum(n for _, n in items)
    if isinstance(value, float) and not math.isfinite(value):
        return None, 1
    return value, 0
