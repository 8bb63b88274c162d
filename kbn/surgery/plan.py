"""Which batch norms of a model a layer beside them can take up, and why others stay.

A batch norm goes into the layer before it, if nothing else reads what lies between
them, or into the layer behind it, if nothing else reads what it gives itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from kbn import arguments
from kbn.surgery import absorb, graph
from kbn.surgery.affine import Affine, Inexact, Taken
from kbn.surgery.exchange import Ours, Theirs
from kbn.surgery.graph import Call, Layer
from kbn.surgery.wiring import Value, Wiring

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
    planner.fold_all()
    folds = []
    for layer in graph.descendants(model):
        if isinstance(layer, Theirs | Ours):
            name = planner.wiring.names.get(layer, layer.name)
            into = planner.into.get(layer)
            reason = planner.reasons.get(layer) or planner.outside(layer)
            folds.append(Fold(name, into, "" if into else reason))
    return Plan(folds, planner.taken, set(planner.into))


class _Planner:
    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.taken: dict[Layer, Taken] = {}
        self.into: dict[Layer, str] = {}
        self.reasons: dict[Layer, str] = {}
        self._norms = [
            call for call in wiring.calls if isinstance(call.layer, Theirs | Ours)
        ]

    def fold_all(self) -> None:
        before = -1
        while before < len(self.into):
            before = len(self.into)
            for call in self._norms:
                if call.layer not in self.into:
                    try:
                        self._fold(call)
                    except Inexact as error:
                        self.reasons[call.layer] = str(error)

    def _fold(self, call: Call) -> None:
        """Fold the batch norm of `call` away, or raise Inexact with the reason."""
        self._check(call)
        affine = _affine(call)
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

    def _check(self, call: Call) -> None:
        layer = call.layer
        if type(layer) not in (Theirs, Ours):
            raise Inexact(f"{type(layer).__name__} is a class of its own")
        if self.wiring.count[layer] > 1:
            raise Inexact(f"it is called {self.wiring.count[layer]} times")
        if self._trains(call):
            raise Inexact("it is called with training=True")
        if layer.activity_regularizer is not None:
            raise Inexact("it has a regularizer of its output")

    def _trains(self, call: Call) -> bool:
        return call.trains or self.wiring.models[call] in self.wiring.trained

    def _before(self, call: Call) -> Call:
        """What gives the input of `call`, and gives it to nothing else."""
        value = self.wiring.value(call.main)
        reader = call
        while True:
            giver = value.giver
            if giver is None:
                raise Inexact("before it is an input")
            if len(value.readers) > 1 or value.readers[0] is not reader:
                raise Inexact(
                    f"{self._said(giver.layer)} before it is read elsewhere too"
                )
            if not self._is_identity(giver, call.layer):
                return giver
            value, reader = self.wiring.value(giver.main), giver

    def _behind(self, call: Call, affine: Affine) -> tuple[Call, Affine]:
        """What alone reads what `call` gives, and the map as it is there."""
        value: Value = self.wiring.value(call.outputs[0])
        while True:
            readers = [reader for reader in value.readers if reader is not None]
            if not readers or len(readers) < len(value.readers):
                raise Inexact("it gives an output")
            if len(readers) > 1:
                raise Inexact(f"{len(readers)} calls read it")
            (reader,) = readers
            if type(reader.layer) in MEANS and self._keeps(reader, call.layer):
                affine = _of_means(affine, reader.layer)
            elif not self._is_identity(reader, call.layer):
                return reader, affine
            value = self.wiring.value(reader.outputs[0])

    def _take(
        self, taker: Call, place: str, take: Take, call: Call, affine: Affine
    ) -> None:
        """Have the layer of `taker` take up what the batch norm of `call` does."""
        layer, norm = taker.layer, call.layer
        said = f"{self._said(layer)} {place} it"
        several = self.wiring.count[layer] > 1
        if several and (type(layer) in absorb.TAKERS or graph.has_graph(layer)):
            raise Inexact(f"{said} is called {self.wiring.count[layer]} times")
        if reason := absorb.refusal(layer):
            raise Inexact(f"{said} {reason}")
        if layer.compute_dtype != norm.compute_dtype:
            raise Inexact(
                f"{said} computes in {layer.compute_dtype}, and it in "
                f"{norm.compute_dtype}"
            )
        try:
            taken = take(layer, self.taken.get(layer) or absorb.own(layer), affine)
            absorb.check_bias(layer, taken, tuple(taker.outputs[0].shape))
        except Inexact as error:
            raise Inexact(f"{said} {error}") from None
        self.taken[layer] = taken

    def _is_identity(self, call: Call, norm: Layer) -> bool:
        layer = call.layer
        linear = type(layer) is layers.Activation and (
            layer.activation is keras.activations.linear
        )
        return (linear or type(layer) in IDENTITIES) and self._keeps(call, norm)

    def _keeps(self, call: Call, norm: Layer) -> bool:
        """Whether nothing but what its layer is there for happens in a call."""
        layer = call.layer
        return (
            not self._trains(call)
            and layer.activity_regularizer is None
            and layer.compute_dtype == norm.compute_dtype
        )

    def outside(self, norm: Layer) -> str:
        """Why a batch norm is in no graph: whose it is."""
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


def _of_means(affine: Affine, layer: Layer) -> Affine:
    """The same map behind a mean over all axes but the first and the channels'.

    Raises:
        Inexact: It is another one at other places.
    """
    channels = 1 if layer.data_format == "channels_first" else affine.rank - 1
    if affine.axes != [channels]:
        raise Inexact(f"'{layer.name}' behind it takes means over its channels")
    if layer.keepdims:
        return affine
    return affine._replace(axes=[1], rank=2)


def _affine(call: Call) -> Affine:
    """What a batch norm does in inference: x * scale + shift."""
    layer = call.layer
    shape = tuple(call.main.shape)
    axes = arguments.canonical_axes(layer.axis, shape)

    def read(variable: object) -> np.ndarray:
        values = np.asarray(keras.ops.convert_to_numpy(variable), "float64")
        return values.reshape([shape[axis] for axis in axes])

    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(read(layer.moving_variance) + layer.epsilon)
        if layer.gamma is not None:
            scale = scale * read(layer.gamma)
        shift = -read(layer.moving_mean) * scale
        if layer.beta is not None:
            shift = shift + read(layer.beta)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise Inexact("its statistics are not finite")
    return Affine(scale, shift, axes, len(shape))
