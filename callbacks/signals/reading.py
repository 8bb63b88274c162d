"""Rows of numbers that a step gave become what was read of each subject."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from .batch_norm import merge_moments
from .subjects import (
    MOMENTS,
    SCALAR,
    SUMMARY,
    Loss,
    Moments,
    NormInput,
    Squares,
    Subject,
    Weight,
)

# (key of a subject, what was read of it) -> a Summary, or (replicas, n)
Rows: TypeAlias = Mapping[tuple[str, str], Any]
EVALUATED = "evaluated"  # the loss in evaluation mode
SINCE_STEP, SINCE_START = "since_step", "since_start"


def moving_key(layer: str) -> tuple[str, str]:
    """Where moving mean, moving variance and gamma of a batch norm stand, (1, 3 C).

    One after the other; without gamma, (1, 2 C).
    """
    return f"moving:{layer}", "values"


def read(subjects: Iterable[Subject], rows: Rows) -> list[Subject]:
    """The subjects with what `rows`, read back, says of each."""
    by_subject: dict[str, dict[str, Any]] = {}
    for (key, what), row in rows.items():
        by_subject.setdefault(key, {})[what] = row
    found = []
    for subject in subjects:
        own = by_subject.get(subject.key, {})
        parts: dict[str, Any] = {
            what: row for what, row in own.items() if what not in _BASE
        }
        fields = {"rows": parts} | (_READ[subject.reads](subject, own, rows))
        found.append(subject.having(fields))
    return found


def _summary(subject: Any, own: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {}
    row = own.get(SUMMARY)
    if row is not None:
        found["summary"] = row
    if isinstance(subject, Weight):
        for what in (SINCE_STEP, SINCE_START):
            if what in own:
                found[what] = Squares(*map(float, own[what][0]))
    return found


def _moments(subject: NormInput, own: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    if MOMENTS not in own:
        return {}
    half = own[MOMENTS].shape[1] // 2 + 1
    parts = [Moments(row[0], row[1:half], row[half:]) for row in own[MOMENTS]]
    batch = merge_moments(parts)
    whole = rows[moving_key(subject.layer)].reshape(-1, batch.mean.size)
    names = ("moving_mean", "moving_variance", "gamma")
    return {"batch": batch, **dict(zip(names, whole, strict=False))}


def _losses(subject: Loss, own: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    # Replicas: the mean of their losses, in either mode.
    names = {SCALAR: "trained", EVALUATED: "evaluated"}
    return {names[x]: float(own[x].mean()) for x in names if x in own}


_BASE = {SUMMARY, MOMENTS, SCALAR, EVALUATED, SINCE_STEP, SINCE_START}
_READ: dict[str | None, Callable[[Any, Mapping[str, Any], Rows], dict[str, Any]]] = {
    None: lambda subject, own, rows: {},
    SUMMARY: _summary,
    MOMENTS: _moments,
    SCALAR: _losses,
}
