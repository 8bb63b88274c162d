"""A layer made again by its config: one class, the same arguments, other weights."""

import contextlib
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from kbn.private import keras as private
from kbn.surgery import graph
from kbn.surgery.graph import Layer

# Keras wraps these two on every layer, as functions of that layer.
_WRAPPED = {"build", "quantize"}


def from_config(layer: Layer, **changes: Any) -> Layer:
    """A new layer of the config of `layer`, with some entries changed.

    Functions, such as an activation of the user's own, are the same objects in both.
    """
    cls = type(layer)
    try:
        with _reading_lambdas():
            config = {**layer.get_config(), **changes}
        config = {key: config[key] for key in config if _takes(cls, key)}
        # Those of the config only: another may hold on to `layer` itself.
        functions = {
            name: value
            for name, value in vars(layer).items()
            if isinstance(value, types.FunctionType) and name in config
        }
        # Constructors take functions as such, and no config gives a lambda back.
        if cls.from_config.__func__ is keras.Operation.from_config.__func__:
            config |= functions
        with policy_of(layer), deserializing(layer):
            twin = cls.from_config(config)
    except Exception as error:
        raise uncopied(
            layer, f"its config does not make it again ({last_line(error, layer)})"
        ) from error
    for name, function in functions.items():
        setattr(twin, name, function)
    return twin


@contextlib.contextmanager
def policy_of(layer: Layer) -> Iterator[None]:
    """`layer`'s dtype policy for the sublayers that it makes without their own."""
    if not graph.children(layer):
        yield
        return
    given = keras.config.dtype_policy()
    keras.config.set_dtype_policy(layer.dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(given)


@contextlib.contextmanager
def deserializing(*objects: Any) -> Iterator[None]:
    """Read configs with the classes of `objects`, registered or not, and lambdas."""
    customs: dict[str, Any] = {}
    for one in objects:
        inside = (
            graph.descendants(one) if isinstance(one, keras.layers.Layer) else [one]
        )
        for owner in inside:
            customs |= _customs(owner)
    with keras.saving.custom_object_scope(customs), _reading_lambdas():
        yield


def _customs(owner: Any) -> dict[str, Any]:
    """{name: class or function} of what is not Keras' own in an object, and of it."""
    attributes = [
        value
        for name, value in getattr(owner, "__dict__", {}).items()
        if name not in _WRAPPED
    ]
    found = {}
    for value in [owner, *attributes]:
        kind = value if isinstance(value, types.FunctionType) else type(value)
        if kind is value or hasattr(kind, "get_config"):
            registered = keras.saving.get_registered_name(kind) != kind.__name__
            if kind.__module__.partition(".")[0] != "keras" and not registered:
                found[kind.__name__] = kind
    return found


@contextlib.contextmanager
def _reading_lambdas() -> Iterator[None]:
    """Lambdas of the model in hand become config and back: they come from no file."""
    with warnings.catch_warnings(), private.unsafe_deserialization():
        warnings.filterwarnings("ignore", "The object being serialized includes a")
        yield


def uncopied(layer: Layer, reason: str) -> ValueError:
    """The error that names a layer which cannot be copied."""
    return ValueError(
        f"Layer '{layer.name}' ({type(layer).__name__}) cannot be copied: {reason}."
    )


def last_line(error: Exception, layer: Layer = None) -> str:
    """What is wrong with `layer`: Keras puts it behind all that it was given."""
    if isinstance(error, NotImplementedError):
        owner = _raiser(error)
        if owner is None or owner is layer:
            return "it was made with what no config holds, and has no get_config()"
        return f"its {type(owner).__name__} has no get_config()"
    return str(error).strip().rpartition("\n")[2]


def _raiser(error: BaseException) -> Any:
    """The object whose method raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return None if trace is None else trace.tb_frame.f_locals.get("self")


def _takes(cls: type, key: str) -> bool:
    """Whether a class can be made with an entry of every layer's config.

    The automatic config of a class has them, whether its constructor takes them or not.
    """
    if key not in ("name", "trainable", "dtype"):
        return True
    if "from_config" in vars(cls) or "get_config" in vars(cls):
        return True
    parameters = graph.parameters(cls)
    return parameters is None or key in parameters
