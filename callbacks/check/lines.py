"""What a check has measured, and its lines: alerts, measures, or why there is none."""

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from keras import tree

from ..alerts.alert import COLOURS, Alert, rank
from ..signals.batch_norm import channel_elements
from ..signals.remedy import Remedy
from .examples import Examples
from .rules import MIXED, SPREAD, STEPS
from .trial import Entries, Outputs

LABELS = 100  # whole numbers, up to which targets are called labels
READ = 2**20  # targets of which shares are told
ELEMENTS = channel_elements.key
MARKS = {"ok": "ok", "note": "note", "failed": "FAILED", "skipped": "-"}
SHADES = {
    "ok": "#2b8a3e",
    "note": COLOURS["info"],
    "failed": COLOURS["critical"],
    "skipped": "#868e96",
}
WIDTH = 88


@dataclass(frozen=True)
class Line:
    """One thing that was looked at.

    Args:
        name: What it is.
        status: "ok", "note", "failed" or "skipped".
        text: What was measured, or why nothing was.
        alerts: Diagnoses by the monitor's names, each with its remedy.

    Example:
        >>> from kbn.callbacks.check.lines import Line
        >>> Line("examples", "ok", "the output of one does not depend on others").status
        'ok'
    """

    name: str
    status: str
    text: str
    alerts: tuple[Alert, ...] = ()


class Check:
    """What `kbn.check` returns: `lines`, printed as a table, or shown in a notebook."""

    def __init__(self, title: str, lines: Sequence[Line]) -> None:
        self.title = title
        self.lines = tuple(lines)

    @property
    def ok(self) -> bool:
        """Whether no line has failed; notes and what was skipped do not count."""
        return all(line.status != "failed" for line in self.lines)

    @property
    def alerts(self) -> list[Alert]:
        """The diagnoses of all lines, notes too."""
        return [alert for line in self.lines for alert in line.alerts]

    @property
    def remedies(self) -> list[Remedy]:
        """What to try, in the order of the lines."""
        return [alert.remedy for alert in self.alerts if alert.remedy is not None]

    def __str__(self) -> str:
        wide = max(len(line.name) for line in self.lines)
        shown, skipped = [self.headline], dict[str, list[str]]()
        for line in self.lines:
            texts = [line.text, *(f"{x.rule}: {x.said}" for x in line.alerts)]
            if line.status == "skipped":
                skipped.setdefault(line.text, []).append(line.name)
                continue
            start = f"{MARKS[line.status]:>6}  {line.name:<{wide}}  "
            for text in filter(None, texts):
                shown += _wrapped(start, text)
                start = " " * len(start)
        for text, names in skipped.items():
            shown += _wrapped(f"{MARKS['skipped']:>6}  ", f"{', '.join(names)}: {text}")
        return "\n".join(shown)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="color:{SHADES[line.status]}"><b>{MARKS[line.status]}</b>'
            f'</td><td>{html.escape(line.name)}</td><td style="text-align:left">'
            f"{html.escape(line.text)}{''.join(x._repr_html_() for x in line.alerts)}"
            "</td></tr>"
            for line in self.lines
        )
        return f"<div><b>{html.escape(self.headline)}</b><table>{rows}</table></div>"

    @property
    def headline(self) -> str:
        """How many lines failed, in words."""
        failed = sum(line.status == "failed" for line in self.lines)
        looked = sum(line.status != "skipped" for line in self.lines)
        said = f"{failed} of {looked} lines failed" if failed else "nothing failed"
        return f"{self.title}: {said}"


def _wrapped(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start)
    )


class Facts:
    """What each part of a check fills in.

    `scalars`: of all data. `outputs`: of the first batch, none where the model is not
    called on it. `texts`: of lines. `why_none`, `why_no_call`, `why_not_learned`: why
    a part has filled in nothing.
    """

    def __init__(self, given: Examples) -> None:
        self.given = given
        self.scalars: dict[str, float] = {}
        self.record: Mapping[str, Any] = {}
        self.entries: Entries = []
        self.outputs: Outputs = {}
        self.texts: Mapping[str, str | None] = {}
        self.why_none = self.why_no_call = self.why_not_learned = ""
        self._own: dict[str, float] = {}

    def measure(self, tag: str, value: float) -> None:
        """Note what only a check measures; NaN is no measure."""
        if np.isfinite(value):
            self._own[tag] = value

    def all_entries(self) -> Iterator[tuple[int, Mapping[str, float]]]:
        """The looks of the trial, with what is known of all data; then the rest."""
        first, *others = self.entries or [(1, {})]
        yield first[0], {"epoch": 1.0, **first[1], **self.scalars}
        yield from others
        last = (others or [first])[-1][0]
        # Without an epoch: that would be one more look.
        found = dict(self._own)
        if self.entries:
            found |= {STEPS: last, "trainable": self._trainable()}
        elements = [x for tag, x in first[1].items() if tag.startswith(ELEMENTS)]
        if elements:
            found["elements"] = min(elements)
        yield last + 1, found

    def _trainable(self) -> int:
        layers = self.record.get("layers") or ()
        return sum(bool(x["trainable"]) for one in layers for x in one["weights"])

    def first(self, tag: str) -> Any:
        """The first value of a tag, or the text of a line; None if there is none."""
        looks = (scalars for _, scalars in self.all_entries())
        known = next((x[tag] for x in looks if tag in x), None)
        return self.texts.get(tag) if known is None else known

    def why_not(self, line: str) -> str:
        """Why there is nothing to say on a line."""
        if line == "batch norm" and self.entries:
            return "there is none that trains"
        if self.why_none or not self.entries:
            return f"not checked, {self.why_none or 'no step can be made'}"
        no_guess = self.record.get("no_guess")
        why = {
            "first loss": no_guess,
            "inputs": self.why_no_call,
            "examples": self.why_no_call,
            "by heart": self.why_not_learned or no_guess,
        }
        return f"not checked, {why.get(line) or 'nothing of it was seen'}"


