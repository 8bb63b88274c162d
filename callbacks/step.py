"""A training step that tells what it saw, traced once however many look."""

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from keras import tree

from . import host, measures, probe, statistics
from .activations import activation_of, unit_axis
from .aside import Aside
from .batches import spec_key, without_optionals
from .evaluation import LossEvaluation
from .statistics import Summary, tensor_row


class Wish(Protocol):
    """What a `Twin` has to say when a step is traced."""

    watch: Any
    sample_size: int
    layers: dict[str, probe.Layer]
    norms: dict[str, probe.Layer]

    def find_layers(self) -> None:
        """The layers as they are now."""


@dataclass
class Sketch:
    """What a trace knows of the tensors it gives.

    `owners`: by tag, the layer or variable that it belongs to. `measures`: by tag, the
    tensor that it is computed of, and how. `failed`: tags whose tensor was not to be
    had. `hidden`: layers and optimizers out of reach. `applied`: optimizers.
    """

    owners: dict[str, str] = field(default_factory=dict)
    measures: dict[str, tuple[str, Callable[[Any], Any]]] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    applied: list[str] = field(default_factory=list)


class Seen:
    """The tensors of one step: `rows` reduces those that somebody wants, once each."""

    def __init__(
        self,
        sketch: Sketch,
        whole: Mapping[str, Sequence[Any]],
        inside: Mapping[str, Any],
        evaluated: dict[str, Any],
    ) -> None:
        self.sketch = sketch
        self.evaluated = evaluated
        self._inside = inside  # rows that the step computed
        self._whole = whole  # tensors, of each replica
        self._arrays: dict[str, list[Any]] = {}
        self._made: dict[tuple[int, str], Any] = {}

    def rows(self, tags: Sequence[str], sample_size: int) -> dict[str, Any]:
        """By tag, a Summary or (replicas, row), see `twin.Rows`; notes what failed."""
        found = {}
        parts: dict[str, Any] = {}
        for tag in tags:
            key = sample_size if _is_summary(tag) else 0, tag
            inside = self._inside.get(f"{key[0]}:{tag}")
            if inside is not None:
                found[tag] = inside
            elif tag in self.sketch.failed:
                continue
            elif (source := self._source(tag)) in self.sketch.failed:
                self.sketch.failed[tag] = self.sketch.failed[source]
            elif key in self._made:
                found[tag] = self._made[key]
            elif _is_summary(tag):
                arrays = self._arrays_of(tag)
                parts |= {f"{i}:{tag}": x for i, x in enumerate(arrays)}
            else:
                _, measure = self.sketch.measures[tag]
                try:
                    row = np.stack([measure(x) for x in self._arrays_of(source)])
                except Exception as error:  # no reason for a training to fail
                    self.sketch.failed[tag] = error
                else:
                    found[tag] = self._made[key] = row
        made: dict[str, list[Summary]] = {}
        try:
            for name, one in statistics.summarize_all(parts, sample_size).items():
                made.setdefault(name.partition(":")[2], []).append(one)
        except Exception as error:  # as above
            lost = {name.partition(":")[2] for name in parts}
            self.sketch.failed |= dict.fromkeys(lost, error)
        for tag, summaries in made.items():
            merged = statistics.merge(summaries)
            found[tag] = self._made[sample_size, tag] = merged
        return {tag: found[tag] for tag in tags if tag in found}

    def _source(self, tag: str) -> str:
        """The tensor that a tag is computed of."""
        return self.sketch.measures[tag][0] if tag in self.sketch.measures else tag

    def _arrays_of(self, tag: str) -> list[Any]:
        if tag not in self._arrays:
            self._arrays[tag] = [host.array(x) for x in self._whole[tag]]
        return self._arrays[tag]


