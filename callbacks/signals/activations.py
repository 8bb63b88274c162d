"""Activations: what layers give, units that are dead or saturated, a poor start."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from . import rows
from .gradients import global_norm
from .learning_rate import is_high, lower
from .loss import train_loss
from .registry import Chart, Guide, signal
from .remedy import Remedy, insert_batch_norm
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Array, Input, Output, Target
from .view import View
from .weights import distance_from_init, weight_spread, weight_std


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


def _active(x: Any, output: Output) -> Any:
    known = output.activation
    return rows.active_row(x, output.unit_axis, known.rest, known.within)


def _counts_of_units(output: Output) -> tuple[Array, float]:
    looks = output.rows["health/dead_units/<layer>"]  # (replicas of looks, 1 + units)
    return looks[:, 1:].sum(axis=0), float(looks[:, 0].sum())


@signal(
    "health/dead_units/<layer>",
    of=Output,
    where=lambda output: (
        output.activation is not None and output.activation.rest is not None
    ),
    row=_active,
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


def _saturated(x: Any, output: Output) -> Any:
    low, high = output.activation.flat
    return rows.outside_row(x, low, high)


def _counts(output: Output) -> tuple[float, float]:
    elements, outside = output.rows["health/saturated/<layer>"].sum(axis=0)
    return float(outside), float(elements)


@signal(
    "health/saturated/<layer>",
    of=Output,
    where=lambda output: (
        output.activation is not None
        and output.activation.flat is not None
        and not output.is_final
    ),
    row=_saturated,
    given=_counts,
    unit="share of outputs, 0 to 1",
    guide=Guide(healthy=(0, 0.01), sick=(None, 0.6)),
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
    """How many elements of what the model is to give are NaN or Inf, if any are."""
    return float(count)


@dataclass(frozen=True)
class DeadRelu(Rule):
    """Most units of a ReLU layer are 0 for every example.

    The share of units that are non-zero in less than 1 % of batch x space, over the
    batches of the last looks, above `share`. Layers that end in a ReLU, GELU, SiLU or
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
        """Of each call of a ReLU layer."""
        rates = {
            view.record.position(layer["name"]): layer.get("dropout") or 0.0
            for layer in view.record.layers
        }
        first = min((x for x, rate in rates.items() if rate > self.dropout), default=())
        for call, share in view.under(dead_units).items():
            batches = 1 + len(view.past(dead_units.tag_of(call)))
            is_behind = bool(first) and view.record.position(call) > first
            if not is_behind and batches * (view.record.batch_size or 8) >= 8:
                yield Reading(call, share, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer."""
        return (
            f"{reading.value:.0%} of the units of "
            f"{view.record.describe(reading.where)} are 0 for all examples, pass "
            "no gradient and do not come back by themselves."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A lower rate if it is high and the units have died of it, else batch norm."""
        where = reading.where
        was_alive = (view.first(dead_units.tag_of(where)) or 0.0) <= self.share
        if was_alive and is_high(view, where):
            return lower(view, where)
        return insert_batch_norm(view)


@dataclass(frozen=True)
class Saturated(Rule):
    """Most outputs of a sigmoid or tanh layer lie on its flat ends.

    The share of outputs with |a| > 0.99 of tanh and softsign, a < 0.01 or a > 0.99 of
    sigmoid and hard sigmoid, at the largest value of ReLU6, and so on, above `share`.
    Not for the model's outputs, which should be confident.

    No unit, 0 to 1. Source: SageMaker Debugger's rules on tanh and sigmoid, on outputs
    here; measured on digits: healthy up to 0.01, in the code of an autoencoder 0.42,
    faulty 0.85 to 1.0.
    """

    title: ClassVar = "units are saturated"

    share: float = 0.6
    patience: int = LASTING

    reads: ClassVar = (saturated,)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each call of such a layer."""
        for call, share in view.under(saturated).items():
            if not view.record.layer(call).get("is_output"):
                yield Reading(call, share, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer and its activation."""
        activation = view.record.layer(reading.where).get("activation") or "activation"
        return (
            f"{reading.value:.0%} of the outputs of "
            f"{view.record.describe(reading.where)} lie where {activation} is flat, so "
            "next to no gradient passes."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Batch norm before the activations."""
        return insert_batch_norm(view)


RELUS = {"relu", "relu6", "leaky_relu", "elu", "gelu", "silu"}
NORMS = {"BatchNormalization", "LayerNormalization", "GroupNormalization"}
NORMS |= {"RMSNormalization", "UnitNormalization"}


def _rescales(layer: Mapping[str, Any]) -> bool:
    """Whether it gives its outputs another scale: the weights before say no more."""
    return bool(NORMS & {*layer.get("is", ())}) or (layer.get("dropout") or 0.0) > 0.5


def _multiplies(layer: Mapping[str, Any]) -> bool:
    weights = layer.get("weights") or ()
    return any(len(weight.get("shape") or ()) > 1 for weight in weights)


@dataclass(frozen=True)
class PoorInit(Rule):
    """The initial weights let the signal grow or die from layer to layer, or are equal.

    At the first look, if that is at the optimizer's first step: later, other weights
    than the initial ones are seen. Either: over the outputs of the layers with kernels
    that train, in forward order, without the model's outputs, the variance changes by a
    factor above `growth` a layer: (var_n / var_1)^(1 / (n - 1)), or its inverse, of at
    least 3 layers with no normalization and no dropout above a half between them. Or: a
    square recurrent kernel multiplies by more than `gain` at each step of a sequence
    (sigma_0 sqrt(units), which of an orthogonal one is its factor), and the first
    gradient's norm is above `norm` * max(1, L), L the first loss. Or: a kernel of
    several units has no spread, sigma below `spread`, and is not one of zeros
    that has moved since; then all its units compute the same and learn the same.

    No unit. Sources: SageMaker Debugger's PoorWeightInitialization (variance ratio 10),
    DLCheck (sigma below 1e-6).
    """

    title: ClassVar = "the initial weights are poor"

    growth: float = 10.0
    spread: float = 1e-6
    gain: float = 1.25
    norm: float = 10.0

    reads: ClassVar = (
        activation_std,
        weight_std,
        weight_spread,
        distance_from_init,
        global_norm,
        train_loss,
    )

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the kernels without spread, and of the last of the layers."""
        is_untrained = view.record.begins_untrained
        if is_untrained or (is_untrained is None and view.step == 1):
            if view.is_first(activation_std):
                yield from self._layers(view)
            if view.is_first(weight_std):
                yield from self._kernels(view)
                yield from self._recurrent(view)

    def _layers(self, view: View) -> Iterable[Reading]:
        record, stds = view.record, view.under(activation_std)
        calls = [x for x in stds if self._has_kernel(x, view) and stds[x] < math.inf]
        calls.sort(key=lambda call: (record.position(call), call))
        rescaling = [record.position(x["name"]) for x in record.layers if _rescales(x)]
        parts: dict[int, list[str]] = {}  # by how many layers before them rescale
        for call in calls:
            before = sum(x < record.position(call) for x in rescaling)
            parts.setdefault(before, []).append(call)
        for part in parts.values():
            first, last = stds[part[0]], stds[part[-1]]
            if len(part) >= 3 and first > 0:
                growth = (last / first) ** (2 / (len(part) - 1))
                value = max(growth, 1 / growth if growth else math.inf)
                yield Reading(part[-1], value, self.growth)

    def _kernels(self, view: View) -> Iterable[Reading]:
        for path, std in view.under(weight_std).items():
            shape, layer = view.record.shape(path), view.record.layer(path)
            if shape is None or shape[-1] < 2 or layer.get("is_output"):
                continue
            if not view.record.is_kernel(path):
                continue
            # Neither of them is logged of a kernel that began without spread, and the
            # distance is not of one that began with zeros.
            is_equal = (
                weight_spread.tag_of(path) not in view
                and distance_from_init.tag_of(path) in view
            )
            yield Reading(path, 0.0 if is_equal else std, self.spread, below=True)

    def _recurrent(self, view: View) -> Iterable[Reading]:
        stds, spreads = view.under(weight_std), view.under(weight_spread)
        loss, norm = view.get(train_loss) or 0.0, view.get(global_norm) or 0.0
        for path, std in stds.items():
            shape, spread = view.record.shape(path) or (), spreads.get(path)
            is_square = len(shape) == 2 and shape[0] == shape[1]
            if path.endswith("recurrent_kernel") and is_square and spread:
                gain = std / spread * math.sqrt(shape[0])  # before the step
                explodes = not norm <= self.norm * max(1.0, abs(loss))
                yield Reading(path, gain if explodes else 0.0, self.gain)

    def _has_kernel(self, call: str, view: View) -> bool:
        layer = view.record.layer(call)
        return (
            not layer.get("is_output")
            and layer.get("trainable", True)
            and "#" not in call
            and not view.record.is_a("Embedding", call)
            and _multiplies(layer)
        )

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer or the kernel."""
        if reading.below:
            return (
                f"All elements of {reading.where} are equal, so all units of its layer "
                "compute the same and stay the same."
            )
        if reading.where.endswith("recurrent_kernel"):
            return (
                f"{reading.where} multiplies by about {reading.value:.2g} at each step "
                "of a sequence, and its gradient by as much on the way back."
            )
        std = view.get(activation_std.tag_of(reading.where)) or 0.0
        if reading.value == math.inf:
            return (
                f"{view.record.describe(reading.where)} gives one number for every "
                "example: nothing of the inputs is left."
            )
        return (
            f"From layer to layer the variance of the outputs changes "
            f"{reading.value:.2g} times; that of {view.record.describe(reading.where)} "
            f"has standard deviation {std:.1g}."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A random initializer, by the activations that follow."""
        if reading.where.endswith("recurrent_kernel"):
            # A cell's argument is given to the layer around it.
            known = {str(x["name"]) for x in view.record.layers}
            layer = next((x for x in reading.where.split("/") if x in known), "")
            return Remedy(
                "layer",
                "recurrent_initializer",
                (layer,),
                new="orthogonal",
                words=f'Start {layer} with recurrent_initializer="orthogonal", whose '
                "gain is 1.",
            )
        layers = [x for x in view.record.layers if _multiplies(x)]
        if reading.below:
            equal = [x.where for x in self._kernels(view) if x.is_ill]
            layers = [view.record.layer(path) for path in equal or [reading.where]]
        kinds = {str(x.get("activation")) for x in view.record.layers}
        new = "he_normal" if RELUS & kinds else "glorot_uniform"
        names = tuple(str(x.get("name")) for x in layers)
        named = ", ".join(names[:4]) + " and others" * (len(names) > 4)
        return Remedy(
            "layer",
            "kernel_initializer",
            names,
            new=new,
            words=f'Start {named} with random weights: kernel_initializer="{new}".',
        )
