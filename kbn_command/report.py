"""`kbn report`: how logged runs went, from their event files."""

import argparse
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kbn_light

HEALTHY, ILL, NO_LOG = 0, 1, 2  # exit statuses


def add_parser(commands: Any) -> None:
    """`kbn report DIR [DIR ...] [--out FILE] [--open]`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="tell how logged runs went, and compare them",
        description="Read what TrainingMonitor has logged in these directories and "
        "below them, and tell how the training went; several runs are compared. Exit "
        "status: 1 if a critical alert is open at the end, 2 if there is no log.",
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


def path(text: str) -> Path:
    """An argparse type: a path; of no letters, Path makes the directory one is in."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("'' is not a path")


def run(directories: Sequence[Path], out: Path | None, shows: bool) -> int:
    """Print or write the report; the result is the exit status."""
    reports = kbn_light.load("kbn.callbacks.report.report")
    try:
        report = reports.Report.read(*directories)
    except FileNotFoundError as error:
        print(f"kbn report: {error}", file=sys.stderr)
        return NO_LOG
    try:
        if out is not None:
            print(report.save(out))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        print(f"kbn report: cannot write to {out}: {why}", file=sys.stderr)
        return NO_LOG
    if shows:
        page = out
        if page is None or page.suffix != ".html":
            page = report.save(Path(tempfile.mkdtemp()) / "report.html")
            print(page)
        webbrowser.open(page.absolute().as_uri())
    elif out is None:
        print(report, end="")
    return ILL if report.level == "critical" else HEALTHY
