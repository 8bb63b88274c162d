"""A copy of a model: the same layers by the same names, and nothing shared with it.

Graphs are run again on new inputs, so that a layer that is called twice stays one
layer; everything else is copied by its config.
"""

import tempfile
import warnings
from collections.abc import Callable, Collection
from typing import Any

import keras

from kbn.private import keras as private
from kbn.surgery import exchange, graph
from kbn.surgery.graph import Layer
from kbn.surgery.remaking import from_config, last_line, policy_of, uncopied

Replace = Callable[[Layer], Layer | None]


def copy(
    model: Layer,
    replace: Replace | None = None,
    skip: Collection[Layer] = (),
    plain: bool = False,
) -> tuple[Layer, dict[Layer, Layer]]:
    """A copy of `model`, and {layer of it: layer of the copy}.

    replace: gives the layer that takes another's place in the graph, unbuilt, whose
    weights the caller sets; None where the layer is copied. skip: layers of one input
    that the graph of the copy goes around. plain: whether a model whose class has a
    constructor of its own, which none but its graph can copy, becomes one of Keras'.

    Raises:
        ValueError: A layer cannot be copied; it is named.
    """
    copier = _Copier(replace, frozenset(skip), plain)
    twin = copier.copy(model)
    copier.finish(model)
    return twin, copier.layers


class _Copier:
    def __init__(
        self, replace: Replace | None, skip: frozenset[Layer], plain: bool
    ) -> None:
        self.layers: dict[Layer, Layer] = {}
        self._replace, self._skip, self._plain = replace, skip, plain
        self._replaced: set[Layer] = set()
        self._run: set[Layer] = set()  # models whose graph was run again

    def copy(self, layer: Layer) -> Layer:
        """The twin of `layer`, made at its first appearance."""
        if layer not in self.layers:
            if cls := self._class(layer):
                sequential = isinstance(layer, keras.Sequential)
                run = self._sequential if sequential else self._functional
                twin = run(layer, cls)
                self._run.add(layer)
            elif self._replace and (twin := self._replace(layer)) is not None:
                self._replaced.add(layer)
            else:
                twin = from_config(layer)
            self.layers[layer] = twin
        return self.layers[layer]

    def finish(self, model: Layer) -> None:
        """Build what no graph has built; then state, flags and names."""
        self._pair(model)
        layers = [one for one in graph.descendants(model) if one not in self._skip]
        copied = [one for one in layers if one not in self._replaced]
        for layer in copied:
            take_state(layer, self.layers[layer])
        take_flags({layer: self.layers[layer] for layer in layers})
        for layer in copied:
            take_names(layer, self.layers[layer])

    def _class(self, layer: Layer) -> type | None:
        """The class of the twin of a graph that is run again; None for all others."""
        if graph.is_functional(layer) or graph.is_sequential(layer):
            return type(layer)
        if self._plain and graph.has_graph(layer):
            sequential = isinstance(layer, keras.Sequential)
            return keras.Sequential if sequential else keras.Model
        return None

    def _functional(self, model: keras.Model, cls: type) -> keras.Model:
        tensors = {}

        def fresh(tensor: Any) -> Any:
            twin = self.copy(graph.input_layer(tensor)).output
            tensors[id(tensor)] = twin
            return twin

        inputs = keras.tree.map_structure(fresh, model.input)
        given = set(map(id, keras.tree.flatten(inputs)))
        wanted = set(map(id, keras.tree.flatten(model.output)))
        for call in graph.calls(model):
            args, keywords = call.fill(tensors)
            if call.layer in self._skip:
                results = tensors[id(call.main)]
                if id(results) in given and id(call.outputs[0]) in wanted:
                    # Nothing is left between an input and an output.
                    results = keras.layers.Identity(name=call.layer.name)(results)
            elif isinstance(call.layer, keras.layers.Layer):
                results = self.copy(call.layer)(*args, **keywords)
            else:
                results = private.without_nodes(call.layer)(*args, **keywords)
            flat = keras.tree.flatten(results)
            tensors |= {id(t): r for t, r in zip(call.outputs, flat, strict=True)}
        outputs = keras.tree.map_structure(lambda t: tensors[id(t)], model.output)
        return cls(inputs, outputs, name=model.name)

    def _sequential(self, model: keras.Sequential, cls: type) -> keras.Sequential:
        kept = [one for one in graph.children(model) if one not in self._skip]
        layers = [self.copy(one) for one in kept]
        if not set(kept) & set(model.layers):
            layers += [keras.layers.Identity(name=one.name) for one in model.layers]
        return cls(layers, name=model.name)

    def _pair(self, layer: Layer) -> None:
        """Pair the sublayers of `layer` with those of its twin, and build them."""
        twin = self.layers[layer]
        if twin.dtype_policy.name != layer.dtype_policy.name:
            twin.dtype_policy = layer.dtype_policy
        if layer not in self._replaced:
            _build(layer, twin)
        if layer in self._run:
            for child in graph.children(layer):
                if child in self.layers:
                    self._pair(child)
                elif child not in self._skip:
                    # It is tracked, but stands outside of the graph.
                    raise uncopied(child, f"'{layer.name}' does not call it")
            return
        theirs, ours = graph.children(layer), graph.children(twin)
        # A subclass's code makes the batch norms that it had before a conversion.
        for child, made in zip(theirs, ours, strict=False):
            if type(child) is not type(made) and exchange.are_both(child, made):
                exchange.become(made, from_config(child))
        if list(map(type, theirs)) != list(map(type, ours)):
            raise uncopied(
                layer,
                f"its config makes a layer of {_listed(ours)}, and it has "
                f"{_listed(theirs)}",
            )
        for child, made in zip(theirs, ours, strict=True):
            if self.layers.setdefault(child, made) is not made:
                raise uncopied(
                    layer, f"it shares '{child.name}' with another part of the model"
                )
            self._pair(child)


