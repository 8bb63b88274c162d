"""Rules on the scaling of the loss under mixed precision."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .rule import Reading, Rule
from .view import View


@dataclass(frozen=True)
class LossScaleCollapse(Rule):
    """The loss scale falls without end, or its optimizer skips step after step.

    The loss scale below `scale`; or, between two looks, more than `skipped` steps that
    were skipped, and at least as many as were taken.

    No unit, and steps. Source: keras.optimizers.LossScaleOptimizer, which halves the
    scale at each gradient that is not finite; in health one step in 2000 is skipped.
    """

    scale: float = 1.0
    skipped: int = 10

    reads: ClassVar = ("loss_scale", "loss_scale/", "skipped_steps", "skipped_steps/")
    keeps: ClassVar = {"skipped_steps": 1, "skipped_steps/": 1}

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each optimizer that scales."""
        for name in dict.fromkeys(
            ["", *view.under("loss_scale/"), *view.under("skipped_steps/")]
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
        """Say what it means under mixed precision."""
        what = (
            f"The loss scale is down to {reading.value:.2g}"
            if reading.below
            else f"{reading.value:.0f} steps in a row were skipped"
        )
        return (
            f"{what}: the gradients are not finite whatever the scale, so the cause is "
            "in the model, not in the scale. Train a few steps with the policy float32 "
            "and look where NaN or Inf appears first."
        )
