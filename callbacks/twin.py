"""The instrumented twin of a Keras model's training step, on TensorFlow."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from keras import tree

from . import measures, probe
from .activations import activation_of, unit_axis
from .aside import aside
from .batches import without_optionals
from .evaluation import LossEvaluation
from .statistics import tensor_row

Rows: TypeAlias = dict[str, Any]  # tag -> (replicas, row)


class Twin:
    """What one monitor wants to see of a model's training steps, and sees of each."""

    def __init__(
        self,
        model: Any,
        train_function: Any,
        watch: Collection[str],
        select: probe.Select,
        sample_size: int,
    ) -> None:
        self.hidden: set[str] = set()
        self.applied: list[str] = []
        # Whether the next step shows the loss of both modes.
        self.evaluates_next = False
        self.model = model
        self._train_function = train_function
        self._watch = watch
        self._select = select
        self._sample_size = sample_size
        self._thread = threading.local()  # replicas are traced in threads
        self._layers: dict[str, probe.Layer] = {}
        self._norms: dict[str, probe.Layer] = {}
        self._evaluation = LossEvaluation(model)
        self._steps: dict[tuple[int, ...], TwinStep] = {}

    def is_of(self, train_function: Any) -> bool:
        """Whether the model was not compiled again since: it has the same function."""
        return self._train_function is train_function

    def step_with(self, others: Sequence["Twin"]) -> "TwinStep":
        """The step that this twin and others look at; kept, for it is dear to trace."""
        twins = [self, *others]
        key = tuple(id(twin) for twin in twins)
        if key not in self._steps:
            self._steps[key] = TwinStep(twins)
        return self._steps[key]

    def find_layers(self) -> dict[str, probe.Layer]:
        """The layers as they are now, for the next trace to watch."""
        self._layers = probe.named_layers(self.model, self._select)
        self._norms = {}
        if "batch_norm" in self._watch:
            norms = probe.batch_norms(self.model, self._select)
            self._norms = {name: self._layers[name] for name in norms}
        return self._layers

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """Layers and optimizers overridden, to note what they do between `begin`s."""
        return probe.watched(
            self._layers if "activations" in self._watch else {},
            probe.optimizers(self.model),
            lambda: probe.named_weights(self.model, self._select),
            lambda: getattr(self._thread, "sight", None),
            self._norms,
            self.model,
        )

    def evaluated(self, batch: Any) -> Rows:
        """The batch's loss in evaluation mode, if that is wanted and can be had."""
        wanted, self.evaluates_next = self.evaluates_next, False
        if not wanted or "batch_norm" not in self._watch:
            return {}
        loss = self._evaluation(batch)
        return {} if loss is None else {"loss/evaluated": loss}

    @contextlib.contextmanager
    def sight(self) -> Iterator[probe.Sight]:
        """Where to note what this replica's thread does meanwhile."""
        self._thread.sight = probe.Sight(_graph)
        try:
            yield self._thread.sight
        finally:
            self._thread.sight = None

    def rows(self, sight: probe.Sight, batch: Any) -> tuple[Rows, dict[str, Any]]:
        """On one replica: rows of what was seen, and its share of the gradients."""
        self.hidden |= sight.hidden
        self.applied = self.applied or sight.applied
        try:
            return self._rows(sight, batch)
        except Exception as error:  # a failed trace would leave variables half made
            self.hidden.add(f"statistics ({error!r})")
            return {}, {}

    def _rows(self, sight: probe.Sight, batch: Any) -> tuple[Rows, dict[str, Any]]:
        wants_gradients = "gradients" in self._watch
        if wants_gradients and not sight.applied:
            self.hidden.add("gradients (no optimizer was applied in its reach)")
        copies: dict[Any, Any] = {}
        # Of a layer that was hidden once, such as the cell of an LSTM, the rest would
        # be a few calls of many.
        activations = {
            f"activations/{tag}": tensor
            for tag, (tensor, name) in sight.activations.items()
            if name not in sight.hidden
        }
        gradients = {
            f"gradients/{path}": scaled
            for path, scaled in sight.gradients.items()
            if wants_gradients
        }
        rows = self._tried(lambda x: self._row(aside(x, copies)), activations)
        rows |= self._health(sight, copies) | self._moments(sight, copies)
        rows |= self._loss(sight, batch, copies)
        gradient = lambda x: probe.unscaled(aside(x[0], copies), x[1])  # noqa: E731
        return rows, self._tried(gradient, gradients)

    def whole_rows(self, parts: dict[str, Any]) -> Rows:
        """Rows of the gradients, of which each replica has that of its batch's part."""
        strategy = self.model.distribute_strategy
        return self._tried(
            lambda x: self._row(strategy.reduce("SUM", x, None))[None], parts
        )

    def _health(self, sight: probe.Sight, copies: dict[Any, Any]) -> Rows:
        dead, saturated = {}, {}
        for tag, (tensor, name) in sight.activations.items():
            layer = self._layers[name]
            activation = activation_of(layer)
            if name in sight.hidden:
                continue
            if activation in ("relu", "relu6"):
                dead[f"health/dead_units/{tag}"] = tensor, unit_axis(layer)
            is_output = any(tensor is output for output in sight.outputs)
            if activation in measures.SATURATED and not is_output:
                saturated[f"health/saturated/{tag}"] = tensor, activation
        return self._tried(
            lambda x: measures.active_row(aside(x[0], copies), x[1]), dead
        ) | self._tried(
            lambda x: measures.saturated_row(aside(x[0], copies), x[1]), saturated
        )

    def _moments(self, sight: probe.Sight, copies: dict[Any, Any]) -> Rows:
        inputs = {
            f"moments/{tag}": (tensor, self._norms[name])
            for tag, (tensor, name) in sight.norm_inputs.items()
            if name not in sight.hidden
        }
        return self._tried(
            lambda x: measures.moments_row(aside(x[0], copies), probe.axes(x[1])),
            inputs,
        )

    def _loss(self, sight: probe.Sight, batch: Any, copies: dict[Any, Any]) -> Rows:
        """The step's loss, if it is that of the batch as it came."""
        if len(sight.losses) != 1:
            return {}
        ((loss, of),) = sight.losses
        leaves = tree.flatten(batch)
        if not all(any(x is leaf for leaf in leaves) for x in of):
            return {}
        return self._tried(
            lambda x: tf.cast(aside(x, copies), tf.float64)[None],
            {"loss/trained": loss},
        )

    def _row(self, tensor: Any) -> Any:
        return tensor_row(tensor, self._sample_size)

    def _tried(self, make: Callable[[Any], Any], inputs: dict[str, Any]) -> Rows:
        made = {}
        for tag, value in inputs.items():
            try:
                made[tag] = make(value)
            except Exception as error:  # a training is not to fail for its statistics
                self.hidden.add(f"{tag} ({error!r})")
        return made


