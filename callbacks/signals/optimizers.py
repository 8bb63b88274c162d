"""Optimizers: learning rate, loss scale, skipped steps, and rules on them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .registry import Chart, Signal, signal
from .remedy import Remedy, ask
from .rule import Reading, Rule
from .subjects import Optimizer
from .view import View

_RATE = {
    "of": Optimizer,
    "given": lambda optimizer: (optimizer.learning_rate,),
    "chart": Chart("Training", "learning rate"),
}
_SCALE = {
    "of": Optimizer,
    "given": lambda optimizer: (
        None if optimizer.loss_scale is None else (optimizer.loss_scale,)
    ),
    "chart": Chart("Training", "loss scale"),
}
_SKIPPED = {
    "of": Optimizer,
    "given": lambda optimizer: (
        None if optimizer.skipped_steps is None else (optimizer.skipped_steps,)
    ),
    "unit": "steps",
    "chart": Chart("Training", "skipped steps"),
}


def _is_only(optimizer: Optimizer) -> bool:
    return optimizer.is_only


def _each(one: Signal, what: str, known: Mapping[str, Any]) -> Signal:
    """The same of one of several optimizers."""
    return signal(
        f"{one.tag}/<optimizer>",
        where=lambda optimizer: not optimizer.is_only,
        description=f"{what} of one of several optimizers.",
        **known,
    )(one.value)


@signal("learning_rate", where=_is_only, **_RATE)
def learning_rate(rate: float) -> float:
    """Learning rate of the optimizer, schedules applied."""
    return rate


learning_rates = _each(learning_rate, "Learning rate", _RATE)


@signal("loss_scale", where=_is_only, **_SCALE)
def loss_scale(scale: float) -> float:
    """Factor by which LossScaleOptimizer multiplies the loss.

    After the step. It halves when a gradient is not finite and doubles after 2000
    (by default) steps that are; falling without end means that the gradients are
    not finite for another reason than the scale.
    """
    return scale


loss_scales = _each(loss_scale, "The loss scale", _SCALE)


@signal("skipped_steps", where=_is_only, **_SKIPPED)
def skipped_steps(steps: int) -> float:
    """Steps so far that LossScaleOptimizer did not apply.

    Steps tried less steps applied, over all fits of this monitor, looked at or not. One
    in 2000 is how the scale finds its limit. Left out where `fit` does not know the
    number of steps in an epoch, and under gradient accumulation.
    """
    return float(steps)


skipped_steps_each = _each(skipped_steps, "The skipped steps", _SKIPPED)


@dataclass(frozen=True)
class LossScaleCollapse(Rule):
    """The loss scale falls without end, or its optimizer skips step after step.

    The loss scale below `scale`; or, between two looks, more than `skipped` steps that
    were skipped, and at least as many as were taken.

    No unit, and steps. Source: keras.optimizers.LossScaleOptimizer, which halves the
    scale at each gradient that is not finite; in health one step in 2000 is skipped.
    """

    title: ClassVar = "the loss scale collapses"

    scale: float = 1.0
    skipped: int = 10

    reads: ClassVar = (loss_scale, loss_scales, skipped_steps, skipped_steps_each)
    keeps: ClassVar = {skipped_steps: 1, skipped_steps_each: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        for name in dict.fromkeys(
            ["", *view.under(loss_scales), *view.under(skipped_steps_each)]
        ):
            tail = f"/{name}" if name else ""
            scale = view.get(f"loss_scale{tail}")
            skipped = self._newly_skipped(f"skipped_steps{tail}", view)
            # One reading a place: of the two, the one that is ill.
            if skipped is not None and skipped > self.skipped:
                yield Reading(name, skipped, self.skipped)
            elif scale is not None:
                yield Reading(name, scale, self.scale, below=True)

    def _newly_skipped(self, tag: str, view: View) -> float | None:
        """Steps skipped since the last look, if they are no fewer than those taken."""
        now, past = view.get(tag), view.points(tag)
        if now is None or not past:
            return None
        skipped = now - past[-1].value
        return skipped if skipped >= view.step - past[-1].step else 0.0

    def explain(self, reading: Reading, view: View) -> str:
        what = (
            f"The loss scale is down to {reading.value:.2g}"
            if reading.below
            else f"{reading.value:.0f} steps in a row were skipped"
        )
        return (
            f"{what}: the gradients are not finite whatever the scale, so the cause is "
            "in the model, not in the scale."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Train in float32, and look where NaN or Inf appears first."""
        return ask(
            "Train a few steps with the policy float32 and look where NaN or Inf "
            "appears first."
        )