def take_state(layer: Layer, twin: Layer) -> None:
    """Give `twin` the variables, seeds and assets of `layer`."""
    theirs, ours = (
        [
            (tuple(v.shape), v.dtype)
            for v in [*graph.own_variables(one), *graph.own_seeds(one)]
        ]
        for one in (layer, twin)
    )
    if theirs != ours:
        raise uncopied(layer, f"its config makes weights {ours}, and it has {theirs}")
    if theirs:
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        twin.load_own_variables({key: graph.value(store[key]) for key in store})
    for given, made in zip(graph.own_seeds(layer), graph.own_seeds(twin), strict=True):
        made.assign(graph.value(given))
    # Vocabularies and their kind are no variables.
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as directory:
            layer.save_assets(directory)
            twin.load_assets(directory)


def take_flags(layers: dict[Layer, Layer]) -> None:
    """Set what is trainable, of layers and of single variables.

    A layer hands its flag down, so a sublayer of two may have to be set once more.
    """
    while wrong := [
        (layer, twin)
        for layer, twin in layers.items()
        if layer.trainable != twin.trainable
    ]:
        layer, twin = wrong[0]
        twin.trainable = layer.trainable
    for layer, twin in layers.items():
        by_name = {v.name: v for v in graph.own_variables(layer)}
        theirs, ours = graph.own_variables(layer), graph.own_variables(twin)
        if len(theirs) == len(ours):
            pairs = list(zip(theirs, ours, strict=True))
        else:  # a bias came along
            pairs = [(by_name[v.name], v) for v in ours if v.name in by_name]
        for given, made in pairs:
            if given.trainable != made.trainable:
                made.trainable = given.trainable


def take_names(layer: Layer, twin: Layer) -> None:
    """Give `twin` and its variables the names that a constructor gave anew."""
    if twin.name != layer.name:
        twin.name = layer.name
    if twin.path != layer.path:
        private.rename(twin, layer.path)
    theirs, ours = graph.own_variables(layer), graph.own_variables(twin)
    renamed = [
        (given, made)
        for given, made in zip(theirs, ours, strict=True)
        if made.path != given.path
    ]
    for given, made in renamed:
        private.rename(made, given.path, given.name)
    if renamed:
        private.track_on_torch(twin)
    if hasattr(layer, "output_names"):
        twin.output_names = list(layer.output_names)


def _build(layer: Layer, twin: Layer) -> None:
    """Build `twin` as `layer` was built."""
    if twin.built or not layer.built:
        return
    config = layer.get_build_config()
    try:
        # A model that cannot be run on shapes warns; its layers are built one by one.
        with warnings.catch_warnings(), policy_of(layer):
            warnings.simplefilter("ignore")
            twin.build_from_config(config)
    except Exception as error:
        raise uncopied(
            layer, f"it cannot be built from {config} ({last_line(error)})"
        ) from error
    twin.built = True


def _listed(layers: list[Layer]) -> str:
    return ", ".join(f"'{one.name}' ({type(one).__name__})" for one in layers) or "none"
