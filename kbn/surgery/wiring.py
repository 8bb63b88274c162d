"""The graphs of a model and of all models in it, read as one.

What lies inside of a model that is called once stands in the graph around it: its input
is the tensor that it is called on. One that is called more often is a closed box.
"""

from collections import Counter, defaultdict
from typing import Any

import keras

from kbn.surgery import graph
from kbn.surgery.graph import Call, Layer, Tensor


class Wiring:
    """The calls of layers and operations in `model`, and the tensors between them.

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
            for tensor in graph.function(one).outputs:
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
        inner = graph.function(call.layer)
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
