"""A copy of a model: the same layers by the same names, and nothing shared with it.

`keras.models.clone_model` runs the graphs again on new inputs, so that a layer that is
called twice stays one layer; each layer in them is copied by its config.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras

from kbn.private import keras as private
from kbn.surgery import exchange, graph
from kbn.surgery.graph import Layer
from kbn.surgery.remaking import from_config, uncopied

Twins = dict[Layer, Layer]


def copy(
    model: keras.Model,
    changes: Mapping[Layer, dict[str, Any]] | None = None,
    gone: Collection[Layer] = (),
    plain: bool = False,
    behind: Mapping[Layer, Sequence[Layer]] | None = None,
    build: Callable[[keras.Model], object] | None = None,
) -> tuple[keras.Model, Twins]:
    """A copy of a model that has a graph, and {layer of it: layer of the copy}.

    changes: other entries of the configs of some layers, whose weights the caller sets.
    gone: layers of one input that the copy goes around. plain: whether a model whose
    class has a constructor of its own becomes one of Keras', so that its graph can be
    run again. behind: new layers, one after the other, that are called on what each
    call of a layer gives; that layer keeps none in it. build: calls a copy that has no
    graph, whose layers have no weights yet.

    Raises:
        ValueError: A layer cannot be copied; it is named.
    """
    copier = _Copier(changes or {}, frozenset(gone), plain, behind or {})
    twin = copier.twin(model)
    if build is not None and len(twin.variables) < len(model.variables):
        build(twin)
    twins = copier.pairs()
    for layer, made in twins.items():
        if layer not in copier.changes:
            take_state(layer, made)
    _take_flags(twins)
    return twin, twins


class _Copier:
    def __init__(
        self,
        changes: Mapping[Layer, Any],
        gone: frozenset[Layer],
        plain: bool,
        behind: Mapping[Layer, Sequence[Layer]],
    ) -> None:
        self.changes, self._gone, self._plain = changes, gone, plain
        self._behind = behind
        self._twins: Twins = {}
        self._run: list[keras.Model] = []  # those whose graph was run again

    def twin(self, layer: Layer) -> Layer:
        """The twin of a layer or operation, made at its first appearance."""
        if layer not in self._twins:
            if layer in self._gone:
                twin = keras.layers.Identity(name=layer.name)
            elif graph.has_graph(layer) and (self._plain or graph.is_plain(layer)):
                self._run.append(layer)
                is_list = isinstance(layer, keras.Sequential)
                twin = self._sequential(layer) if is_list else self._functional(layer)
            else:
                twin = from_config(layer, **self.changes.get(layer, {}))
            self._twins[layer] = twin
        return self._twins[layer]

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        kept = [one for one in graph.children(model) if one not in self._gone]
        if not set(kept) & set(model.layers):
            kept += model.layers[:1]  # as an identity: a model has a layer
        cls: Any = type(model) if graph.is_plain(model) else keras.Sequential
        made = [x for one in kept for x in (self.twin(one), *self._behind.get(one, ()))]
        return cls(made, name=model.name)

    def _functional(self, model: keras.Model) -> keras.Model:
        given = {
            id(one.output): self.twin(one).output
            for one in graph.children(model)
            if isinstance(one, keras.layers.InputLayer)
        }
        inputs = keras.tree.map_structure(lambda t: given[id(t)], model.input)
        # One that is not compiled: clone_model copies those settings by their configs.
        bare = keras.Model(model.input, model.output)
        run = keras.models.clone_model(bare, inputs, self.twin, self._call)
        cls: Any = type(model) if graph.is_plain(model) else keras.Model
        return cls(run.input, run.output, name=model.name)

    def _call(self, twin: Layer, *args: Any, **keywords: Any) -> Any:
        if any(self._twins.get(one) is twin for one in self._gone):
            return args[0] if args else keywords["inputs"]
        outputs = twin(*args, **keywords)
        for layer, others in self._behind.items():
            if self._twins.get(layer) is twin:
                for one in others:
                    outputs = one(outputs)
        return outputs

    def pairs(self) -> Twins:
        """{layer: its twin}, with those inside of layers that have no graph."""
        pairs: Twins = {}
        for layer, twin in self._twins.items():
            if layer in self._run:
                pairs[layer] = twin
                for child in graph.children(layer):
                    if child not in self._twins and child not in self._gone:
                        raise uncopied(child, f"'{layer.name}' does not call it")
            elif isinstance(layer, keras.layers.Layer) and layer not in self._gone:
                inside = (
                    [(layer, twin)] if layer in self._behind else _inside(layer, twin)
                )
                for one, made in inside:
                    if pairs.setdefault(one, made) is not made:
                        raise uncopied(
                            layer,
                            f"it shares '{one.name}' with another part of the model",
                        )
        return pairs


def _inside(layer: Layer, twin: Layer) -> list[tuple[Layer, Layer]]:
    """`layer` and all layers in it, each with the one that its config made."""
    theirs, ours = graph.descendants(layer), graph.descendants(twin)
    # A layer's code makes the batch norms that it had before a conversion.
    for one, made in zip(theirs, ours, strict=False):
        if {type(one), type(made)} == {exchange.Theirs, exchange.Ours}:
            exchange.become(made, from_config(one))
    if list(map(type, theirs)) != list(map(type, ours)):
        raise uncopied(
            layer, f"its config makes {_listed(ours)}, and it has {_listed(theirs)}"
        )
    return list(zip(theirs, ours, strict=True))


def _listed(layers: list[Layer]) -> str:
    inside = ", ".join(f"'{one.name}' ({type(one).__name__})" for one in layers[1:])
    return inside or "no layer"


def take_state(layer: Layer, twin: Layer) -> None:
    """Give `twin` the variables, seeds, assets and names of `layer`."""
    if twin.dtype_policy.name != layer.dtype_policy.name:  # the global one has changed
        twin.dtype_policy = layer.dtype_policy
    theirs, ours = map(private.own_variables, (layer, twin))
    seeds, made_seeds = map(private.own_seeds, (layer, twin))
    wanted, made = (
        [(tuple(v.shape), v.dtype) for v in variables]
        for variables in (theirs + seeds, ours + made_seeds)
    )
    if wanted != made:
        raise uncopied(layer, f"its config makes weights {made}, and it has {wanted}")
    if theirs:
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        twin.load_own_variables({key: graph.value(store[key]) for key in store})
        # A layer with LoRA saves the product in its kernel, and loads zeros.
        for variable, copied in zip(theirs, ours, strict=True):
            copied.assign(graph.value(variable))
    for seed, made_seed in zip(seeds, made_seeds, strict=True):
        made_seed.assign(graph.value(seed))
    if hasattr(layer, "save_assets"):  # vocabularies and their kind are no variables
        with tempfile.TemporaryDirectory() as directory:
            layer.save_assets(directory)
            twin.load_assets(directory)
    _take_names(layer, twin)


def _take_names(layer: Layer, twin: Layer) -> None:
    """Give `twin` and its variables the names that a constructor gave anew."""
    if twin.name != layer.name:
        twin.name = layer.name
    if twin.path != layer.path:
        private.rename(twin, layer.path)
    theirs, ours = map(private.own_variables, (layer, twin))
    if [v.path for v in theirs] != [v.path for v in ours]:
        for given, made in zip(theirs, ours, strict=True):
            private.rename(made, given.path, given.name)
        private.track_on_torch(twin)
    if hasattr(layer, "output_names"):
        twin.output_names = list(layer.output_names)


def _take_flags(twins: Twins) -> None:
    """Set what is trainable, of layers and of single variables.

    A layer hands its flag down, so a sublayer of two may have to be set once more.
    """
    while wrong := [one for one in twins if one.trainable != twins[one].trainable]:
        twins[wrong[0]].trainable = wrong[0].trainable
    for layer, twin in twins.items():
        # One bias more, at the end, is as trainable as its layer.
        given = private.own_variables(layer)
        for variable, made in zip(given, private.own_variables(twin), strict=False):
            if made.trainable != variable.trainable:
                made.trainable = variable.trainable
