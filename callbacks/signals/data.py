"""Rules on what goes into the model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .activations import input_mean
from .rule import Reading, Rule
from .view import View

SCALES_ITSELF = (
    "Rescaling",
    "Normalization",
    "BatchNormalization",
    "LayerNormalization",
)


@dataclass(frozen=True)
class InputScale(Rule):
    """The inputs are far from zero mean and unit spread.

    |mean| above `mean` or standard deviation above `std` of an input, at its first
    look.
    Not where the model's first layer scales or normalizes, nor for a model with an
    embedding, whose inputs are indices of words.

    In units of the input. Source: DLCheck (mean 10, standard deviation 100).
    """

    mean: float = 10.0
    std: float = 100.0

    reads: ClassVar = (input_mean,)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each input, at the first look."""
        values = view.under(input_mean)
        names = dict.fromkeys(rest.rpartition("/")[0] for rest in values)
        kinds = [
            view.record.kind(str(layer.get("name"))) for layer in view.record.layers
        ]
        first = next((kind for kind in kinds if kind != "InputLayer"), "")
        if first in SCALES_ITSELF or "Embedding" in kinds:
            return
        if not view.is_first(input_mean):
            return
        for name in names:
            pairs = [
                (abs(values.get(f"{name}/mean", 0.0)), self.mean),
                (values.get(f"{name}/std", 0.0), self.std),
            ]
            value, limit = max(pairs, key=lambda pair: pair[0] / pair[1])
            yield Reading(name, value, limit, "info")

    def explain(self, reading: Reading, view: View) -> str:
        """Give mean and spread."""
        mean, std = (view.get(f"inputs/{reading.where}/{x}") for x in ("mean", "std"))
        shown = ", ".join(
            f"{name} {value:.3g}"
            for name, value in (("mean", mean), ("standard deviation", std))
            if value is not None
        )
        return (
            f"The input {reading.where} has {shown}: the first layer's gradients "
            "are as large, and one learning rate does not fit all layers. Put "
            "keras.layers.Rescaling(1 / 255) or an adapted Normalization first."
        )
