"""A batch norm of one class becomes one of the other, and stays the same object.

So whatever holds it still does: attributes, lists, dictionaries, functions, the graphs
of several models; and the optimizer keeps the state of its weights. Both classes lie
on `keras.layers.Layer` and have the same weights under the same names.
"""

import logging
from typing import Any

import keras

from kbn.layer import BatchNormalization
from kbn.private import keras as private
from kbn.surgery.graph import Layer

_log = logging.getLogger(__name__)

Theirs = keras.layers.BatchNormalization
Ours = BatchNormalization


def counterpart(layer: Layer, cls: Any) -> Layer:
    """A layer of the other class with the arguments of `layer`, and built as it is.

    Raises:
        ValueError: The other class cannot have them; the layer is named.
    """
    config = layer.get_config()
    name = "kbn.BatchNorm" if cls is Ours else "Keras' BatchNormalization"
    if cls is Theirs and (own := _beyond_keras(config)):
        raise ValueError(
            f"Layer '{layer.name}' cannot become {name}, which has no "
            f"{' and no '.join(own)}."
        )
    if cls is Theirs and config.pop("warmup", False):
        _log.warning(
            "'%s' loses warmup=True, which Keras' layer does not have: its moving "
            "statistics go on from where they are, by momentum=%g.",
            layer.name,
            config["momentum"],
        )
    try:
        other = cls.from_config(config)
        if layer.built:  # shapes are refused too
            other.build(**_shapes(layer))
    except (TypeError, ValueError) as error:
        # Keras puts the reason behind the whole config.
        reason = str(error).rpartition("\n")[2].removeprefix("Exception encountered: ")
        raise ValueError(
            f"Layer '{layer.name}' cannot become {name}: {reason}"
        ) from error
    return other


def keeps_weights(layer: Layer, other: Layer) -> bool:
    """Whether `layer` can become like its counterpart with the weights that it has.

    Ours are float32 or wider under every dtype policy, Keras' may be of 16 bits.
    """
    dtypes = {v.name: v.dtype for v in layer.weights}
    return all(dtypes[v.name] == v.dtype for v in other.weights)


def become(layer: Layer, other: Layer) -> None:
    """Make `layer` a layer of the class of `other`, with the arguments of `other`.

    `other`, which is spent, is built if `layer` is.
    """
    build = private.wrapped_build(layer, type(other))
    if layer.built and not other.built:
        other.build(**_shapes(layer))
    names = [variable.name for variable in private.own_variables(other)]
    for variable in private.own_variables(layer):
        if layer.built and variable.name not in names:  # the counter of a warm-up
            private.untrack(layer, variable)
            object.__delattr__(layer, variable.name)
    if not keeps_weights(layer, other):
        _take_weights(layer, other)
    layer.__class__ = type(other)
    arguments = other.get_config().keys() - {"name", "trainable", "dtype"}
    lacking = vars(other).keys() - vars(layer).keys()
    for name in (arguments & vars(other).keys()) | lacking | {"autocast"}:
        setattr(layer, name, vars(other)[name])
    layer.build = build


def _beyond_keras(config: dict[str, Any]) -> list[str]:
    """The arguments in a config of ours that Keras' layer does not have."""
    own = (
        config.keys()
        - Theirs(name="any").get_config().keys()
        - {"activity_regularizer", "warmup"}
    )
    said = [name for name in config if name in own]
    if config["momentum"] is None:
        said.append("momentum")
    if isinstance(config["axis"], list):
        said.append("axis")
    return [f"{name}={config[name]!r}" for name in said]


def _shapes(layer: Layer) -> dict[str, Any]:
    """The arguments of `build` that `layer` was built with."""
    config = layer.get_build_config()
    return config.get("shapes_dict", config)


def _take_weights(layer: Layer, other: Layer) -> None:
    """Give `layer` the weights of `other`, with its own values, paths and flags."""
    given = {variable.name: variable for variable in private.own_variables(layer)}
    with private.unlocked(layer):
        for old in given.values():
            private.untrack(layer, old)
        for new in private.own_variables(other):
            setattr(layer, new.name, new)
            private.rename(new, f"{layer.path}/{new.name}")
            if new.name in given:
                new.assign(given[new.name])
                new.trainable = given[new.name].trainable
