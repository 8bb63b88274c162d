"""`kbn explain`: what a diagnosis means."""

import argparse
import sys
from typing import Any

import kbn_light


def add_parser(commands: Any) -> None:
    """`kbn explain [ID]`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "explain",
        help="tell what a diagnosis means, such as dead_relu",
        description="Tell what a diagnosis means, what to try, and how its rule "
        "measures; without one, list all.",
    )
    command.add_argument(
        "diagnosis", nargs="?", metavar="ID", help="as alerts name it: dead_relu"
    )


def run(diagnosis: str | None) -> int:
    """Print it; the result is the exit status: 2 where there is no such diagnosis."""
    known = kbn_light.load("kbn.callbacks.alerts.explanation")
    if diagnosis is None:
        print(known.overview())
        return 0
    try:
        rule = known.find(diagnosis)
    except KeyError as error:
        print(f"kbn explain: {error.args[0]}", file=sys.stderr)
        return 2
    if diagnosis not in (rule.name, type(rule).__name__):
        print(f"{diagnosis} is told as {rule.name} now.\n")
    print(known.explanation(rule))
    return 0
