"""What a model's training function was traced to train, and what it trains since."""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from kbn.private import keras as private

from ..model.inventory import Inventory
from ..model.layers import children
from .batches import ITERATORS


class Traced:
    """Keras' training function, with what was trainable when it was traced.

    It trains that for ever, whatever is frozen later without compiling again; and so
    has a second trace of the same training step.
    """

    def __init__(self, model: Any, original: Any, iterator: Any) -> None:
        """Before its first call of a `fit`, with this iterator."""
        self._model = model
        self._original = original
        self._is_traced = True
        self._state: Trainable | None = None
        functions = private.traced_functions(original)
        if not functions:  # run eagerly: as things are at each step
            return
        self._is_traced = any(map(_traces, functions))
        spec = getattr(iterator, "element_spec", None)
        known = _KNOWN.setdefault(original, [])
        for other, state in known:
            if other == spec:
                self._state = state
                return
        self._state = self._first_state(functions, iterator)
        known.append((spec, self._state))

    def call(self, iterator: Any) -> Any:
        """Call it; its first call is in the state that it is known to have."""
        if self._is_traced:
            return self._original(iterator)
        with self.state_in_force():
            logs = self._original(iterator)
        self._is_traced = True
        return logs

    @contextlib.contextmanager
    def state_in_force(self) -> Iterator[None]:
        """The model as it was when the function was traced."""
        if self._state is None or self._state.is_in_force():
            yield
            return
        now = Trainable(self._model)
        self._state.put_in_force()
        try:
            yield
        finally:
            now.put_in_force()

    def _first_state(self, functions: list[Any], iterator: Any) -> "Trainable":
        """As it is now, or as it was compiled, whichever the optimizer was built for.

        Before the first trace for such an iterator, as it is now.
        """
        now = Trainable(self._model)
        if self._is_traced and isinstance(iterator, ITERATORS):
            # The first takes the iterator. Its trace is due anyway.
            outer = functions[0]
            before = _traces(outer)
            outer.get_concrete_function(iterator)
            if _traces(outer) > before:
                return now
        if not self._is_traced:
            return now
        trained = _built_for(self._model)
        compiled = private.compiled_trainable_state(self._model)
        if compiled is None:  # the optimizer alone remembers
            return _training(self._model, trained) if trained else now
        then = Trainable(self._model, compiled)
        for state in (then, now):
            if trained == state.variables(self._model):
                return state
        return then


class Trainable:
    """Which layers and variables of a model are trainable: `flags` or as they are.

    `trained`: the ids of the variables that are; with flags alone, variables follow
    their layers. Holds none of them: what is known of a training function must not
    keep its model.
    """

    def __init__(
        self,
        model: Any,
        flags: dict[Any, bool] | None = None,
        trained: set[int] | None = None,
    ) -> None:
        layers = _parents_first(model)
        flagged = [(x, bool((flags or {}).get(x, x.trainable))) for x in layers]
        if trained is not None:
            flagged += [(x, id(x) in trained) for x in model.variables]
        elif flags is None:
            flagged += [(x, x.trainable) for x in model.variables]
        self._flags = [(weakref.ref(thing), flag) for thing, flag in flagged]

    def _still_there(self) -> list[tuple[Any, bool]]:
        alive = ((reference(), flag) for reference, flag in self._flags)
        return [(thing, flag) for thing, flag in alive if thing is not None]

    def is_in_force(self) -> bool:
        """Whether the model is in this state."""
        return all(thing.trainable == flag for thing, flag in self._still_there())

    def put_in_force(self) -> None:
        """Set it."""
        for thing, flag in self._still_there():
            if thing.trainable != flag:
                thing.trainable = flag

    def variables(self, model: Any) -> set[int]:
        """Ids of the variables that train in this state."""
        now = Trainable(model)
        self.put_in_force()
        try:
            return {id(x) for x in model.trainable_variables}
        finally:
            now.put_in_force()


# By training function: the type of its batches, and the state of that trace.
_KNOWN: weakref.WeakKeyDictionary[Any, list[tuple[Any, Trainable]]] = (
    weakref.WeakKeyDictionary()
)


def _built_for(model: Any) -> set[int]:
    """Ids of the variables that its optimizers were built for, at their first step."""
    return {
        id(variable)
        for optimizer in Inventory(model).optimizers.values()
        for variable in private.optimizer_variables(optimizer)
    }


def _training(model: Any, trained: set[int]) -> Trainable:
    """Such that these variables train, and the layers that have some of them."""
    having = [layer for layer in _parents_first(model) if layer.variables]
    flags = {layer: any(id(x) in trained for x in layer.variables) for layer in having}
    return Trainable(model, flags, trained)


def _traces(function: Any) -> int:
    count: int = function.experimental_get_tracing_count()
    return count


def _parents_first(model: Any) -> list[Any]:
    """All layers, each after those it is in: setting one sets those in it."""
    done: dict[int, Any] = {}

    def visit(layer: Any) -> None:
        if id(layer) in done or not isinstance(layer, keras.Layer):
            return
        done[id(layer)] = None
        for child in children(layer):
            visit(child)
        done[id(layer)] = done.pop(id(layer)) or layer

    visit(model)
    return [*done.values()][::-1]
