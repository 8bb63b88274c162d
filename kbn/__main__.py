"""The `kbn` command."""

import argparse
import functools
import importlib.util
import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import kbn
from kbn import demo, picture, report

# In the order of training: TensorBoard's charts give the run that starts first orange
# and the second blue, the colours of the picture and the report.
RUNS = {"without_batch_norm": False, "with_batch_norm": True}
PICTURE = "batch_norm.png"
REPORT = "report.html"
# In a directory that the demo has made its own: only there it replaces files.
MARKER = ".kbn-demo"


class UserError(Exception):
    """What went wrong and how to mend it, in one sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit status."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "report":
        return report.run(options.directories, options.out, options.open)
    try:
        run_demo(options.out, options.epochs, options.seed, options.learning_rate)
    except UserError as error:
        print(f"kbn demo: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"kbn demo: cannot write to {options.out} ({error.strerror or error}): "
            "choose another --out",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(
            f"kbn demo: interrupted; what was logged is in {options.out / 'logs'}",
            file=sys.stderr,
        )
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """`kbn demo [--out DIR] [--epochs N] [--learning-rate RATE] ...`, `kbn report`."""
    parser = argparse.ArgumentParser(
        prog="kbn", description="Batch normalization for Keras: fast, exact, visible."
    )
    parser.add_argument("--version", action="version", version=f"kbn {kbn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    command = commands.add_parser(
        "demo",
        help="train with and without batch norm, draw a picture, log to TensorBoard",
        description="Train a small network on handwritten digits with and without "
        "batch norm, both by SGD at one learning rate; "
        "print a table, draw a picture, log both runs to TensorBoard, and write a page "
        "that compares their health.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument(
        "--out",
        type=report.path,
        default=Path("kbn-demo"),
        metavar="DIR",
        help="where logs, picture and report go; those of an earlier demo are replaced",
    )
    command.add_argument(
        "--epochs",
        type=positive,
        default=15,
        metavar="N",
        help=f"epochs of {demo.STEPS_PER_EPOCH} steps",
    )
    command.add_argument(
        "--learning-rate",
        type=rate,
        default=demo.LEARNING_RATE,
        metavar="RATE",
        help="of both networks; high by default, so that one of them fails",
    )
    command.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="of the split, the weights and the order of the batches",
    )
    report.add_parser(commands)
    return parser


def positive(text: str) -> int:
    """An argparse type."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")


def rate(text: str) -> float:
    """An argparse type: a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value < math.inf:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")


def seed(text: str) -> int:
    """An argparse type: what NumPy takes for a seed."""
    if text.isdecimal() and int(text) < 2**32:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^32-1")


def run_demo(out: Path, epochs: int, seed: int, learning_rate: float) -> None:
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
    print(f"{demo.verdict(without, with_)}\n")
    # Not by rich, which wraps lines and takes brackets in a path for markup.
    print(f"Picture:      {out / PICTURE}")
    logs = [out / "logs" / run for run in RUNS]
    print(f"Report:       {kbn.callbacks.Report.read(*logs).save(out / REPORT)}")
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
    }
    for name in curves:
        table.add_column(name.replace("_", " "), justify="right")
    for title, cells in rows.items():
        table.add_row(title, *cells)
    return table


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


if __name__ == "__main__":
    sys.exit(main())
