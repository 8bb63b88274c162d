"""Which batch norms of a model a layer beside them can take up, and why others stay.

A batch norm goes into the layer before it, if nothing else reads what lies between
them, or into the layer behind it, if nothing else reads what it gives itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers

from kbn.surgery import absorb, graph
from kbn.surgery.absorb import Affine, Inexact, Taken, of_batch_norm
from kbn.surgery.exchange import Ours, Theirs
from kbn.surgery.graph import Call, Layer, Wiring

# Means over all places: that of an affine map is the map of the mean.
MEANS = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)

# In inference they give what they get.
IDENTITIES = (
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)


Take = Callable[[Layer, Taken, Affine], Taken]


class Fold(NamedTuple):
    """A batch norm and the layer that took it up, or None and the reason.

    Both by name; those in nested models behind the models' names: "model/layer".
    """

    batch_norm: str
    into: str | None
    reason: str


class Plan(NamedTuple):
    """`taken`: the layers that take something up. `gone`: the batch norms they take."""

    folds: list[Fold]
    taken: dict[Layer, Taken]
    gone: set[Layer]


def plan(model: keras.Model) -> Plan:
    """Fold whatever can be folded, and then whatever that has made foldable."""
    planner = _Planner(Wiring(model))
    before = -1
    while before < len(planner.into):
        before = len(planner.into)
        for call in planner.wiring.calls:
            if isinstance(call.layer, Theirs | Ours) and call.layer not in planner.into:
                try:
                    planner.fold(call)
                except Inexact as error:
                    planner.reasons[call.layer] = str(error)
    folds = []
    for layer in graph.descendants(model):
        if isinstance(layer, Theirs | Ours):
            name = planner.wiring.names.get(layer, layer.name)
            into, reason = planner.into.get(layer), ""
            if into is None:
                reason = planner.reasons.get(layer) or planner.outside(layer)
            folds.append(Fold(name, into, reason))
    return Plan(folds, planner.taken, set(planner.into))


class _Planner:
    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.taken: dict[Layer, Taken] = {}
        self.into: dict[Layer, str] = {}
        self.reasons: dict[Layer, str] = {}

    def fold(self, call: Call) -> None:
        """Fold the batch norm of `call` away, or raise Inexact with the reason."""
        affine = self._affine(call)
        try:
            taker = self._before(call)
            self._take(taker, "before", absorb.after, call, affine)
        except Inexact as first:
            try:
                taker, affine = self._behind(call, affine)
                self._take(taker, "behind", absorb.before, call, affine)
            except Inexact as second:
                raise Inexact(f"{first}; {second}") from None
        self.into[call.layer] = self.wiring.names[taker.layer]
        self.wiring.leave_out(call)

    def _affine(self, call: Call) -> Affine:
        """The map that the batch norm of `call` is in inference, if it is no more."""
        layer = call.layer
        if type(layer) not in (Theirs, Ours):
            raise Inexact(f"{type(layer).__name__} is a class of its own")
        if self.wiring.count[layer] > 1:
            raise Inexact(f"it is called {self.wiring.count[layer]} times")
        if call in self.wiring.trained:
            raise Inexact("it is called with training=True")
        if layer.activity_regularizer is not None:
            raise Inexact("it has a regularizer of its output")
        return of_batch_norm(layer, tuple(call.main.shape))

    def _before(self, call: Call) -> Call:
        """The call that gives the input of `call`, and gives it to nothing else."""
        reader = call
        while True:
            giver = self.wiring.giver(reader.main)
            if giver is None:
                raise Inexact("before it is an input")
            if self.wiring.readers(reader.main) != [reader]:
                raise Inexact(
                    f"{self._said(giver.layer)} before it is read elsewhere too"
                )
            if not self._is_only(giver, IDENTITIES, call.layer):
                return giver
            reader = giver

    def _behind(self, call: Call, affine: Affine) -> tuple[Call, Affine]:
        """The only call that reads the output of `call`, and the map as it is there."""
        giver = call
        while True:
            reader, *others = self.wiring.readers(giver.outputs[0]) or [None]
            if reader is None or None in others:
                raise Inexact("it gives an output")
            if others:
                raise Inexact(f"{len(others) + 1} calls read it")
            if self._is_only(reader, MEANS, call.layer):
                affine = affine.behind_means(reader.layer)
            elif not self._is_only(reader, IDENTITIES, call.layer):
                return reader, affine
            giver = reader

    def _take(
        self, taker: Call, place: str, take: Take, call: Call, affine: Affine
    ) -> None:
        """Have the layer of `taker` take up what the batch norm of `call` does."""
        layer, norm = taker.layer, call.layer
        several = self.wiring.count[layer] > 1
        try:
            if several and (type(layer) in absorb.TAKERS or graph.has_graph(layer)):
                raise Inexact(f"is called {self.wiring.count[layer]} times")
            taken = self.taken.get(layer) or absorb.own(layer)
            if layer.compute_dtype != norm.compute_dtype:
                raise Inexact(
                    f"computes in {layer.compute_dtype}, and it in {norm.compute_dtype}"
                )
            taken = take(layer, taken, affine)
            absorb.check_bias(layer, taken, tuple(taker.outputs[0].shape))
        except Inexact as error:
            raise Inexact(f"{self._said(layer)} {place} it {error}") from None
        self.taken[layer] = taken

    def _is_only(self, call: Call, kinds: tuple[type, ...], norm: Layer) -> bool:
        """Whether a call does what its layer, one of `kinds`, is there for, no more."""
        layer = call.layer
        linear = type(layer) is layers.Activation and (
            layer.activation is keras.activations.linear
        )
        return (
            (type(layer) in kinds or (linear and kinds is IDENTITIES))
            and call not in self.wiring.trained
            and layer.activity_regularizer is None
            and layer.compute_dtype == norm.compute_dtype
        )

    def outside(self, norm: Layer) -> str:
        """The reason why a batch norm is in no graph: the layer that it belongs to."""
        for owner in self.wiring.names:
            is_closed = isinstance(owner, keras.layers.Layer) and not (
                graph.has_graph(owner)
            )
            if is_closed and norm in graph.descendants(owner):
                return f"{self._said(owner)} calls it in code of its own"
        return "nothing calls it"

    def _said(self, layer: Layer) -> str:
        name = self.wiring.names[layer]
        return f"'{name}' ({type(layer).__name__})"
