"""What a look reads of a step on JAX: out of its differentiation, jitted."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import keras
from jax.sharding import NamedSharding, PartitionSpec

from kbn.private.jax import trace_here
from kbn.private.keras import symbolic_scope

from ..signals import statistics
from ..signals.own import Function, evaluate
from ..signals.subjects import Subject
from .calls import CallLog
from .evaluation import python_state_kept, random_state_kept
from .inventory import Inventory
from .notes import Noter, Notes, offered
from .optimizers import loss_scale, unscaled
from .reduction import Reduction

HERE = object()  # the place of all that is in reach
# For all threads: what is replaced is JAX's own.
_replacing = threading.RLock()


class Reach:
    """The transformations of JAX out of which tensors can be had, in one thread.

    A tensor born in a transformation cannot leave it but as an output. A function that
    is differentiated may have more outputs than its value (`has_aux`), so what is noted
    in it is one of them. Loops, conditions, `jax.checkpoint`, `jax.vmap` and an inner
    `jax.jit` have none to spare, and neither has a `grad` that a module has imported by
    name: nothing in them is noted.
    """

    def __init__(self) -> None:
        self._reached: list[Any] = []

    def place(self) -> object:
        """Where the caller is: `HERE`, in reach, or elsewhere. See `CallLog`."""
        trace = trace_here()
        return symbolic_scope() or (HERE if trace in self._reached else trace)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Reach the transformation that the caller is in, for a while."""
        self._reached.append(trace_here())
        try:
            yield
        finally:
            self._reached.pop()

    @contextlib.contextmanager
    def differentiating(self, call_log: CallLog) -> Iterator[None]:
        """Have what this thread notes in a differentiation leave it, for a while."""
        thread = threading.get_ident()
        value_and_grad, grad = jax.value_and_grad, jax.grad

        def is_reached() -> bool:
            return threading.get_ident() == thread and self.place() is HERE

        @functools.wraps(value_and_grad)
        def noted_value_and_grad(
            fun: Any, argnums: Any = 0, has_aux: bool = False, **options: Any
        ) -> Any:
            usual = value_and_grad(fun, argnums, has_aux, **options)
            noted = functools.partial(self._noted, call_log, fun, has_aux)
            differentiated = value_and_grad(noted, argnums, True, **options)

            @functools.wraps(usual)
            def call(*args: Any, **kwargs: Any) -> Any:
                if not is_reached():
                    return usual(*args, **kwargs)
                (value, (aux, tensors)), gradient = differentiated(*args, **kwargs)
                call_log.exchange(tensors)
                return ((value, aux) if has_aux else value), gradient

            return call

        @functools.wraps(grad)
        def noted_grad(
            fun: Any, argnums: Any = 0, has_aux: bool = False, **options: Any
        ) -> Any:
            both = noted_value_and_grad(fun, argnums, has_aux, **options)

            @functools.wraps(grad(fun, argnums, has_aux, **options))
            def call(*args: Any, **kwargs: Any) -> Any:
                value, gradient = both(*args, **kwargs)
                return (gradient, value[1]) if has_aux else gradient

            return call

        with _replacing:
            jax.value_and_grad, jax.grad = noted_value_and_grad, noted_grad
            try:
                yield
            finally:
                jax.value_and_grad, jax.grad = value_and_grad, grad

    def _noted(
        self,
        call_log: CallLog,
        fun: Callable[..., Any],
        has_aux: bool,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """What a function returns, and the tensors that were noted in it."""
        with self.open():
            returned = fun(*args, **kwargs)
        value, aux = returned if has_aux else (returned, None)
        return value, (aux, call_log.tensors())


State = Any  # of Keras' trainer: lists of values


class StepNoter:
    """Notes the tensors of a model's training steps on JAX, traced and eager ones."""

    def __init__(self, model: Any) -> None:
        self._reach = Reach()
        self._noter = Noter(model, self._reach.place, loss_scale)

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
