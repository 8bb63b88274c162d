"""Outputs that are alike for all examples, under a loss that has no known guess."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import rows
from .loss import epoch_loss
from .registry import Chart, Guide, signal
from .remedy import Remedy, ask
from .rule import LASTING, Reading, Rule
from .subjects import Array, Output
from .view import View


@signal(
    "between_examples/<layer>",
    of=Output,
    where=lambda output: output.is_final,
    row=lambda x, output: (
        rows.spread_row(x) if math.prod(x.shape[1:]) > 1 else np.zeros(3)
    ),
    given=lambda output: (output.rows["between_examples/<layer>"],),
    unit="share of the output's size",
    guide=Guide(healthy=(0.2, None), sick=(0.1, None)),
    chart=Chart("Health", "spread of the outputs between examples"),
)
def between_examples(replicas: Array) -> float | None:
    """How far an output of several numbers differs between examples, over its size.

    sqrt(mean variance between examples / mean square), of the model and of the models
    in it. At 0 all examples get one answer: the representation has collapsed.

    replicas: (n, 3), examples, mean variance and mean square of each.
    """
    counts, variances, squares = replicas.T
    if counts.sum() < 2 or not np.isfinite(replicas).all():
        return None
    square = np.average(squares, weights=counts)
    return math.sqrt(np.average(variances, weights=counts) / square) if square else None


@dataclass(frozen=True)
class Collapsed(Rule):
    """All outputs of several numbers have become alike for all examples.

    `between_examples` below `spread`, and below a quarter of what it was at first, of
    every output of the model and of the models in it: some, as the variance of a VAE's
    code, are alike in health. Only under a loss of which the guess is not known, such
    as one that brings two views together: `not_learning` judges the others.

    No unit. Sources: Chen and He, 2021 (arXiv:2011.10566), who watch the deviation of
    normalized outputs; measured on digits: SimSiam 0.8 and more, without its stop of
    the gradient 0.08.
    """

    title: ClassVar = "the outputs have collapsed"

    spread: float = 0.1
    patience: int = LASTING

    reads: ClassVar = (between_examples,)
    keeps: ClassVar = {between_examples: 1, epoch_loss: 1}
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the output that is the least alike."""
        if not view.record.known.get("no_guess"):
            return
        found = []
        for call, now in view.under(between_examples).items():
            limit = min(
                self.spread, (view.first(between_examples.tag_of(call)) or 0) / 4
            )
            found.append(Reading(call, now, limit, below=True))
        if found:
            yield max(found, key=lambda one: one.value - one.limit)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"{view.record.describe(reading.where)} gives all examples nearly the same "
            f"numbers: they differ by {reading.value:.2g} of their size, by "
            f"{view.first(between_examples.tag_of(reading.where)):.2g} at first."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Give the loss a reason to keep examples apart."""
        is_negative = (view.newest(epoch_loss) or 0.0) < 0
        sign = "Check the sign of the loss, which is negative. " if is_negative else ""
        return ask(
            f"{sign}Give the loss a reason to keep examples apart: negatives, a term "
            "on the variance, or no gradient through one of two views."
        )
