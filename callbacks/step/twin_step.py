"""A training step that tells what it saw, traced once however many look."""

import contextlib
import functools
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf
from keras import tree

from ..diagnostics.reading import EVALUATED
from ..diagnostics.subjects import (
    SUMMARY,
    Gradient,
    Input,
    Loss,
    NormInput,
    Output,
    Subject,
)
from ..model.activations import activation_of, unit_axis
from ..model.inventory import BatchNorm, Inventory, Selection
from ..model.layers import attribute
from ..model.optimizers import unscaled
from ..model.seeing import seeing
from ..model.sight import Sight
from ..model.tensors import is_readable
from . import host
from .aside import Aside
from .batches import spec_key, without_optionals
from .evaluation import LossEvaluation
from .seen import Seen, Trace, readings, row_of


class Viewer(Protocol):
    """Who looks at the step: a `Twin`."""

    watch: Any
    sample_size: int

    def selection(self, inventory: Inventory) -> Selection:
        """What it looks at of the model as it is now."""


class TwinStep:
    """Trains on one batch as the model would, and gives the tensors it saw.

    A second `tf.function` of the same `model.train_step`, compiled as the model's own
    is: real batch, real gradients (unscaled, before clipping), real updates. Layers and
    optimizers are overridden only while it is traced. However many look, it trains
    once; whatever each wants, one trace for a kind of batch shows it to all.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._layers: dict[str, Any] = {}
        self._norms: dict[str, BatchNorm] = {}
        self._optimizers: dict[str, Any] = {}
        self._sample_sizes: set[int] = set()
        self._traces: dict[Any, Any] = {}
        self._evaluation = LossEvaluation(model)
        self._thread = threading.local()  # replicas are traced in threads

    def prepare(
        self, spec: Any, viewers: Sequence[Viewer], inventory: Inventory
    ) -> None:
        """Trace for batches of this spec, before the first of them is taken.

        As Keras does, and for the same bits: layers draw the seeds of their weights
        when they are built, so in the trace, and data that shuffle draw theirs when
        they are asked for a batch, all from the same generator.
        """
        self._optimizers = inventory.optimizers
        layers, norms = dict(self._layers), dict(self._norms)
        sizes = self._sample_sizes | {viewer.sample_size for viewer in viewers}
        for viewer in viewers:
            # Layers born in build() are missing in the trace.
            selected = viewer.selection(inventory)
            layers |= selected.layers if "activations" in viewer.watch else {}
            norms |= selected.batch_norms if "batch_norm" in viewer.watch else {}
        if (layers, norms, sizes) != (self._layers, self._norms, self._sample_sizes):
            self._layers, self._norms, self._sample_sizes = layers, norms, sizes
            self._traces.clear()
        key = spec_key(spec), self.model.run_eagerly
        if key not in self._traces:
            self._traces[key] = self._traced(self._seen_step, spec)
        self._trace = self._traces[key]
        self._unseen_key = ("unseen", *key)
        self._spec = spec

    def __call__(self, batch: Any, evaluates: bool) -> tuple[Any, Seen]:
        """The logs of the training step, and what it saw; `evaluates`: both losses.

        `batch` is what `take_batch` returned.
        """
        evaluated = self._evaluation(batch) if evaluates else None
        if self.model.run_eagerly:  # each step may show other tensors
            self._trace = self._traced(self._seen_step, self._spec)
        trace, function = self._trace
        with self._noting() if self.model.run_eagerly else contextlib.nullcontext():
            logs, whole, inside = function(batch)
        loss = {} if evaluated is None else {(Loss("").key, EVALUATED): evaluated}
        return logs, Seen(trace, whole, inside, loss)

    def unseen(self, batch: Any) -> Any:
        """The same training step, unwatched: its logs."""
        if self._unseen_key not in self._traces:
            step = self._traced(
                lambda batch, trace: (self.model.train_step(batch), {}, {}, {}),
                self._spec,
            )
            self._traces[self._unseen_key] = step
        return self._traces[self._unseen_key][1](batch)[0]

    def _noting(self) -> contextlib.AbstractContextManager[None]:
        """Layers and optimizers overridden, to note what they do meanwhile."""
        return seeing(
            self._layers,
            self._optimizers,
            lambda: Inventory(self.model).weights,  # a trace may build the model
            lambda: getattr(self._thread, "sight", None),
            self._norms,
            self.model,
        )

    def _traced(self, replica_step: Any, spec: Any) -> tuple[Trace, Any]:
        """The step on all replicas, compiled as Keras would compile it."""
        model = self.model
        trace = Trace()
        one = functools.partial(replica_step, trace=trace)
        strategy = model.distribute_strategy
        replicas = strategy.experimental_local_results

        @tf.autograph.experimental.do_not_convert
        def step(batch: Any) -> tuple[Any, Any, Any]:
            logs, whole, inside, parts = strategy.run(one, args=(batch,))
            logs = tree.map_structure(lambda x: _mean(replicas(x)), logs)
            whole = {tag: replicas(x) for tag, x in whole.items()}
            inside = {tag: tf.stack(replicas(x)) for tag, x in inside.items()}
            for tag, part in parts.items():
                # Each replica has the gradient of its part of the batch.
                gradient = part
                if len(replicas(part)) > 1:
                    gradient = strategy.reduce("SUM", part, None)
                more, rows = self._given(trace, {tag: gradient})
                whole |= {tag: (x,) for tag, x in more.items()}
                inside |= {tag: row[None] for tag, row in rows.items()}
            return logs, whole, inside

        def unpack_and_step(batch: Any) -> Any:
            return inner(without_optionals(batch))

        inner: Any = step
        if model.run_eagerly:
            return trace, unpack_and_step

        # Concrete functions are called, here and there: TensorFlow counts the traces of
        # all functions that were born on one line, of all models, and would warn.
        @tf.autograph.experimental.do_not_convert
        def unpack_and_trace(batch: Any) -> Any:
            batch = without_optionals(batch)
            function = tf.function(step, jit_compile=model.jit_compile)
            return function.get_concrete_function(batch)(batch)

        function = tf.function(unpack_and_trace, input_signature=[spec])
        with self._noting():
            return trace, function.get_concrete_function()

    def _seen_step(self, batch: Any, trace: Trace) -> tuple[Any, Any, Any, Any]:
        """On one replica: the logs, tensors, rows and its share of the gradients."""
        with self._sight() as sight:
            logs = self.model.train_step(batch)
        trace.hidden |= sight.hidden
        trace.applied[:] = sight.applied
        try:
            return logs, *self._shown(sight, trace, batch, logs)
        except Exception as error:  # a failed trace would leave variables half made
            for subject in trace.subjects.values():
                trace.fail(subject, error)
            return logs, {}, {}, {}

    def _shown(
        self, sight: Sight, trace: Trace, batch: Any, logs: Any
    ) -> tuple[dict[str, Any], dict[Any, Any], dict[str, Any]]:
        """On one replica: tensors, rows and its share of the gradients."""
        tensors = self._tensors(sight, trace, batch)
        scales = {}
        for name, (gradient, scale) in sight.gradients.items():
            path = re.sub(r"#\d+$", "", name)
            subject = Gradient(name, path, _is_kernel(gradient))
            trace.subjects[subject.key] = subject
            tensors[subject.key] = gradient
            scales[subject.key] = scale
        lost: dict[str, Exception] = {}
        copies = Aside(logs).of(tensors, lost)
        for key, error in lost.items():
            trace.fail(trace.subjects[key], error)
        gradients = {
            key: unscaled(copies.pop(key), scale)
            for key, scale in scales.items()
            if key in copies
        }
        return *self._given(trace, copies), gradients

    def _tensors(self, sight: Sight, trace: Trace, batch: Any) -> dict[str, Any]:
        """By key of its subject, what is to be read; enters the subjects."""
        tensors = {}

        def enter(subject: Subject, tensor: Any) -> None:
            trace.subjects[subject.key] = subject
            tensors[subject.key] = tensor

        # Of a layer that was hidden once, such as the cell of an LSTM, the visible
        # calls would be an arbitrary subset.
        for call, (tensor, name) in sight.activations.items():
            if name not in sight.hidden:
                layer = self._layers[name]
                is_final = any(tensor is output for output in sight.outputs)
                about = activation_of(layer), unit_axis(layer), is_final
                enter(Output(call, name, *about), tensor)
        for call, (tensor, name) in sight.norm_inputs.items():
            if name not in sight.hidden:
                try:
                    axes = tuple(self._norms[name].axes)
                except Exception as error:  # a user's layer may mean anything by it
                    trace.hidden.add(f"moments of {call} ({error!r})")
                else:
                    epsilon = attribute(self._norms[name].layer, "epsilon", 0.0)
                    enter(NormInput(call, name, axes, float(epsilon)), tensor)
        for name, x in _inputs(batch).items():
            enter(Input(name), x)
        loss = _loss_of(sight, batch)
        if loss is not None:
            enter(Loss(""), loss)
        return tensors

    def _given(
        self, trace: Trace, tensors: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[tuple[str, str, int], Any]]:
        """Tensors to give as they are; rows, by key and sample size, of the others."""
        whole: dict[str, Any] = {}
        rows: dict[tuple[str, str, int], Any] = {}
        is_host_only = host.is_host_only()
        for key, tensor in tensors.items():
            if is_host_only and not host.is_large(tensor):
                whole[key] = tensor
                continue
            subject = trace.subjects[key]
            try:
                rows |= {
                    (key, what, size): row_of(subject, what, tensor, size)
                    for what in readings(subject)
                    for size in (self._sample_sizes if what == SUMMARY else (0,))
                }
            except Exception as error:  # a training is not to fail for its statistics
                trace.fail(subject, error)
        return whole, rows

    @contextlib.contextmanager
    def _sight(self) -> Iterator[Sight]:
        """Where to note what this replica's thread does meanwhile."""
        self._thread.sight = Sight(_graph)
        try:
            yield self._thread.sight
        finally:
            self._thread.sight = None


def _is_kernel(gradient: Any) -> bool:
    rank = gradient.shape.rank
    return rank is not None and rank > 1


def _inputs(batch: Any) -> dict[str, Any]:
    """What the model is given, by name: that of a dictionary, else the place in x."""
    x, *_ = batch if isinstance(batch, tuple | list) else (batch,)
    named = {
        "/".join(map(str, path)) or "x": leaf
        for path, leaf in tree.flatten_with_path(x)
    }
    return {name: leaf for name, leaf in named.items() if is_readable(leaf)}


def _loss_of(sight: Sight, batch: Any) -> Any:
    """The step's loss, if it is that of the batch as it came."""
    if len(sight.losses) != 1:
        return None
    ((loss, of),) = sight.losses
    leaves = tree.flatten(batch)
    return loss if all(any(x is leaf for leaf in leaves) for x in of) else None


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _mean(values: Any) -> Any:
    # As Keras: metrics are the same on every replica, or meant to be averaged.
    return values[0] if len(values) == 1 else tf.reduce_mean(values, axis=0)