class TwinStep:
    """Trains on one batch as the model would, and gives the tensors it saw.

    A second `tf.function` of the same `model.train_step`, compiled as the model's own
    is: real batch, real gradients (unscaled, before clipping), real updates. Layers and
    optimizers are overridden only while it is traced. However many look, it trains
    once; whatever each wants, one trace for a kind of batch shows it to all.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._layers: dict[str, probe.Layer] = {}
        self._norms: dict[str, probe.Layer] = {}
        self._sample_sizes: set[int] = set()
        self._traces: dict[Any, Any] = {}
        self._evaluation = LossEvaluation(model)
        self._thread = threading.local()  # replicas are traced in threads

    def prepare(self, spec: Any, wishes: Sequence[Wish]) -> None:
        """Trace for batches of this spec, before the first of them is taken.

        As Keras does, and for the same bits: layers draw the seeds of their weights
        when they are built, so in the trace, and data that shuffle draw theirs when
        they are asked for a batch, all from the same generator.
        """
        layers, norms = dict(self._layers), dict(self._norms)
        sizes = self._sample_sizes | {wish.sample_size for wish in wishes}
        for wish in wishes:
            # Layers born in build() are missing in the trace.
            wish.find_layers()
            layers |= wish.layers if "activations" in wish.watch else {}
            norms |= wish.norms
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
        sketch, function = self._trace
        with self._watching() if self.model.run_eagerly else contextlib.nullcontext():
            logs, whole, inside = function(batch)
        loss = {} if evaluated is None else {"loss/evaluated": evaluated}
        return logs, Seen(sketch, whole, inside, loss)

    def unseen(self, batch: Any) -> Any:
        """The same training step, unwatched: its logs."""
        if self._unseen_key not in self._traces:
            step = self._traced(
                lambda batch, sketch: (self.model.train_step(batch), {}, {}, {}),
                self._spec,
            )
            self._traces[self._unseen_key] = step
        return self._traces[self._unseen_key][1](batch)[0]

    def _watching(self) -> contextlib.AbstractContextManager[None]:
        """Layers and optimizers overridden, to note what they do meanwhile."""
        return probe.watched(
            self._layers,
            probe.optimizers(self.model),
            lambda: probe.named_weights(self.model),
            lambda: getattr(self._thread, "sight", None),
            self._norms,
            self.model,
        )

    def _traced(self, replica_step: Any, spec: Any) -> tuple[Sketch, Any]:
        """The step on all replicas, compiled as Keras would compile it."""
        model = self.model
        sketch = Sketch()
        one = functools.partial(replica_step, sketch=sketch)
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
                more, rows = self._given(sketch, {tag: gradient})
                whole |= {tag: (x,) for tag, x in more.items()}
                inside |= {tag: row[None] for tag, row in rows.items()}
            return logs, whole, inside

        def unpack_and_step(batch: Any) -> Any:
            return inner(without_optionals(batch))

        inner: Any = step
        if model.run_eagerly:
            return sketch, unpack_and_step

        # Concrete functions are called, here and there: TensorFlow counts the traces of
        # all functions that were born on one line, of all models, and would warn.
        @tf.autograph.experimental.do_not_convert
        def unpack_and_trace(batch: Any) -> Any:
            batch = without_optionals(batch)
            function = tf.function(step, jit_compile=model.jit_compile)
            return function.get_concrete_function(batch)(batch)

        function = tf.function(unpack_and_trace, input_signature=[spec])
        with self._watching():
            return sketch, function.get_concrete_function()

    def _seen_step(self, batch: Any, sketch: Sketch) -> tuple[Any, Any, Any, Any]:
        """On one replica: the logs, tensors, rows and its share of the gradients."""
        with self._sight() as sight:
            logs = self.model.train_step(batch)
        sketch.hidden |= sight.hidden
        sketch.applied[:] = sight.applied
        try:
            return logs, *self._shown(sight, sketch, batch)
        except Exception as error:  # a failed trace would leave variables half made
            sketch.failed |= dict.fromkeys(sketch.owners, error)
            return logs, {}, {}, {}

    def _shown(
        self, sight: probe.Sight, sketch: Sketch, batch: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """On one replica: tensors, rows and its share of the gradients."""
        tensors = self._tensors(sight, sketch, batch)
        scales = {}
        for path, (gradient, scale) in sight.gradients.items():
            tensors[f"gradients/{path}"] = gradient
            sketch.owners[f"gradients/{path}"] = re.sub(r"#\d+$", "", path)
            scales[f"gradients/{path}"] = scale
        copies = Aside().of(tensors, sketch.failed)
        gradients = {
            tag: probe.unscaled(copies.pop(tag), scale)
            for tag, scale in scales.items()
            if tag in copies
        }
        return *self._given(sketch, copies), gradients

    def _tensors(
        self, sight: probe.Sight, sketch: Sketch, batch: Any
    ) -> dict[str, Any]:
        """By tag, what is to be read; enters the tags and measures in the sketch."""
        tensors = {}
        # Of a layer that was hidden once, such as the cell of an LSTM, the rest would
        # be a few calls of many.
        for call, (tensor, name) in sight.activations.items():
            if name in sight.hidden:
                continue
            tag = f"activations/{call}"
            tensors[tag] = tensor
            made = {}
            activation = activation_of(self._layers[name])
            if activation in ("relu", "relu6"):
                made["dead_units"] = functools.partial(_active_row, self._layers[name])
            is_output = any(tensor is output for output in sight.outputs)
            if activation in measures.SATURATED and not is_output:
                made["saturated"] = functools.partial(
                    measures.saturated_row, activation=activation
                )
            sketch.owners[tag] = name
            for kind, measure in made.items():
                sketch.owners[f"health/{kind}/{call}"] = name
                sketch.measures[f"health/{kind}/{call}"] = tag, measure
        for call, (tensor, name) in sight.norm_inputs.items():
            if name in sight.hidden:
                continue
            measure = functools.partial(_moments_row, self._norms[name])
            tensors[f"inputs/{call}"] = tensor
            sketch.owners[f"moments/{call}"] = name
            sketch.measures[f"moments/{call}"] = f"inputs/{call}", measure
        loss = _loss_of(sight, batch)
        if loss is not None:
            tensors["loss"] = loss
            sketch.owners["loss/trained"] = ""
            sketch.measures["loss/trained"] = "loss", _scalar_row
        return tensors

    def _given(
        self, sketch: Sketch, tensors: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensors to give as they are; rows, by sample size and tag, of the others."""
        whole: dict[str, Any] = {}
        rows: dict[str, Any] = {}
        is_host_only = host.is_host_only()
        of: dict[str, list[str]] = {}
        for tag, (source, _) in sketch.measures.items():
            of.setdefault(source, []).append(tag)
        for tag, tensor in tensors.items():
            if is_host_only and not host.is_large(tensor):
                whole[tag] = tensor
                continue
            try:
                made = {}
                if _is_summary(tag):
                    for size in self._sample_sizes:
                        made[f"{size}:{tag}"] = tensor_row(tensor, size)
                for measure in of.get(tag, ()):
                    made[f"0:{measure}"] = sketch.measures[measure][1](tensor)
                rows |= made
            except Exception as error:  # a training is not to fail for its statistics
                sketch.failed |= dict.fromkeys([tag, *of.get(tag, ())], error)
        return whole, rows

    @contextlib.contextmanager
    def _sight(self) -> Iterator[probe.Sight]:
        """Where to note what this replica's thread does meanwhile."""
        self._thread.sight = probe.Sight(_graph)
        try:
            yield self._thread.sight
        finally:
            self._thread.sight = None


def _is_summary(tag: str) -> bool:
    return tag.startswith(("activations/", "gradients/"))


def _loss_of(sight: probe.Sight, batch: Any) -> Any:
    """The step's loss, if it is that of the batch as it came."""
    if len(sight.losses) != 1:
        return None
    ((loss, of),) = sight.losses
    leaves = tree.flatten(batch)
    return loss if all(any(x is leaf for leaf in leaves) for x in of) else None


def _active_row(layer: probe.Layer, x: Any) -> Any:
    return measures.active_row(x, unit_axis(layer))


def _moments_row(layer: probe.Layer, x: Any) -> Any:
    return measures.moments_row(x, probe.axes(layer))


def _scalar_row(loss: Any) -> Any:
    if isinstance(loss, np.ndarray):
        return loss.astype(np.float64).reshape(1)
    return tf.reshape(tf.cast(loss, tf.float64), [1])


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _mean(values: Any) -> Any:
    # As Keras: metrics are the same on every replica, or meant to be averaged.
    return values[0] if len(values) == 1 else tf.reduce_mean(values, axis=0)
