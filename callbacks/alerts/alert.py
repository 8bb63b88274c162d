"""What the monitor says when a training is ill."""

import dataclasses
import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..signals.remedy import Remedy
from .explanation import command

LEVELS = ("info", "warning", "critical")  # from mild to grave
# Seen on the light page of a notebook and on the dark one.
COLOURS = {"info": "#3f8fc4", "warning": "#d9730d", "critical": "#d6336c"}


@dataclass(frozen=True)
class Alert:
    """A diagnosis: one cause, what it explains, and what to try first.

    Args:
        rule: The diagnosis: the name of the rule that finds it, such as "dead_relu".
        level: "info", "warning" or "critical".
        where: Layer (`dense`; its second call `dense#1`) or path of a variable; the
            model's name where it is the model as a whole. Of several, the first in
            forward order.
        step: Optimizer step of the look at which it was certain.
        epoch: Number of the epoch, from 1; None if it was not logged.
        value: What the rule measured, in the unit that its docstring gives.
        limit: The value beyond which the rule calls it ill.
        message: What it means for this layer, then what to try first.
        others: How many more layers or variables have the same illness.
        resolved_step: Step at which it was over; None while it is not.
        is_superseded: It was over because another alert took over: one that is graver,
            or a cause of which this is a symptom.
        title: The illness in a few words.
        symptoms: Rules that find what follows from it; they raise no alert.
        remedy: What to try first, as data; None if nothing is known that helps.

    Example:
        >>> from kbn.callbacks import Alert
        >>> alert = Alert("dead_relu", "warning", "hidden", 40, 2, 0.75, 0.5, "Dead.")
        >>> print(alert)
        warning: dead_relu in hidden at step 40 (epoch 2), 0.75 > 0.5. Dead.
    """

    rule: str
    level: str
    where: str
    step: int
    epoch: int | None
    value: float
    limit: float
    message: str
    others: int = 0
    resolved_step: int | None = None
    is_superseded: bool = False
    title: str = ""
    symptoms: tuple[str, ...] = ()
    remedy: Remedy | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is not over.

        Example:
            >>> from kbn.callbacks import Alert
            >>> Alert("dead_relu", "info", "a", 40, 2, 0.7, 0.5, "Dead.").is_open
            True
        """
        return self.resolved_step is None

    def __str__(self) -> str:
        """One line: what, where, when, how much, the message, what it explains."""
        epoch = "" if self.epoch is None else f" (epoch {self.epoch})"
        sign = "<" if self.value < self.limit else ">"
        line = (
            f"{self.level}: {self.rule} in {self.where}{and_more(self.others)} "
            f"at step {self.step}{epoch}, {self.value:.3g} {sign} {self.limit:.3g}. "
            f"{self.said}"
        )
        return line if self.is_open else f"{line} [{self.ending}]"

    @property
    def headline(self) -> str:
        """What, where and when, in words.

        Example:
            >>> from kbn.callbacks import Alert
            >>> known = {"message": "Dead.", "title": "units are dead"}
            >>> Alert("dead_relu", "info", "a", 40, 2, 0.7, 0.5, **known).headline
            'info: units are dead in a, at step 40, epoch 2'
        """
        place = f"{self.where}{and_more(self.others)}"
        return f"{self.level}: {self.title or self.rule} in {place}, at {since(self)}"

    def _repr_html_(self) -> str:
        """A few lines in a notebook, in its own colours."""
        headline, said = html.escape(self.headline), html.escape(self.said)
        ending = f" <i>{self.ending}</i>" * bool(self.ending)
        return (
            f'<div style="border-left:4px solid {COLOURS[self.level]};padding:2px 8px;'
            f'margin:4px 0"><b>{headline}</b>{ending}<br>{said} '
            f"<code>{html.escape(command(self.rule))}</code></div>"
        )

    @property
    def said(self) -> str:
        """The message, and what the diagnosis explains.

        Example:
            >>> from kbn.callbacks import Alert
            >>> known = {"message": "Dead.", "symptoms": ("unchanged_weight",)}
            >>> Alert("dead_relu", "info", "a", 40, 2, 0.7, 0.5, **known).said
            'Dead. It explains unchanged_weight.'
        """
        if not self.symptoms:
            return self.message
        return f"{self.message} It explains {', '.join(self.symptoms)}."

    @property
    def ending(self) -> str:
        """How it ended; empty while it is open.

        Example:
            >>> import dataclasses
            >>> from kbn.callbacks import Alert
            >>> first = Alert("dead_relu", "info", "a", 40, 2, 0.7, 0.5, "Dead.")
            >>> dataclasses.replace(first, resolved_step=420).ending
            'resolved at step 420'
        """
        if self.is_open:
            return ""
        how = "replaced at" if self.is_superseded else "resolved at"
        return f"{how} step {self.resolved_step}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: numbers that are not finite as "nan", "inf" and "-inf".

        Example:
            >>> from kbn.callbacks import Alert
            >>> first = Alert("dead_relu", "info", "a", 40, 2, 0.7, 0.5, "Dead.")
            >>> first.to_dict()["where"]
            'a'
        """
        known = dataclasses.asdict(self)
        return known | {k: _to_json(known[k]) for k in ("value", "limit")}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> "Alert":
        """The alert of a `to_dict`; keys of later versions are passed over.

        Example:
            >>> from kbn.callbacks import Alert
            >>> first = Alert("dead_relu", "info", "a", 40, 2, 0.7, 0.5, "Dead.")
            >>> Alert.from_dict(first.to_dict()) == first
            True
        """
        names = [field.name for field in dataclasses.fields(cls)]
        fields = {name: known[name] for name in names if name in known}
        fields |= {k: float(fields[k]) for k in ("value", "limit")}
        fields["symptoms"] = tuple(fields.get("symptoms", ()))
        if remedy := fields.get("remedy"):
            fields["remedy"] = Remedy.from_dict(remedy)
        return cls(**fields)


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def rank(level: str) -> int:
    """0, 1 or 2: how grave; a ValueError for what is not a level."""
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a level of alerts: {', '.join(LEVELS)}")
    return LEVELS.index(level)


def and_more(count: int) -> str:
    """` and 2 more`; empty for 0."""
    return f" and {count} more" if count else ""


def since(alert: Alert) -> str:
    """When an alert was raised: `step 40, epoch 2`."""
    epoch = "" if alert.epoch is None else f", epoch {alert.epoch}"
    return f"step {alert.step}{epoch}"
