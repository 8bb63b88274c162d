"""When to look at a training, and where to put what was seen; nothing else."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from . import arguments, diagnostics
from .history import History
from .hyperparameters import hyperparameter_values, hyperparameters
from .layout import Layout
from .look import Look
from .optimizer_scalars import OptimizerScalars
from .weights import Weights
from .writer import EventWriter

# Logged, not warned: under `python -W error` a warning would end the training.
_log = logging.getLogger(__name__)

Schedule = Callable[[int], bool]


class TrainingMonitor(keras.callbacks.Callback):
    """Writes what happens inside a model during `fit`, for TensorBoard to show.

    As histograms: `weights/<path>` (those of batch norm are below), `gradients/<path>`
    (unscaled, before clipping), `activations/<layer>`, and `batch_norm/<layer>/` with
    gamma, beta, moving_mean, moving_variance, batch_mean, batch_variance. As scalars,
    each with its formula and guide values in `diagnostics`: `gradient_norm/global` and
    `gradient_norm/suggested_clip`, `update_ratio/<path>`, `distance_from_init/<path>`,
    `batch_norm_gap/<layer>/` with mean and variance, `health/dead_units/<layer>`,
    `health/saturated/<layer>`, `health/non_finite/<tag>`, `loss_gap/train_eval` once an
    epoch, `loss_scale`, `skipped_steps`, `learning_rate`, `epoch/<metric>` and
    `epoch/val_<metric>`; with "quantiles" in `watch`, `quantiles/<tag>/` with p05, p50
    and p95 of weights, gradients and activations.

    TensorBoard's Custom Scalars tab shows them as a dashboard, and its HParams tab
    compares runs by optimizer, learning rate, batch norm and number of parameters.

    A look rides on a training step: it sees the batch, the activations and the
    gradients of that step, and the weights and moving statistics after it. The step in
    TensorBoard is the optimizer's `iterations`, so that it goes on over a second `fit`.
    Watching changes nothing: the trained weights are those of an unwatched training,
    to the last bit; under `mixed_bfloat16`, to its rounding. Three things in a model
    are out of its hands, for they keep state that belongs to one traced function, and a
    look has a function of its own: random numbers of `tf.random` (not those of
    `keras.random`) are others, though of the same distribution; a Python function in
    the graph (`tf.numpy_function`) runs as often as unwatched, but a counter made while
    tracing counts that trace too.

    On JAX and torch it logs metrics, weights and batch norm; gradients and activations
    need TensorFlow.

    Args:
        log_dir: Directory of the event file, made if it is missing.
        log_freq: `"epoch"`: the first step of every epoch, and weights and batch norm
            once more when training ends. An integer: every that many optimizer steps.
            Or a function of the step, which returns whether to look.
        watch: Which of "weights", "gradients", "activations", "batch_norm"; those are
            the default. "quantiles" adds those of the histograms: the Distributions tab
            draws them too, so that they are on request.
        layers: Which layers: a regular expression to be found in the name, or a
            function of the layer. None: all.
        sample_size: How many elements of a tensor a histogram reads. Counts, minimum,
            maximum, mean and norm are always of all elements.

    Raises:
        ValueError: An argument is not one of those, or the model is not compiled.
        OSError: When `fit` starts, if `log_dir` cannot be written.

    Example:
        >>> import keras, kbn, numpy as np
        >>> model = keras.Sequential([keras.layers.Dense(8), kbn.BatchNorm()])
        >>> model.compile("sgd", "mse")
        >>> monitor = kbn.callbacks.TrainingMonitor("logs")
        >>> x, y = np.ones((32, 4)), np.zeros((32, 8))
        >>> _ = model.fit(x, y, callbacks=[monitor], verbose=0)

        Then run `tensorboard --logdir logs`.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        log_freq: str | int | Schedule = "epoch",
        watch: Sequence[str] = arguments.USUAL,
        layers: str | Callable[[Any], bool] | None = None,
        sample_size: int = 65536,
    ) -> None:
        super().__init__()
        arguments.check(log_dir, log_freq, watch, layers, sample_size)
        self.log_dir = log_dir
        self.log_freq = log_freq
        self.watch = tuple(watch)
        self.layers = layers
        self.sample_size = sample_size
        self._writer = EventWriter(log_dir)
        self._schedule = every(log_freq) if isinstance(log_freq, int) else log_freq
        self._wrapper: Any = None
        self._watcher: Any = None
        self._twin: Any = None
        self._weights = Weights(self.watch, layers, sample_size)
        self._optimizers = OptimizerScalars()
        self._history = History()
        self._layout = Layout()
        self._has_hyperparameters = False
        self._step = 0
        self._said: set[str] = set()
        if keras.backend.backend() != "tensorflow":
            # On the instance, and only there: Keras asks whether a callback has this
            # method, and if one has, waits for the numbers of every batch.
            self.__dict__["on_train_batch_begin"] = self._before_batch
            self.__dict__["on_train_batch_end"] = self._after_batch

    @property
    def history(self) -> dict[str, tuple[list[int], list[float]]]:
        """{tag: (steps, values)} of every scalar; beyond 32 MiB, of the last looks.

        Example:
            >>> import keras, kbn, numpy as np
            >>> model = keras.Sequential([keras.layers.Dense(1)])
            >>> model.compile(keras.optimizers.SGD(0.5), "mse")
            >>> monitor = kbn.callbacks.TrainingMonitor("logs")
            >>> x, y = np.ones((32, 4)), np.zeros((32, 1))
            >>> _ = model.fit(x, y, callbacks=[monitor], verbose=0)
            >>> monitor.history["learning_rate"]
            ([1], [0.5])
        """
        return self._history.by_tag()

    # --- Keras calls these ---

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the event file and wrap the model's training function."""
        model = self.model
        if not getattr(model, "compiled", False):
            raise ValueError(
                f"TrainingMonitor received the model {model.name!r}, which is not "
                "compiled. Call model.compile(optimizer, loss) before training it."
            )
        try:
            self._writer.open()
        except OSError as error:
            raise OSError(
                f"TrainingMonitor(log_dir={self.log_dir!r}) cannot be written: "
                f"{error.strerror or error}. Pass a directory that exists, or can be "
                "made, and that you may write to."
            ) from error
        self._can_write = True
        self._epoch_begins = False
        self._optimizers.begin_fit(model, (self.params or {}).get("steps"))
        if model.built:
            self._try_to(self._note_weights, "read the weights")
        if keras.backend.backend() == "tensorflow":
            self._wrap(model)
        elif {"gradients", "activations"} & set(self.watch):
            self._say(
                "cannot see gradients and activations on the "
                f"{keras.backend.backend()} backend: it logs metrics, weights and "
                "batch norm. For all of it set KERAS_BACKEND=tensorflow."
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Make the first step of the epoch due."""
        self._epoch_begins = True
        self._step = self._iterations()
        self._optimizers.steps.begin_epoch()
        if self._twin is not None:
            self._twin.evaluates_next = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's metrics and the learning rate."""
        scalars = {f"epoch/{k}": v for k, v in (logs or {}).items() if np.ndim(v) == 0}
        metrics = [*scalars]
        scalars |= self._optimizers.read(self.model, after_each_step=True)
        self._write(self._iterations(), Look(scalars=scalars))
        if not self._has_hyperparameters:
            self._has_hyperparameters = True
            self._try_to(lambda: self._tell_hyperparameters(metrics), "compare runs")

    def on_train_end(self, logs: Any = None) -> None:
        """Look at weights and batch norm once more, and leave the model as it was."""
        self._unwrap()
        self._look({})

    # --- looking ---

    def _is_due(self, steps: int) -> bool:
        """Whether to look in the next call of so many steps; counts them."""
        first = self._step + 1
        self._step += steps
        self._optimizers.steps.add(steps)
        if isinstance(self._schedule, str):
            return self._epoch_begins
        return any(map(self._schedule, range(first, first + steps)))

    def _begins(self, steps: int) -> bool:
        """`_is_due`, asked right before the step; if so, notes what will change."""
        is_due = self._is_due(steps)
        # The twin looks after its first step; without one, a look is after them all.
        sees_one = steps == 1 or getattr(self._watcher, "twin", None) is not None
        if is_due and sees_one:
            self._try_to(self._note_weights, "read the weights")
        return is_due

    def _before_batch(self, batch: int, logs: Any = None) -> None:
        self._looks_next = self._begins(self.model.steps_per_execution)

    def _after_batch(self, batch: int, logs: Any = None) -> None:
        if self._looks_next:
            self._look({})

    def _look(self, rows: dict[str, Any], applied: Sequence[str] = ()) -> None:
        """Write the rows that a twin saw, and weights and batch norm as they are."""
        self._epoch_begins = False
        self._optimizers.saw_applied(applied)
        step = self._step = self._iterations()
        seen = Look()
        self._try_to(lambda: self._see(rows, seen), f"summarize step {step}")
        self._write(step, seen)

    def _see(self, rows: dict[str, Any], seen: Look) -> None:
        summaries, measures = self._weights.read(self.model, rows)
        seen.add_summaries(summaries, quantiles="quantiles" in self.watch)
        seen.add_measures(measures)
        if "gradient_norm/global" in seen.scalars:
            past = self._history.values("gradient_norm/global", last=9_999)
            now = seen.scalars["gradient_norm/global"]
            clip = diagnostics.suggested_clip([*past, now])
            if clip is not None:
                seen.scalars["gradient_norm/suggested_clip"] = clip
        each = getattr(self.model, "steps_per_execution", 1) == 1
        seen.scalars |= self._optimizers.read(self.model, after_each_step=each)

    def _note_weights(self) -> None:
        self._weights.before_step(self.model)

    def _iterations(self) -> int:
        return self._optimizers.iterations(self.model, otherwise=self._step)

    # --- telling ---

    def _try_to(self, act: Callable[[], None], what: str) -> None:
        try:
            act()
        except Exception as error:  # a training is not to fail for its statistics
            self._say(f"could not {what}: {error!r}. Training goes on.")

    def _write(self, step: int, seen: Look) -> None:
        self._history.add(step, seen.scalars)
        self._try_to_write(
            lambda: self._writer.write(step, seen.scalars, seen.histograms)
        )
        layout = self._layout.grown(seen.scalars)
        if layout is not None:
            self._try_to_write(lambda: self._writer.write_values(step, [layout]))

    def _tell_hyperparameters(self, metrics: Sequence[str]) -> None:
        known = hyperparameters(self.model, self.params or {})
        values = hyperparameter_values(known, metrics)
        self._try_to_write(lambda: self._writer.write_values(0, values))

    def _try_to_write(self, write: Callable[[], None]) -> None:
        if not self._can_write:
            return
        try:
            write()
        except Exception as error:  # whatever it is, it is no reason to lose a training
            self._can_write = False
            self._say(
                f"cannot write to {self.log_dir!r} any more: {error!r}. Training goes "
                "on, unlogged from here."
            )

    def _say(self, message: str) -> None:
        """Log a warning, once per monitor."""
        if message not in self._said:
            self._said.add(message)
            _log.warning("TrainingMonitor %s", message)

    def _wrap(self, model: Any) -> None:
        from .train_function import Watcher, stand_in

        self._unwrap()
        self._wrapper = stand_in(model)
        twin = self._twin_of(model, self._wrapper.original)
        self._watcher = Watcher(self._begins, self._look, self._say, twin)
        self._wrapper.watchers.append(self._watcher)

    def _twin_of(self, model: Any, original: Any) -> Any:
        from .twin import Twin

        if not {"gradients", "activations", "batch_norm"} & set(self.watch):
            return None
        if type(model).make_train_function is not keras.Model.make_train_function:
            self._say(
                f"cannot see gradients and activations of {model.name!r}, because "
                f"{type(model).__name__} has its own make_train_function: it logs "
                "metrics, weights and batch norm. Override train_step instead."
            )
            return None
        # Kept over several fits: a twin is expensive to trace.
        if self._twin is None or not self._twin.is_of(original):
            size = self.sample_size
            self._twin = Twin(model, original, self.watch, self.layers, size)
        self._twin.evaluates_next = True
        return self._twin

    def _unwrap(self) -> None:
        if self._wrapper is not None:
            self._wrapper.remove(self._watcher)
            self._wrapper = None


def every(steps: int) -> Schedule:
    """The schedule that looks at steps `steps`, 2 * `steps`, ..."""
    return lambda step: step % steps == 0
