"""The targets beside the outputs, what guessing would give, and rules on both."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .loss import epoch_loss
from .registry import Chart, Guide, Signal, signal
from .remedy import Remedy, ask, scale_targets
from .rule import Reading, Rule
from .subjects import Array, Guess, Head, Penalty
from .view import View

CLASSES, BINARY, NUMBERS = "classes", "binary", "numbers"
UNIT, POSITIVE, ALL = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)


class KnownLoss(NamedTuple):
    """What kbn knows of a loss function of Keras.

    `kind`: what it compares. `constants`: the constant predictions among which its
    best is, none if there is no closed one. `takes`: the outputs that mean something
    to it, unless it takes logits.
    """

    kind: str
    constants: tuple[str, ...] = ()
    takes: tuple[float, float] = ALL


# By the name of the function; a new loss is a row.
LOSSES = {
    "categorical_crossentropy": KnownLoss(CLASSES, ("mean",), UNIT),
    "sparse_categorical_crossentropy": KnownLoss(CLASSES, ("mean",), UNIT),
    "categorical_focal_crossentropy": KnownLoss(CLASSES, (), UNIT),
    "binary_crossentropy": KnownLoss(BINARY, ("mean",), UNIT),
    "binary_focal_crossentropy": KnownLoss(BINARY, (), UNIT),
    "mean_squared_error": KnownLoss(NUMBERS, ("mean",)),
    "mean_absolute_error": KnownLoss(NUMBERS, ("median",)),
    "huber": KnownLoss(NUMBERS, ("mean", "median")),
    "log_cosh": KnownLoss(NUMBERS, ("mean", "median")),
    "mean_squared_logarithmic_error": KnownLoss(NUMBERS, ("log_mean",), POSITIVE),
    "mean_absolute_percentage_error": KnownLoss(NUMBERS),
    "poisson": KnownLoss(NUMBERS, ("mean",), POSITIVE),
}
# By the name of the activation function: what a layer that ends with it can give.
RANGES = {
    "softmax": UNIT,
    "sigmoid": UNIT,
    "hard_sigmoid": UNIT,
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "relu": POSITIVE,
    "relu6": (0.0, 6.0),
    "softplus": POSITIVE,
    "exponential": POSITIVE,
    **dict.fromkeys(("linear", "elu", "gelu", "leaky_relu", "selu", "silu"), ALL),
}
PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid")
FAR = 20.0  # mean or deviation of targets that an output of unit scale hardly reaches
ROUNDING = 1e-3  # of probabilities in 16 bits

_CHARTS = {
    name: Chart("Targets", title)
    for name, title in {
        "scale": "mean and standard deviation of the targets",
        "fit": "outputs and targets that do not fit",
        "spread": "spread of the outputs, to that of the targets",
        "share": "share of the largest class",
        "order": "how far batches differ in their labels",
        "seen": "examples whose targets were seen",
        "guess": "loss of the best constant prediction, each output",
    }.items()
}
_GUESS = Chart("Training", "loss of the best constant prediction")


# --- signals ---


@signal(
    "targets/<name>/mean",
    of=Head,
    where=lambda head: head.labels is None,
    given=lambda head: None if head.mean is None else (head.mean,),
    unit="that of the target",
    chart=_CHARTS["scale"],
)
def target_mean(mean: Array) -> float:
    """Mean of the targets that are numbers, over all looks so far."""
    return float(mean.mean())


@signal(
    "targets/<name>/std",
    of=Head,
    where=lambda head: head.labels is None,
    given=lambda head: None if head.variance is None else (head.mean, head.variance),
    unit="that of the target",
    guide=Guide(healthy=(0.01, 30)),
    chart=_CHARTS["scale"],
)
def target_std(mean: Array, variance: Array) -> float:
    """Standard deviation of the targets that are numbers, over all looks so far.

    Far from 1, the last layer has to grow or shrink by so much.
    """
    return math.sqrt(variance.mean() + mean.var())


@signal(
    "targets/<name>/count",
    of=Head,
    given=lambda head: (head.count,),
    unit="examples",
    chart=_CHARTS["seen"],
)
def target_count(count: int) -> float:
    """How many examples' targets were seen, over all looks so far."""
    return float(count)


