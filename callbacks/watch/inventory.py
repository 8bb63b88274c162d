"""One list of what there is to see in a model."""

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from . import layers as walking
from . import optimizers
from .layers import Layer, Select, Variable, attribute

PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """A layer with moving statistics: Keras' batch norm, ours or another.

    `parts`: gamma, beta, moving_mean, moving_variance, those that exist.
    """

    layer: Layer
    parts: dict[str, Variable]

    def __eq__(self, other: object) -> bool:  # variables compare their values
        return isinstance(other, BatchNorm) and self.layer is other.layer

    def __hash__(self) -> int:
        return id(self.layer)

    @property
    def axes(self) -> list[int]:
        """The channel axes: Keras' layer has one, ours may have several.

        A TypeError of a layer whose `axis` is no number.
        """
        axis = attribute(self.layer, "axis", -1)
        listed = axis if isinstance(axis, list | tuple) else [axis]
        return [operator.index(one) for one in listed]

    @property
    def is_frozen(self) -> bool:
        """Whether it is in inference mode even while the model trains."""
        fixed = attribute(self.layer, "freeze_statistics", False)  # only ours has it
        return bool(fixed) or not attribute(self.layer, "trainable", True)


class Inventory:
    """The layers, weights, batch norms and optimizers of a model, by unique name.

    As they were when it was taken; `state` tells two that differ apart.
    """

    def __init__(self, model: Any) -> None:
        self._layers = walking.walk(model)
        self._weights = walking.weights_of(model)
        has_models = any(isinstance(x, keras.Model) for x in self._layers)
        self.optimizers = optimizers.find(model, self.layers if has_models else {})
        self.state = (
            [*map(id, self._layers)],
            [(id(x), x.trainable) for x in self._weights],
            [(name, id(x)) for name, x in self.optimizers.items()],
            [attribute(x, "freeze_statistics") for x in self._layers],
        )

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """By their own name where no other layer has it, else by their path."""
        return walking.named(self._layers)

    @cached_property
    def weights(self) -> dict[str, Variable]:
        """By `variable.path`."""
        return walking.unique_names((x.path, x) for x in self._weights)

    @cached_property
    def batch_norms(self) -> dict[str, BatchNorm]:
        """By the name of the layer: those that have moving statistics."""
        found = {}
        for name, layer in self.layers.items():
            parts = {part: attribute(layer, part) for part in PARTS}
            own = {k: v for k, v in parts.items() if isinstance(v, keras.Variable)}
            if own.keys() >= {"moving_mean", "moving_variance"}:
                found[name] = BatchNorm(layer, own)
        return found


class Selection:
    """The part of an inventory that a user's `select` names.

    `select`: a regular expression to be found in the name of a layer, a function of the
    layer, or None for all. Optimizers are always all.
    """

    def __init__(self, inventory: Inventory, select: Select) -> None:
        self.inventory = inventory
        self.optimizers = inventory.optimizers
        self.layers = {
            name: layer
            for name, layer in inventory.layers.items()
            if walking.is_selected(select, name, layer)
        }
        self._has_all = select is None

    @cached_property
    def weights(self) -> dict[str, Variable]:
        """Those of the selected layers, by path."""
        weights = self.inventory.weights
        if self._has_all:
            return weights
        wanted = {
            id(weight)
            for layer in self.layers.values()
            for weight in walking.weights_of(layer)
        }
        return {
            path: weight for path, weight in weights.items() if id(weight) in wanted
        }

    @cached_property
    def batch_norms(self) -> dict[str, BatchNorm]:
        """Those among the selected layers, by name."""
        norms = self.inventory.batch_norms
        return {name: norm for name, norm in norms.items() if name in self.layers}


class Contents:
    """The inventory of a model, taken anew only when the model has changed."""

    def __init__(self) -> None:
        self._inventory: Inventory | None = None

    def latest(self, model: Any) -> Inventory:
        """As it was taken last."""
        return self._inventory or self.of(model)

    def of(self, model: Any) -> Inventory:
        """As the model is now: the same object as before if nothing has changed."""
        taken = Inventory(model)
        if self._inventory is None or self._inventory.state != taken.state:
            self._inventory = taken
        return self._inventory
