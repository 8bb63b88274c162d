"""Whether a training is validated on data of the kind that it is trained on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import rows
from .registry import Chart, Guide, signal
from .remedy import Remedy, ask
from .rule import Reading, Rule
from .shift import activation_shift, merged
from .subjects import Array, Input
from .view import View


def columns_row(x: Any, given: Input) -> Any:
    """See `rows.units_row`: the units are columns, as of `inputs/<name>/column`."""
    return rows.units_row(x, -1) if x.ndim > 1 and len(x) > 1 else np.zeros(1)


def _both(given: Input) -> tuple[Array, Array] | None:
    training, validation = given.rows["skew/<name>"], given.validation
    if validation is None or validation.shape[1:] != training.shape[1:]:
        return None
    return (merged(training), merged(validation)) if training.shape[1] > 2 else None


@signal(
    "skew/<name>",
    of=Input,
    row=columns_row,
    given=_both,
    unit="standard deviations in training",
    guide=Guide(healthy=(0, 1), sick=(None, 3)),
    source="training-serving skew, Google's guidelines for model quality",
    chart=Chart("Health", "validation data beside the batch"),
)
def skew(training: Array, validation: Array) -> float | None:
    """How far the validation data lie from the batch, column by column.

    As `activation_shift`, of the columns of an input: the distance between means and
    deviations, less what two samples of the same data would differ by. From the first
    validation on, where `validation_data` are NumPy arrays: a batch of anything else
    cannot be looked at without taking it.

    training, validation: (2 + 2 columns,), examples, noise, means and deviations.
    """
    value: float | None = activation_shift(training, validation)
    return value


@dataclass(frozen=True)
class Skewed(Rule):
    """The validation data are of another kind than the training data.

    `skew` of an input above `deviations`. Other scaling, units or preprocessing show
    so; classes in other proportions, augmentation and later times of a series do not,
    as a rule.

    In standard deviations of the training batch. Source: measured on the zoo's healthy
    networks, at most SKEW_MEASURED; digits of 0 to 255 beside ones of 0 to 1: 300.
    """

    title: ClassVar = "validation data are of another kind"

    deviations: float = 3.0

    reads: ClassVar = (skew,)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each input."""
        for name, value in view.under(skew).items():
            yield Reading(name, value, self.deviations)

    def explain(self, reading: Reading, view: View) -> str:
        """Say how far."""
        return (
            f"In the input {reading.where}, the validation data lie "
            f"{reading.value:.2g} standard deviations from the training data: what is "
            "measured on them is of another task."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Prepare both in one way."""
        return ask(
            "Prepare the validation data by the same code as the training data: the "
            "same scaling, with the training data's numbers, and the same units."
        )
