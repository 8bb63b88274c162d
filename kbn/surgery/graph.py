"""The graph of a functional or sequential model: which layer was called on what."""

import dataclasses
import inspect
import reprlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kbn.private import keras as private

Tensor = Any
Layer = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of `layer`, which may also be an operation: symbolic tensors in and out.

    `inputs` are those among all arguments; `fill` gives the positional and the keyword
    arguments with the tensors of a dictionary, by id, in their place.
    """

    layer: Layer
    args: tuple[Any, ...]
    keywords: dict[str, Any]
    inputs: list[Tensor]
    outputs: list[Tensor]
    fill: Callable[[dict[int, Tensor]], tuple[Any, dict[str, Any]]]

    @property
    def main(self) -> Any:
        """The first argument, which most layers call `inputs`."""
        if self.args:
            return self.args[0]
        return self.keywords.get("inputs", next(iter(self.keywords.values()), None))

    @property
    def trains(self) -> bool:
        """Whether it is, or may be, a call in training, whatever the model's is."""
        training = self.keywords.get("training")
        return training is not None and training is not False


def require_layer(model: Any, function: str, hint: str = "") -> None:
    """Refuse what is no layer of Keras 3, in the name of a public function.

    Raises:
        ValueError: It is none; says what it is.
    """
    if isinstance(model, keras.layers.Layer):
        return
    kind = type(model)
    if any(cls.__module__.partition(".")[0] == "tf_keras" for cls in kind.__mro__):
        raise ValueError(
            f"{function} takes models of Keras 3, and this {kind.__name__} is one of "
            "tf_keras, which is Keras 2. Make the model with `import keras`; "
            "set_weights(old.get_weights()) gives it the weights."
        )
    raise ValueError(
        f"{function} expects a Keras model or layer, received {reprlib.repr(model)}, "
        f"of type {kind.__name__}.{hint}"
    )


def has_graph(layer: Layer) -> bool:
    """Whether `layer` is a model whose calls are known, and all that it does."""
    model = isinstance(layer, keras.Model) and isinstance(
        layer, keras.Function | keras.Sequential
    )
    # A call of the user's own does what it likes.
    return model and type(layer).call.__module__.partition(".")[0] == "keras"


def is_functional(layer: Layer) -> bool:
    """Whether `layer` is a model that its inputs and outputs alone make.

    A class with a constructor of other arguments is not: only its config can copy it.
    """
    if not (has_graph(layer) and isinstance(layer, keras.Function)):
        return False
    cls: Any = type(layer)
    arguments = inspect.getfullargspec(cls.__init__)
    anything = arguments.varargs is not None and arguments.varkw is not None
    return anything or arguments.args[1:] == ["inputs", "outputs", "name"]


def is_sequential(layer: Layer) -> bool:
    """Whether `layer` is a model that a list of layers alone makes."""
    return (
        has_graph(layer)
        and isinstance(layer, keras.Sequential)
        and type(layer).__init__ is keras.Sequential.__init__
    )


def graph(model: keras.Model) -> Any:
    """The functional model that runs `model`; None where it has no inputs yet."""
    return model if isinstance(model, keras.Function) else private.functional(model)


def calls(model: keras.Model) -> Iterator[Call]:
    """The calls of a graph in the order in which it runs, without its inputs."""
    nodes = private.nodes_by_depth(graph(model))
    for depth in sorted(nodes, reverse=True):
        for node in nodes[depth]:
            if not node.is_input:
                given = node.arguments
                yield Call(
                    node.operation,
                    given.args,
                    given.kwargs,
                    list(given.keras_tensors),
                    list(node.outputs),
                    given.fill_in,
                )


def input_layer(tensor: Tensor) -> Layer:
    """The input layer that gave a symbolic tensor."""
    return private.giver(tensor)


def children(layer: Layer) -> list[Layer]:
    """The layers that `layer` tracks, each once, input layers too."""
    return private.layers_in(layer, deep=False)


def descendants(layer: Layer) -> list[Layer]:
    """`layer` and all layers in it, each once."""
    return private.layers_in(layer, deep=True)


def own_variables(layer: Layer) -> list[Any]:
    """The variables of `layer` that are none of its sublayers'."""
    return private.own_variables(layer)


def own_seeds(layer: Layer) -> list[Any]:
    """The states of the seed generators of `layer`."""
    return [generator.state for generator in private.own_seed_generators(layer)]


def value(variable: Any) -> Tensor:
    """A copy of what a variable holds: a step of JAX' gives the buffer away."""
    return keras.ops.copy(keras.ops.convert_to_tensor(variable))


def parameters(cls: Any) -> list[str] | None:
    """The arguments of a constructor; None where it takes any by name."""
    arguments = inspect.getfullargspec(cls.__init__)
    if arguments.varkw is not None:
        return None
    return [*arguments.args[1:], *arguments.kwonlyargs]