@signal(
    "targets/<name>/share_of_largest",
    of=Head,
    where=lambda head: head.labels is not None,
    given=lambda head: (head.labels,) if head.labels.any() else None,
    unit="share of the labels",
    guide=Guide(healthy=(None, 0.9)),
    chart=_CHARTS["share"],
)
def share_of_largest(labels: Array) -> float:
    """Share of the most frequent class in the labels seen so far.

    A network that always gives this class has this accuracy.
    """
    return float(labels.max() / labels.sum())


@signal(
    "targets/<name>/batch_effect",
    of=Head,
    where=lambda head: head.labels is not None and head.clusters is not None,
    given=lambda head: (head.labels, *head.clusters),
    unit="share of the labels' variance",
    guide=Guide(healthy=(None, 0.05), sick=(None, 0.25)),
    source="Cramér's V, squared and corrected for chance",
    chart=_CHARTS["order"],
)
def batch_effect(labels: Array, squares: Array, looks: int) -> float | None:
    """How much the label shares of batches differ, beyond chance.

    `(X^2 - d - 6 sqrt(2 d)) / (N (min(looks, classes) - 1))`, at least 0: X^2 of the
    table of looks and classes, d its degrees of freedom, N labels. 0 of shuffled data,
    1 if each batch has one class. Where each example has one label.
    """
    met = labels > 0
    total, classes = float(labels.sum()), int(np.count_nonzero(met))
    freedom = (looks - 1) * (classes - 1)
    if not freedom:
        return None
    # squares: the sum over looks of n_look,class^2 / n_look
    statistic = total * (squares[met] / labels[met]).sum() - total
    beyond = statistic - freedom - 6 * math.sqrt(2 * freedom)
    return float(max(0.0, beyond / (total * (min(looks, classes) - 1))))


@signal(
    "targets/<name>/out_of_reach",
    of=Head,
    where=lambda head: head.reach is not None,
    given=lambda head: (head.targets, head.reach),
    unit="share of the targets",
    guide=Guide(healthy=(None, 0.01), sick=(None, 0.05)),
    chart=_CHARTS["fit"],
)
def out_of_reach(targets: Array, reach: tuple[float, float]) -> float | None:
    """Share of the targets that the output's last activation cannot come near.

    Beyond its range by more than a tenth of their standard deviation. Of a categorical
    crossentropy, the rows that do not add up to 1; those of zeros are padding.
    """
    low, high = reach
    known = targets[np.isfinite(targets)]
    if not known.size:
        return None
    slack = 0.1 * known.std() + ROUNDING
    return float(((known < low - slack) | (known > high + slack)).mean())


@signal(
    "outputs/<name>/out_of_range",
    of=Head,
    where=lambda head: head.takes is not None,
    given=lambda head: (head.outputs, head.takes),
    unit="share of the outputs",
    guide=Guide(healthy=(None, 0.01), sick=(None, 0.05)),
    chart=_CHARTS["fit"],
)
def out_of_range(outputs: Array, takes: tuple[float, float]) -> float | None:
    """Share of the outputs that mean nothing to their loss.

    Of a loss that takes probabilities, those below 0 or above 1.
    """
    low, high = takes
    outside = (outputs < low - ROUNDING) | (outputs > high + ROUNDING)
    return float(outside.mean()) if outputs.size else None


@signal(
    "outputs/<name>/spread",
    of=Head,
    given=lambda head: None if head.variance is None else (head.outputs, head.variance),
    unit="share of the targets' standard deviation",
    guide=Guide(healthy=(0.1, None)),
    chart=_CHARTS["spread"],
)
def output_spread(outputs: Array, variance: Array) -> float | None:
    """Standard deviation of the outputs between examples, over that of the targets.

    At 0 the model gives the same answer to every example. Classes as probabilities.
    """
    whole = math.sqrt(variance.mean())
    if len(outputs) < 2 or not whole or not np.isfinite(outputs).all():
        return None
    return math.sqrt(outputs.var(axis=0, dtype=np.float64).mean()) / whole


@signal(
    "loss/guess",
    of=Guess,
    where=lambda guess: not guess.name,
    given=lambda guess: (guess.loss,),
    chart=_GUESS,
)
def guess(loss: float) -> float:
    """The compiled loss of the best constant prediction: what guessing would give.

    With its weights and smoothing, of the targets of all looks so far: of classes their
    shares (equal shares up to 30 labels a class), of numbers their mean or median. A
    network whose loss does not get below has learned nothing from its inputs.
    """
    return loss


