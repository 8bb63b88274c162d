"""Rules on how far the weights have come from where they started."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .rule import Reading, Rule
from .view import View


@dataclass(frozen=True)
class WeightDrift(Rule):
    """The distribution of a kernel has left its initial one.

    Any of: W1(w_0, w) / sigma_0 above `distance`, W1 the Wasserstein distance of the
    elements; W1 over one epoch / sigma_0 above `per_epoch`; sigma / sigma_0 or its
    inverse above `spread`. The value is that of the condition that is farthest beyond
    its limit. Kernels of at least 64 elements; not embeddings, which start near 0 and
    are meant to leave it.

    In units of the initial standard deviation. Source: Evidently's normed Wasserstein
    distance, with limits measured on digits: healthy 0.12 to 0.85, and 0.03 to 0.23 an
    epoch; Adam at learning rate 1: 27. PSI and the KS statistic do not tell healthy
    training from faulty: every healthy one has a PSI above 0.1.
    """

    distance: float = 3.0
    per_epoch: float = 0.5
    spread: float = 6.0
    patience: int = 2

    reads: ClassVar = ("weight_drift/", "weight_drift_epoch/", "weight_spread/")

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        drifts = view.under("weight_drift/")
        epochs = view.under("weight_drift_epoch/")
        spreads = view.under("weight_spread/")
        for path in dict.fromkeys([*drifts, *epochs, *spreads]):
            shape = view.record.shape(path)
            if shape is not None and math.prod(shape) < 64:
                continue
            if not view.record.is_kernel(path):
                continue
            spread = spreads.get(path, 1.0)
            pairs = [
                (drifts.get(path, 0.0), self.distance),
                (epochs.get(path, 0.0), self.per_epoch),
                (max(spread, 1 / spread if spread else math.inf), self.spread),
            ]
            value, limit = max(pairs, key=lambda pair: pair[0] / pair[1])
            yield Reading(path, value, limit)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the condition and the learning rate."""
        spread = view.get(f"weight_spread/{reading.where}") or 1.0
        if reading.limit == self.spread:
            what = f"spread {spread:.2g} times as wide as it started"
        else:
            during = " within one epoch" if reading.limit == self.per_epoch else ""
            what = f"moved {reading.value:.2g} initial standard deviations{during}"
        return (
            f"The weights of {reading.where} have {what}: training has rewritten them "
            f"rather than refined them. Lower {view.named_rate}, or add weight decay."
        )


@dataclass(frozen=True)
class WeightExplosion(Rule):
    """A kernel has grown many times over.

    ||w|| / ||w_0|| above `growth`. Not embeddings, which start near 0.

    No unit. Source: torchmortem (10 times the norm at the start); measured on digits:
    healthy up to 3.4, Adam at learning rate 0.3 10 and more.
    """

    growth: float = 6.0
    patience: int = 1

    reads: ClassVar = ("weight_growth/",)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each kernel."""
        for path, growth in view.under("weight_growth/").items():
            if view.record.is_kernel(path):
                yield Reading(path, growth, self.growth)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the learning rate."""
        return (
            f"{reading.where} is {reading.value:.2g} times as large as it started, "
            f"and its layer's outputs with it. Lower {view.named_rate}, add weight "
            "decay, or set global_clipnorm."
        )
