"""The layers below a model, and names for them."""

import collections
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras

from kbn.private import keras as private

Layer: TypeAlias = Any  # keras.Operation: layers, and operations such as keras.ops.relu
Variable: TypeAlias = Any
DROPOUT = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
Select: TypeAlias = str | Callable[[Layer], bool] | None


def attribute(thing: Any, name: str, otherwise: Any = None) -> Any:
    """An attribute of a user's object; `otherwise` if reading it fails."""
    try:
        return getattr(thing, name, otherwise)
    except Exception:  # a user's property may raise anything
        return otherwise


def kinds_of(layer: Layer) -> list[str]:
    """The layers of Keras, and of kbn, that it is: its class and those it extends."""
    return [
        one.__name__
        for one in type(layer).__mro__
        if issubclass(one, keras.Layer)
        and one is not keras.Layer
        and one.__module__.partition(".")[0] in ("keras", "kbn")
    ]


def unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary in which a name that was taken goes on as name_1, name_2."""
    named: dict[str, Any] = {}
    for name, value in pairs:
        unique, number = name, 0
        while unique in named:
            number += 1
            unique = f"{name}_{number}"
        named[unique] = value
    return named


def walk(model: Any) -> list[Layer]:
    """Every layer and operation below the model once, nested ones included."""
    found: dict[int, Layer] = {}

    def visit(parent: Layer) -> None:
        for child in children(parent):
            if id(child) not in found and child is not model:
                found[id(child)] = child
                visit(child)

    visit(model)
    return [x for x in found.values() if not isinstance(x, keras.layers.InputLayer)]


def children(parent: Layer) -> list[Layer]:
    """The layers and operations that a layer or model holds directly."""
    layers = private.direct_layers(parent)
    if layers is None:
        layers = [v for k, v in vars(parent).items() if not k.startswith("_")]
        layers += _items(parent, "layers")
    return [
        x
        for x in [*layers, *_items(parent, "operations")]
        if isinstance(x, keras.Operation)
    ]


def named(layers: Iterable[Layer]) -> dict[str, Layer]:
    """Layers by name: their own where no other layer has it, else their path."""
    layers = list(layers)
    names = [_name(layer) for layer in layers]
    met = collections.Counter(names)
    return unique_names(
        (name if met[name] == 1 else _path(layer), layer)
        for name, layer in zip(names, layers, strict=True)
    )


def is_selected(select: Select, name: str, layer: Layer) -> bool:
    """`select`: a regular expression to be found in the name, or a function."""
    if select is None:
        return True
    if isinstance(select, str):
        return re.search(select, name) is not None
    return bool(select(layer))


def graph_of(model: Any) -> keras.Function | None:
    """The functional model that it is, or that a sequential one runs."""
    is_sequential = isinstance(model, keras.Sequential)
    graph = private.functional(model) if is_sequential else model
    return graph if isinstance(graph, keras.Function) else None


def weights_of(layer: Layer) -> list[Variable]:
    """The Keras variables of a layer or model."""
    return [x for x in _items(layer, "weights") if isinstance(x, keras.Variable)]


def _items(thing: Any, name: str) -> list[Any]:
    """What an attribute lists: it may as well be something else of the same name."""
    listed = attribute(thing, name)
    return list(listed) if isinstance(listed, list | tuple) else []


def _name(layer: Layer) -> str:
    name = attribute(layer, "name")
    return name if isinstance(name, str) and name else type(layer).__name__.lower()


def _path(layer: Layer) -> str:
    path = attribute(layer, "path")
    return path if isinstance(path, str) and path else _name(layer)