class TwinStep:
    """Trains on one batch as the model would, and tells each twin what it saw.

    A second `tf.function` of the same `model.train_step`, compiled as the model's own
    is: real batch, real gradients (unscaled, before clipping), real updates. Layers and
    optimizers are overridden only while it runs. However many look, it trains once.
    """

    def __init__(self, twins: Sequence[Twin]) -> None:
        self._twins = twins
        self._model = twins[0].model
        self._known: Any = None

    def prepare(self, spec: Any) -> None:
        """Trace for batches of this spec, before the first of them is taken.

        As Keras does, and for the same bits: layers draw the seeds of their weights
        when they are built, so in the trace, and data that shuffle draw theirs when
        they are asked for a batch, all from the same generator.
        """
        # Layers born in build() are missing in the trace.
        known = [twin.find_layers() for twin in self._twins], spec
        if known == self._known:
            return
        self._known = known
        self._step = self._make_step(self._seen_step, spec)
        self._unseen_step = self._make_step(
            lambda batch: (self._model.train_step(batch), []), spec
        )
        if not self._model.run_eagerly:
            with self._watching():
                self._step.get_concrete_function()

    def __call__(self, batch: Any) -> tuple[Any, list[Rows]]:
        """The logs of the training step; for each twin, a row per tensor that it saw.

        `batch` is what `take_batch` returned.
        """
        evaluated = [twin.evaluated(batch) for twin in self._twins]
        with self._watching():
            logs, seen = self._step(batch)
        return logs, [{**a, **b} for a, b in zip(seen, evaluated, strict=True)]

    def unseen(self, batch: Any) -> Any:
        """The same training step, unwatched: its logs."""
        return self._unseen_step(batch)[0]

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for twin in self._twins:
                stack.enter_context(twin.watching())
            yield

    def _seen_step(self, batch: Any) -> tuple[Any, list[Any]]:
        """On one replica: the logs, and what each twin tells of it."""
        with contextlib.ExitStack() as stack:
            sights = [stack.enter_context(twin.sight()) for twin in self._twins]
            logs = self._model.train_step(batch)
        pairs = zip(self._twins, sights, strict=True)
        return logs, [twin.rows(sight, batch) for twin, sight in pairs]

    def _make_step(self, replica_step: Any, spec: Any) -> Any:
        """The step on all replicas, compiled as Keras would compile it."""
        model = self._model
        strategy = model.distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def step(batch: Any) -> tuple[Any, list[Rows]]:
            logs, seen = strategy.run(replica_step, args=(batch,))
            replicas = strategy.experimental_local_results
            logs = tree.map_structure(lambda x: _mean(replicas(x)), logs)
            return logs, [
                {tag: tf.stack(replicas(row)) for tag, row in rows.items()}
                | twin.whole_rows(parts)
                for twin, (rows, parts) in zip(self._twins, seen, strict=False)
            ]

        if not model.run_eagerly:
            jit = model.jit_compile
            step = tf.function(step, reduce_retracing=True, jit_compile=jit)

        @tf.autograph.experimental.do_not_convert
        def unpack_and_step(batch: Any) -> tuple[Any, list[Rows]]:
            outputs: tuple[Any, list[Rows]] = step(without_optionals(batch))
            return outputs

        if model.run_eagerly:
            return unpack_and_step
        return tf.function(unpack_and_step, input_signature=[spec])


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _mean(values: Any) -> Any:
    # As Keras: metrics are the same on every replica, or meant to be averaged.
    return values[0] if len(values) == 1 else tf.reduce_mean(values, axis=0)
