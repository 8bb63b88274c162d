"""A training step that notes its tensors; the part of it that a look reads; losses."""

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from ..signals.own import Function, evaluate
from ..signals.subjects import Gradient, Subject
from .batches import flat, spec_of
from .evaluation import python_state_kept
from .inventory import Inventory
from .notes import Noter, Notes, offered, whole_of
from .optimizers import loss_scale, unscaled
from .pruned import PrunedStep, arguments_of
from .reduction import Reduction, is_safe, to_arrays
from .tensors import dense, dense_parts


class TrainStep:
    """Stands for `model.train_step` in the function that Keras makes of it.

    It is the model's own step, and each replica calls it, in a thread of its own. While
    it is traced, and somebody watches, it notes the names of the step's tensors. Those
    stay with the function, for later fits. Run eagerly, it notes what a look asks for.
    """

    def __init__(self, model: Any) -> None:
        self._step = model.train_step
        self.traces: list[Trace] = []
        self.noter: Noter | None = None
        self.eager_notes: Notes | None = None  # of a step that is looked at
        self.is_only_seen = False  # the trace is none that will train
        functools.update_wrapper(self, self._step, updated=())

    def __call__(self, data: Any) -> Any:
        """Train on this replica's part of a batch."""
        noter, asked, graph = self.noter, self.eager_notes, graph_here()
        if noter is not None and graph is not None:
            return self._traced(data, noter, graph)
        if noter is not None and asked is not None:
            with noter.step(asked, data):
                return self._step(data)
        return self._step(data)

    def _traced(self, data: Any, noter: Noter, graph: Any) -> Any:
        notes, logs = Notes(), {}
        with noter.step(notes, data):
            try:
                logs = self._step(data)
            except Exception:
                # As of an optimizer, for a layer that was frozen when it was built.
                if not self.is_only_seen:
                    raise
        self._trace_of(graph).add(notes)
        return logs

    def trace_for(self, tensors: Sequence[Any]) -> "Trace | None":
        """The youngest that takes such a batch, flat."""
        alive = [x for x in self.traces if x.graph is not None and x.takes(tensors)]
        return alive[-1] if alive else None

    def _trace_of(self, graph: Any) -> "Trace":
        self.traces = [trace for trace in self.traces if trace.graph is not None]
        for trace in self.traces:
            if trace.graph is graph:
                return trace
        self.traces.append(Trace(graph))
        return self.traces[-1]


class Trace:
    """A traced training step, and the names of the tensors that were noted in it."""

    def __init__(self, graph: Any) -> None:
        self._graph = weakref.ref(graph)
        self.notes = Notes()  # each tensor as the names of its parts

    @property
    def graph(self) -> Any:
        """Its FuncGraph; None if TensorFlow has thrown it away."""
        return self._graph()

    def add(self, notes: Notes) -> None:
        """What was noted on one replica."""
        own = self.notes
        own.hidden |= notes.hidden
        own.applied = own.applied or notes.applied
        own.scales |= notes.scales
        for key, (tensor,) in notes.tensors.items():
            parts = dense_parts(tensor)
            if parts is None:
                continue
            try:
                names = [part.name for part in parts]
            except AttributeError as error:  # an eager one, of no graph, has no name
                own.hidden.add(f"{notes.subjects[key].name} ({error!r})")
            else:
                own.enter(notes.subjects[key], names)

    def takes(self, tensors: Sequence[Any]) -> bool:
        """Whether it was traced for such a batch, flat."""
        arguments = arguments_of(self.graph)
        return len(arguments) == len(tensors) and all(
            a.dtype == x.dtype and a.shape.is_compatible_with(x.shape)
            for a, x in zip(arguments, tensors, strict=True)
        )


def graph_here() -> Any:
    """The graph in which the caller is; None if it runs eagerly."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


class TracedLosses:
    """See `LossEvaluation`; variables that are none of Keras' are put back."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._functions: dict[Any, Any] = {}
        self._kept: list[Any] = []

    def __call__(self, loss: Callable[[Any], Any], batch: Any) -> Any:
        """(replicas, 1) float64, a tensor."""
        spec = spec_of(batch)
        key = str(spec)
        if key not in self._functions:
            self._functions[key] = self._traced(loss, spec)
        return self._functions[key](flat(batch), None)

    def _traced(self, loss: Callable[[Any], Any], spec: Any) -> PrunedStep:
        strategy = self._model.distribute_strategy
        names = []

        @tf.autograph.experimental.do_not_convert
        def one(data: Any) -> Any:
            return tf.cast(loss(data), tf.float64)[None]

        @tf.autograph.experimental.do_not_convert
        def losses(batch: Any) -> Any:
            found = strategy.run(one, args=(batch,))
            stacked = tf.stack(strategy.experimental_local_results(found))
            names.append(stacked.name)
            return stacked

        with python_state_kept(self._model):
            function = tf.function(losses).get_concrete_function(spec)
        # Not what the function returns: that waits for all that it does.
        named = {"losses": names[-1]}
        pruned = PrunedStep(function.graph, named, lambda x, _: x["losses"])
        # The bodies of its loops are gone with it: TensorFlow 2.21 ends the process.
        self._kept.append(function)
        if pruned.runs_python:  # it may have a state of its own
            raise ValueError("its call runs a Python function")
        return pruned


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
