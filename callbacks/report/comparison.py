"""Several runs: their names, their colours, and what differs between them."""

from collections import Counter
from collections.abc import Sequence

from .run_report import RunReport

# Okabe and Ito, distinct for every kind of colour vision: blue with batch norm, orange
# without, as in the demo's picture; the rest for further runs of a kind.
WITH = ("#0072B2", "#009E73", "#56B4E9", "#004B7A", "#00785A")
WITHOUT = ("#D55E00", "#CC79A7", "#E69F00", "#8F3F00", "#8A4A70")
FOLLOW = ("layers", "parameters", "frozen layers")  # from other settings
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
    """(name, a value for each run) of the settings that differ."""
    keys = [
        (group, name)
        for run in runs
        for group, values in run.configuration.items()
        for name in values
        if group != "log"  # of which the time differs always
        if name not in FOLLOW
    ]
    rows = []
    for group, name in dict.fromkeys(keys):
        cells = [run.configuration.get(group, {}).get(name, "") for run in runs]
        if name == "git commit":
            cells = [cell[:9] for cell in cells]  # as git shortens them
        if len({*cells}) > 1:
            rows.append((name if group != "versions" else f"version of {name}", cells))
    return rows


def verdict(runs: Sequence[RunReport]) -> str:
    """How several runs went: of two or three each, of more the best and the illnesses.

    The best come first.
    """
    ranked = sorted(runs, key=lambda run: (-run.rank[0], run.rank[1]))
    if len(runs) <= 3:
        return " ".join(f"{run.name}: {run.in_short}" for run in ranked)
    healthy = sum(run.is_healthy for run in runs)
    worst = [run.open[0] for run in runs if not run.is_healthy and run.open]
    ills = Counter(alert.title or alert.rule for alert in worst)
    ill = ", ".join(f"{name} ({count})" for name, count in ills.most_common(3))
    best = min(ranked, key=lambda run: run.rank[1])
    parts = [f"{healthy} of {len(runs)} runs are healthy."]
    parts += [f"The best is {best.name}, {best.best_in_words}."] if best.best else []
    parts += [f"Most often in the others: {ill}."] if ill else []
    return " ".join(parts)
