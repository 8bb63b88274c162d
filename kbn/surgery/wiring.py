"""The graphs of a model and of all models in it, read as one.

What lies inside of a model that is called once stands in the graph around it: its input
is the tensor that it is called on. One that is called more often is a closed box.
"""

from collections import Counter
from typing import Any

import keras

from kbn.surgery import graph
from kbn.surgery.graph import Call, Layer, Tensor


class Value:
    """A tensor: the call that gives it, and those that read it, each time they do.

    None is what lies outside: it gives the inputs of the model and reads its outputs.
    """

    def __init__(self) -> None:
        self.giver: Call | None = None
        self.readers: list[Call | None] = []


class Wiring:
    """The calls of layers and operations in `model`, and the values between them.

    `calls` are all that is no model read through; `names` are paths, "model/layer";
    `count` is how often a layer is called; `trained` are the calls that are, or may be,
    in training whatever `model` is.
    """

    def __init__(self, model: keras.Model) -> None:
        self.calls: list[Call] = []
        self.names: dict[Layer, str] = {}
        self.count: Counter[Layer] = Counter()
        self.trained: set[Call] = set()
        self._graphs: dict[keras.Model, list[Call]] = {}
        self._values: dict[int, Value] = {}
        self._collect(model, "", False)
        for calls in self._graphs.values():
            for call in calls:
                self._wire(call)
        self._give_out(model)

    def value(self, tensor: Tensor) -> Value:
        """The value that a symbolic tensor stands for."""
        return self._values.setdefault(id(tensor), Value())

    def leave_out(self, call: Call) -> None:
        """Have the readers of what `call` gives read what it reads."""
        (given,) = call.outputs
        self.value(call.main).readers.remove(call)
        self.value(given).giver = None
        self._join(call.main, given)

    def _collect(self, model: keras.Model, prefix: str, trains: bool) -> None:
        is_new = model not in self._graphs
        if is_new:
            self._graphs[model] = list(graph.calls(model))
        for call in self._graphs[model]:
            if is_new:
                self.count[call.layer] += 1
                self.names.setdefault(call.layer, prefix + call.layer.name)
            if trains or call.trains:
                self.trained.add(call)
            if graph.function(call.layer) is not None:
                name = self.names[call.layer]
                self._collect(call.layer, f"{name}/", call in self.trained)

    def _wire(self, call: Call) -> None:
        around, inside = self._through(call)
        for tensor, inner in zip(around, inside, strict=True):
            self._join(tensor, inner)
        for tensor in call.inputs:
            if not any(tensor is one for one in around):
                self.value(tensor).readers.append(call)
        if around:
            return
        self.calls.append(call)
        for tensor in call.outputs:
            self.value(tensor).giver = call
        if call.layer in self._graphs:
            self._give_out(call.layer)

    def _give_out(self, model: keras.Model) -> None:
        for tensor in graph.function(model).outputs:
            self.value(tensor).readers.append(None)

    def _through(self, call: Call) -> tuple[list[Tensor], list[Tensor]]:
        """The tensors around a model that is called once, and those inside it."""
        if call.layer not in self._graphs or self.count[call.layer] > 1:
            return [], []
        inner = graph.function(call.layer)
        given = keras.tree.flatten(call.main)
        # Keras casts and reshapes what does not fit.
        if _structure(call.main) != _structure(inner.input) or any(
            outer.dtype != own.dtype or len(outer.shape) != len(own.shape)
            for outer, own in zip(given, inner.inputs, strict=True)
        ):
            return [], []
        return [*given, *call.outputs], [*inner.inputs, *inner.outputs]

    def _join(self, one: Tensor, other: Tensor) -> None:
        kept, gone = self.value(one), self.value(other)
        if kept is gone:
            return
        kept.giver = kept.giver or gone.giver
        kept.readers += gone.readers
        for key, value in self._values.items():
            if value is gone:
                self._values[key] = kept


def _structure(tensors: Any) -> Any:
    """Where the tensors are in lists and dictionaries; a list of one is that one."""
    if isinstance(tensors, dict):
        return {key: _structure(value) for key, value in tensors.items()}
    if isinstance(tensors, list | tuple):
        inner = [_structure(value) for value in tensors]
        return inner[0] if len(inner) == 1 else inner
    return isinstance(tensors, keras.KerasTensor)
