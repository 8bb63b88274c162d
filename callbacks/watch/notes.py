"""What was noted of one training step, as subjects with their tensors, also whole."""

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import tree

from ..signals.own import Named, Tensors
from ..signals.subjects import (
    Entering,
    Gradient,
    Input,
    Loss,
    NormInput,
    Output,
    Prediction,
    Subject,
    Target,
)
from .activations import activation_of, unit_axis
from .calls import CallLog, seeing
from .inventory import Inventory
from .layers import attribute, children
from .optimizers import Applied
from .tensors import is_of_rows, is_readable


@dataclass
class Notes:
    """The tensors of one step by the key of their subject, one for each replica.

    `scales`: of a gradient, what its loss was multiplied by, as `CallLog` has it.
    `hidden`: layers and optimizers out of reach. `applied`: calls of optimizers;
    `before_apply()`: right before the first of them.
    """

    subjects: dict[str, Subject] = field(default_factory=dict)
    tensors: dict[str, list[Any]] = field(default_factory=dict)
    scales: dict[str, Any] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    applied: list[Applied] = field(default_factory=list)
    before_apply: Callable[[], None] = lambda: None

    def enter(self, subject: Subject, tensor: Any) -> None:
        """One replica's tensor of a subject."""
        self.subjects[subject.key] = subject
        self.tensors.setdefault(subject.key, []).append(tensor)


class Noter:
    """Notes what a model's layers and optimizers do in its training steps.

    While a `step` is open in any thread, their methods are overridden on the instances;
    replicas are traced in threads, each with a log of its own.
    """

    def __init__(
        self,
        model: Any,
        place: Callable[[], Any],
        scale: Callable[[Any], Any],
        keep: Callable[[Any], Any] = lambda tensor: tensor,
    ) -> None:
        """`place` says where the caller is; it, `scale` and `keep`: see `CallLog`."""
        self._model = model
        self._place = place
        self._scale = scale
        self._keep = keep
        self._inventory = Inventory(model)
        self._looped: frozenset[str] = frozenset()
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._open = 0
        self._overrides = contextlib.ExitStack()

    @contextlib.contextmanager
    def step(self, notes: Notes, batch: Any) -> Iterator[CallLog]:
        """Note what this thread does meanwhile, a training step on `batch`."""
        call_log = CallLog(self._place, self._scale, notes.before_apply, self._keep)
        with contextlib.ExitStack() as stack:
            call_log.try_to(
                lambda: stack.enter_context(self._overridden()), "this step"
            )
            call_log.looped = self._looped
            self._thread.call_log = call_log
            try:
                yield call_log
            finally:
                self._thread.call_log = None
        with self._lock:
            enter = functools.partial(self._enter, notes, call_log, batch)
            call_log.try_to(enter, "some of this step")
            notes.hidden |= call_log.hidden

    @contextlib.contextmanager
    def _overridden(self) -> Iterator[None]:
        """Methods overridden, from the first thread that enters to the last one."""
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._override()
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._overrides.close()

    def _override(self) -> None:
        self._inventory = inventory = Inventory(self._model)
        self._looped = frozenset(cells_of(inventory))
        self._overrides.enter_context(
            seeing(
                inventory.layers,
                inventory.optimizers,
                # Asked then: the step may build the model.
                lambda: Inventory(self._model).weights,
                lambda: getattr(self._thread, "call_log", None),
                inventory.batch_norms,
                self._model,
            )
        )

    def _enter(self, notes: Notes, call_log: CallLog, batch: Any) -> None:
        notes.applied = notes.applied or call_log.applied
        # Of a layer that was hidden once, such as the cell of an LSTM, the visible
        # calls would be an arbitrary subset.
        final = call_log.giving(call_log.outputs) or self._of_parts(call_log)
        for call, (tensor, name) in call_log.activations.items():
            if name not in call_log.hidden:
                layer = self._inventory.layers[name]
                # Padding is no example: what units give there says nothing of them.
                known = None if name in call_log.masked else activation_of(layer)
                about = known, unit_axis(layer), call in final
                notes.enter(Output(call, name, *about), tensor)
        self._enter_functions(notes, call_log)
        for call, (tensor, name) in call_log.norm_inputs.items():
            if name not in call_log.hidden:
                enter = functools.partial(self._enter_norm, notes, call, name, tensor)
                # A user's layer may mean anything by its axis.
                call_log.try_to(enter, f"moments of {call}")
        for name, (gradient, scale, number) in call_log.gradients.items():
            path = re.sub(r"#\d+$", "", name)
            kinds = _is_kernel(gradient), is_of_rows(gradient)
            subject = Gradient(name, path, *kinds, number)
            notes.enter(subject, gradient)
            notes.scales[subject.key] = scale
        loss = _loss_of(call_log, batch)
        if loss is not None:
            notes.enter(Loss(""), loss)
            for path, x in tree.flatten_with_path(call_log.losses[0][2]):
                if is_readable(x):
                    name = "/".join(map(str, path))
                    notes.enter(Prediction(name, path=tuple(path)), x)

    def _enter_functions(self, notes: Notes, call_log: CallLog) -> None:
        """What enters the activation functions; not of padding, nor of the outputs."""
        outputs = notes.subjects.values()
        final = {x.layer for x in outputs if isinstance(x, Output) and x.is_final}
        norms = {name for _, name in call_log.norm_inputs.values()}
        for call, (tensor, name, giver) in call_log.entering.items():
            if name not in call_log.hidden | call_log.masked | final:
                axis = unit_axis(self._inventory.layers[name])
                notes.enter(Entering(call, name, axis, giver not in norms), tensor)

    def _enter_norm(self, notes: Notes, call: str, name: str, tensor: Any) -> None:
        norm = self._inventory.batch_norms[name]
        epsilon = float(attribute(norm.layer, "epsilon", 0.0))
        notes.enter(NormInput(call, name, tuple(norm.axes), epsilon), tensor)

    def _of_parts(self, call_log: CallLog) -> set[str]:
        """The calls that gave what the models in a model gave.

        A GAN's step calls its generator and its discriminator, not the model as a
        whole; and a model's own `call` may compute further than its last layer.
        """
        parts = [x for x in children(self._model) if isinstance(x, keras.Model)]
        layers = self._inventory.layers.items()
        names = {name for name, x in layers if any(x is part for part in parts)}
        return call_log.giving_as(names)


