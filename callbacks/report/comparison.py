"""Several runs: their names, their colours, and what differs between them."""

import math
from collections.abc import Sequence

from .run_report import RunReport

# Okabe and Ito, distinct for every kind of colour vision: blue with batch norm, orange
# without, as in the demo's picture; the rest for further runs of a kind.
WITH = ("#0072B2", "#009E73", "#56B4E9", "#004B7A", "#00785A")
WITHOUT = ("#D55E00", "#CC79A7", "#E69F00", "#8F3F00", "#8A4A70")
ALWAYS = ("time", "steps")  # which differ between any two runs
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # beside colour, from the second of a kind on


def colours(runs: Sequence[RunReport]) -> list[str]:
    """One colour for each run, the same everywhere on the page."""
    left = {True: [*WITH], False: [*WITHOUT]}
    found = []
    for run in runs:
        palette = left[run.has_batch_norm is not False]
        found.append(palette[0])
        palette.append(palette.pop(0))
    return found


def names(runs: Sequence[RunReport]) -> list[str]:
    """Unique names to show: a repeated name is replaced by the run's directory."""
    bare = [run.name or run.directory for run in runs]
    return [
        name if bare.count(name) == 1 else run.directory
        for name, run in zip(bare, runs, strict=True)
    ]


def differences(runs: Sequence[RunReport]) -> list[tuple[str, list[str]]]:
    """(name, a value for each run) of what differs, metrics at the end first."""
    finals = [_finals(run) for run in runs]
    validated = {name for known in finals for name, kind in known if kind != "training"}
    rows = []
    for name, kind in dict.fromkeys(key for known in finals for key in known):
        title = f"{name}, {kind}" if name in validated else name
        cells = [known.get((name, kind), "") for known in finals]
        rows.append((f"{title}, at the end", cells))
    rows.append(("open alerts", [_rules(run) for run in runs]))
    rows.append(("largest drift of weights", [_drift(run) for run in runs]))
    keys = [
        (group, name)
        for run in runs
        for group, values in run.configuration.items()
        for name in values
        if name not in ALWAYS
    ]
    for group, name in dict.fromkeys(keys):
        cells = [run.configuration.get(group, {}).get(name, "") for run in runs]
        rows.append((name if group != "versions" else f"version of {name}", cells))
    return [(name, cells) for name, cells in rows if len({*cells}) > 1]


def _finals(run: RunReport) -> dict[tuple[str, str], str]:
    return {
        (metric.name, kind): f"{course.last:.4g}"
        for metric in run.metrics
        for kind, course in metric.courses
    }


def _rules(run: RunReport) -> str:
    return ", ".join(dict.fromkeys(alert.rule for alert in run.open)) or "none"


def _drift(run: RunReport) -> str:
    last = {path: course.last for path, course in run.drift.items()}
    known = {path: x for path, x in last.items() if math.isfinite(x)}
    if not known:
        return ""
    path = max(known, key=lambda path: known[path])
    return f"{known[path]:.3g} in {path}"
