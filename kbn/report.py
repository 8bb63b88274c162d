"""`kbn report`: how logged runs went, from their event files."""

import argparse
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kbn

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
        "directories", nargs="+", type=Path, metavar="DIR", help="a log_dir"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write a .html, .md, .json or .txt file instead of printing a text",
    )
    command.add_argument(
        "--open", action="store_true", help="show the page in a browser"
    )


def run(directories: Sequence[Path], out: Path | None, shows: bool) -> int:
    """Print or write the report; the result is the exit status."""
    try:
        report = kbn.callbacks.Report.read(*directories)
        if out is not None:
            print(report.save(out))
        if shows:
            page = out if out is not None and out.suffix == ".html" else None
            if page is None:
                page = report.save(Path(tempfile.mkdtemp()) / "report.html")
                print(page)
            webbrowser.open(page.absolute().as_uri())
        if out is None and not shows:
            print(report, end="")
    except (FileNotFoundError, ValueError) as error:
        print(f"kbn report: {error}", file=sys.stderr)
        return NO_LOG
    except OSError as error:
        why = error.strerror or error
        print(f"kbn report: cannot write to {out} ({why})", file=sys.stderr)
        return NO_LOG
    return ILL if report.level == "critical" else HEALTHY
