"""What the examples' command lines have in common."""

import argparse
import itertools
from pathlib import Path


def parser(doc):
    """A command line whose help is the docstring of its script."""
    return argparse.ArgumentParser(
        description=doc.partition("\n\n    ")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def whole(least, most=None):
    """An argparse type: a whole number in that range."""

    def parse(text):
        if text.isdecimal() and least <= int(text) <= (most or int(text)):
            return int(text)
        bounds = f"from {least}" + (f" to {most}" if most else "")
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")

    return parse


def add_out(parser, name):
    """An option `--out`; `new_directory` makes the directory that it names."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(name),
        metavar="DIR",
        help=f"a new directory for what is written ({name}); if it is there from an "
        "earlier run, a number is added",
    )


def new_directory(path):
    """Make `path`, or the first of `path`-2, `path`-3, ... that is not there."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    free = next(one for one in itertools.chain([path], numbered) if not one.exists())
    free.mkdir(parents=True)
    return free
