"""The rule on NaN and Inf: where they came from, as far as a look can tell."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from .activations import input_mean, non_finite_inputs, non_finite_targets
from .gradients import global_norm
from .loss import epoch, epoch_loss, epoch_validation_loss, non_finite_loss, train_loss
from .remedy import Remedy, ask, keep_float32
from .rule import Reading, Rule
from .tensors import non_finite
from .view import View
from .weights import update_ratio

COUNTS = non_finite.key
LOSS = non_finite_loss.tag  # that `fit` reports, checked at every step


class Origin(NamedTuple):
    """What was not finite first: a key of `MEANINGS`, where, how much."""

    kind: str
    where: str
    elements: float


@dataclass(frozen=True)
class NonFiniteData(Rule):
    """An input or a target has NaN or Inf.

    count(~isfinite(x)) > 0 in what the model was given, at a look. Critical, and never
    over: one such example is enough to make all weights NaN.

    Unit: elements. Source: SageMaker Debugger's ExplodingTensor.
    """

    title: ClassVar = "there is NaN or Inf"

    reads: ClassVar = (epoch, non_finite_inputs, non_finite_targets)
    keeps: ClassVar = {non_finite_inputs: 1, non_finite_targets: 1}
    reads_broken: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each input and target that ever had some."""
        for one in (non_finite_inputs, non_finite_targets):
            for name, count in view.under(one).items():
                yield Reading(name, count, 0.0, "critical")

    def explain(self, reading: Reading, view: View) -> str:
        is_input = reading.where in view.under(non_finite_inputs)
        kind = "the input " if is_input else "the target "
        kind = "" if reading.where == "sample_weight" else kind
        be = "is" if reading.value == 1 else "are"
        what = "before any layer saw them" if is_input else "and so is the loss"
        return (
            f"{_elements(reading.value)} of {kind}{reading.where} {be} NaN or "
            f"Inf, {what}."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Drop the rows that have NaN or Inf, or fill them in."""
        return Remedy(
            "data",
            "drop_rows",
            (reading.where,),
            words="Mend the data: drop or fill those examples, and train anew.",
        )


@dataclass(frozen=True)
class NonFinite(Rule):
    """Something is NaN or Inf.

    count(~isfinite(x)) > 0 in a layer's output, the loss, a gradient, a weight, or the
    loss that `fit` reports, which is checked at every step; of inputs and targets see
    `NonFiniteData`. Critical. It names the first layer in forward order whose output is
    not finite; else the variable whose gradient is not, the nearest to the loss, for
    gradients come from there; else the first weight. Gradients alone are no alert where
    the loss is scaled: such a step is skipped, and it is how the scale finds its limit.

    It names no layer where weights were NaN before the looked-at step, or where the
    loss became NaN in a step of which there is no snapshot: by then every layer gives
    NaN. A loss that is finite proves nothing: a fused ReLU may make 0 of NaN, and so
    may a maximum. So weights are checked at every look and at the end of each epoch.

    Unit: elements. Sources: SageMaker Debugger's ExplodingTensor,
    keras.callbacks.TerminateOnNaN.
    """

    title: ClassVar = "something is NaN or Inf"

    patience: int = 1

    reads: ClassVar = (
        epoch,
        COUNTS,
        train_loss,
        epoch_loss,
        epoch_validation_loss,
        global_norm,
        update_ratio,
        input_mean,
    )
    keeps: ClassVar = {train_loss: 100, epoch_loss: 1, LOSS: 100}
    is_of_model: ClassVar = True
    reads_broken: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model: how many elements of the origin are not finite."""
        origin = _origin(view)
        if origin is None and not math.isfinite(view.get(epoch_loss) or 0.0):
            return  # a look has told of it
        if origin is None:
            yield Reading("", 0.0, 0.0, "critical")
        else:
            yield Reading(origin.where, origin.elements, 0.0, "critical")

    def explain(self, reading: Reading, view: View) -> str:
        return self._told(view)[0]

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Look at the layer that broke first; of weights of float16, take float32."""
        if view.record.is_half:
            return keep_float32()
        return ask(self._told(view)[1])

    def _told(self, view: View) -> tuple[str, str]:
        """What it means, and what to try."""
        origin = _origin(view)
        assert origin is not None, "a reading above 0 has an origin"
        since, until = _last_finite_step(view), view.step
        known = {
            "where": view.record.describe(origin.where),
            "count": _elements(origin.elements),
            "be": "is" if origin.elements == 1 else "are",
            "rate": view.named_rate,
            "inputs": _inputs(view),
            "variable": _first_variable(view),
            "weights": _weights(view),
            "when": f"between steps {since} and {until}",
            "log_freq": "log_freq=1"
            + (f", or log_freq=lambda step: step > {since}" if since else ""),
        }
        meaning, cure = MEANINGS[origin.kind]
        return meaning.format(**known), cure.format(**known)


CHECK = (
    "Check the data first: one NaN or Inf in an input or a target is enough, even "
    "where the loss stays finite."
)
LOWER = "lower {rate} or set global_clipnorm"
# {kind of origin: (what it means, what to try)}
MEANINGS = {
    "step": (
        "The loss became NaN or Inf in this step, of which there is no snapshot; "
        "{weights}.",
        f"{CHECK} If they are clean, {LOWER}.",
    ),
    "activation": (
        "The output of {where} has {count} that {be} NaN or Inf, {inputs}{variable}.",
        "Lower {rate} or set global_clipnorm; if it is the first step, look for a "
        "division, log or sqrt of 0 in this layer.",
    ),
    "loss": (
        "The loss is NaN or Inf while every layer's output is finite.",
        "Look for log, sqrt or division by 0 in the loss, and for a softmax whose loss "
        "could be computed from_logits=True.",
    ),
    "gradient": (
        "The gradient of {where} has {count} that {be} NaN or Inf while the forward "
        "pass is finite.",
        "Look for sqrt or a norm at 0, or a where() that hides a NaN, between this "
        "variable and the loss.",
    ),
    "weight": (
        "{where} has {count} that {be} NaN or Inf after this step, while outputs and "
        "gradients were finite or not logged.",
        "Lower {rate} or set global_clipnorm; if it is the first step, the optimizer "
        "divides by 0: try Adam.",
    ),
    "before": (
        "{weights}; it happened {when}, in a step of which there is no snapshot.",
        f"{CHECK} On TensorFlow the data are searched from here to the end of the next "
        "epoch; train again with {log_freq} to see the first bad step.",
    ),
    "epoch": (
        "The loss became NaN or Inf {when}, in a step of which there is no snapshot.",
        f"{CHECK} If they are clean, {LOWER}; train again with {{log_freq}} to see the "
        "first bad step.",
    ),
    "validation": (
        "The validation loss is NaN or Inf while that of training is finite.",
        "Look for NaN in the validation data and in moving statistics of batch norm.",
    ),
}


def _origin(view: View) -> Origin | None:
    if epoch_loss in view:
        return _origin_in_epoch(view)
    counts = view.under(COUNTS)
    by_kind: dict[str, dict[str, float]] = {}
    for tag, count in counts.items():
        kind, _, where = tag.partition("/")
        if kind == "batch_norm":
            where = where.rpartition("/")[0]
        if kind == "gradients":
            where = re.sub(r"#\d+$", "", where)
        by_kind.setdefault(kind, {}).setdefault(where, count)
    order = view.record.position
    weights = by_kind.get("weights", {})
    broken = weights or by_kind.get("batch_norm", {})
    if "loss" in by_kind:
        return Origin("step", "", 1.0)
    # A weight that was NaN before the step has no update ratio; one that became NaN in
    # it has one that is NaN.
    ratios = view.under(update_ratio)
    if weights and not any(path in ratios for path in weights):
        return Origin("before", "", sum(weights.values()))
    if calls := by_kind.get("activations"):
        where = min(calls, key=lambda call: (order(call), call))
        return Origin("activation", where, calls[where])
    loss = view.get(train_loss)
    if loss is not None and not math.isfinite(loss):
        return Origin("loss", "", 1.0)
    if gradients := by_kind.get("gradients"):
        if not broken and view.record.is_loss_scaled:
            return None
        where = max(gradients, key=lambda path: (order(path), path))
        return Origin("gradient", where, gradients[where])
    if broken:
        where = min(broken, key=lambda path: (order(path), path))
        return Origin("weight", where, broken[where])
    return None


def _origin_in_epoch(view: View) -> Origin | None:
    loss, validation = view[epoch_loss], view.get(epoch_validation_loss)
    if not math.isfinite(loss):
        epochs = view.points(epoch_loss)
        began = epochs[-1].step if epochs else 0
        seen = [p for p in view.points(train_loss) if not math.isfinite(p.value)]
        # An epoch's loss is a mean: NaN for the one batch that was told of.
        was_told = any(p.step > began for p in [*seen, *view.points(LOSS)])
        return None if was_told else Origin("epoch", "", 1.0)
    if validation is not None and not math.isfinite(validation):
        return Origin("validation", "", 1.0)
    return None


def _last_finite_step(view: View) -> int:
    points = [*view.points(epoch_loss), *view.points(train_loss)]
    steps = [p.step for p in points if math.isfinite(p.value) and p.step < view.step]
    return max(steps, default=0)


def _elements(count: float) -> str:
    return "1 element" if count == 1 else f"{count:.0f} elements"


def _inputs(view: View) -> str:
    """Whether the model's inputs were finite, and so all outputs before."""
    if view.under(input_mean):
        return (
            "while the model's inputs and the outputs of all layers before were finite"
        )
    return "the first to be so (whether the inputs were finite was not logged)"


def _first_variable(view: View) -> str:
    """The first variable in forward order that is not finite after the step."""
    paths = _broken_weights(view)
    return f"; the first variable to break is {paths[0]}" if paths else ""


def _weights(view: View) -> str:
    paths = _broken_weights(view)
    if not paths:
        return "all weights are finite after it"
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"NaN or Inf are in the weights {paths[0]}{more}"


def _broken_weights(view: View) -> list[str]:
    """Those that are not finite, in forward order."""
    counts = view.under(COUNTS)
    paths = [x.partition("/")[2] for x in counts if x.startswith("weights/")]
    return sorted(paths, key=lambda path: (view.record.position(path), path))
