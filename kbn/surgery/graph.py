"""The graph of a functional or sequential model: which layer was called on what."""

import dataclasses
import reprlib
from collections import Counter, defaultdict
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
    """A ValueError of a public function for what is no layer of Keras 3."""
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
    """A ValueError of a public function for no model, or one without a known graph."""
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


class Wiring:
    """The graphs of `model` and of all models in it, read as one.

    What lies inside of a model that is called once stands in the graph around it: its
    input is the tensor that it is called on. One that is called more often is a closed
    box.

    `calls` are all that is no model read through, in the order in which they run;
    `names` are paths, "model/layer"; `count` is how often a layer is called; `trained`
    are the calls that are, or may be, in training whatever `model` is.
    """

    def __init__(self, model: keras.Model) -> None:
        self.calls: list[Call] = []
        self.names: dict[Layer, str] = {}
        self.count: Counter[Layer] = Counter()
        self.trained: set[Call] = set()
        self._graphs: dict[keras.Model, list[Call]] = {}
        self._givers: dict[int, Call] = {}
        self._readers: defaultdict[int, list[Call | None]] = defaultdict(list)
        self._same: dict[int, int] = {}  # {a tensor: the one that it stands for}, by id
        self._closed: list[keras.Model] = [model]  # and those called several times
        self._collect(model, "", False)
        for one in self._closed:
            self._read(one)
            for tensor in function(one).outputs:
                self.readers(tensor).append(None)

    def giver(self, tensor: Tensor) -> Call | None:
        """The call that gives a tensor; None: it is an input."""
        return self._givers.get(self._key(tensor))

    def readers(self, tensor: Tensor) -> list[Call | None]:
        """The calls that read a tensor, each time they do; None: it is an output."""
        return self._readers[self._key(tensor)]

    def leave_out(self, call: Call) -> None:
        """Have the readers of what `call` gives read what it reads."""
        given, taken = self._key(call.outputs[0]), self._key(call.main)
        self._readers[taken].remove(call)
        self._readers[taken] += self._readers.pop(given, [])
        self._same[given] = taken

    def _collect(self, model: keras.Model, prefix: str, trains: bool) -> None:
        is_new = model not in self._graphs
        if is_new:
            self._graphs[model] = list(calls(model))
        for call in self._graphs[model]:
            if is_new:
                self.count[call.layer] += 1
                self.names.setdefault(call.layer, prefix + call.layer.name)
            if trains or call.trains:
                self.trained.add(call)
            if function(call.layer) is not None:
                name = self.names[call.layer]
                self._collect(call.layer, f"{name}/", call in self.trained)

    def _read(self, model: keras.Model) -> None:
        for call in self._graphs[model]:
            inner = self._inside(call)
            given = [] if inner is None else keras.tree.flatten(call.main)
            for tensor in call.inputs:
                if not any(tensor is one for one in given):
                    self.readers(tensor).append(call)
            if inner is None:
                self.calls.append(call)
                self._givers |= {self._key(tensor): call for tensor in call.outputs}
                if call.layer in self._graphs and call.layer not in self._closed:
                    self._closed.append(call.layer)
            else:
                self._join(inner.inputs, given)
                self._read(call.layer)
                self._join(call.outputs, inner.outputs)

    def _inside(self, call: Call) -> Any:
        """The graph of a model that is called once; None for all others."""
        if call.layer not in self._graphs or self.count[call.layer] > 1:
            return None
        inner = function(call.layer)
        given = keras.tree.flatten(call.main)
        # Keras casts and reshapes what does not fit.
        if _structure(call.main) != _structure(inner.input) or any(
            outer.dtype != own.dtype or len(outer.shape) != len(own.shape)
            for outer, own in zip(given, inner.inputs, strict=True)
        ):
            return None
        return inner

    def _join(self, tensors: list[Tensor], others: list[Tensor]) -> None:
        for tensor, other in zip(tensors, others, strict=True):
            self._same[id(tensor)] = self._key(other)

    def _key(self, tensor: Tensor) -> int:
        key = id(tensor)
        while key in self._same:
            key = self._same[key]
        return key


def _structure(tensors: Any) -> Any:
    """Where the tensors are in lists and dictionaries; a list of one is that one."""
    if isinstance(tensors, dict):
        return {key: _structure(value) for key, value in tensors.items()}
    if isinstance(tensors, list | tuple):
        inner = [_structure(value) for value in tensors]
        return inner[0] if len(inner) == 1 else inner
    return isinstance(tensors, keras.KerasTensor)


def _package(thing: Any) -> str:
    package: str = thing.__module__.partition(".")[0]
    return package
