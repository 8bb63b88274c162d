"""How a training step is looked at on TensorFlow."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from kbn.private import keras as private

from . import batches as host
from .batches import (
    DATA_ENDS,
    HandBack,
    flat,
    is_of_fit,
    spec_of,
    take_batch,
    without_optionals,
)
from .evaluation import LossEvaluation, python_state_kept
from .inventory import Contents
from .looker import Looker
from .looker import leaving as leaving
from .notes import Noter, Notes
from .optimizers import loss_scale
from .probe import Asked, Recorded, Seen
from .traced_step import Pruned, Trace, TracedLosses, TrainStep, graph_here

as_array = host.as_array
STEP = "_kbn_step"  # kept on the training function, as the probe is
MANY = 2**18  # elements that are worth a thread to read them


def is_first_process() -> bool:
    """See `probe.backend`: the chief, else the first worker."""
    cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    has_chief = "chief" in cluster.cluster_spec().jobs
    first = "chief" if has_chief else "worker"
    return cluster.task_type in (None, first) and not cluster.task_id


def device() -> str:
    """On what TensorFlow computes."""
    for one in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(one)
        return str(details.get("device_name", "GPU"))
    return "CPU"


class Probe(Looker):
    """Looks at training steps of one model: see `probe.Probe`.

    On a step that is due, the part of the traced step that gives what is asked runs on
    the same batch, with the same weights and seeds; then the step itself, as ever. A
    step that runs eagerly is noted while it runs.
    """

    data_ends = DATA_ENDS
    within = (
        "a tf.function of its own. It logs metrics, weights and batch norm; without "
        "that decorator it logs all."
    )

    def __init__(
        self, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> None:
        super().__init__(model, asked, contents, say)
        self._evaluation = LossEvaluation(model, TracedLosses(model))
        self._hand_back = HandBack(model.distribute_strategy)
        self._pruned: dict[int, Pruned] = {}
        self._step: TrainStep | None = None
        self._traced_for: list[Any] = []
        self._hands_over = private.hands_over_batches(model)
        self.function = self._hooked(model.train_function)
        self.open()

    def _hooked(self, function: Any) -> Any:
        """The training function, made anew to note its traces if it has none yet."""
        if self._is_blind:
            return function
        self._step = getattr(function, STEP, None)
        if self._step is None:
            self._step = TrainStep(self._model)
            if private.was_traced(function) is False:
                function = self._made_with(self._step)
            with contextlib.suppress(AttributeError):  # as above
                setattr(function, STEP, self._step)
        return function

    def _made_with(self, step: Any) -> Any:
        model = self._model
        own = vars(model).get("train_step")  # past its class
        model.train_function = None
        object.__setattr__(model, "train_step", step)
        try:
            model.make_train_function()
        finally:
            object.__delattr__(model, "train_step")
            if own is not None:
                object.__setattr__(model, "train_step", own)
        return model.train_function

    def open(self) -> None:
        """Note what is traced from now on."""
        if self._step is not None:
            self._step.noter = Noter(self._model, graph_here, _scale)

    def close(self) -> None:
        """Note no more."""
        if self._step is not None:
            self._step.noter = None

    def steps(self, iterator: Any) -> int:
        """See `probe.Probe`; `train_on_batch` hands over a generator of one batch."""
        return self._model.steps_per_execution if is_of_fit(iterator) else 0

    def record(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Recorded | None]:
        """See `probe.Probe`; the iterator of `fit` may give its batches to a graph."""
        (source,) = given
        recorded = Recorded(iter(()) if is_of_fit(source) else source)
        if not is_of_fit(source):
            return (recorded,), recorded
        if not self._hands_over:
            return given, None
        recorded.last = take_batch(source)
        return (given if recorded.last is None else ([recorded.last],)), recorded

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; of a GPU, TensorFlow does not tell."""
        is_there = "GPU" not in getattr(loss, "device", "")
        return float(loss) if waits or is_there else None

    # --- a step that is due ---

    def look(
        self, evaluates: bool, notes: Callable[[], None], iterator: Any
    ) -> tuple[Any, Seen]:
        """See `probe.Probe`."""
        self._begin(notes)
        if self._is_blind:
            return self.function(iterator), Seen()
        in_graph = not (self._model.run_eagerly or self._hands_over)
        if in_graph and is_of_fit(iterator):
            self._trace_for(iterator)
        batches = self._taken(iterator)
        if not batches:
            # It has to see the end itself: tried on an exhausted iterator, it still
            # advances the seeds of dropout.
            return self.function(iterator), Seen()
        seen = Seen(batch_size=self._reader.batch_size(batches[0]))
        evaluated = None
        if evaluates and self._wishes.wants_evaluation:
            evaluated = self._evaluation(without_optionals(batches[0]))
        if self._model.run_eagerly:
            logs = self._noted_step(batches, seen)
        else:
            logs = self._probed_step(batches, iterator, seen)
        return self._finished(logs, seen, evaluated)

    def _taken(self, iterator: Any) -> list[Any]:
        """The batches of one call: fewer than it could take, at the end of the data."""
        if not is_of_fit(iterator):
            return [next(iter(iterator))]
        taken = []
        for _ in range(self._model.steps_per_execution):
            batch = take_batch(iterator)
            if batch is None:
                break
            taken.append(batch)
        return taken

    def _handed_back(self, batches: Sequence[Any], iterator: Any) -> Any:
        if not is_of_fit(iterator):
            return iter(batches)
        return self._hand_back(batches, iterator, self._model.steps_per_execution)

    # --- in a graph ---

    def _trace_for(self, iterator: Any) -> None:
        """Trace the training function for such batches, without running it.

        As Keras does, before the first batch is taken: layers draw the seeds of their
        weights when they are built, so in the trace, and data that shuffle draw theirs
        when they are asked for a batch, all from the same generator.
        """
        spec = iterator.element_spec
        if spec in self._traced_for:
            return
        self._traced_for.append(spec)
        for function in private.traced_functions(self.function)[:1]:
            function.get_concrete_function(iterator)
        self._note_what_is_built()

    def _probed_step(self, batches: Sequence[Any], iterator: Any, seen: Seen) -> Any:
        found: list[Any] = []
        is_direct = not is_of_fit(iterator)
        self._try_to(lambda: found.extend(self._probe(batches[0], seen, is_direct)))
        with ThreadPoolExecutor(1) as beside:
            # NumPy reduces what was found while TensorFlow trains.
            reading = [beside.submit(read) for read in found]
            logs = self.function(self._handed_back(batches, iterator))
        for one in reading:
            self._try_to(one.result)
        return logs

    def _probe(
        self, batch: Any, seen: Seen, is_direct: bool
    ) -> Iterator[Callable[[], None]]:
        """Run the probe, and read it into `seen`; what takes long is still to be done.

        `is_direct`: the function of one step is called with the batch itself.
        """
        tensors = flat(batch)
        assert self._step is not None, "see _hooked"
        inventory = self._contents.latest(self._model)
        trace = self._step.trace_for(tensors)
        if trace is None and is_direct:
            trace = self._traced(batch, tensors)
        trace = trace or self._own_trace(batch, tensors)
        self._note_what_is_built()
        pruned = self._pruned.get(id(trace))
        if pruned is None or not pruned.is_of(trace, inventory):
            inventory = self._contents.of(self._model)  # the trace may have built it
            granted = self._wishes.granted(trace.notes, inventory)
            sample_size, xla = self._asked.sample_size, self._model.jit_compile
            own = self._asked.signals
            pruned = Pruned(trace, inventory, granted, sample_size, bool(xla), own)
            self._pruned[id(trace)] = pruned
        self._reader.tell_applied(trace.notes, seen)
        given = pruned(tensors)
        seen.own, seen.failed = pruned.own(given), pruned.failed

        def read() -> None:
            self._reader.read(batch, pruned.reduction, given, seen)

        if sum(x.size for replicas in given.values() for x in replicas) < MANY:
            read()  # the threads would wait for one another
        else:
            yield read

    def _traced(self, batch: Any, tensors: Sequence[Any]) -> Trace | None:
        """The step, traced as a call with this batch would; None: it was before."""
        assert self._step is not None, "see _hooked"
        for function in private.traced_functions(self.function)[1:]:
            function.get_concrete_function(without_optionals(batch))
        return self._step.trace_for(tensors)

    def _own_trace(self, batch: Any, tensors: Sequence[Any]) -> Trace:
        """Of a step that was traced before anybody watched: its Python runs once more.

        Only here; what that changes in the model's objects is put back.
        """
        assert self._step is not None, "see _hooked"
        strategy, step = self._model.distribute_strategy, self._step

        @tf.autograph.experimental.do_not_convert
        def one_step(data: Any) -> Any:
            return strategy.run(step, args=(data,))

        step.is_only_seen = True
        try:
            with python_state_kept(self._model):
                self._kept = tf.function(one_step).get_concrete_function(spec_of(batch))
        finally:
            step.is_only_seen = False
        trace = step.trace_for(tensors)
        if trace is None:
            raise RuntimeError("its train_step was not called")
        return trace

    # --- eagerly ---

    def _noted_step(self, batches: Sequence[Any], seen: Seen) -> Any:
        first, *rest = [without_optionals(batch) for batch in batches]
        notes = Notes()
        known = self._contents.of(self._model).weights if self._asked.signals else {}
        before = {path: tf.convert_to_tensor(weight) for path, weight in known.items()}
        if self._model.distribute_strategy.num_replicas_in_sync == 1:
            # Replicas cannot read each other's variables.
            notes.before_apply = self._note_what_is_built
        assert self._step is not None, "see _hooked"
        self._step.eager_notes = notes
        try:
            logs = self.function([first])
        finally:
            self._step.eager_notes = None
        self._try_to(lambda: self._reader.read_eagerly(first, notes, before, seen))
        return self.function(rest) if rest else logs


make = Probe.kept


def scratch_graph() -> Any:
    """The graph in which Keras calls layers that it builds: no call to note."""
    graph = graph_here()
    return graph if private.is_scratch(graph) else None


def _scale(optimizer: Any) -> Any:
    """What is noted of the scale of a loss: a graph is to get no op for it."""
    is_eager = tf.executing_eagerly()
    return loss_scale(optimizer) if is_eager else optimizer
