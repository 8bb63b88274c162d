"""What a look reads of a training step on JAX, as a function that is jitted."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

from ..signals import statistics
from ..signals.own import Function, evaluate
from ..signals.subjects import Subject
from .differentiation import Reach
from .inventory import Inventory
from .notes import Noter, Notes
from .offered import offered
from .optimizers import loss_scaling, unscaled
from .python_state import python_state_kept, random_state_kept
from .reduction import Reduction

State = Any  # of Keras' trainer: lists of values


class StepNoter:
    """Notes the tensors of a model's training steps on JAX, traced and eager ones."""

    def __init__(self, model: Any) -> None:
        self._reach = Reach()
        self._noter = Noter(model, self._reach.place, _scale)

    @contextlib.contextmanager
    def step(self, notes: Notes, batch: Any) -> Iterator[None]:
        """Note what this thread does meanwhile, a training step on `batch`."""
        with (
            self._reach.open(),
            self._noter.step(notes, batch) as call_log,
            self._reach.differentiating(call_log),
        ):
            yield


class Jitted:
    """The part of a training step that shows what one monitor is granted.

    A pure function of the trainer's state and a batch, which is jitted beside the step
    and donates nothing. `step(state, batch)`: the model's own; `grant(notes)`: the
    subjects to read; `shardings`: of what is given. `notes`, and `failed` of the user's
    own signals, are known once it was called.
    """

    def __init__(
        self,
        model: Any,
        noter: StepNoter,
        step: Callable[[State, Any], Any],
        grant: Callable[[Notes], tuple[Inventory, Mapping[str, Subject]]],
        sample_size: int,
        signals: tuple[Function, ...],
        shardings: Any,
    ) -> None:
        self.notes = Notes()
        self.reduction = Reduction({}, sample_size)
        self.failed: dict[str, Exception] = {}
        self._model = model
        self._noter = noter
        self._step = step
        self._grant = grant
        self._signals = signals
        self._function = jax.jit(self._given, out_shardings=shardings)

    def __call__(self, state: State, batch: Any) -> tuple[Any, Any]:
        """Of a step on this batch, not waited for: see `Pruned`, and `Pruned.own`."""
        found: tuple[Any, Any] = self._function(state, batch)
        return found

    def _given(self, state: State, batch: Any) -> tuple[Any, Any]:
        notes = Notes()
        with (
            python_state_kept(self._model),
            random_state_kept(),
            self._noter.step(notes, batch),
        ):
            self._step(state, batch)
        inventory, granted = self._grant(notes)
        self.reduction = self.reduction.of(granted)
        reduce = functools.partial(
            self.reduction.inside, moments_of=statistics.moments_in_pieces
        )

        def whole(key: str) -> Any:
            (tensor,) = notes.tensors[key]
            return unscaled(tensor, notes.scales.get(key))

        given = {key: [reduce(key, whole(key))] for key in granted}
        own = {}
        if self._signals:
            with keras.StatelessScope(values_of(self._model, state)):
                tensors = offered(notes, whole, inventory.weights)
                own = evaluate(self._signals, tensors, self.failed)
        notes.tensors.clear()  # they are of this trace
        notes.scales.clear()
        self.notes = notes
        return given, own


def replicated(state: State) -> Any:
    """Where a function of this state is to leave what it returns: on each device whole.

    None, wherever it likes, of a state that is on one device: see `jax.jit`.
    """
    found = [getattr(x, "sharding", None) for x in jax.tree.leaves(state)]
    meshes = [x.mesh for x in found if isinstance(x, NamedSharding)]
    return NamedSharding(meshes[0], PartitionSpec()) if meshes else None


def values_of(model: Any, state: State) -> list[tuple[Any, Any]]:
    """The model's variables with their values in a state of the trainer."""
    trainable, non_trainable, *_ = state
    return [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.non_trainable_variables, non_trainable, strict=True),
    ]


def _scale(optimizer: Any) -> Any:
    return loss_scaling(optimizer).given(optimizer)
