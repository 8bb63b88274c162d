"""The lines of a check: which alerts each shows, and what it says where there is none.

A sentence of what was measured, or None where nothing was, which `_why` explains.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import tree

from ..alerts.alert import Alert, rank
from .facts import Facts
from .rules import MIXED, SPREAD
from .table import Line

MANY = 100  # whole numbers beyond which targets are not called labels

Text = str | None


def lines(facts: Facts, alerts: Sequence[Alert]) -> list[Line]:
    """All lines, each with its alerts."""
    home = {rule: name for name, (rules, _) in LINES.items() for rule in rules.split()}
    found = {name: [] for name in LINES}
    for alert in alerts:
        found[home.get(alert.rule, "first steps")].append(alert)
    followers = {
        home.get(rule, "first steps"): alert.rule
        for alert in alerts
        for rule in alert.symptoms
        if rank(alert.level) >= rank("warning")
    }
    return [
        _line(name, text(facts), tuple(found[name]), followers.get(name), facts)
        for name, (_, text) in LINES.items()
    ]


def _line(
    name: str, text: Text, alerts: tuple[Alert, ...], cause: str | None, facts: Facts
) -> Line:
    if any(rank(alert.level) >= rank("warning") for alert in alerts):
        return Line(name, "failed", "", alerts)
    if cause is not None:
        return Line(name, "failed", f"follows from {cause}", alerts)
    if alerts:
        return Line(name, "note", "", alerts)
    if text is None:
        return Line(name, "skipped", _why(name, facts))
    return Line(name, "ok", text)


def _why(name: str, facts: Facts) -> str:
    """Why there is nothing to say."""
    if name == "batch norm" and facts.entries:
        return "there is none that trains"
    if facts.why_none or not facts.entries:
        return f"not checked, {facts.why_none or 'no step can be made'}"
    why = {
        "first loss": facts.record.get("no_guess") or "no guess is known",
        "inputs": facts.why_no_call,
        "examples": facts.why_no_call,
        "by heart": facts.why_not_learned or facts.record.get("no_guess"),
    }
    return f"not checked, {why.get(name) or 'nothing of it was seen'}"


def _data(facts: Facts) -> Text:
    x, _, _ = facts.given.everything
    shown = []
    for path, one in tree.flatten_with_path(x):
        if isinstance(one, np.ndarray) and one.dtype.kind in "fiub":
            name = "/".join(map(str, path)) or "x"
            shape = tuple(map(int, one.shape[1:]))
            shown.append(
                f"{name} {shape} {one.dtype}, {one.min():.3g} to {one.max():.3g}"
                f"{_constant(one)}"
            )
    steps = facts.given.steps
    epoch = f"; {steps} steps an epoch" if steps else ""
    return f"{'; '.join(shown) or 'nothing that is numbers'}{epoch}"


def _constant(x: Any) -> str:
    if x.ndim != 2 or len(x) < 2:
        return ""
    constant = np.flatnonzero((x == x[0]).all(axis=0))
    more = ", ..." * (len(constant) > 4)
    which = ", ".join(map(str, constant[:4]))
    return f" (constant: columns {which}{more})" if constant.size else ""


def _targets(facts: Facts) -> Text:
    _, y, _ = facts.given.everything
    shown = []
    for path, one in tree.flatten_with_path(y):
        if isinstance(one, np.ndarray) and one.dtype.kind in "fiub":
            name = "/".join(map(str, path)) or "y"
            shown.append(f"{name} {_shares(one)}")
    return "; ".join(shown) or None


def _shares(y: Any) -> str:
    labels = y.argmax(-1) if _is_one_hot(y) else y
    values, counts = np.unique(labels, return_counts=True)
    if len(values) <= MANY and (values == np.floor(values)).all():
        largest = counts.max() / counts.sum()
        if len(values) == 1:
            return f"always {values[0]:g}"
        return f"{len(values)} classes, the largest {largest:.0%}"
    return f"{y.min():.3g} to {y.max():.3g}, mean {y.mean():.3g}, std {y.std():.3g}"


def _is_one_hot(y: Any) -> bool:
    is_wide = y.ndim > 1 and y.shape[-1] > 1
    return bool(is_wide and ((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all())


def _first_loss(facts: Facts) -> Text:
    loss, guess = facts.first("loss/train"), facts.first("loss/guess")
    if loss is None or guess is None:
        return None
    return f"{loss:.3g}, that of guessing is {guess:.3g}"


def _weights(facts: Facts) -> Text:
    of_layers = [w for x in facts.record.get("layers") or () for w in x["weights"]]
    if not of_layers:
        return None
    train = sum(bool(w["trainable"]) for w in of_layers)
    return f"{train} of {len(of_layers)} train; the signal keeps its size"


def _gradients(facts: Facts) -> Text:
    norm = facts.first("gradient_norm/global")
    if norm is None:
        return None
    reach = " and reach every weight that trains" if facts.learned else ""
    return f"their norm is {norm:.3g}{reach}"


def _batch_norm(facts: Facts) -> Text:
    found = (
        [
            value
            for tag, value in facts.entries[0][1].items()
            if tag.startswith("batch_norm_elements/")
        ]
        if facts.entries
        else []
    )
    return f"{min(found):.0f} elements a channel or more" if found else None


def _first_steps(facts: Facts) -> Text:
    first, last = facts.first("loss/train"), facts.newest("loss/train")
    if first is None or last is None:
        return "without a finding" if facts.entries else None
    return f"{facts.entries[-1][0]} steps bring the loss from {first:.3g} to {last:.3g}"


def _inputs(facts: Facts) -> Text:
    spread = facts.newest(SPREAD)
    return (
        None if spread is None else f"the outputs differ by {spread:.2g} of their size"
    )


def _examples(facts: Facts) -> Text:
    mixed = facts.newest(MIXED)
    return None if mixed is None else "the output of one does not depend on the others"


def _by_heart(facts: Facts) -> Text:
    learned = facts.learned
    if learned is None or not learned.courses:
        return None
    return f"one batch takes {learned.steps} steps"


# {name: (rules whose alerts it shows, its sentence)}; "first steps" has all others.
LINES: Mapping[str, tuple[str, Callable[[Facts], Text]]] = {
    "data": ("non_finite_data input_scale not_shuffled", _data),
    "targets": ("output_mismatch class_imbalance target_scale", _targets),
    "first loss": ("start_loss", _first_loss),
    "weights": ("poor_init saturated dead_relu collapsed", _weights),
    "gradients": (
        "unchanged_weight vanishing_gradient exploding_gradient gradient_imbalance "
        "non_finite",
        _gradients,
    ),
    "batch norm": (
        "bn_stats_cold bn_small_batch bn_not_updated bn_collapsed bn_train_eval_gap",
        _batch_norm,
    ),
    "first steps": ("", _first_steps),
    "inputs": ("ignores_input", _inputs),
    "examples": ("mixed_examples", _examples),
    "by heart": ("not_by_heart", _by_heart),
}
