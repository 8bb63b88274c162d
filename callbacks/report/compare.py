"""Several runs: what differs, and which colour is whose."""

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
    """One for each run, the same everywhere on the page."""
    with_, without, found = 0, 0, []
    for run in runs:
        if run.has_batch_norm is False:
            found.append(WITHOUT[without % len(WITHOUT)])
            without += 1
        else:
            found.append(WITH[with_ % len(WITH)])
            with_ += 1
    return found


def names(runs: Sequence[RunReport]) -> list[str]:
    """Of the runs, made to differ: where a name is met again, with its directory."""
    bare = [run.name or run.directory for run in runs]
    return [
        name if bare.count(name) == 1 else run.directory
        for name, run in zip(bare, runs, strict=True)
    ]


def differences(runs: Sequence[RunReport]) -> list[tuple[str, list[str]]]:
    """(what, a value for each run) of what differs, metrics at the end first."""
    rows: list[tuple[str, list[str]]] = []
    told = [
        (metric.name, kind)
        for run in runs
        for metric in run.metrics
        for kind, _ in metric.courses
    ]
    for name, kind in dict.fromkeys(told):
        of = f"{name}, {kind}" if (name, "validation") in told else name
        rows.append((f"{of}, at the end", _finals(runs, name, kind)))
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
    return [(what, cells) for what, cells in rows if len({*cells}) > 1]


def _finals(runs: Sequence[RunReport], name: str, kind: str) -> list[str]:
    found = []
    for run in runs:
        courses = {
            (metric.name, of): course
            for metric in run.metrics
            for of, course in metric.courses
        }
        course = courses.get((name, kind))
        found.append("" if course is None else f"{course.last:.4g}")
    return found


def _rules(run: RunReport) -> str:
    return ", ".join(dict.fromkeys(alert.rule for alert in run.open)) or "none"


def _drift(run: RunReport) -> str:
    last = {path: course.last for path, course in run.drift.items()}
    known = {path: x for path, x in last.items() if math.isfinite(x)}
    if not known:
        return ""
    path = max(known, key=lambda path: known[path])
    return f"{known[path]:.3g} in {path}"
