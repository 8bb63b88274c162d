"""What a look reads of a traced step: the part that gives it, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ..signals.own import Function, evaluate
from ..signals.subjects import Gradient, Subject
from .inventory import Inventory
from .notes import offered, whole_of
from .optimizers import loss_scale, unscaled
from .pruned import PrunedStep
from .reduction import Reduction, is_safe, to_arrays
from .tensors import dense
from .traced_step import Trace

OWN = "own:"  # before the names of the user's own signals


class Pruned:
    """The part of a traced step that shows what one monitor is granted."""

    def __init__(
        self,
        trace: Trace,
        inventory: Inventory,
        granted: Mapping[str, Subject],
        sample_size: int,
        jit_compile: bool,
        signals: tuple[Function, ...],
    ) -> None:
        self.reduction = Reduction(granted, sample_size)
        self.failed: dict[str, Exception] = {}  # of the user's own signals
        self._signals = signals
        self._trace = trace
        self._inventory = inventory
        self._jit_compile = jit_compile
        self._step = self._pruned([*granted], self.reduction.inside, signals)
        self._again: tuple[list[str], Any] = [], None  # what was read whole, and how

    def is_of(self, trace: Trace, inventory: Inventory) -> bool:
        """Whether it is of this trace, and of the model as it is."""
        return trace is self._trace and inventory is self._inventory

    def __call__(self, batch: Sequence[Any]) -> dict[str, list[Any]]:
        """What a step on this batch gives, of each replica: arrays, or `Reduced`."""
        scales = self._scales()
        given = to_arrays(self._step(batch, scales))
        # NaN, Inf, or more than float32 can square: to be read whole.
        again = [key for key, x in given.items() if not all(map(is_safe, x))]
        if again:
            if again != self._again[0]:
                step = self._pruned(again, lambda key, tensor: tensor)
                self._again = again, step
            given |= to_arrays(self._again[1](batch, scales))
        return given

    def own(self, given: dict[str, list[Any]]) -> dict[str, Any]:
        """What the user's own signals returned; takes it out of what a step gave."""
        names = [x.__name__ for x in self._signals if x.__name__ not in self.failed]
        return {name: given.pop(OWN + name)[0] for name in names}

    def _pruned(
        self,
        keys: Sequence[str],
        reduce: Callable[[str, Any], Any],
        signals: tuple[Function, ...] = (),
    ) -> PrunedStep:
        notes = self._trace.notes
        names = {
            (key, replica, part): name
            for key in dict.fromkeys([*keys, *(notes.tensors if signals else ())])
            for replica, parts_ in enumerate(notes.tensors[key])
            for part, name in enumerate(parts_)
        }

        def finish(parts: Mapping[Any, Any], scales: Mapping[str, Any]) -> Any:
            """In the graph: what is given of each replica's tensor."""
            given = {key: self._tensors(key, parts, scales.get(key)) for key in keys}
            found = {key: [reduce(key, x) for x in given[key]] for key in keys}
            if not signals:
                return found

            def whole(key: str) -> Any:
                replicas = self._tensors(key, parts, scales.get(key))
                return whole_of(notes.subjects[key], replicas)

            tensors = offered(notes, whole, self._inventory.weights)
            own = evaluate(signals, tensors, self.failed)
            return found | {OWN + name: [x] for name, x in own.items()}

        return PrunedStep(self._trace.graph, names, finish, self._jit_compile)

    def _tensors(self, key: str, parts: Mapping[Any, Any], scale: Any) -> list[Any]:
        """A subject's tensors, dense, one for each replica."""
        replicas = [
            dense([parts[key, replica, i] for i in range(len(names))])
            for replica, names in enumerate(self._trace.notes.tensors[key])
        ]
        subject = self._trace.notes.subjects[key]
        if isinstance(subject, Gradient):  # each replica has that of its part
            replicas = [unscaled(whole_of(subject, replicas), scale)]
        return replicas

    def _scales(self) -> dict[str, Any]:
        """By key of a gradient, what its loss is multiplied by in this step."""
        by_optimizer: dict[int, Any] = {}
        found = {}
        for key, optimizer in self._trace.notes.scales.items():
            if key in self.reduction.subjects or self._signals:
                if id(optimizer) not in by_optimizer:
                    scale = loss_scale(optimizer)
                    by_optimizer[id(optimizer)] = scale
                if by_optimizer[id(optimizer)] is not None:
                    found[key] = tf.cast(by_optimizer[id(optimizer)], tf.float32)
        return found