def cells_of(inventory: Inventory) -> Iterator[str]:
    """Names of the cells of recurrent layers, and of the layers in them."""
    found = [x for x in inventory.layers.values() if isinstance(x, keras.layers.RNN)]
    cells = [x.cell for x in found]
    for one in cells:  # which grows
        cells += children(one)
    names = {id(layer): name for name, layer in inventory.layers.items()}
    yield from (names[id(one)] for one in cells if id(one) in names)


def _is_kernel(gradient: Any) -> bool:
    shape = getattr(gradient, "shape", None)
    rank = getattr(shape, "rank", None) if hasattr(shape, "rank") else len(shape or ())
    return rank is not None and rank > 1


def _loss_of(call_log: CallLog, batch: Any) -> Any:
    """The step's loss, if it is that of the batch as it came."""
    if len(call_log.losses) != 1:
        return None
    ((loss, of, _),) = call_log.losses
    leaves = tree.flatten(batch)
    return loss if all(any(x is leaf for leaf in leaves) for x in of) else None


def given_by(batch: Any) -> Iterator[tuple[Subject, Any]]:
    """What a batch holds: inputs and targets by their name, else by their place."""
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    for kind, name, part in zip((Input, Target), ("x", "y"), parts, strict=False):
        for path, leaf in tree.flatten_with_path(part):
            if leaf is not None:
                is_whole = "int" in str(getattr(leaf, "dtype", ""))
                yield kind("/".join(map(str, path)) or name, is_whole), leaf


def offered(
    notes: Notes, whole: Callable[[str], Any], weights: Mapping[str, Any]
) -> Tensors:
    """What a signal of the user's own may ask for; `whole`: a tensor by its key."""

    def named(kind: type[Subject]) -> Named:
        return Named(
            {
                one.name: functools.partial(whole, key)
                for key, one in notes.subjects.items()
                if isinstance(one, kind)
            }
        )

    make = keras.ops.convert_to_tensor
    makers = {path: functools.partial(make, x) for path, x in weights.items()}
    return Tensors(named(Output), named(Gradient), Named(makers))


def whole_of(subject: Subject, replicas: Sequence[Any]) -> Any:
    """One tensor of those of replicas: all examples, or the gradient by all."""
    if len(replicas) == 1:
        return replicas[0]
    if isinstance(subject, Gradient):
        return functools.reduce(keras.ops.add, replicas)
    return keras.ops.concatenate(replicas, axis=0)
