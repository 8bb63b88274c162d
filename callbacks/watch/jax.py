"""How a training step is looked at on JAX."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from kbn.private import keras as private

from ..signals.subjects import Subject
from . import tensors
from .calls import CallLog
from .evaluation import LossEvaluation, python_state_kept
from .inventory import Contents, Inventory
from .jitted import Jitted, Reach, StepNoter, replicated, values_of
from .looker import Looker
from .notes import Notes
from .probe import Asked, Recorded, Seen
from .reduction import to_arrays


def array(x: Any) -> Any:
    """An array of NumPy, whole, without a copy if it can be.

    Of parts in other processes, all have to ask for it together.
    """
    is_here = not isinstance(x, jax.Array) or x.is_fully_addressable
    if not (is_here or x.is_fully_replicated):
        x = process_allgather(x, tiled=True)
    return np.asarray(x)


host = SimpleNamespace(**vars(tensors) | {"array": array})


def as_array(variable: Any) -> Any:
    """A variable as an array."""
    return array(variable.value)


def is_first_process() -> bool:
    """See `probe.backend`."""
    return jax.process_index() == 0


def device() -> str:
    """On what JAX computes."""
    return str(jax.devices()[0].device_kind)


scratch_graph = private.symbolic_scope


@contextlib.contextmanager
def leaving(call_log: CallLog) -> Iterator[None]:
    """See `probe.backend`: a differentiation gives what was noted in it."""
    reach = Reach()
    with reach.open(), reach.differentiating(call_log):
        yield


class Probe(Looker):
    """Looks at training steps of one model: see `probe.Probe`.

    Within an epoch, a model's weights are what a call returns. On a step that is due, a
    jitted function of the same state and batch gives what is asked; then the step runs
    as ever. A step that is not jitted is noted while it runs.
    """

    data_ends = (StopIteration,)
    within = (
        "a function of its own, such as a jax.jit or a grad that was imported by name. "
        "It logs metrics, weights and batch norm; with jax.grad or jax.value_and_grad "
        "it logs all."
    )
    places = "loops, conditions, jax.checkpoint, jax.vmap and an inner jax.jit"

    def __init__(
        self, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> None:
        super().__init__(model, asked, contents, say)
        self.function = model.train_function
        self._evaluation = LossEvaluation(model, self._losses_of)
        self._evaluated: Callable[[Any, Any], Any] | None = None
        self._noter = StepNoter(model)
        self._is_alone = jax.process_count() == 1
        self._jitted: dict[str, tuple[Inventory, Jitted]] = {}
        self._step = private.jax_train_step(self.function)
        self._is_eager = not isinstance(self._step, jax.stages.Wrapped)
        if not self._is_blind and (self._step is None or keras.config.is_nnx_enabled()):
            self._is_blind = True
            say(
                f"sees no gradients and activations of {model.name!r}: its training "
                "function is not Keras' own. It logs metrics, weights and batch norm."
            )

    def steps(self, state: Any, iterator: Any) -> int:
        """See `probe.Probe`; `train_on_batch` hands over a generator of one batch."""
        is_own = private.is_of_train_on_batch(iterator)
        return 0 if is_own else self._model.steps_per_execution

    def attach(self, state: Any, *given: Any) -> None:
        """Let the variables have the values of a state of Keras' trainer."""
        private.attach_jax_state(self._model, state)

    def settle(self, returned: Any) -> None:
        """See `attach`."""
        self.attach(returned[1])

    def record(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Recorded]:
        """See `probe.Probe`."""
        state, iterator = given
        recorded = Recorded(iterator)
        return (state, recorded), recorded

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        logs, _ = returned
        return logs if isinstance(logs, dict) else {}

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; `float(loss)` takes five times as long: JAX 0.10.

        Of several processes, none asks before it waits: all are to know it together.
        """
        is_there = waits or (self._is_alone and loss.is_ready())
        return float(np.asarray(loss)) if is_there else None

    # --- a step that is due ---

    def look(
        self, evaluates: bool, notes: Callable[[], None], state: Any, iterator: Any
    ) -> tuple[Any, Seen]:
        """See `probe.Probe`; before a step all weights are built, and noted."""
        try:
            batch = next(iterator)
        except StopIteration:
            return self.function(state, iterator), Seen()
        seen = Seen(batch_size=self._reader.batch_size(batch))
        if not (self._is_blind or self._is_eager):
            self._try_to(lambda: self._trace_for(state, batch))
        evaluated = None
        if not self._is_blind and evaluates and self._wishes.wants_evaluation:
            self._state = state
            evaluated = self._evaluation(batch)
        if self._is_blind:
            returned = self.function(state, itertools.chain([batch], iterator))
        elif self._is_eager:
            returned = self._noted_step(batch, state, iterator, seen)
        else:
            returned = self._probed_step(batch, state, iterator, seen)
        self.settle(returned)
        return self._finished(returned, seen, evaluated)

    def _trace_for(self, state: Any, batch: Any) -> None:
        """Trace the step for such a batch, as its call would, before anything else is.

        JAX keeps what a `jax.jit` or `jax.checkpoint` inside was traced to, which in
        the next trace is of no use if it holds tensors of the first.
        """
        if _spec_of(batch) not in self._jitted:
            self._step.trace(state, batch)

    def _probed_step(
        self, batch: Any, state: Any, iterator: Any, seen: Seen
    ) -> tuple[Any, Any]:
        found: list[Callable[[], None]] = []
        self._try_to(lambda: found.append(self._probe(batch, state, seen)))
        # Not waited for before: JAX computes both while NumPy reads the first.
        returned = self.function(state, itertools.chain([batch], iterator))
        for read in found:
            self._try_to(read)
        return returned

    def _probe(self, batch: Any, state: Any, seen: Seen) -> Callable[[], None]:
        """Run the probe; what it returns is still to be read, into `seen`."""
        jitted = self._jitted_for(batch, state)
        given, own = jitted(state, batch)
        self._reader.tell_applied(jitted.notes, seen)
        seen.own, seen.failed = own, jitted.failed

        def read() -> None:
            arrays = to_arrays(jax.device_get(given))
            self._reader.read(batch, jitted.reduction, arrays, seen)

        return read

    def _jitted_for(self, batch: Any, state: Any) -> Jitted:
        """The function for such batches, of the model as it is."""
        spec = _spec_of(batch)
        inventory = self._contents.latest(self._model)
        of, jitted = self._jitted.get(spec, (None, None))
        if jitted is None or of is not inventory:
            asked = self._asked
            jitted = Jitted(
                self._model,
                self._noter,
                self._step.__wrapped__,
                self._granted,
                asked.sample_size,
                asked.signals,
                replicated(state),
            )
            self._jitted[spec] = inventory, jitted
        return jitted

    def _granted(self, notes: Notes) -> tuple[Inventory, Mapping[str, Subject]]:
        inventory = self._contents.of(self._model)
        return inventory, self._wishes.granted(notes, inventory)

    def _noted_step(
        self, first: Any, state: Any, iterator: Any, seen: Seen
    ) -> tuple[Any, Any]:
        notes = Notes()
        known = self._contents.of(self._model).weights if self._asked.signals else {}
        before = {path: weight.value for path, weight in known.items()}
        with self._noter.step(notes, first):
            returned = self.function(state, iter([first]))
        self._try_to(lambda: self._reader.read_eagerly(first, notes, before, seen))
        rest = [*itertools.islice(iterator, self._model.steps_per_execution - 1)]
        return self.function(returned[1], iter(rest)) if rest else returned

    def _losses_of(self, loss: Callable[..., Any], batch: Any) -> Any:
        """(1, 1): see `LossEvaluation`."""

        def given(state: Any, batch: Any) -> Any:
            with python_state_kept(self._model):
                return loss(batch, values_of(self._model, state))

        if self._evaluated is None:
            everywhere = replicated(self._state)
            jitted = jax.jit(given, out_shardings=everywhere)
            self._evaluated = given if self._is_eager else jitted
        return keras.ops.reshape(self._evaluated(self._state, batch), (1, 1))


make = Probe.kept


def _spec_of(batch: Any) -> str:
    """The type of batches like this one."""

    def spec(x: Any) -> Any:
        return None if x is None else (str(getattr(x, "dtype", "")), np.shape(x))

    return str(keras.tree.map_structure(spec, batch))
