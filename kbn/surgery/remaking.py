"""A layer made again by its config: one class, the same arguments, other weights."""

import contextlib
import inspect
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from kbn.private import keras as private
from kbn.surgery import graph
from kbn.surgery.graph import Layer


def from_config(layer: Layer, **changes: Any) -> Layer:
    """A new layer of the config of `layer`, with some entries changed.

    `layer` may be an operation. Functions, such as an activation of the user's own, are
    the same objects in both.

    Raises:
        ValueError: The config does not make it again; the layer is named.
    """
    cls = type(layer)
    try:
        with readable_config(layer), _policy_of(layer):
            config = {**_taken(cls, layer.get_config()), **changes}
            # Those of the config only: another may hold on to `layer` itself.
            functions = {
                name: value
                for name, value in vars(layer).items()
                if isinstance(value, types.FunctionType)
                and name in config.keys() - changes.keys()
            }
            # Constructors take functions as such, and no config gives a lambda back.
            if cls.from_config.__func__ is keras.Operation.from_config.__func__:
                config |= functions
            twin = cls.from_config(config)
    except Exception as error:
        raise uncopied(
            layer, f"its config does not make it again ({_reason(error, layer)})"
        ) from error
    for name, function in functions.items():
        setattr(twin, name, function)
    return twin


def _taken(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Without what Keras adds of its own, where the constructor has no room for it."""
    parameters = inspect.signature(cls.__init__).parameters
    if any(x.kind is inspect.Parameter.VAR_KEYWORD for x in parameters.values()):
        return config
    own = {"name", "trainable", "dtype"} - parameters.keys()
    return {name: value for name, value in config.items() if name not in own}


def uncopied(layer: Layer, reason: str) -> ValueError:
    """The error that names a layer which cannot be copied."""
    return ValueError(
        f"Layer '{layer.name}' ({type(layer).__name__}) cannot be copied: {reason}."
    )


@contextlib.contextmanager
def readable_config(owner: Any) -> Iterator[None]:
    """Read the config of `owner` with its classes, registered or not, and lambdas.

    They come from the model in hand, and from no file.
    """
    is_layer = isinstance(owner, keras.layers.Layer)
    known: dict[str, Any] = {}
    for one in graph.descendants(owner) if is_layer else [owner]:
        for value in [one, *vars(one).values()]:
            kind = value if isinstance(value, types.FunctionType) else type(value)
            if (kind is value or hasattr(kind, "get_config")) and (
                keras.saving.get_registered_name(kind) == kind.__name__
            ):
                known[kind.__name__] = kind
    with keras.saving.custom_object_scope(known), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a")
        with private.unsafe_deserialization():
            yield


@contextlib.contextmanager
def _policy_of(layer: Layer) -> Iterator[None]:
    """Give the dtype policy of `layer` to sublayers that it makes without their own."""
    given = keras.config.dtype_policy()
    keras.config.set_dtype_policy(getattr(layer, "dtype_policy", given))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(given)


def _reason(error: Exception, layer: Layer) -> str:
    """The reason in an error of Keras, which puts it behind the whole config."""
    if not isinstance(error, NotImplementedError):
        return str(error).strip().rpartition("\n")[2]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raiser = None if trace is None else trace.tb_frame.f_locals.get("self")
    if raiser is None or raiser is layer:
        return "it was made with what no config holds, and has no get_config()"
    return f"its {type(raiser).__name__} has no get_config()"
