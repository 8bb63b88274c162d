"""Tells of each rule which diagnosis it makes, and what helps against it."""

import re
from pathlib import Path

from kbn.callbacks.alerts.explanation import cure
from kbn.callbacks.rules import Rule

CURES = (Path(__file__).parents[1] / "cures.md").read_text()
# Diagnosis and score of each row of the table of cures.
ROWS = re.findall(r"^\|.*\| `(\w+)` \|.*\| ([^|]+) \|$", CURES, re.MULTILINE)


def cured(name):
    """In how many of the networks that were tried the cure has worked; else empty."""
    scores = [score for one, score in ROWS if one == name and score != "asks"]
    good = sum("below its bar" not in score for score in scores)
    return f" Tried by a program: it cures {good} of {len(scores)}." if scores else ""


def tell(app, what, name, of, options, lines):
    """Put the title before the docstring of a rule, and the cure behind it."""
    if what == "class" and issubclass(of, Rule) and of is not Rule:
        lines[:0] = [f"**{of.title[:1].upper()}{of.title[1:]}.**", ""]
        lines += ["", f"*What to try:* {cure(of)}{cured(of.name)}"]


def setup(app):
    """Registers it with autodoc."""
    app.connect("autodoc-process-docstring", tell)
    return {"parallel_read_safe": True}
