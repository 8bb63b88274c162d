"""`kbn demo`: trains both networks and shows what they did."""

import functools
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import kbn
from kbn_command import demo, picture

# In the order of training: TensorBoard's charts give the run that starts first orange
# and the second blue, the colours of the picture and the report.
RUNS = {"without_batch_norm": False, "with_batch_norm": True}
PICTURE = "batch_norm.png"
REPORT = "report.html"
# In a directory that the demo has made its own: only there it replaces files.
MARKER = ".kbn-demo"


class UserError(Exception):
    """Says in one sentence what went wrong and how to mend it."""


def run(out: Path, epochs: int, seed: int, learning_rate: float) -> None:
    """Train both networks; leave logs, picture, report in `out`, print a table."""
    for module, name in {"sklearn": "scikit-learn", "matplotlib": "Matplotlib"}.items():
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"{name} is not installed: run pip install 'keras-kbn[demo]'"
            )
    # The framework greets a machine without a GPU on stderr: now, not in the bars.
    keras.ops.ones(1)
    console = Console()
    if claim(out):
        print(f"Replacing the logs and the picture of an earlier demo in {out}")
    digits = demo.load_digits(seed)
    curves = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        console=console,
    ) as progress:
        bars = {
            run: progress.add_task(
                run.replace("_", " "), total=epochs * demo.STEPS_PER_EPOCH
            )
            for run in RUNS
        }
        for run, batch_norm in RUNS.items():
            curves[run] = demo.train(
                digits,
                batch_norm,
                epochs,
                seed,
                out / "logs" / run,
                on_step=functools.partial(progress.advance, bars[run]),
                learning_rate=learning_rate,
            )
    without, with_ = curves["without_batch_norm"], curves["with_batch_norm"]
    picture.draw_picture(without, with_, learning_rate, out / PICTURE)
    console.print(build_table(curves, learning_rate))
    logs = [out / "logs" / run for run in RUNS]
    report = kbn.callbacks.Report.read(*logs)
    print(f"{demo.verdict(without, with_)}\n\n{report.verdict}\n")
    # Not by rich, which wraps lines and takes brackets in a path for markup.
    print(f"Picture:      {out / PICTURE}")
    print(f"Report:       {report.save(out / REPORT)}")
    print(f"TensorBoard:  {tensorboard_command(out / 'logs')}")


def claim(out: Path) -> bool:
    """Make `out` the demo's; whether an earlier demo's files were removed from it."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is not a directory: choose another --out")
    marker = out / MARKER
    logs = [out / "logs" / run for run in RUNS]
    again = marker.exists()
    if not again:
        for path in (out / PICTURE, out / REPORT, *logs):
            if path.exists():
                raise UserError(
                    f"{path} is there, but not from a demo: choose another --out"
                )
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text("Written by `kbn demo`, which replaces its own files here.\n")
    for directory in logs:
        directory.mkdir(parents=True, exist_ok=True)
        for file in directory.glob("events.out.tfevents.*"):
            file.unlink()
    for name in (PICTURE, REPORT):
        (out / name).unlink(missing_ok=True)
    return again


def build_table(curves: dict[str, demo.Curves], learning_rate: float) -> Table:
    """Final accuracies and the way there, a column a run."""
    title = f"SGD, learning rate {learning_rate:g}"
    table = Table(title=title, title_justify="left")
    table.add_column()
    rows = {
        "training accuracy": [
            f"{run.train_accuracy[-1]:.1%}" for run in curves.values()
        ],
        "test accuracy": [f"{run.test_accuracy[-1]:.1%}" for run in curves.values()],
        f"steps to {demo.TARGET:.0%} test accuracy": [
            "not reached"
            if (steps := run.steps_to(demo.TARGET)) is None
            else str(steps)
            for run in curves.values()
        ],
        "covariate shift of the ReLUs' inputs": [
            _moved(run.shift) if run.shift else "" for run in curves.values()
        ],
    }
    for name in curves:
        table.add_column(name.replace("_", " "), justify="right")
    for title, cells in rows.items():
        table.add_row(title, *cells)
    return table


def _moved(shift: Sequence[float]) -> str:
    typical = float(np.median(shift))
    return f"{typical:.2g} std" if typical else "none: it is dead"


def tensorboard_command(logs: Path) -> str:
    """A line that works in the caller's shell, virtual environment active or not."""
    beside = Path(sys.executable).with_name("tensorboard")
    if shutil.which("tensorboard") == str(beside):
        program = ["tensorboard"]
    elif beside.exists():
        here = Path.cwd()
        inside = beside.is_relative_to(here)
        program = [str(beside.relative_to(here) if inside else beside)]
    else:
        program = [sys.executable, "-m", "tensorboard.main"]
    return shlex.join([*program, "--logdir", os.fspath(logs)])
