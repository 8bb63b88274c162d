"""Rules on how far one step moves a weight."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .progress import has_learned, is_slowed
from .rule import Reading, Rule
from .view import View

FIRST_STEPS = 10  # an optimizer's averages and weights of zeros settle in them


@dataclass(frozen=True)
class UpdateRatioLow(Rule):
    """Steps hardly move a kernel, and the network has not learned.

    r = ||w_after - w_before|| / ||w_before|| of a step below `ratio`, for trainable
    weights of two and more dimensions, after 10 steps. Left out: r = 0, of a step that
    only accumulates gradients or that loss scaling skips; embeddings, of which a batch
    touches few rows; while a schedule warms up, or has lowered the learning rate to
    less than a tenth; and once the loss has halved: near its minimum, steps are small.

    No unit. Sources: CS231n (about 1e-3), torchmortem (1e-5); measured on digits:
    healthy 7e-4 to 1.2e-2.
    """

    ratio: float = 1e-5
    patience: int = 3

    reads: ClassVar = (
        "update_ratio/",
        "learning_rate",
        "learning_rate/",
        "loss/train",
        "epoch/loss",
    )
    keeps: ClassVar = {"learning_rate": 1, "loss/train": 1, "epoch/loss": 1}

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        if view.step <= FIRST_STEPS:
            return
        excused = is_slowed(view) or has_learned(view)
        for path, ratio in view.under("update_ratio/").items():
            if ratio > 0 and view.record.is_kernel(path):
                value = math.inf if excused else ratio
                yield Reading(path, value, self.ratio, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the learning rate."""
        return (
            f"A step moves {reading.where} by {reading.value:.1g} of its size, so "
            "training takes a hundred times as long as it could; 1e-3 is usual. Raise "
            f"{view.named_rate} tenfold, unless another alert names a layer that gets "
            "no gradient."
        )


@dataclass(frozen=True)
class UpdateRatioHigh(Rule):
    """Steps throw a kernel about.

    r, as for `UpdateRatioLow`, above `ratio`, after 10 steps.

    No unit. Sources: CS231n (about 1e-3), torchmortem (1e-1); measured on digits:
    healthy up to 1.2e-2, learning rate 10 0.42 to 0.89. Biases, gamma and beta go to
    6e-2 in health, and are not looked at.
    """

    ratio: float = 1e-1
    patience: int = 3

    reads: ClassVar = ("update_ratio/",)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        if view.step > FIRST_STEPS:
            for path, ratio in view.under("update_ratio/").items():
                if view.record.is_kernel(path):
                    yield Reading(path, ratio, self.ratio)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the learning rate."""
        return (
            f"A step changes {reading.where} by {reading.value:.1g} of its size, so it "
            "jumps about its minimum or away from it; 1e-3 is usual. Lower "
            f"{view.named_rate} tenfold, or warm it up over the first steps."
        )


@dataclass(frozen=True)
class UnchangedWeight(Rule):
    """A trainable kernel stays as it is.

    |d - d'| of d = ||w - w_0|| / ||w_0|| at this look and the one before, below
    `change`: a weight that moves keeps its distance from the start only by chance.
    Not where a schedule has lowered the learning rate to less than a tenth, and not
    once the loss has halved and the weight has moved before: that one has arrived.

    No unit. Source: SageMaker Debugger's UnchangedTensor (no change over 3 looks).
    """

    change: float = 1e-9
    patience: int = 3

    reads: ClassVar = (
        "distance_from_init/",
        "learning_rate",
        "learning_rate/",
        "loss/train",
        "epoch/loss",
    )
    keeps: ClassVar = {
        "distance_from_init/": 1,
        "learning_rate": 1,
        "loss/train": 1,
        "epoch/loss": 1,
    }

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel that was looked at before."""
        slowed, learned = is_slowed(view), has_learned(view)
        for path, distance in view.under("distance_from_init/").items():
            past = view.past(f"distance_from_init/{path}", last=1)
            if past:
                excused = distance > 0 and (slowed or learned)
                value = math.inf if excused else abs(distance - past[0])
                yield Reading(path, value, self.change, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Say whether it ever moved."""
        moved = view.get(f"distance_from_init/{reading.where}") or 0.0
        since = "has not moved since the start" if not moved else "no longer moves"
        return (
            f"{reading.where} is trainable and {since}: no gradient reaches it, or "
            "the steps are too small to show. Check that the loss depends on the layer "
            "and that no stop_gradient lies behind it; else look for dead units behind "
            f"it, or raise {view.named_rate}."
        )
