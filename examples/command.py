"""What the examples' command lines have in common."""

import argparse
import itertools
import os
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


def existing_directory(text):
    """An argparse type: a directory that is there, to write into."""
    path = Path(text)
    if not text or not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written to")
    return path


def new_path(text):
    """An argparse type: a path that ends in a name."""
    if Path(text).name in ("", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} does not name a new directory")
    return Path(text)


def add_out(parser, name):
    """An option `--out`; `new_directory` makes the directory that it names."""
    parser.add_argument(
        "--out",
        type=new_path,
        default=Path(name),
        metavar="DIR",
        help=f"a new directory for what is written ({name}); if it is there from an "
        "earlier run, a number is added",
    )


def new_directory(parser, path):
    """Make `path`, or the first of `path`-2, `path`-3, ... that is not there.

    Where it cannot be made, the script ends as it does for any wrong argument.
    """
    if path.is_file():
        parser.error(f"argument --out: {str(path)!r} is a file, not a directory")
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(2))
    try:
        free = next(x for x in itertools.chain([path], numbered) if not x.exists())
        free.mkdir(parents=True)
    except OSError as error:
        why = error.strerror or error
        parser.error(f"argument --out: cannot make {str(path)!r}: {why}")
    return free