@signal(
    "targets/<name>/guess",
    of=Guess,
    where=lambda guess: bool(guess.name),
    given=lambda guess: (guess.loss,),
    chart=_CHARTS["guess"],
)
def guess_of_one(loss: float) -> float:
    """The same of one output, without the weight of its loss."""
    return loss


@signal(
    "targets/<name>/guess_error",
    of=Guess,
    where=lambda guess: bool(guess.name),
    given=lambda guess: (guess.error,),
    chart=_CHARTS["guess"],
)
def guess_error(error: float) -> float:
    """Standard error of the guess, by the number of targets that were seen."""
    return error


@signal(
    "loss/penalty",
    of=Penalty,
    given=lambda penalty: (penalty.value,),
    chart=Chart("Training", "penalties of the regularizers"),
)
def penalty(value: float) -> float:
    """What the regularizers of the weights add to the loss, after the epoch."""
    return value


# --- rules ---


class Fault(NamedTuple):
    """What does not fit at an output: a share, or 1 for a fact; and what helps."""

    share: float
    message: str
    remedy: Remedy


@dataclass(frozen=True)
class OutputMismatch(Rule):
    """An output does not fit its loss, or cannot reach its targets.

    By the architecture: logits for a loss of probabilities, probabilities for a loss of
    logits where Keras does not undo it, a ReLU before a loss of classes, a softmax over
    one unit, a softmax or sigmoid right behind another activation, dropout at the end.
    By what is seen: more than `share` of the outputs outside what the loss takes
    (`outputs/<name>/out_of_range`), or of the targets outside what the output's
    activation gives (`targets/<name>/out_of_reach`). Only losses of Keras.

    No unit, 0 to 1; 1 for a fact of the architecture. Limit: kbn's own.
    """

    title: ClassVar = "the output does not fit its loss or its targets"

    share: float = 0.05

    reads: ClassVar = ("epoch", out_of_range, out_of_reach)
    keeps: ClassVar = {
        out_of_range: 1,
        out_of_reach: 1,
        target_mean: 1,
        target_std: 1,
    }

    def readings(self, view: View) -> Iterable[Reading]:
        for head in view.record.heads:
            found = [*self._faults(head, view)]
            value = max((fault.share for fault in found), default=0.0)
            yield Reading(str(head["name"]), value, self.share)

    def _faults(self, head: Mapping[str, Any], view: View) -> Iterator[Fault]:
        loss = LOSSES.get(str(head.get("loss")))
        if loss is None:
            return
        activation = str(head.get("activation"))
        named, name = f"The loss {head['loss']}", str(head["name"])
        ends = f"the output {where(head)} ends with {activation}"
        is_classifier = loss.kind != NUMBERS
        last = "softmax" if loss.kind == CLASSES else "sigmoid"
        end = _end_with(head, last if is_classifier else "softplus")
        if activation == "softmax" and head.get("units") == 1:
            yield Fault(
                1.0,
                f"A softmax over one unit is always 1, and {ends} of one unit.",
                _end_with(head, "sigmoid", "and binary_crossentropy"),
            )
        elif is_classifier and head.get("takes_logits"):
            if activation in (*PROBABILITIES, "tanh", "relu", "softplus"):
                yield Fault(
                    1.0,
                    f"{named} takes logits (from_logits=True), but {ends}.",
                    _end_with(head, "linear"),
                )
        elif is_classifier and activation in RANGES.keys() - {*PROBABILITIES}:
            yield Fault(
                1.0,
                f"{named} takes probabilities, but {ends}, which gives others too.",
                end,
            )
        if activation == "dropout":
            yield Fault(
                1.0,
                f"{ends[0].upper()}{ends[1:]}, which makes outputs 0 at random.",
                ask("Take the dropout behind the last layer away."),
            )
        before = str(head.get("activation_before"))
        if activation in PROBABILITIES and RANGES.get(before, ALL) != ALL:
            yield Fault(
                1.0,
                f"The output {where(head)} is a {activation} of what a {before} gives, "
                "which cuts off what it could tell apart.",
                ask(f"Take the {before} before the last {activation} away."),
            )
        outside = newest(view, out_of_range, name)
        if outside is not None:
            low, high = loss.takes
            yield Fault(
                outside,
                f"{named} takes numbers from {low:g} to {high:g}, but {outside:.0%} of "
                f"those of the output {where(head)} are outside.",
                end,
            )
        beyond = newest(view, out_of_reach, name)
        if beyond is not None:
            low, high = RANGES.get(activation, ALL)
            why = f"are out of reach: {ends}, which gives {low:g} to {high:g}"
            if loss.kind == CLASSES:
                why = f"are rows that do not add up to 1, as {head['loss']} takes them"
            yield Fault(
                beyond,
                f"{beyond:.0%} of the targets {name} {why}.",
                self._reach(head, view),
            )

    def _reach(self, head: Mapping[str, Any], view: View) -> Remedy:
        """What brings the targets within reach of the output."""
        name = str(head["name"])
        if LOSSES[str(head["loss"])].kind != NUMBERS:
            return ask(
                "Labels have to be 0 to 1: write the classes as one-hot rows, or use "
                "sparse_categorical_crossentropy."
            )
        mean, std = newest(view, target_mean, name), newest(view, target_std, name)
        is_far = mean is not None and std and max(abs(mean), std) > FAR
        if not is_far or mean is None or not std:
            return _end_with(head, "linear")
        return scale_targets(name, mean, std, ", and give the output no activation")

    def _worst(self, reading: Reading, view: View) -> Fault:
        (head,) = (x for x in view.record.heads if x["name"] == reading.where)
        return max(self._faults(head, view), key=lambda fault: fault.share)

    def explain(self, reading: Reading, view: View) -> str:
        return self._worst(reading, view).message

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Another activation at the end, or a loss or targets that fit this one."""
        return self._worst(reading, view).remedy


def _end_with(head: Mapping[str, Any], activation: str, more: str = "") -> Remedy:
    """Another activation at an output; more: the end of the sentence."""
    means = "no activation" if activation == "linear" else f'activation="{activation}"'
    logits = " and leave from_logits at False" if activation in PROBABILITIES else ""
    return Remedy(
        "layer",
        "activation",
        (str(head.get("layer") or head["name"]),),
        old=str(head.get("activation")),
        new=activation,
        words=f"End the model with {means}{f' {more}' if more else logits}.",
    )


@dataclass(frozen=True)
class NotShuffled(Rule):
    """Batches differ in their labels: the data are sorted.

    `targets/<name>/batch_effect` above `share`: so much of the labels' variance lies
    between batches, beyond chance. Shuffled data stay near 0, batches of one class
    reach 1. Only where each example has one label.

    No unit, 0 to 1. Limit: kbn's own.
    """

    title: ClassVar = "the data are not shuffled"

    share: float = 0.25

    reads: ClassVar = (batch_effect,)

    def readings(self, view: View) -> Iterable[Reading]:
        for name, value in parts(view, batch_effect).items():
            yield Reading(name, value, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"Batches differ in their labels {reading.where}: {reading.value:.0%} of "
            "the labels' variance lies between them. The data are sorted, and each "
            "step forgets the classes that its batch does not have."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Shuffle the data."""
        return Remedy(
            "fit",
            "shuffle",
            new=True,
            words="Shuffle: fit(shuffle=True) for arrays, dataset.shuffle(number of "
            "examples) before .batch() for tf.data.",
        )


def has_learned(view: View, share: float) -> bool:
    """Whether the loss of an epoch is below that share of the loss of guessing.

    The rule keeps both.
    """
    loss, guessed = view.newest(epoch_loss), view.newest(guess)
    return loss is not None and guessed is not None and loss < share * guessed


def newest(view: View, one: Signal, name: str) -> float | None:
    """The newest value of a signal there; of an earlier entry if the rule keeps it."""
    return view.newest(one.tag_of(name))


def parts(view: View, one: Signal) -> dict[str, float]:
    """{name: value} of a signal `<prefix>/<name>/<part>` at this entry."""
    found = view.scalars.items()
    return {one.name_in(tag): x for tag, x in found if one.regex.fullmatch(tag)}


def where(head: Mapping[str, Any]) -> str:
    """The output's name, with its layer where that is known."""
    name, layer = str(head["name"]), head.get("layer")
    return f"{name} ({layer})" if layer and layer != name else name
