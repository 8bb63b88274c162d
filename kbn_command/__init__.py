"""The `kbn` command, beside the package `kbn`: all but the demo needs no Keras.

`import kbn` imports Keras and its backend, which takes seconds; only the demo does so.
"""

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from kbn_command import defaults, explain, report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit status."""
    try:
        status = run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `head` or a pager has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as of a command that SIGPIPE ends
    return status


def run(argv: Sequence[str] | None) -> int:
    """The command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that is not UTF-8
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.version:
        print(f"kbn {metadata.version('keras-kbn')}")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "report":
        return report.run(options)
    if options.command == "explain":
        return explain.run(options.diagnosis)
    from kbn_command import show  # imports Keras and its backend, which takes seconds

    try:
        show.run(options.out, options.epochs, options.seed, options.learning_rate)
    except show.UserError as error:
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
    """`kbn demo [--out DIR] [--epochs N] ...`, `kbn report`, `kbn explain`."""
    parser = argparse.ArgumentParser(
        prog="kbn", description="Batch normalization for Keras: fast, exact, visible."
    )
    parser.add_argument(
        "--version", action="store_true", help="show the version and exit"
    )
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
        help=f"epochs of {defaults.STEPS_PER_EPOCH} steps",
    )
    command.add_argument(
        "--learning-rate",
        type=rate,
        default=defaults.LEARNING_RATE,
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
    explain.add_parser(commands)
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
