"""Activations: what layers give, units that are dead or saturated, a poor start."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from . import rows
from .learning_rate import is_high, lower
from .loss import epoch_loss
from .registry import Chart, Guide, signal
from .remedy import Remedy, ask, insert_batch_norm
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Array, Input, Output, Target
from .targets import guess, has_learned
from .view import View


@signal(
    "activations/<layer>",
    of=Output,
    given=lambda output: (output.summary,),
    is_histogram=True,
)
def activations(summary: Summary) -> Summary:
    """What the layer gave in the looked-at step.

    `#1`, `#2` for further calls of the same layer, `/0`, `/1` for several outputs.
    """
    return summary


def _counts_of_units(output: Output) -> tuple[Array, float]:
    looks = output.rows["health/dead_units/<layer>"]  # (replicas of looks, 1 + units)
    return looks[:, 1:].sum(axis=0), float(looks[:, 0].sum())


@signal(
    "health/dead_units/<layer>",
    of=Output,
    where=lambda output: (
        output.activation is not None and output.activation.rest is not None
    ),
    row=lambda x, output: rows.active_row(
        x, output.unit_axis, output.activation.rest, output.activation.within
    ),
    given=_counts_of_units,
    unit="share of units, 0 to 1",
    guide=Guide(healthy=(0, 0.2), sick=(None, 0.7)),
    source="the 1 % of SageMaker Debugger's DeadRelu rule",
    chart=Chart("Health", "dead units"),
)
def dead_units(active: Array, elements: float) -> float:
    """Share of a ReLU's units that are non-zero in less than 1 % of batch x space.

    Over the batches of the last three looks, more where a batch has under 22 examples;
    not of batches that have one target for all. Layers that end in a ReLU, or in GELU,
    SiLU and others that are 0 below some value; not leaky ones. A unit is a channel:
    the last axis, or axis 1 of a convolution with `channels_first`. A dead unit passes
    no gradient. Where most are dead, try a lower learning rate or batch norm.

    active: (units,), how many of each unit's `elements` are not zero.
    """
    return float(np.mean(active < 0.01 * elements))


@signal(
    "health/saturated/<layer>",
    of=Output,
    where=lambda output: (
        output.activation is not None
        and output.activation.flat is not None
        and not output.is_final
    ),
    row=lambda x, output: rows.outside_row(x, *output.activation.flat),
    given=lambda output: tuple(
        map(float, output.rows["health/saturated/<layer>"].sum(axis=0)[::-1])
    ),
    unit="share of outputs, 0 to 1",
    guide=Guide(healthy=(0, 0.01), sick=(None, 0.75)),
    chart=Chart("Health", "saturated units"),
)
def saturated(outside: float, elements: float) -> float | None:
    """Share of a tanh's or sigmoid's outputs that lie on its flat ends.

    |a| > 0.99 of tanh and softsign, a < 0.01 or a > 0.99 of sigmoid and hard sigmoid,
    the largest value of ReLU6, the lowest of ELU, and so on: of any function with such
    an end, in layers whose output is not the model's. There the gradient is nearly 0,
    and the layer hardly learns.
    """
    return outside / elements if elements else None


@signal(
    "activation_std/<layer>",
    of=Output,
    given=lambda output: output.summary and (output.summary,),
    unit="that of the output",
    guide=Guide(healthy=(0.1, 10)),
    source="layer-sequential unit variance, https://arxiv.org/abs/1511.06422",
    chart=Chart("Health", "standard deviation of the outputs"),
)
def activation_std(summary: Summary) -> float | None:
    """Standard deviation of all elements that the layer gave.

    It should stay near 1 from layer to layer; where it grows or shrinks from one to the
    next, the initial weights are too large or too small.
    """
    return summary.std if summary.count else None


@signal(
    "inputs/<name>/mean",
    of=Input,
    given=lambda given: given.summary and (given.summary,),
    unit="that of the input",
    guide=Guide(healthy=(-1, 1), sick=(-10, 10)),
    source="DLCheck",
    chart=Chart("Health", "mean of the inputs"),
)
def input_mean(summary: Summary) -> float | None:
    """Mean of what the model was given in the looked-at step, over all elements.

    Far from 0, the first layer works on an offset: subtract it.
    """
    return summary.mean if summary.count else None


@signal(
    "inputs/<name>/std",
    of=Input,
    given=lambda given: given.summary and (given.summary,),
    unit="that of the input",
    guide=Guide(healthy=(0.1, 10), sick=(None, 100)),
    source="DLCheck",
    chart=Chart("Health", "standard deviation of the inputs"),
)
def input_std(summary: Summary) -> float | None:
    """Standard deviation of what the model was given, over all elements."""
    return summary.std if summary.count else None


def _count_of_non_finite(given: Input) -> tuple[int] | None:
    count = given.summary.non_finite if given.summary else 0
    return (count,) if count else None


@signal(
    "health/non_finite/inputs/<name>",
    of=Input,
    given=_count_of_non_finite,
    unit="elements",
    chart=Chart("Health", "NaN and Inf", r"^health/non_finite/"),
)
def non_finite_inputs(count: int) -> float:
    """How many elements of what the model was given are NaN or Inf, if any are."""
    return float(count)


@signal(
    "health/non_finite/targets/<name>",
    of=Target,
    given=_count_of_non_finite,
    unit="elements",
    chart=Chart("Health", "NaN and Inf", r"^health/non_finite/"),
)
def non_finite_targets(count: int) -> float:
    """How many elements of what the model is to give are NaN or Inf, if any are.

    Also of the loss's sample weights, as of a target `sample_weight`.
    """
    return float(count)


@dataclass(frozen=True)
class DeadRelu(Rule):
    """Most units of a ReLU layer are 0 for every example.

    The share of units that are non-zero in less than 1 % of batch x space, over the
    batches of the last looks, above `share`; of n units above 0.5 + 1 / sqrt(n), two
    standard errors above the half that random weights make 0 where an input has one
    sign, if that is more, or all of them. Layers that end in a ReLU, GELU, SiLU or
    another function that is 0 below some value. Not behind a dropout above `dropout`,
    which leaves units too little to be told from dead ones; nor before 8 examples.

    No unit, 0 to 1. Sources: SageMaker Debugger's DeadRelu (1 %, half of the units);
    measured on digits: healthy classifiers up to 0.34, an autoencoder 0.5, learning
    rate 2 1.0.
    """

    title: ClassVar = "units are dead"

    share: float = 0.7
    dropout: float = 0.5
    patience: int = LASTING

    reads: ClassVar = (dead_units,)
    keeps: ClassVar = {dead_units: 32}

    def readings(self, view: View) -> Iterable[Reading]:
        rates = {
            view.record.position(layer["name"]): layer.get("dropout") or 0.0
            for layer in view.record.layers
        }
        first = min((x for x, rate in rates.items() if rate > self.dropout), default=())
        for call, share in view.under(dead_units).items():
            batches = 1 + len(view.past(dead_units.tag_of(call)))
            is_behind = bool(first) and view.record.position(call) > first
            if not is_behind and batches * (view.record.batch_size or 8) >= 8:
                yield Reading(call, share, self._limit(view, call))

    def _limit(self, view: View, call: str) -> float:
        weights = view.record.layer(call).get("weights") or [{}]
        units = (weights[0].get("shape") or [math.inf])[-1]
        by_chance = min(0.5 + 1 / math.sqrt(units), 1 - 0.5 / units)
        return max(self.share, by_chance)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"{reading.value:.0%} of the units of "
            f"{view.record.describe(reading.where)} are 0 for all examples, pass "
            "no gradient and do not come back by themselves."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A lower rate if it is high and the units died of it, else batch norm.

        A leaky ReLU where batch norm is there already.
        """
        where = reading.where
        was_alive = (view.first(dead_units.tag_of(where)) or 0.0) <= self.share
        if was_alive and is_high(view, where):
            return lower(view, where)
        if view.record.is_normalized and view.record.is_a("ReLU", where):
            return ask(f"Put keras.layers.LeakyReLU() in the place of {where}.")
        if view.record.is_normalized:
            return Remedy(
                "layer",
                "activation",
                (str(view.record.layer(where).get("name") or where),),
                new="leaky_relu",
                words=f'Use activation="leaky_relu" in {where}: its units pass a '
                "gradient below 0 too.",
            )
        return insert_batch_norm(view)


