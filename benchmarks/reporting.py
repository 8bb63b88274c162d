"""How a benchmark says what it found: a Markdown table, and the limits it was held to.

`results.py` reads both: the table from standard output, the limits from the file that
BENCHMARK_LIMITS names, one JSON list a line.
"""

import argparse
import json
import math
import os
import platform
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path


def parser(doc):
    """A command line whose help is the module's docstring; it knows `--quick`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: that it runs, not how fast"
    )
    return parser


def whole(least):
    """An argparse type: a whole number from `least`."""

    def parse(text):
        if text.isdecimal() and int(text) >= least:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")

    return parse


def positive(text):
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < math.inf:
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")


def one_of(names):
    """An argparse type: one of the names, where `choices` would refuse none at all."""

    def parse(text):
        if text in names:
            return text
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")

    return parse


def part_of(names):
    """An argparse type: a text that is in one of the names."""

    def parse(text):
        if text and any(text in name for name in names):
            return text
        raise argparse.ArgumentTypeError(f"{text!r} is in none of {', '.join(names)}")

    return parse


def new_picture(text):
    """An argparse type: where a PNG can be written."""
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .png")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


def say_written(path, was_there):
    """Tell where a picture is, and whether it took the place of another."""
    verb = "Replaced" if was_there else "Wrote"
    print(f"{verb} {path}", file=sys.stderr)


def setting(backend, *more):
    """Print on what was measured: device, versions, and what else matters.

    backend: a package, or its name and version.
    """
    if " " not in backend:
        backend = f"{backend} {version_of(backend)}"
    parts = (device(), backend, f"keras {version_of('keras')}", *more)
    print(", ".join(parts) + ".", flush=True)


def version_of(module):
    """Of the package that has it: of a nightly, `keras-nightly` has `keras`."""
    return version(packages_distributions()[module][0])


def device():
    """'2 cores of AMD EPYC (x86_64)'."""
    name = platform.processor() or "unnamed CPU"
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(
            (part.strip() for part in line.split(":", 1))
            for line in info.read_text().splitlines()
            if ":" in line
        )
        name = fields.get("model name", name)
    return f"{os.cpu_count()} cores of {name} ({platform.machine()})"


def name_of(shape):
    return " x ".join(map(str, shape))


class Table:
    """A Markdown table, printed row by row as it is measured."""

    def __init__(self, *columns):
        print()
        self.row(*columns)
        print("|" + "---|" * len(columns))

    def row(self, *cells):
        """Print a row."""
        print(
            "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |",
            flush=True,
        )


def hold(what, limit, measured, verdict):
    """Say a limit of the design, what was measured and whether that meets it.

    verdict: "yes", "no" or another short phrase.
    """
    if file := os.environ.get("BENCHMARK_LIMITS"):
        with Path(file).open("a") as stream:
            stream.write(json.dumps([what, limit, measured, verdict]) + "\n")
    else:
        print(f"\n{what}: {limit}; measured {measured}; met: {verdict}", flush=True)


def verdict(met):
    """One word for `met`, {name: whether it is met}; the names of those that miss."""
    missed = [name for name, holds in met.items() if not holds]
    return "no: " + ", ".join(missed) if missed else "yes"
