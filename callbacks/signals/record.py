"""What a run says about itself: layers, weights, optimizers."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ReadOnly = Mapping[str, Any]


class Record:
    """The newest record of a run; everything in it may be missing.

    Layers and variables are found by what stands in tags: `dense`, its second call
    `dense#1`, one of its outputs `dense/0`, a variable `model/dense/kernel`.
    """

    def __init__(self, known: ReadOnly | None = None) -> None:
        self.known: ReadOnly = known or {}
        self._kinds: dict[str, str] = {}

    @property
    def layers(self) -> Sequence[ReadOnly]:
        """In forward order."""
        return self.known.get("layers") or ()

    @property
    def heads(self) -> Sequence[ReadOnly]:
        """The outputs that have a loss, see `watch.targets`; none if not known."""
        return self.known.get("heads") or ()

    @property
    def model_name(self) -> str:
        """The model's name, "model" if none is known."""
        return str((self.known.get("model") or {}).get("name") or "model")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of the layers."""
        return not self.layers

    def layer(self, where: str) -> ReadOnly:
        """The layer of a call or of a variable; empty if it is not known."""
        place = self._places.get(where)
        if place is None:
            place = self._places.get(re.sub(r"(#\d+)?(/\d+)?$", "", where))
        return {} if place is None else self.layers[place[0]]

    def position(self, where: str) -> tuple[int, int]:
        """A key to sort by forward order; what is unknown comes last."""
        place = self._places.get(where)
        if place is None:
            place = self._places.get(re.sub(r"(#\d+)?(/\d+)?$", "", where))
        return (len(self.layers), 0) if place is None else place

    def shape(self, path: str) -> Sequence[int] | None:
        """Shape of a variable, None if it is not known."""
        return self._shapes.get(path)

    def is_kernel(self, path: str) -> bool:
        """Whether a weight of two and more dimensions is what a layer multiplies by.

        Not a bias of two dimensions, as GRU and attention have, which starts at 0; nor
        an embedding, which starts near 0 and of which a batch touches few rows.
        """
        return not path.endswith("bias") and self.kind(path) != "Embedding"

    def kind(self, where: str) -> str:
        """Class of the layer without its package, "" if it is not known."""
        kind = self._kinds.get(where)
        if kind is None:
            kind = str(self.layer(where).get("type") or "").rpartition(".")[2]
            self._kinds[where] = kind
        return kind

    def describe(self, where: str) -> str:
        """`hidden (Dense, relu)`, as far as it is known; of a variable, its path."""
        layer = self.layer(where)
        named = [self.kind(where), layer.get("activation")]
        words = [str(word) for word in named if word and word != "linear"]
        return f"{where} ({', '.join(words)})" if words else where

    def batch_norms(self) -> Iterator[tuple[str, ReadOnly]]:
        """(name, its batch norm's settings), in forward order, frozen ones too."""
        for layer in self.layers:
            if layer.get("batch_norm"):
                yield layer["name"], layer["batch_norm"]

    def batch_norm(self, where: str) -> ReadOnly:
        """Settings of a layer's batch norm; empty if it has none that is known."""
        return self.layer(where).get("batch_norm") or {}

    @property
    def optimizers(self) -> Sequence[ReadOnly]:
        """In no particular order."""
        return self.known.get("optimizers") or ()

    @property
    def optimizer(self) -> str:
        """Class of the first optimizer, "" if none is known."""
        return str((self.optimizers or [{}])[0].get("type") or "").rpartition(".")[2]

    @property
    def is_loss_scaled(self) -> bool:
        """Whether an optimizer scales the loss, and skips steps that overflow."""
        return any(optimizer.get("loss_scaling") for optimizer in self.optimizers)

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of an epoch, None if `fit` does not know."""
        steps = (self.known.get("fit") or {}).get("steps")
        return steps if isinstance(steps, int) else None

    @functools.cached_property
    def _shapes(self) -> dict[str, Sequence[int]]:
        return {
            str(weight.get("path")): weight["shape"]
            for layer in self.layers
            for weight in layer.get("weights") or ()
            if weight.get("shape") is not None
        }

    @functools.cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Of each layer and variable, (number of the layer, of the variable in it)."""
        places: dict[str, tuple[int, int]] = {}
        for i, layer in enumerate(self.layers):
            for j, weight in enumerate(layer.get("weights") or (), start=1):
                places.setdefault(str(weight.get("path")), (i, j))
        for i, layer in enumerate(self.layers):
            places.setdefault(str(layer.get("name")), (i, 0))
        return places