@dataclass(frozen=True)
class Saturated(Rule):
    """Most outputs of a sigmoid or tanh layer lie on its flat ends.

    The share of outputs with |a| > 0.99 of tanh and softsign, a < 0.01 or a > 0.99 of
    sigmoid and hard sigmoid, at the largest value of ReLU6, and so on, above `share`.
    Not for the model's outputs, which should be confident. Over once the loss of an
    epoch is below `learned` times that of guessing.

    No unit, 0 to 1. Source: SageMaker Debugger's rules on tanh and sigmoid, on outputs
    here; measured on digits: healthy up to 0.01, in the code of an autoencoder 0.67,
    faulty 0.85 to 1.0.
    """

    title: ClassVar = "units are saturated"

    share: float = 0.75
    learned: float = 0.5
    patience: int = LASTING

    reads: ClassVar = (saturated,)
    keeps: ClassVar = {epoch_loss: 1, guess: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        is_harmless = has_learned(view, self.learned)
        for call, share in view.under(saturated).items():
            if not view.record.layer(call).get("is_output"):
                yield Reading(call, 0.0 if is_harmless else share, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        activation = view.record.layer(reading.where).get("activation") or "activation"
        return (
            f"{reading.value:.0%} of the outputs of "
            f"{view.record.describe(reading.where)} lie where {activation} is flat, so "
            "next to no gradient passes."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Put batch norm before the activations, so that they work where they bend."""
        return insert_batch_norm(view)
