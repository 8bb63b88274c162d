"""How a training step is looked at on TensorFlow."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from kbn.private import keras as private

from ..signals.own import Function, Named, Tensors, evaluate
from ..signals.reading import EVALUATED
from ..signals.subjects import (
    Gradient,
    Input,
    Loss,
    Output,
    Prediction,
    Subject,
    Target,
)
from . import host
from .batches import (
    DATA_ENDS,
    HandBack,
    batch_size,
    flat,
    is_of_fit,
    parts,
    spec_of,
    take_batch,
    without_optionals,
)
from .evaluation import LossEvaluation
from .inventory import Contents, Inventory
from .notes import Noter, Notes, given_by
from .optimizers import loss_scaling, unscaled
from .probe import Asked, Key, Recorded, Seen
from .pruned import PrunedStep, arguments_of
from .python_state import python_state_kept
from .reduction import Reduced, Reduction, is_safe, names_of
from .targets import Supervision
from .tensors import is_readable, kind_of
from .wishes import Wishes

as_array = host.as_array
# Kept on the training function, and gone with it: tracing is expensive.
STEP, PROBE = "_kbn_step", "_kbn_probe"


def make(
    model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
) -> "Probe":
    """The probe of a model's training function: an earlier fit's, if it can be."""
    kept = getattr(model.train_function, PROBE, None)
    if isinstance(kept, Probe) and kept.is_for(asked, contents):
        kept.open()
        return kept
    made = Probe(model, asked, contents, say)
    with contextlib.suppress(AttributeError):  # a user's own function, of any kind
        setattr(made.function, PROBE, made)
    return made


class TrainStep:
    """Stands for `model.train_step` in the function that Keras makes of it.

    It is the model's own step. While it is traced, and somebody watches, it notes the
    names of the step's tensors. Those stay with the function, for later fits.
    """

    def __init__(self, model: Any) -> None:
        self._step = model.train_step
        self.traces: list[Trace] = []
        self.noter: Noter | None = None
        self.is_only_seen = False  # the trace is none that will train
        functools.update_wrapper(self, self._step, updated=())

    def __call__(self, data: Any) -> Any:
        """Train on this replica's part of a batch."""
        if self.noter is None or tf.executing_eagerly():
            return self._step(data)
        graph = tf.compat.v1.get_default_graph()
        notes, logs = Notes(), {}
        with self.noter.step(notes, data):
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
            kind = kind_of(tensor)
            if kind is None:
                continue
            try:
                names = [part.name for part in kind.parts(tensor)]
            except Exception as error:  # of a tensor that is none of a graph
                own.hidden.add(f"{notes.subjects[key].name} ({error!r})")
            else:
                own.enter(notes.subjects[key], (names, kind))

    def takes(self, tensors: Sequence[Any]) -> bool:
        """Whether it was traced for such a batch, flat."""
        arguments = arguments_of(self.graph)
        return len(arguments) == len(tensors) and all(
            a.dtype == x.dtype and a.shape.is_compatible_with(x.shape)
            for a, x in zip(arguments, tensors, strict=True)
        )


