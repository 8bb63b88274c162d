"""`kbn report`: how logged runs went, from their event files."""

import argparse
import ctypes
import math
import operator
import re
import sys
import tempfile
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kbn_light

HEALTHY, ILL, NO_ANSWER = 0, 1, 2  # exit statuses
# {what --fail-on takes: the levels of a report that fail}.
FAILING = {
    "warning": ("warning", "critical"),
    "critical": ("critical",),
    "never": (),
}
COMPARED = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


class Requirement(NamedTuple):
    """That the last value of a metric of the epochs compares so with a number."""

    text: str
    metric: str
    sign: str
    bound: float

    def is_met(self, last: Mapping[str, float]) -> bool:
        """Whether it is; a NaN never is. A KeyError: no epoch has logged the metric."""
        return bool(COMPARED[self.sign](last[self.metric], self.bound))


def add_parser(commands: Any) -> None:
    """`kbn report DIR [DIR ...] [--out FILE] [--open] [--fail-on LEVEL] ...`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="tell how logged runs went, and compare them",
        description="Read what TrainingMonitor has logged in these directories and "
        "below them, and tell how the training went; several runs are compared.",
        epilog="Exit status: 0; 1 if an alert of --fail-on is open at the end, or a "
        "--require is not met; 2 if there is no answer: no log, no such metric, "
        "nowhere to write.",
    )
    command.add_argument(
        "directories", nargs="+", type=path, metavar="DIR", help="a log_dir"
    )
    command.add_argument(
        "--out",
        type=path,
        metavar="FILE",
        help="write a .html, .md, .json or .txt file instead of printing a text",
    )
    command.add_argument(
        "--open", action="store_true", help="show the page in a browser"
    )
    command.add_argument(
        "--fail-on",
        choices=FAILING,
        default="critical",
        help="from which level an alert that is open at the end makes the exit status "
        "1 (default: critical)",
    )
    command.add_argument(
        "--require",
        type=requirement,
        action="append",
        default=[],
        metavar="TEST",
        help="such as 'val_accuracy>=0.9', of the last epoch of every run; may be "
        "given several times",
    )


def path(text: str) -> Path:
    """An argparse type: a path; of no letters, Path makes the directory one is in."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("'' is not a path")


def requirement(text: str) -> Requirement:
    """An argparse type: a metric, one of >=, <=, > and <, and a number."""
    found = re.fullmatch(r"\s*([^<>=]*[^<>=\s])\s*([<>]=?)\s*(\S+)\s*", text)
    try:
        # As the log rounds it: an accuracy of 0.9 is logged as 0.89999998.
        bound = ctypes.c_float(float(found[3])).value if found else math.nan
    except ValueError:
        bound = math.nan
    if found and not math.isnan(bound):
        return Requirement(text, found[1], found[2], bound)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a test such as 'val_accuracy>=0.9'"
    )


def run(options: argparse.Namespace) -> int:
    """Print or write the report; the result is the exit status."""
    out: Path | None = options.out
    reports = kbn_light.load("kbn.callbacks.report.report")
    try:
        report = reports.Report.read(*options.directories)
    except FileNotFoundError as error:
        print(f"kbn report: {error}", file=sys.stderr)
        return NO_ANSWER
    try:
        if out is not None:
            print(report.save(out))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        print(f"kbn report: cannot write to {out}: {why}", file=sys.stderr)
        return NO_ANSWER
    if options.open:
        page = out
        if page is None or page.suffix != ".html":
            page = report.save(Path(tempfile.mkdtemp()) / "report.html")
            print(page)
        webbrowser.open(page.absolute().as_uri())
    elif out is None:
        print(report, end="")
    is_ill = report.level in FAILING[options.fail_on]
    return max([ILL if is_ill else HEALTHY, *_judged(report, options.require)])


def _judged(report: Any, requirements: list[Requirement]) -> list[int]:
    """A status for each requirement and run; says which are not met."""
    found = []
    for run in report.runs:
        for one in requirements:
            if one.metric not in run.last:
                known = ", ".join(sorted(run.last)) or "none"
                why = f"{run.name} has logged no {one.metric!r}; its metrics: {known}"
            elif not one.is_met(run.last):
                why = f"in {run.name} it is {run.last[one.metric]:.6g}"
            else:
                continue
            print(f"kbn report: --require {one.text!r}: {why}", file=sys.stderr)
            found.append(ILL if one.metric in run.last else NO_ANSWER)
    return found
