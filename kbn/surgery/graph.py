"""The graph of a functional or sequential model: which layer was called on what."""

import dataclasses
import reprlib
from collections.abc import Iterator
from typing import Any

import keras

from kbn.private import keras as private

Tensor = Any
Layer = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of `layer`, which may also be an operation: symbolic tensors in and out.

    `inputs` are all tensors among its arguments; `main` is the first argument, which
    most layers call `inputs`; `trains` says whether the call fixes `training` to what
    is, or may be, true.
    """

    layer: Layer
    main: Any
    trains: bool
    inputs: list[Tensor]
    outputs: list[Tensor]


def require_layer(model: Any, function: str, hint: str = "") -> None:
    """Refuse what is no layer of Keras 3, in the name of a public function.

    Raises:
        ValueError: It is none; says what it is.
    """
    if isinstance(model, keras.layers.Layer):
        return
    kind = type(model)
    if any(_package(cls) == "tf_keras" for cls in kind.__mro__):
        raise ValueError(
            f"{function} takes models of Keras 3, and this {kind.__name__} is one of "
            "tf_keras, which is Keras 2. Make the model with `import keras`; "
            "set_weights(old.get_weights()) gives it the weights."
        )
    raise ValueError(
        f"{function} expects a Keras model or layer, received {reprlib.repr(model)}, "
        f"of type {kind.__name__}.{hint}"
    )


def require_graph(model: Any, name: str, instead: str = "") -> None:
    """Refuse what has no graph to rewire, in the name of a public function.

    Raises:
        ValueError: It is no model, or subclassed, or has no inputs yet.
    """
    require_layer(model, name)
    if not has_graph(model):
        raise ValueError(
            f"{name} cannot rewire '{model.name}' ({type(model).__name__}): its calls "
            "are in code of its own. It takes sequential and functional models."
            f"{instead}"
        )
    if function(model) is None:
        raise ValueError(
            f"{name} needs the shapes of '{model.name}': give it a keras.Input, or "
            "build it or call it first."
        )


def has_graph(layer: Layer) -> bool:
    """Whether `layer` is a model whose calls are known, and all that it does."""
    model = isinstance(layer, keras.Model) and isinstance(
        layer, keras.Function | keras.Sequential
    )
    # A call of the user's own does what it likes.
    return model and _package(type(layer).call) == "keras"


def is_plain(model: keras.Model) -> bool:
    """Whether a model that has a graph is made by that alone.

    A class with a constructor of its own is not: only its config can copy it.
    """
    return _package(type(model).__init__) == "keras"


def function(layer: Layer) -> Any:
    """The functional model that runs `layer`.

    None where `layer` has no graph, or no inputs yet.
    """
    if not has_graph(layer):
        return None
    return layer if isinstance(layer, keras.Function) else private.functional(layer)


def calls(model: keras.Model) -> Iterator[Call]:
    """The calls of a graph in the order in which it runs, without its inputs."""
    nodes = private.nodes_by_depth(function(model))
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            if not node.is_input:
                given, keywords = node.arguments, node.arguments.kwargs
                first = next(iter(keywords.values()), None)
                yield Call(
                    node.operation,
                    given.args[0] if given.args else keywords.get("inputs", first),
                    keywords.get("training") not in (None, False),
                    list(given.keras_tensors),
                    list(node.outputs),
                )


def children(layer: Layer) -> list[Layer]:
    """The layers that `layer` tracks, each once, input layers too."""
    return private.layers_in(layer, deep=False)


def descendants(layer: Layer) -> list[Layer]:
    """`layer` and all layers in it, each once, those that hold others first."""
    return private.layers_in(layer, deep=True)


def value(variable: Any) -> Tensor:
    """A copy of what a variable holds: a step of JAX' gives the buffer away."""
    return keras.ops.copy(keras.ops.convert_to_tensor(variable))


def _package(thing: Any) -> str:
    package: str = thing.__module__.partition(".")[0]
    return package
