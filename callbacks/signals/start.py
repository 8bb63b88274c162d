"""The rule on the initial weights: what they do to the signal before any step."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .activations import activation_std
from .gradients import global_norm
from .loss import epoch_loss, train_loss
from .record import NORMS
from .remedy import Remedy, insert_batch_norm
from .rule import Reading, Rule
from .targets import guess, has_learned
from .view import Tag, View
from .weights import distance_from_init, weight_spread, weight_std

SIGMOIDS = {"sigmoid", "hard_sigmoid"}
RELUS = {"relu", "relu6", "leaky_relu", "elu", "gelu", "silu"}


def _rescales(layer: Mapping[str, Any]) -> bool:
    """Whether it gives its outputs another scale: the weights before say no more."""
    return bool(NORMS & {*layer.get("is", ())}) or (layer.get("dropout") or 0.0) > 0.5


def _multiplies(layer: Mapping[str, Any]) -> bool:
    weights = layer.get("weights") or ()
    return any(len(weight.get("shape") or ()) > 1 for weight in weights)


def _before_the_step(view: View) -> dict[str, float]:
    """{path: standard deviation that a weight began with}, if it had any."""
    stds, spreads = view.under(weight_std), view.under(weight_spread)
    return {
        path: stds[path] / spread if spread else math.inf
        for path, spread in spreads.items()
        if path in stds
    }


def _began_alike(path: str, view: View) -> bool:
    return weight_std.tag_of(path) in view and weight_spread.tag_of(path) not in view


def _began_with_zeros(path: str, view: View) -> bool:
    # The distance from the start is logged of any other start.
    is_logged = distance_from_init.tag_of(path) in view
    return _began_alike(path, view) and not is_logged


@dataclass(frozen=True)
class PoorInit(Rule):
    """The initial weights let the signal grow or die from layer to layer, or are equal.

    At the first look, if that is at the optimizer's first step: later, other weights
    than the initial ones are seen. Either: over the outputs of the layers with kernels
    that train, in forward order, without the model's outputs, the variance changes by a
    factor above `growth` a layer: (var_n / var_1)^(1 / (n - 1)), or its inverse, of at
    least 3 layers with no normalization and no dropout above a half between them; one
    whose kernel begins with zeros, as the last of a branch does, is left out. Or: the
    deviation of the last of them is above `total` times that of the first. Or: a
    square recurrent kernel multiplies by more than `gain` at each step of a sequence
    (sigma_0 sqrt(units), which of an orthogonal one is its factor), and the first
    gradient's norm is above `norm` * max(1, L), L the first loss, or L above `loss`
    times that of guessing. Or: L is that high, and a kernel of an output multiplies by
    more than `last` (sigma sqrt(inputs of a unit), which is about 1). Or: a kernel of
    several units has no spread, sigma below `spread`, and is not one of zeros
    that has moved since; then all its units compute the same and learn the same.

    Over once the loss of an epoch is below `learned` times that of guessing: the
    network has learned in spite of it.

    No unit. Sources: SageMaker Debugger's PoorWeightInitialization (variance ratio 10),
    DLCheck (sigma below 1e-6).
    """

    title: ClassVar = "the initial weights are poor"

    growth: float = 10.0
    total: float = 1e4
    spread: float = 1e-6
    gain: float = 1.25
    norm: float = 10.0
    loss: float = 3.0
    last: float = 8.0
    learned: float = 0.8

    reads: ClassVar = (
        activation_std,
        weight_std,
        weight_spread,
        distance_from_init,
        global_norm,
        train_loss,
    )
    keeps: ClassVar[Mapping[Tag, int]] = {epoch_loss: 1, guess: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the kernels without spread, and of the last of the layers."""
        if has_learned(view, self.learned):
            for place in (*view.under(activation_std), *view.under(weight_std)):
                yield Reading(place, 0.0, self.growth)
            return
        is_untrained = view.record.begins_untrained
        if is_untrained or (is_untrained is None and view.step == 1):
            if view.is_first(activation_std):
                yield from self._layers(view)
            if view.is_first(weight_std):
                yield from self._kernels(view)
                yield from self._recurrent(view)
                yield from self._last(view)

    def _layers(self, view: View) -> Iterable[Reading]:
        record, stds = view.record, view.under(activation_std)
        calls = [x for x in stds if self._has_kernel(x, view) and stds[x] < math.inf]
        calls = [x for x in calls if not self._is_branch(x, view)]
        calls.sort(key=lambda call: (record.position(call), call))
        rescaling = [record.position(x["name"]) for x in record.layers if _rescales(x)]
        parts: dict[int, list[str]] = {}  # by how many layers before them rescale
        for call in calls:
            before = sum(x < record.position(call) for x in rescaling)
            parts.setdefault(before, []).append(call)
        for part in parts.values():
            first, last = stds[part[0]], stds[part[-1]]
            if len(part) >= 3 and first > 0:
                if last > self.total * first:
                    yield Reading(part[-1], last / first, self.total)
                    continue
                growth = (last / first) ** (2 / (len(part) - 1))
                value = max(growth, 1 / growth if growth else math.inf)
                yield Reading(part[-1], value, self.growth)

    def _kernels(self, view: View) -> Iterable[Reading]:
        stds = {**view.under(weight_std), **_before_the_step(view)}
        for path, std in stds.items():
            shape = view.record.shape(path) or [0]
            is_output = view.record.layer(path).get("is_output")
            if shape[-1] < 2 or is_output or not view.record.is_kernel(path):
                continue
            is_equal = _began_alike(path, view) and not _began_with_zeros(path, view)
            yield Reading(path, 0.0 if is_equal else std, self.spread, below=True)

    def _recurrent(self, view: View) -> Iterable[Reading]:
        loss, norm = view.get(train_loss) or 0.0, view.get(global_norm) or 0.0
        guessed = view.newest(guess)
        is_far = guessed is not None and loss > self.loss * guessed > 0
        for path, std in _before_the_step(view).items():
            shape = view.record.shape(path) or ()
            is_square = len(shape) == 2 and shape[0] == shape[1]
            if path.endswith("recurrent_kernel") and is_square and std < math.inf:
                gain = std * math.sqrt(shape[0])
                explodes = is_far or not norm <= self.norm * max(1.0, abs(loss))
                yield Reading(path, gain if explodes else 0.0, self.gain)

    def _last(self, view: View) -> Iterable[Reading]:
        loss, guessed = view.get(train_loss), view.newest(guess)
        if loss is None or guessed is None or not loss > self.loss * guessed > 0:
            return
        for path, std in _before_the_step(view).items():
            fan_in = math.prod((view.record.shape(path) or ())[:-1])
            is_output = view.record.layer(path).get("is_output")
            if is_output and view.record.is_kernel(path) and std < math.inf:
                yield Reading(path, std * math.sqrt(fan_in), self.last)

    def _is_branch(self, call: str, view: View) -> bool:
        """Whether it begins as nothing: its kernel does."""
        paths = [str(x.get("path")) for x in view.record.layer(call)["weights"]]
        kernels = [x for x in paths if view.record.is_kernel(x)]
        return any(_began_with_zeros(x, view) for x in kernels)

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
        if view.record.shape(reading.where) is not None:
            return (
                f"{reading.where}, of an output, multiplies by about "
                f"{reading.value:.2g}: the first outputs are large, and most are wrong."
            )
        std = view.get(activation_std.tag_of(reading.where)) or 0.0
        if reading.limit == self.total:
            return (
                f"The outputs of {view.record.describe(reading.where)} have standard "
                f"deviation {std:.1g}, {reading.value:.1g} times that of the first "
                "layer."
            )
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
        """Start with a random initializer that fits the activations.

        Batch norm where each layer adds a little and it is their number that tells, or
        where sigmoids, which are next to linear at the start, let a quarter pass.
        """
        kinds = view.record.inner_activations
        is_growth = view.record.shape(reading.where) is None
        if reading.limit == self.total or (is_growth and kinds and kinds <= SIGMOIDS):
            return insert_batch_norm(view)
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
        elif view.record.shape(reading.where) is not None:
            layers = [view.record.layer(reading.where)]
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
