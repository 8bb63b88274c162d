"""A model in words and numbers, for readers who do not have it."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from kbn.private import keras as private

from ..signals.subjects import Gradient, Input, Output, Subject, Target
from . import activations
from .inventory import BatchNorm, Inventory
from .layers import DROPOUT, Layer, attribute, children, kinds_of, weights_of
from .optimizers import OptimizerReader, inner_of, parts_of
from .tensors import to_numpy


@dataclass
class Met:
    """Over all looks at a model.

    `order`: names of layers as they were first called. `final`: those whose output is
    the model's. `tables`: paths of weights of which rows are taken by indices.
    `inputs`: by their name in x, whether they are whole numbers by type.
    """

    order: dict[str, None] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    inputs: dict[str, bool] = field(default_factory=dict)

    def see(self, subjects: Iterable[Subject]) -> None:
        """Add what a look has met."""
        for subject in subjects:
            if isinstance(subject, Output):
                self.order.setdefault(subject.layer)
                self.final |= {subject.layer} if subject.is_final else set()
            elif isinstance(subject, Gradient) and subject.is_of_rows:
                self.tables.add(subject.path)
            elif isinstance(subject, Input) and not isinstance(subject, Target):
                self.inputs.setdefault(subject.name, subject.is_whole)

    @property
    def state(self) -> tuple[int, ...]:
        """Differs when there is more."""
        return tuple(map(len, (self.order, self.final, self.tables, self.inputs)))


Paths: TypeAlias = Mapping[int, dict[str, Any]]  # of variables, by identity


REGULARIZERS = (
    "kernel_regularizer",
    "recurrent_regularizer",
    "depthwise_regularizer",
    "pointwise_regularizer",
    "embeddings_regularizer",
    "gamma_regularizer",
    "beta_regularizer",
    "bias_regularizer",
)


def describe(
    model: Any,
    inventory: Inventory,
    met: Met | None = None,
    fresh: Mapping[str, bool] | None = None,
    optimizers: OptimizerReader | None = None,
) -> dict[str, Any]:
    """`model`, `layers` in forward order, `optimizers`: as JSON has it.

    `met`: what looks have seen, beside what the model tells. `fresh`: of batch norms by
    name, whether their statistics began as 0 and 1. `optimizers` says which of the
    model's are applied, and to what.
    """
    met = met or Met()
    optimizers = optimizers or OptimizerReader()
    applied = optimizers.applied(inventory.optimizers)
    owners = _owners(inventory, applied, optimizers.of_weight)
    # The variable's path, and where there are several optimizers, which trains it.
    paths = {
        id(weight): {"path": path, **owners.get(path, {})}
        for path, weight in inventory.weights.items()
    }
    outputs = attribute(model, "outputs") or ()
    return {
        "model": {
            "name": attribute(model, "name"),
            "type": _kind(model),
            "parameters": sum(
                int(np.prod(x.shape)) for x in inventory.weights.values()
            ),
            "loss": _name_of_loss(attribute(model, "loss")),
            "dtype_policy": _name_of_policy(attribute(model, "dtype_policy")),
            "weights": _weights(model, paths, met.tables),
        },
        "layers": [
            _layer(name, inventory, paths, met.tables, fresh or {})
            | {
                "is_output": name in met.final
                or _gives(inventory.layers[name], outputs)
            }
            for name in _in_forward_order(inventory.layers, [*met.order])
        ],
        "optimizers": [
            _optimizer(name, part, scaling=optimizer)
            for whole, optimizer in applied.items()
            for name, part in parts_of(whole, optimizer).items()
        ],
    }


def _owners(
    inventory: Inventory,
    applied: Mapping[str, Any],
    of_weight: Mapping[str, tuple[str, int]],
) -> dict[str, dict[str, Any]]:
    """By path: the optimizer that trains it, and in which of its calls in a step.

    None where one call of one optimizer trains all.
    """
    parts = [
        (whole, name, {id(x) for x in private.optimizer_variables(part)})
        for whole, optimizer in applied.items()
        for name, part in parts_of(whole, optimizer).items()
    ]
    if len({*of_weight.values()}) < 2 and len(parts) < 2:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for path, weight in inventory.weights.items():
        whole, call = of_weight.get(path, ("", 0))
        owns = [x for x in parts if id(weight) in x[2]]
        owns.sort(key=lambda x: x[0] != whole)  # two may know one weight
        if owns:
            found[path] = {"optimizer": owns[0][1], "call": call}
    return found


def _in_forward_order(names: Collection[str], seen: Sequence[str]) -> list[str]:
    """The names, with those that were seen in the order in which they were."""
    called = iter([name for name in seen if name in names])
    was_seen = {*seen}
    return [next(called) if name in was_seen else name for name in names]


def _kind(thing: Any) -> str:
    return f"{type(thing).__module__.split('.')[0]}.{type(thing).__name__}"


def _layer(
    name: str,
    inventory: Inventory,
    paths: Paths,
    tables: Collection[str],
    fresh: Mapping[str, bool],
) -> dict[str, Any]:
    layer = inventory.layers[name]
    norm = inventory.batch_norms.get(name)
    described = {
        "name": name,
        "path": attribute(layer, "path"),
        "type": _kind(layer),
        "is": kinds_of(layer),
        "activation": attribute(activations.activation_of(layer), "name"),
        "trainable": bool(attribute(layer, "trainable", True)),
        "weights": _weights(layer, paths, tables),
    }
    regularized = [x for x in REGULARIZERS if attribute(layer, x) is not None]
    if regularized:
        described["regularized"] = regularized
    if isinstance(layer, DROPOUT):
        described["dropout"] = _plain(attribute(layer, "rate"))
    if norm is not None:
        described["batch_norm"] = _batch_norm(norm) | {"is_fresh": fresh.get(name)}
    return described


def _weights(
    layer: Layer, paths: Paths, tables: Collection[str]
) -> list[dict[str, Any]]:
    """Its own: not those of the layers in it, which have entries of their own."""
    inner = {id(x) for child in children(layer) for x in weights_of(child)}
    return [
        {
            **paths[id(weight)],
            "shape": [*map(int, weight.shape)],
            "dtype": str(weight.dtype),
            "trainable": bool(weight.trainable),
            **({"is_table": True} if paths[id(weight)]["path"] in tables else {}),
        }
        for weight in weights_of(layer)
        if id(weight) in paths and id(weight) not in inner
    ]


def _batch_norm(norm: BatchNorm) -> dict[str, Any]:
    return {
        "momentum": _plain(attribute(norm.layer, "momentum")),
        "warmup": bool(attribute(norm.layer, "warmup")),
        "epsilon": _plain(attribute(norm.layer, "epsilon")),
        "axis": attribute(norm, "axes"),
        "is_frozen": norm.is_frozen,
    }


def _gives(layer: Layer, outputs: Collection[Any]) -> bool:
    given = attribute(layer, "output")
    return given is not None and any(given is output for output in outputs)


def _optimizer(name: str, optimizer: Any, scaling: Any) -> dict[str, Any]:
    is_scaled = inner_of(scaling) is not scaling
    return {
        "name": name,
        "type": _kind(optimizer),
        "learning_rate": _plain(to_numpy(optimizer.learning_rate)),
        "settings": _settings(optimizer),
        "loss_scaling": _kind(scaling) if is_scaled else None,
    }


def _settings(optimizer: Any) -> dict[str, Any]:
    try:
        config = optimizer.get_config()
    except Exception:  # a user's own may have none
        return {}
    return {str(name): _plain(value) for name, value in config.items()}


def _name_of_loss(loss: Any) -> Any:
    if loss is None or isinstance(loss, str):
        return loss
    name = attribute(loss, "name") or attribute(loss, "__name__")
    return name if isinstance(name, str) else type(loss).__name__


def _name_of_policy(policy: Any) -> str | None:
    name = attribute(policy, "name")
    return name if isinstance(name, str) else None


def _plain(value: Any) -> Any:
    """As JSON has it: a number of NumPy as one of Python, NaN as None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        # Of a float32, the digits that somebody wrote.
        return float(str(np.float32(value))) if math.isfinite(value) else None
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)