class Probe:
    """Looks at training steps of one model: see `probe.Probe`.

    On a step that is due, the part of the traced step that gives what is asked runs on
    the same batch, with the same weights and seeds; then the step itself, as ever. A
    step that runs eagerly is noted while it runs.
    """

    data_ends = DATA_ENDS

    def __init__(
        self, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> None:
        self._model = model
        self._asked = asked
        self._say = say
        self._wishes = Wishes(asked)
        self._contents = contents
        self._noter = Noter(model, _graph, scale=None)
        self._evaluation = LossEvaluation(model)
        self._hand_back = HandBack(model.distribute_strategy)
        self._pruned: dict[int, Pruned] = {}
        self._step: TrainStep | None = None
        self._traced_for: list[Any] = []
        self._is_blind = not (self._wishes.wants_tensors or asked.signals)
        self._hands_over = private.hands_over_batches(model)
        self.function = self._hooked(model.train_function)
        self.open()

    def _hooked(self, function: Any) -> Any:
        """The training function, made anew to note its traces if it has none yet."""
        if self._is_blind or self._model.run_eagerly:
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
        model.train_function = None
        object.__setattr__(model, "train_step", step)
        try:
            model.make_train_function()
        finally:
            object.__delattr__(model, "train_step")
        return model.train_function

    def is_for(self, asked: Asked, contents: Contents) -> bool:
        """Whether it looks at what is asked."""
        return asked == self._asked and contents is self._contents

    def open(self) -> None:
        """Note what is traced from now on."""
        if self._step is not None:
            # A graph is to get no op for the scale of the loss.
            self._step.noter = Noter(self._model, _graph, scale=_itself)

    def close(self) -> None:
        """Note no more."""
        if self._step is not None:
            self._step.noter = None

    def steps(self, iterator: Any) -> int:
        """See `probe.Probe`; `train_on_batch` hands over a generator of one batch."""
        return self._model.steps_per_execution if is_of_fit(iterator) else 0

    def attach(self, *given: Any) -> None:
        """Nothing to do: the model has its weights at any time."""

    def settle(self, returned: Any) -> None:
        """See `attach`."""

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

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        return returned if isinstance(returned, dict) else {}

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; of a GPU, TensorFlow does not tell."""
        is_there = "GPU" not in getattr(loss, "device", "")
        return float(loss) if waits or is_there else None

    # --- a step that is due ---

    def look(self, evaluates: bool, iterator: Any) -> tuple[Any, Seen]:
        """See `probe.Probe`."""
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
        seen = Seen(batch_size=batch_size(batches[0]))
        evaluated = None
        if evaluates and self._wishes.wants_evaluation:
            evaluated = self._evaluation(without_optionals(batches[0]))
        if self._model.run_eagerly:
            logs = self._noted_step(batches, seen)
        else:
            logs = self._probed_step(batches, iterator, seen)
        if evaluated is not None:
            evaluated = host.array(evaluated)
            seen.rows = {**seen.rows, (Loss("").key, EVALUATED): evaluated}
        self._tell_what_is_hidden(seen)
        return logs, seen

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

    def _try_to(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # the training goes on with the batch that was taken
            self._is_blind = True
            self._say(
                f"cannot see gradients and activations of {self._model.name!r}: "
                f"{error!r}. It logs metrics, weights and batch norm."
            )

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

    def _probed_step(self, batches: Sequence[Any], iterator: Any, seen: Seen) -> Any:
        found: list[Any] = []
        is_direct = not is_of_fit(iterator)
        self._try_to(lambda: found.append(self._probe(batches[0], seen, is_direct)))
        with ThreadPoolExecutor(1) as beside:
            # NumPy reduces what was found while TensorFlow trains.
            reading = [beside.submit(read) for read in found]
            logs = self.function(self._handed_back(batches, iterator))
        for one in reading:
            self._try_to(one.result)
        return logs

    def _probe(self, batch: Any, seen: Seen, is_direct: bool) -> Callable[[], None]:
        """Run the probe; what it returns is still to be read, into `seen`.

        `is_direct`: the function of one step is called with the batch itself.
        """
        tensors = flat(batch)
        assert self._step is not None, "see _hooked"
        inventory = self._contents.latest(self._model)
        trace = self._step.trace_for(tensors)
        if trace is None and is_direct:
            trace = self._traced(batch, tensors)
        trace = trace or self._own_trace(batch, tensors)
        pruned = self._pruned.get(id(trace))
        if pruned is None or not pruned.is_of(trace, inventory):
            inventory = self._contents.of(self._model)  # the trace may have built it
            granted = self._wishes.granted(trace.notes, inventory)
            sample_size, xla = self._asked.sample_size, self._model.jit_compile
            own = self._asked.signals
            pruned = Pruned(trace, inventory, granted, sample_size, bool(xla), own)
            self._pruned[id(trace)] = pruned
        seen.applied = trace.notes.applied
        given = pruned(tensors)
        seen.own, seen.failed = pruned.own(given), pruned.failed

        def read() -> None:
            self._read(batch, pruned.reduction, {}, pruned.rows(given), seen)
            self._supervise(batch, pruned.reduction.subjects, given, seen)

        return read

    def _traced(self, batch: Any, tensors: Sequence[Any]) -> "Trace | None":
        """The step, traced as a call with this batch would; None: it was before."""
        assert self._step is not None, "see _hooked"
        for function in private.traced_functions(self.function)[1:]:
            function.get_concrete_function(without_optionals(batch))
        return self._step.trace_for(tensors)

    def _own_trace(self, batch: Any, tensors: Sequence[Any]) -> "Trace":
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
        with self._noter.step(notes, first):
            logs = self.function([first])
        self._try_to(lambda: self._read_notes(first, notes, before, seen))
        return self.function(rest) if rest else logs

    def _read_notes(
        self, batch: Any, notes: Notes, before: Mapping[str, Any], seen: Seen
    ) -> None:
        inventory = self._contents.of(self._model)  # the step may have built layers
        granted = self._wishes.granted(notes, inventory)
        arrays = {}
        for key, subject in granted.items():
            replicas = [_dense(x) for x in notes.tensors[key]]
            if isinstance(subject, Gradient):
                total = tf.add_n(replicas) if len(replicas) > 1 else replicas[0]
                replicas = [unscaled(total, notes.scales[key])]
            arrays[key] = [host.array(x) for x in replicas]
        seen.applied = notes.applied
        if self._asked.signals:
            self._tell_own(notes, before, seen)
        reduction = Reduction(granted, self._asked.sample_size)
        self._read(batch, reduction, arrays, {}, seen)
        self._supervise(batch, granted, arrays, seen)

    def _tell_own(self, notes: Notes, weights: Mapping[str, Any], seen: Seen) -> None:
        """What signals of the user's own say of an eager step.

        `weights`: before it.
        """

        def whole(key: str) -> Any:
            x = _whole(notes.subjects[key], [_dense(x) for x in notes.tensors[key]])
            return unscaled(x, notes.scales[key]) if key in notes.scales else x

        tensors = _offered(notes, whole, weights)
        seen.own = evaluate(self._asked.signals, tensors, seen.failed)

    # --- both ---

    def _read(
        self,
        batch: Any,
        reduction: Reduction,
        arrays: Mapping[str, Sequence[Any]],
        rows: Mapping[Key, Any],
        seen: Seen,
    ) -> None:
        subjects = {
            key: one
            for key, one in reduction.subjects.items()
            if not isinstance(one, Prediction)
        }
        arrays = {key: x for key, x in arrays.items() if key in subjects}
        if self._wishes.wants_inputs:
            for given, x in given_by(without_optionals(batch)):
                if all(map(is_readable, map(_tensor, parts(x)))):
                    subjects[given.key] = given
                    arrays[given.key] = [host.array(one) for one in parts(x)]
        reduction = reduction.of(subjects)
        seen.subjects = [*subjects.values()]
        seen.rows = {**rows, **reduction.rows(arrays)}
        self._wishes.hidden |= {
            f"{name} ({reduction.failed[key]!r})"
            for key, name in names_of(reduction.failed, subjects).items()
        }

    def _supervise(
        self,
        batch: Any,
        subjects: Mapping[str, Subject],
        given: Mapping[str, Sequence[Any]],
        seen: Seen,
    ) -> None:
        """Keep what the step's loss was given, where that can be read."""
        outputs = {
            one.path: np.concatenate([*given[key]])
            for key, one in subjects.items()
            if isinstance(one, Prediction)
            and all(isinstance(x, np.ndarray) and x.ndim for x in given[key])
        }
        _, y, weights = keras.utils.unpack_x_y_sample_weight(without_optionals(batch))
        leaves = [part for x in tree.flatten((y, weights)) for part in parts(x)]
        if outputs and all(is_readable(_tensor(x)) for x in leaves if x is not None):
            y, weights = tree.map_structure(_whole_array, (y, weights))
            seen.supervision = Supervision(y, weights, outputs)

    def _tell_what_is_hidden(self, seen: Seen) -> None:
        saw = any(not isinstance(x, Input | Target) for x in seen.subjects)
        if self._is_blind:
            return
        if not saw and not seen.applied:
            self._is_blind = True
            self._say(
                f"sees no gradients and activations of {self._model.name!r}: its "
                "train_step keeps them in a tf.function of its own. It logs metrics, "
                "weights and batch norm; without that decorator it logs all."
            )
        elif self._wishes.hidden:
            self._say(
                f"cannot see all of {self._model.name!r}: tensors inside loops, "
                "conditions and nested functions cannot leave them. It leaves out "
                f"{', '.join(sorted(self._wishes.hidden))}."
            )


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
        given = _arrays(self._step(batch, scales))
        # NaN, Inf, or more than float32 can square: to be read whole.
        again = [key for key, x in given.items() if not all(map(is_safe, x))]
        if again:
            if again != self._again[0]:
                step = self._pruned(again, lambda key, tensor: tensor)
                self._again = again, step
            given |= _arrays(self._again[1](batch, scales))
        return given

    def own(self, given: dict[str, list[Any]]) -> dict[str, Any]:
        """What the user's own signals returned; takes it out of what a step gave."""
        names = [x.__name__ for x in self._signals if x.__name__ not in self.failed]
        return {name: given.pop(OWN + name)[0] for name in names}

    def rows(self, given: Mapping[str, Sequence[Any]]) -> dict[Key, Any]:
        """Rows of what a step gave, see `signals.reading`; predictions have none."""
        subjects = self.reduction.subjects
        return self.reduction.rows(
            {k: x for k, x in given.items() if not isinstance(subjects[k], Prediction)}
        )

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
            for replica, (parts_, _) in enumerate(notes.tensors[key])
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
                return _whole(notes.subjects[key], replicas)

            tensors = _offered(notes, whole, self._inventory.weights)
            own = evaluate(signals, tensors, self.failed)
            return found | {OWN + name: [x] for name, x in own.items()}

        return PrunedStep(self._trace.graph, names, finish, self._jit_compile)

    def _tensors(self, key: str, parts: Mapping[Any, Any], scale: Any) -> list[Any]:
        """A subject's tensors, dense, one for each replica."""
        replicas = []
        for replica, (names, kind) in enumerate(self._trace.notes.tensors[key]):
            tensors = [parts[key, replica, i] for i in range(len(names))]
            replicas.append(kind.dense(tensors))
        if isinstance(self._trace.notes.subjects[key], Gradient):
            # Each replica has the gradient of its part of the batch.
            total = tf.add_n(replicas) if len(replicas) > 1 else replicas[0]
            replicas = [unscaled(total, scale)]
        return replicas

    def _scales(self) -> dict[str, Any]:
        """By key of a gradient, what its loss is multiplied by in this step."""
        by_optimizer: dict[int, Any] = {}
        found = {}
        for key, optimizer in self._trace.notes.scales.items():
            if key in self.reduction.subjects or self._signals:
                if id(optimizer) not in by_optimizer:
                    scale = loss_scaling(optimizer).given(optimizer)
                    by_optimizer[id(optimizer)] = scale
                if by_optimizer[id(optimizer)] is not None:
                    found[key] = tf.cast(by_optimizer[id(optimizer)], tf.float32)
        return found


OWN = "own:"  # before the names of the user's own signals


def _offered(
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

    makers = {k: functools.partial(tf.convert_to_tensor, x) for k, x in weights.items()}
    return Tensors(named(Output), named(Gradient), Named(makers))


def _whole(subject: Subject, replicas: Sequence[Any]) -> Any:
    """One tensor of those of replicas: all examples, or the gradient by all."""
    if len(replicas) == 1:
        return replicas[0]
    is_sum = isinstance(subject, Gradient)
    return tf.add_n(replicas) if is_sum else tf.concat(replicas, axis=0)


def _arrays(given: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What a pruned step gives, as arrays."""
    return {key: [_array(x) for x in replicas] for key, replicas in given.items()}


def _array(x: Any) -> Any:
    if isinstance(x, Reduced):
        rows = {what: np.asarray(row) for what, row in x.rows.items()}
        return Reduced(int(x.size), np.asarray(x.moments), np.asarray(x.sample), rows)
    return np.asarray(x)


def scratch_graph() -> Any:
    """The graph in which Keras calls layers that it builds: no call to note."""
    graph = _graph()
    return graph if private.is_scratch(graph) else None


def _itself(optimizer: Any) -> Any:
    return optimizer


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _dense(tensor: Any) -> Any:
    kind = kind_of(tensor)
    return tensor if kind is None else kind.dense(kind.parts(tensor))


def _whole_array(x: Any) -> Any:
    """Of all replicas."""
    if x is None:
        return None
    arrays = [host.array(part) for part in parts(x)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _tensor(x: Any) -> Any:
    is_composite = isinstance(x, tf.__internal__.CompositeTensor)
    return x if is_composite else tf.convert_to_tensor(x)
