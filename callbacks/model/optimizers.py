"""The optimizers of a model, and what loss scaling does to their gradients."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras

from .layers import Layer, attribute, unique_names

# Gives each variable to one of several optimizers; Keras 3.14 has none.
MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())

# Attributes in which Keras and TensorFlow keep what other attributes hold.
TRACKING = ("_self_", "_tracker", "_layers", "_metrics", "_operations")


def find(model: Any, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """The model's optimizers by attribute, `optimizer` first: a GAN has two more.

    Those in lists and dictionaries by their place in it (`optimizers/generator`), those
    of models among the layers by the model (`generator/optimizer`).
    """
    places = [("optimizer", attribute(model, "optimizer"))]
    places += [(k, v) for k, v in vars(model).items()]
    for name, layer in layers.items():
        if isinstance(layer, keras.Model):
            inner = {"optimizer": attribute(layer, "optimizer"), **vars(layer)}
            places += [(f"{name}/{k}", v) for k, v in inner.items()]
    found: dict[int, tuple[str, Any]] = {}
    for place, value in places:
        if place.rpartition("/")[2].startswith(TRACKING):
            continue
        for name, one in _leaves(place, value):
            if isinstance(one, keras.optimizers.Optimizer):
                found.setdefault(id(one), (name, one))
    # One inside another is applied by that one, not by the model.
    held = {id(part) for _, x in found.values() for part in _within(x)}
    return unique_names(pair for key, pair in found.items() if key not in held)


def _leaves(name: str, value: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield name, value
    # A list of a million numbers is data, and no place for optimizers.
    for key, one in itertools.islice(items, 1000 if depth else 0):
        yield from _leaves(f"{name}/{key}", one, depth - 1)


class LossScaling(NamedTuple):
    """How one kind of optimizer scales the loss: the only place that knows.

    `given(optimizer)`: the factor in the gradients that `apply` is given now, a tensor,
    a number, or None for 1. `logged(optimizer)`: the scale to log, None for nothing.
    `inner(optimizer)`: the optimizer that it applies by, itself if there is no other.
    `skips`: whether it leaves out steps whose gradients are not finite.
    """

    kind: type
    given: Callable[[Any], Any]
    logged: Callable[[Any], Any] = lambda optimizer: None
    inner: Callable[[Any], Any] = lambda optimizer: optimizer
    skips: bool = False


def _dynamic_scale(optimizer: Any) -> Any:
    # Its inner optimizer unscales inside a condition, and no tensor leaves that.
    if not optimizer.built:
        return optimizer.initial_scale
    return keras.ops.convert_to_tensor(optimizer.dynamic_scale)


# The first that fits an optimizer; a new way of scaling is a row.
LOSS_SCALING = [
    LossScaling(
        keras.optimizers.LossScaleOptimizer,
        given=_dynamic_scale,
        logged=lambda optimizer: optimizer.dynamic_scale if optimizer.built else None,
        inner=lambda optimizer: attribute(optimizer, "inner_optimizer", optimizer),
        skips=True,
    ),
    LossScaling(
        keras.optimizers.Optimizer,
        given=lambda optimizer: attribute(optimizer, "loss_scale_factor"),
    ),
]


def loss_scaling(optimizer: Any) -> LossScaling:
    """The row of `LOSS_SCALING` for an optimizer."""
    return next(x for x in LOSS_SCALING if isinstance(optimizer, x.kind))


def inner_of(optimizer: Any) -> Any:
    """The optimizer that this one applies by: itself but for a `LossScaleOptimizer`."""
    return loss_scaling(optimizer).inner(optimizer)


def parts_of(name: str, optimizer: Any) -> dict[str, Any]:
    """Those that update the weights, and have a learning rate and settings, by name.

    Of a `MultiOptimizer` each of its optimizers (`optimizer/adam`), which a function
    that chooses them gives it only at the first step; `inner_of` of any other.
    """
    inner = inner_of(optimizer)
    if not isinstance(inner, MULTI_OPTIMIZER):
        return {name: inner}
    return unique_names((f"{name}/{_given_name(x)}", x) for x in inner.optimizers)


def _given_name(optimizer: Any) -> str:
    """Its name, without the number by which Keras counts them in a process."""
    kind, _, number = optimizer.name.rpartition("_")
    is_counted = kind.replace("_", "") == type(optimizer).__name__.lower()
    return kind if is_counted and number.isdecimal() else str(optimizer.name)


def _within(optimizer: Any) -> list[Any]:
    """Those that it applies."""
    parts = [inner_of(optimizer), *parts_of("", optimizer).values()]
    return [x for x in parts if x is not optimizer]


def unscaled(gradient: Any, scale: Any) -> Any:
    """Of a loss that was multiplied by `scale`, None for 1; float32 or wider then."""
    if scale is None:
        return gradient
    dtype = keras.backend.standardize_dtype(gradient.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    return keras.ops.cast(gradient, wide) / keras.ops.cast(scale, wide)


def steps_taken(optimizer: Any) -> int:
    """Its `iterations`; 0 of a user's own that counts otherwise."""
    from .tensors import to_numpy

    try:
        return int(to_numpy(optimizer.iterations))
    except Exception:
        return 0
