"""What a run says about itself: layers, weights, optimizers."""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ReadOnly = Mapping[str, Any]
# Layers that give their outputs another scale.
NORMS = {"BatchNormalization", "LayerNormalization", "GroupNormalization"}
NORMS |= {"RMSNormalization", "UnitNormalization"}

# Their steps are in proportion to the gradient; those of others are as large as the
# rate, whatever the gradient, and settle in a few steps.
PLAIN = ("SGD",)


def kind_of(described: ReadOnly) -> str:
    """Class of a layer or an optimizer without its package, "" if it is not known."""
    return str(described.get("type") or "").rpartition(".")[2]


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
        shape: Sequence[int] | None = self._weights.get(path, {}).get("shape")
        return shape

    def input(self, name: str) -> ReadOnly:
        """What becomes of an input first: its `fate`, in which `layer`."""
        return (self.known.get("inputs") or {}).get(name) or {}

    @property
    def is_from_scratch(self) -> bool | None:
        """Whether the optimizer had taken no step when the monitor came to it."""
        began = self.known.get("began", self.known.get("first_look"))
        return None if began is None else began == 0

    @property
    def begins_untrained(self) -> bool | None:
        """Whether the first look was at the first step; None if that is not known."""
        before = self.known.get("first_look")
        return None if before is None else before == 0

    def is_kernel(self, path: str) -> bool:
        """Whether a weight of two and more dimensions is what a layer multiplies by.

        Not a bias of two dimensions, as GRU and attention have, which starts at 0; nor
        an embedding, which starts near 0 and of which a batch touches few rows.
        """
        return not path.endswith("bias") and not self.is_table(path)

    def is_table(self, path: str) -> bool:
        """Whether a weight is a table of which rows are taken by indices."""
        return self.is_a("Embedding", path) or path in self._tables

    def is_a(self, kind: str, where: str) -> bool:
        """Whether the layer is of this class of Keras, or extends it."""
        return kind in (self.layer(where).get("is") or [self.kind(where)])

    def kind(self, where: str) -> str:
        """Class of the layer without its package, "" if it is not known."""
        kind = self._kinds.get(where)
        if kind is None:
            kind = kind_of(self.layer(where))
            self._kinds[where] = kind
        return kind

    def describe(self, where: str) -> str:
        """`hidden (Dense, relu)`, as far as it is known; of a variable, its path."""
        layer = self.layer(where)
        named = [self.kind(where), layer.get("activation")]
        words = [str(word) for word in named if word and word != "linear"]
        return f"{where} ({', '.join(words)})" if words else where

    @functools.cached_property
    def inner_activations(self) -> set[str]:
        """Of the layers that are no outputs, without those that change nothing."""
        inner = (x.get("activation") for x in self.layers if not x.get("is_output"))
        return {str(x) for x in inner if x not in (None, "linear")}

    @functools.cached_property
    def is_normalized(self) -> bool:
        """Whether there is a normalization for each second of the inner kernels."""
        inner = [x for x in self.kernels if not self.layer(x).get("is_output")]
        norms = sum(bool(NORMS & {*x.get("is", ())}) for x in self.layers)
        return 0 < len(inner) <= 2 * norms

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
        """Those that are applied, in no particular order."""
        return self.known.get("optimizers") or ()

    @property
    def is_frozen(self) -> bool:
        """Whether weights are known, and none of them is trainable."""
        weights = self._weights.values()
        return bool(weights) and not any(x.get("trainable") for x in weights)

    @functools.cached_property
    def kernels(self) -> Sequence[str]:
        """Paths of the trainable weights of two dimensions that are kernels."""
        return [
            path
            for path, weight in self._weights.items()
            if weight.get("trainable")
            and len(weight.get("shape") or ()) > 1
            and self.is_kernel(path)
        ]

    @functools.cached_property
    def kernel_elements(self) -> int:
        """Of all of them together."""
        return sum(math.prod(self.shape(path) or ()) for path in self.kernels)

    @functools.cached_property
    def is_half(self) -> bool:
        """Whether weights are of float16, whose largest number is 65504."""
        return any(x.get("dtype") == "float16" for x in self._weights.values())

    def optimizers_of(self, where: str = "") -> Sequence[ReadOnly]:
        """Those that train a variable, or a layer's; all where that is not known.

        Or the one of that name.
        """
        of_layer = self.layer(where).get("weights") or ()
        weights = [x for x in of_layer if x.get("path") == where] or of_layer
        names = {where, *(weight.get("optimizer") for weight in weights)}
        return [x for x in self.optimizers if x.get("name") in names] or self.optimizers

    def optimizer_of(self, where: str = "") -> ReadOnly:
        """The first of those; empty where none is known."""
        return (self.optimizers_of(where) or [{}])[0]

    def optimizer_name(self, where: str) -> str:
        """Of the one of several that trains it; empty of an only one, or of all."""
        found = self.optimizers_of(where)
        is_one = len(found) == 1 and len(self.optimizers) > 1
        return str(found[0].get("name")) if is_one else ""

    def call(self, path: str) -> int:
        """Number of the call of an optimizer, in a step, in which a variable moves."""
        return int(self._weights.get(path, {}).get("call") or 0)

    @property
    def optimizer(self) -> str:
        """Class of the first optimizer, "" if none is known."""
        return kind_of(self.optimizer_of())

    @property
    def is_loss_scaled(self) -> bool:
        """Whether an optimizer scales the loss, and skips steps that overflow."""
        return any(optimizer.get("loss_scaling") for optimizer in self.optimizers)

    @property
    def batch_size(self) -> int | None:
        """Examples of the first batch that was looked at, None if it is not known."""
        size = (self.known.get("fit") or {}).get("batch_size")
        return size if isinstance(size, int) else None

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of an epoch, None if `fit` does not know."""
        steps = (self.known.get("fit") or {}).get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def planned_steps(self) -> int | None:
        """Steps of a fit of several epochs, None if they are not known."""
        epochs = (self.known.get("fit") or {}).get("epochs")
        steps = self.steps_per_epoch
        if not steps or not isinstance(epochs, int) or epochs < 2:
            return None
        return steps * epochs

    @functools.cached_property
    def _tables(self) -> set[str]:
        return {k for k, x in self._weights.items() if x.get("is_table")}

    @functools.cached_property
    def _weights(self) -> dict[str, ReadOnly]:
        return {
            str(weight.get("path")): weight
            for owner in [*self.layers, self.known.get("model") or {}]
            for weight in owner.get("weights") or ()
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
