"""What a rule is: a measure of each look, beside the limit beyond which it is ill."""

import abc
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from .remedy import Remedy
from .view import Tag, View

LASTING = 20  # steps after which an illness has lasted


class Reading(NamedTuple):
    """What a rule measured at one look, for one layer, variable or the whole model.

    Args:
        where: Layer or path of a variable; "" for the whole model.
        value: What was measured. NaN is no measure: neither ill nor good.
        limit: It is ill where the value is above the limit.
        level: Of the alert: "info", "warning" or "critical".
        below: It is ill where the value is below the limit instead.
    """

    where: str
    value: float
    limit: float
    level: str = "warning"
    below: bool = False

    @property
    def is_ill(self) -> bool:
        """Whether the value is beyond the limit."""
        return self.value < self.limit if self.below else self.value > self.limit


class Rule(abc.ABC):
    """Reads what is logged and says where a training is ill; it keeps no state.

    A rule is asked at every entry that has one of the tags that it `reads`: each look,
    and each end of an epoch. An alert is raised once a place was ill at all looks over
    `patience` optimizer steps, and resolved once all places were good for as many. So
    1 takes one look, and more take two at least. Ends of epochs are followed apart.

    `reads`: signals, tags, and prefixes of tags that end in a slash. `keeps`: {one of
    them: how many earlier values `view.past` is to have}. `is_of_model`: a look has one
    reading, whose `where` may change. `reads_broken`: it is asked even where weights
    are NaN or Inf, when other measures mean nothing. `patience`: an attribute or
    argument. The name is that of the class, in lower case with underscores. `title`:
    the illness in a few words, for the verdict of a report.

    Example:
        >>> from kbn.callbacks import Remedy, rules
        >>> class HighLoss(rules.Rule):
        ...     '''The loss of a step is above 10.'''
        ...     reads = ("loss/train",)
        ...     patience = 30
        ...
        ...     def readings(self, view):
        ...         yield rules.Reading("", view["loss/train"], limit=10.0)
        ...
        ...     def explain(self, reading, view):
        ...         return "A step's loss is above 10."
        ...
        ...     def remedy(self, reading, view):
        ...         return Remedy("ask", words="Is the target scaled?")
        >>> HighLoss.name
        'high_loss'
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    reads: ClassVar[tuple[Tag, ...]]
    keeps: ClassVar[Mapping[Tag, int]] = {}
    is_of_model: ClassVar[bool] = False
    reads_broken: ClassVar[bool] = False
    patience: int = 1

    def __init_subclass__(cls) -> None:
        """Name the rule after its class."""
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        if not cls.title:
            cls.title = cls.name.replace("_", " ")

    def __post_init__(self) -> None:
        """Check the arguments: numbers above 0; `patience` counts steps."""
        # Only the rules here are dataclasses: a user's own has what arguments it likes.
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and 0 < value < math.inf):
                raise ValueError(
                    f"{type(self).__name__}({field.name}={value!r}): expected a finite "
                    "number above 0"
                )
            if isinstance(field.default, int) and value != int(value):
                raise ValueError(
                    f"{type(self).__name__}({field.name}={value!r}): expected a whole "
                    "number"
                )

    @abc.abstractmethod
    def readings(self, view: View) -> Iterable[Reading]:
        """What the rule measures at this entry, good places too."""

    def suspicions(self, view: View) -> Iterable[Reading]:
        """What is no illness by itself, and the cause of those that follow from it.

        Told only with the harm that follows, so never of a rule that is not one of the
        default ones: see `kbn/callbacks/alerts/diagnosis.py`.
        """
        return ()

    def explain(self, reading: Reading, view: View) -> str:
        """What it means for this place, in a sentence or two."""
        return (type(self).__doc__ or self.name).strip().splitlines()[0]

    def remedy(self, reading: Reading, view: View) -> Remedy | None:
        """What to try first; None if nothing is known that helps."""
        return None
