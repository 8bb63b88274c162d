"""A training step that notes its tensors, and the losses of a batch, both traced."""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .batches import flat, spec_of
from .evaluation import python_state_kept
from .notes import Noter, Notes
from .pruned import PrunedStep, arguments_of
from .tensors import dense_parts


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
