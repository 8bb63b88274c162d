"""What becomes of a model's inputs: which layer first scales or multiplies each."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from kbn.private import keras as private

from ..signals.data import ELEMENTS, columns_row
from ..signals.subjects import Input
from .activations import activation_of
from .layers import Layer, attribute, graph_of, kinds_of, weights_of
from .notes import given_by

KERNEL, SCALED, INDEX, UNKNOWN = "kernel", "scaled", "index", "unknown"
# Kinds of Keras' layers, and the operations of a functional model that are none.
INDEXES = {"Embedding", "CategoryEncoding", "Discretization", "Hashing"}
INDEXES |= {"HashedCrossing", "IntegerLookup", "StringLookup", "TextVectorization"}
SCALES = {"Rescaling", "Normalization", "BatchNormalization", "LayerNormalization"}
SCALES |= {"GroupNormalization", "RMSNormalization", "UnitNormalization", "Softmax"}
SCALES |= {"STFTSpectrogram", "MelSpectrogram"}
OPAQUE = {"Lambda", "TFSMLayer", "FlaxLayer", "JaxLayer", "TorchModuleWrapper"}
TAKES = {"Take", "TakeAlongAxis", "OneHot", "MultiHot"}
ASKS = {"NotEqual", "Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "Isnan"}
PASSES = {"Reshape", "Transpose", "ExpandDims", "Squeeze", "Cast", "Concatenate"}
PASSES |= {"Stack", "GetItem", "Slice", "Pad", "Flip", "Ravel", "Moveaxis", "Resize"}
PASSES |= {"Swapaxes", "Split", "Unstack", "Tile", "Repeat", "BroadcastTo", "Copy"}
PASSES |= {"Identity", "StopGradient", "Relu"}


class First(NamedTuple):
    """`fate`: what becomes of an input first; in which layer, empty if in none."""

    fate: str
    layer: str = ""


def first_of_each(
    model: Any, given: Mapping[str, bool], layers: Mapping[str, Layer]
) -> dict[str, dict[str, str]]:
    """By name of an input, as the record of a run has it.

    `given`: inputs by their name in x, and whether they are whole numbers by type.
    `layers`: by name, in forward order. Of a model that is no graph only the order of
    its calls is known: it tells where there is one input of numbers. An own training
    step may change what it is given.
    """
    if type(model).train_step is not keras.Model.train_step:
        return {name: {"fate": UNKNOWN, "layer": ""} for name in given}
    names = {id(layer): name for name, layer in layers.items()}
    graph = graph_of(model)
    found = {}
    for place, (name, is_whole) in enumerate(given.items()):
        tensor = _tensor(graph, name, place)
        if tensor is not None:
            first = _gravest(_followed(graph, tensor, names))
        elif graph is None and not is_whole and [*given.values()].count(False) == 1:
            first = _called_first(layers)
        else:
            first = First(UNKNOWN)
        found[name] = {"fate": first.fate, "layer": first.layer}
    return found


def validation_rows(model: Any) -> Iterator[tuple[str, Any]]:
    """(key of an input, its row of `skew`) of what `fit` validates on.

    Where that is arrays of NumPy: to read a batch of anything else would take it away.
    """
    for subject, x in given_by((private.validation_inputs(model),)):
        is_array = isinstance(x, np.ndarray) and x.dtype.kind in "fiub"
        if isinstance(subject, Input) and is_array:
            some = x[:: -(-x.size // ELEMENTS) or 1]
            yield subject.key, columns_row(some, subject)[None]


def _tensor(graph: Any, name: str, place: int) -> Any:
    """The graph's tensor of an input: by its name in x, else by its place."""
    if graph is None:
        return None
    paths = keras.tree.flatten_with_path(attribute(graph, "input"))
    named = {x.name: x for x in graph.inputs}
    named |= {"/".join(map(str, path)): x for path, x in paths}
    by_place = graph.inputs[place] if place < len(graph.inputs) else None
    return named.get(name, by_place)


def _gravest(found: Iterator[First | None]) -> First:
    """Indices are none to scale; what one kernel multiplies raw, is raw."""
    order = [INDEX, KERNEL, UNKNOWN, SCALED]
    known = [x for x in found if x is not None]
    return min(known, key=lambda x: order.index(x.fate), default=First(UNKNOWN))


def _followed(
    graph: Any, tensor: Any, names: Mapping[int, str]
) -> Iterator[First | None]:
    """What meets a tensor first, on each way through a graph; None: its end."""
    if any(tensor is x for x in graph.outputs):
        yield None
    for node in _consumers(graph, tensor):
        layer, fate = node.operation, _fate(node, tensor)
        inner = graph_of(layer)
        if inner is not None:
            place = [*map(id, node.arguments.keras_tensors)].index(id(tensor))
            found = [*_followed(inner, inner.inputs[place], names)]
            yield from (x for x in found if x is not None)
            fate = "" if None in found else None
        elif fate == KERNEL and _keeps_scale(layer) and _is_normalized(graph, node):
            fate = SCALED
        if fate:
            yield First(fate, names.get(id(layer), ""))
        if fate == "":
            for output in node.outputs:
                yield from _followed(graph, output, names)


def _consumers(graph: Any, tensor: Any) -> Iterator[Any]:
    for nodes in private.nodes_by_depth(graph).values():
        for node in nodes:
            if any(x is tensor for x in node.arguments.keras_tensors):
                yield node


def _is_normalized(graph: Any, node: Any) -> bool:
    """Whether all that a layer gives is normalized next: its scale goes with it."""
    found = []
    for output in node.outputs:
        for after in _consumers(graph, output):
            fate = _fate(after, output)
            found += [fate == SCALED or (not fate and _is_normalized(graph, after))]
    return bool(found) and all(found)


def _keeps_scale(layer: Layer) -> bool:
    """Whether it ends in a function whose output is as large as its input."""
    return attribute(activation_of(layer), "name") in ("linear", "relu")


def _fate(node: Any, tensor: Any) -> str | None:
    """What an operation makes of a tensor; "": it hands it on, None: it only asks."""
    operation = node.operation
    if isinstance(operation, keras.Layer):
        return _fate_in(operation)
    name = type(operation).__name__
    if name in TAKES and node.arguments.args[0] is not tensor:
        return INDEX
    if name in PASSES or name in TAKES - {"OneHot", "MultiHot"}:
        return ""
    if name in TAKES:
        return INDEX
    return None if name in ASKS else SCALED


def _fate_in(layer: Layer) -> str:
    inner = attribute(layer, "layer")  # of a wrapper
    if isinstance(inner, keras.Layer) and not isinstance(layer, keras.layers.RNN):
        return _fate_in(inner)
    kinds = {*kinds_of(layer)}
    if kinds & INDEXES:
        return INDEX
    if kinds & SCALES:
        return SCALED
    if not kinds or kinds & OPAQUE:  # an own layer may do anything
        return UNKNOWN
    if any(len(weight.shape) > 1 for weight in weights_of(layer)):
        return KERNEL
    return "" if activation_of(layer) is None or _keeps_scale(layer) else SCALED


def _called_first(layers: Mapping[str, Layer]) -> First:
    """Of a model that is no graph: the first layer called, beside embeddings."""
    for name, layer in layers.items():
        fate = _fate_in(layer) if isinstance(layer, keras.Layer) else UNKNOWN
        if fate not in ("", INDEX):
            return First(fate, name)
    return First(UNKNOWN)