class Row(NamedTuple):
    """Of one line: the rules whose alerts it shows, and what it says without any.

    `text`: of the first values of these tags. Without a value it is skipped.
    """

    rules: str
    text: str
    tags: tuple[str, ...]


LINES = {
    "data": Row("non_finite_data input_scale not_shuffled", "{}", ("data",)),
    "targets": Row("output_mismatch class_imbalance target_scale", "{}", ("targets",)),
    "first loss": Row(
        "start_loss",
        "{:.3g}, that of guessing is {:.3g}",
        ("loss/train", "loss/guess"),
    ),
    "weights": Row(
        "poor_init saturated dead_relu collapsed",
        "{:.0f} train, and keep the signal",
        ("trainable",),
    ),
    "gradients": Row(
        "unchanged_weight vanishing_gradient exploding_gradient gradient_imbalance "
        "non_finite",
        "reach the weights; their norm is {:.3g}",
        ("gradient_norm/global",),
    ),
    "batch norm": Row(
        "bn_stats_cold bn_small_batch bn_not_updated bn_collapsed bn_train_eval_gap",
        "{:.0f} elements a channel or more",
        ("elements",),
    ),
    # All other rules.
    "first steps": Row("", "{:.0f} bring no finding", (STEPS,)),
    "inputs": Row("ignores_input", "outputs differ by {:.2g} of their size", (SPREAD,)),
    "examples": Row("mixed_examples", "do not depend on each other", (MIXED,)),
    "by heart": Row("not_by_heart", "one batch takes {:.0f} steps", ("by_heart",)),
}
HOME = {rule: name for name, row in LINES.items() for rule in row.rules.split()}


def lines(facts: Facts, alerts: Sequence[Alert]) -> list[Line]:
    """All lines, each with its alerts."""
    causes = {
        HOME.get(rule, "first steps"): alert.rule
        for alert in alerts
        for rule in alert.symptoms
        if _is_grave(alert)
    }
    targets = _arrays(facts.given.everything[1], "y")
    shares = "; ".join(f"{name} {_shares(y)}" for name, y in targets) or None
    facts.texts = {"data": _data(facts), "targets": shares}
    found = []
    for name, row in LINES.items():
        own = tuple(x for x in alerts if HOME.get(x.rule, "first steps") == name)
        known = [facts.first(tag) for tag in row.tags]
        text = "" if None in known else row.text.format(*known)
        if own:
            is_grave = any(map(_is_grave, own))
            found.append(Line(name, "failed" if is_grave else "note", "", own))
        elif name in causes:
            found.append(Line(name, "failed", f"follows from {causes[name]}"))
        elif text:
            found.append(Line(name, "ok", text))
        else:
            found.append(Line(name, "skipped", facts.why_not(name)))
    return found


def _is_grave(alert: Alert) -> bool:
    return rank(alert.level) >= rank("warning")


def _data(facts: Facts) -> str:
    steps = facts.given.steps
    epoch = f"; {steps} steps an epoch" if steps else ""
    return (
        "; ".join(
            f"{name} {tuple(x.shape[1:])} {x.dtype}, {x.min():.3g} to {x.max():.3g}"
            f"{_constant(x)}"
            for name, x in _arrays(facts.given.everything[0], "x")
        )
        + epoch
    )


def _constant(x: Any) -> str:
    if x.ndim != 2 or len(x) < 2:
        return ""
    constant = np.flatnonzero((x == x[0]).all(axis=0))
    which = ", ".join(map(str, constant[:4])) + ", ..." * (len(constant) > 4)
    return f" (constant columns: {which})" if constant.size else ""


def _arrays(structure: Any, name: str) -> list[tuple[str, Any]]:
    return [
        ("/".join(map(str, path)) or name, x)
        for path, x in tree.flatten_with_path(structure)
        if isinstance(x, np.ndarray) and x.dtype.kind in "fiub"
    ]


def _shares(y: Any) -> str:
    is_one_hot = y.ndim > 1 and y.shape[-1] > 1 and ((y == 0) | (y == 1)).all()
    is_one_hot = is_one_hot and (y.sum(axis=-1) == 1).all()
    labels = (y.argmax(axis=-1) if is_one_hot else y).reshape(-1)[:READ]
    values, counts = np.unique(labels, return_counts=True)
    if len(values) == 1:
        return f"always {values[0]:g}"
    if len(values) <= LABELS and (values == np.floor(values)).all():
        return f"{len(values)} classes, the largest {counts.max() / counts.sum():.0%}"
    return f"{y.min():.3g} to {y.max():.3g}, mean {y.mean():.3g}, std {y.std():.3g}"
