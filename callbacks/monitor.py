"""When to look at a training, and nothing else."""

import dataclasses
import html
import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import keras

from kbn.private import keras as private

from . import arguments
from .alerts import action
from .alerts.action import OnAlert
from .alerts.alert import Alert
from .live import LiveCell
from .log.history import History, to_frame
from .run import Run, Settings
from .runs import Runs
from .schedule import OnStep, schedule_of
from .signals import own
from .signals.default import listed
from .signals.own import Function
from .signals.rule import Rule
from .sinks import OnLook, Sink, sink_of
from .telling import Voice
from .watch import probe
from .watch.layers import attribute
from .watch.probe import Asked, Seen
from .watch.watched_function import WatchedFunction, Watcher

if TYPE_CHECKING:
    from .report.report import Report


class TrainingMonitor(keras.callbacks.Callback):
    """Writes what happens inside a model during `fit`, for TensorBoard to show.

    As histograms: `weights/<path>`, `gradients/<path>` (unscaled, before clipping),
    `activations/<layer>`, and below `batch_norm/<layer>/` its variables and the moments
    of the batch. As scalars: what is computed from them, such as `update_ratio/<path>`
    and `health/dead_units/<layer>`, learning rates, and the metrics of each epoch.
    TensorBoard shows each with its formula, unit, guide values and source;
    `python -m kbn.callbacks.signals` prints the table.

    It also reads what it logs: rules raise an `Alert` that names the illness, the layer
    and what to try. A healthy training raises none above the level "info".

    TensorBoard's Custom Scalars tab is a dashboard of these numbers. Its HParams tab
    compares runs, a row for each directory, by optimizer, learning rate, batch norm,
    batch size, seed, dtype policy, number of parameters, and `hparams`. `report()` is
    one page on how the training went.

    A look shows the batch, the activations and the gradients of a step, and the weights
    and moving statistics after it; of a call of several steps (`steps_per_execution`),
    its first step, and the weights after the call. The step in
    TensorBoard is the optimizer's `iterations`, so it goes on over a second `fit`.
    Where `iterations` start again, as after another `compile`, the curves continue.
    Another model under the same monitor gets a subdirectory, named after it.

    Watching changes nothing: the trained weights are those of an unwatched training, to
    the last bit. At a look, the part of the step that gives gradients and activations
    runs beside the step, on the same batch, weights and seeds. A Python function in the
    graph (`tf.numpy_function`) whose result is shown is called once more there.

    The loss is checked at every step, and the weights at every look and before each
    validation: the first NaN is an alert at its step. A batch that makes one is kept
    below `log_dir`, where Keras shows it: on JAX and torch, and in `train_on_batch`.

    Any training that runs without the monitor runs with it. What it cannot see it
    leaves out, and says so once. In a `keras.callbacks.CallbackList` it also watches a
    loop written by hand.

    It sees the same on JAX and torch: `docs/backends.md` says how.

    Args:
        log_dir: Directory of the event file, made if it is missing.
        log_freq: `"auto"`: steps 1, 2, 4, 8, ... of the first fit and those after it,
            and the first step of an epoch if 32 steps have passed since the last look.
            `"epoch"`: the first step of every epoch. An integer: every that many
            optimizer steps. Or a function of the step, which returns whether to look.
            Weights and batch norm are looked at once more when training ends.
        watch: Which of "weights", "gradients", "activations", "batch_norm"; all four by
            default. "quantiles" adds those of the histograms, on request because the
            Distributions tab draws them too.
        layers: Which layers: a regular expression to be found in the name, or a
            function of the layer. None: all.
        rules: What raises alerts: "default", for all of `kbn.callbacks.rules`, a list
            of rules, or None.
        on_alert: What to do about an alert: "log" it (Python's logging, logger `kbn`);
            "stop" training after the step for a critical one; "raise" a
            `kbn.callbacks.TrainingAlert` for a critical one; or a function of the
            alert, called when it is raised. At the end of `fit` the verdict is logged,
            if an alert is open.
        sample_size: How many elements of a tensor a histogram reads. Counts, minimum,
            maximum, mean and norm are always of all elements.
        hparams: Your own for the HParams tab and the report: {name: bool, number or
            string}.
        signals: Your own: functions of a look's tensors that return a number, in
            `keras.ops`. Each is logged as `signals/<its name>`, with its docstring as
            the description: see `docs/signals.md`.
        on_look: A function of (step, {tag: value}), called with the scalars of each
            look and each epoch: another home for the numbers. Or one of
            `kbn.callbacks.sinks`, which takes histograms, alerts and the report too. An
            exception in it is logged once, and training goes on.

    Raises:
        TypeError: There is no argument of that name; says which one was meant.
        ValueError: An argument is not one of those.
        ValueError: When `fit` starts, if another monitor watches it.
        OSError: When `fit` starts, if `log_dir` cannot be written.
        TrainingAlert: During `fit`, if `on_alert` is "raise".

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
        log_freq: str | int | OnStep = "auto",
        watch: Sequence[str] = arguments.USUAL,
        layers: str | Callable[[Any], bool] | None = None,
        rules: str | Sequence[Rule] | None = "default",
        on_alert: OnAlert = "log",
        sample_size: int = 65536,
        hparams: Mapping[str, bool | float | str] | None = None,
        on_look: OnLook | Sink | None = None,
        signals: Sequence[Function] = (),
        **unknown: Never,  # to type checkers, none
    ) -> None:
        if unknown:
            *known, _ = inspect.signature(TrainingMonitor).parameters
            arguments.refuse_unknown(unknown, known)
        super().__init__()
        watch = arguments.listed(watch)
        arguments.check(log_dir, log_freq, watch, layers, sample_size)
        arguments.check_homes(hparams, on_look)
        self._rules = listed(rules)
        self.signals = own.entered(signals)
        action.check(on_alert)
        self.log_dir = log_dir
        self.log_freq = log_freq
        self.watch = watch
        self.layers = layers
        self.rules = rules
        self.on_alert = on_alert
        self.sample_size = int(sample_size)
        self.hparams = {k: arguments.plain(v) for k, v in (hparams or {}).items()}
        self.on_look = on_look
        self._schedule = schedule_of(log_freq)
        self._voice = Voice()
        self._runs = Runs(log_dir)
        self._run: Run | None = None
        self._wrapper: WatchedFunction | None = None
        self._history = History()
        self._has_begun = self._epoch_begins = self._is_first_of_epoch = False
        self._is_broken = self._is_epoch_unchecked = False
        self._is_due = False  # of a batch that nobody has looked at yet
        self._is_counted = False  # of the batch that began
        self._has_bar = False  # whether `fit` shows a progress bar
        self._added = 0
        self._cell = LiveCell()

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: what was seen, and not the model."""
        left = {"_run": None, "_wrapper": None, "_model": None, "_schedule": None}
        state = {**self.__dict__, **left}
        state.pop("on_train_batch_begin", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._schedule = schedule_of(self.log_freq)

    def __repr__(self) -> str:
        from .report.verdict import verdict

        told = f": {verdict(self._run.logged())}" if self._run else ""
        return f"<TrainingMonitor {str(self.log_dir)!r}{told}>"

    def _repr_html_(self) -> str:
        """The verdict in a notebook, with the alerts that are open."""
        found = self._run.follower.open if self._run else []
        shown = "".join(alert._repr_html_() for alert in found)
        return f"<div>{html.escape(repr(self))}</div>{shown}"

    @property
    def history(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of every scalar, by tag; beyond 32 MiB, of the last looks.

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

    @property
    def alerts(self) -> list[Alert]:
        """All alerts so far, the oldest first, with how they ended.

        Example:
            >>> import keras, kbn, numpy as np
            >>> model = keras.Sequential([keras.layers.Dense(1)])
            >>> model.compile("sgd", "mse")
            >>> monitor = kbn.callbacks.TrainingMonitor("logs", on_alert=lambda x: None)
            >>> x, y = np.full((32, 4), np.nan), np.zeros((32, 1))
            >>> _ = model.fit(x, y, callbacks=[monitor], verbose=0)
            >>> monitor.alerts[-1].rule
            'non_finite_data'
        """
        return self._runs.alerts

    def to_frame(self) -> Any:
        """`history` as a pandas DataFrame: a row for each step, a column for each tag.

        NaN where a tag has no value at a step.

        Raises:
            ImportError: pandas is not installed.

        Example:
            >>> import keras, kbn, numpy as np
            >>> model = keras.Sequential([keras.layers.Dense(1)])
            >>> model.compile(keras.optimizers.SGD(0.5), "mse")
            >>> monitor = kbn.callbacks.TrainingMonitor("logs")
            >>> x, y = np.ones((32, 4)), np.zeros((32, 1))
            >>> _ = model.fit(x, y, callbacks=[monitor], verbose=0)
            >>> try:
            ...     rate = monitor.to_frame()["learning_rate"].loc[1]
            ... except ImportError:
            ...     rate = 0.5
            >>> float(rate)
            0.5
        """
        return to_frame(self.history)

    def report(self) -> "Report":
        """How the training went, from its log: print it, show it, save it.

        A notebook shows it; `save("report.html")` is a page for a browser, and there
        are `.md`, `.json` and `.txt`. It may be asked for while the training runs.

        Example:
            >>> import keras, kbn, numpy as np
            >>> model = keras.Sequential([keras.layers.Dense(1)])
            >>> model.compile("sgd", "mse")
            >>> monitor = kbn.callbacks.TrainingMonitor("logs")
            >>> x, y = np.ones((32, 4)), np.zeros((32, 1))
            >>> _ = model.fit(x, y, callbacks=[monitor], verbose=0)
            >>> monitor.report().verdict
            'Healthy at the end of 1 step, 1 epoch.'
        """
        from .log.reader import read_run
        from .report.report import Report

        return Report(
            [
                read_run(directory, name or directory.name)
                for name, directory in self._runs.directories.items()
            ]
        )

    # --- Keras calls these ---

    def set_model(self, model: Any) -> None:
        """Take the model; the parameters of an earlier `fit` are not its own."""
        super().set_model(model)
        self.params = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Open the event file and wrap the model's training function."""
        model = self.model
        fit: dict[str, Any] = self.params or {}
        self._refuse_a_second(model)
        run = self._run = self._runs.of(model, self._new_run)
        try:
            run.open(fit)
        except OSError as error:
            raise OSError(
                f"TrainingMonitor(log_dir={self.log_dir!r}) cannot be written: "
                f"{error.strerror or error}. Pass a directory that exists, or can be "
                "made, and that you may write to."
            ) from error
        if run.name:
            self._voice.say(
                f"is given another model, {model.name!r}: its log goes to "
                f"{str(run.log.directory)!r}."
            )
        self._has_bar = fit.get("verbose") in ("auto", 1)
        self._has_begun = self._epoch_begins = False
        self._is_due = self._is_broken = False
        self._cell = LiveCell()
        if "steps" not in fit:  # no `fit`: a loop written by hand
            self.__dict__["on_train_batch_begin"] = self._before_batch
        self._try_to(lambda: self._wrap(model), "see the training step")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Make the first step of the epoch due."""
        self._epoch_begins = self._is_first_of_epoch = True
        self._voice.is_bar_open = False
        self._is_epoch_unchecked = True
        if self._run is None:
            return
        run, steps = self._run, self._run.optimizers.steps
        run.epoch = epoch + 1
        if self._has_begun:
            run.take(self.model)
            slack = 0 if steps.is_known else 1
            self._try_to(
                lambda: run.steps.begin_epoch(run.iterations(), slack),
                "count the steps",
            )
        steps.begin_epoch()
        if self._wrapper is not None:
            self._wrapper.evaluates_next = True

    def on_test_begin(self, logs: Any = None) -> None:
        """Look whether the weights are finite, before they are validated."""
        self._voice.is_bar_open = self._has_bar
        if self._run is not None:
            self._run.stopwatch.pause()
            self._run.validates(private.held_model(self))
        self._check_weights()

    def on_test_end(self, logs: Any = None) -> None:
        """A validation counts for no step's time."""
        if self._run is not None:
            self._run.stopwatch.go_on()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write the epoch's metrics and the learning rate."""
        self._voice.is_bar_open = self._has_bar
        if self._run is not None:
            self._look_after_batch()
            self._check_weights()
            self._act(self._run.end_epoch(self.model, logs or {}))
            self._draw()

    def on_train_end(self, logs: Any = None) -> None:
        """Look at weights and batch norm once more, and leave the model as it was."""
        self._unwrap()
        self._voice.is_bar_open = False
        if self._run is not None:
            self._look()
            self._act(self._run.end_training(self.model))
            self._draw(is_last=True)
            self._try_to(self._sum_up, "sum up the training")
            self._run.tell(lambda sink: sink.end(self.report))
        self.params = None
        self.__dict__.pop("on_train_batch_begin", None)

    # --- looking ---

    @property
    def _here(self) -> Run:
        assert self._run is not None, "on_train_begin comes first"
        return self._run

    def _new_run(self, model: Any, directory: Path, name: str) -> Run:
        select = self._is_selected if callable(self.layers) else self.layers
        settings = Settings(
            Asked(self.watch, select, self.sample_size, self.signals),
            repr(self.layers),
            self._rules,
            self._described(),
            self.hparams,
            sink_of(self.on_look),
        )
        return Run(model, directory, name, settings, self._history, self._voice)

    def _described(self) -> dict[str, Any]:
        """The arguments as JSON has them; of a function, its name.

        Not `repr`: with its address in it, no two processes would write the same.
        """
        freq, layers = self.log_freq, self.layers
        return {
            "log_freq": _name(freq) if callable(freq) else freq,
            "watch": list(self.watch),
            "layers": _name(layers) if callable(layers) else layers,
            "rules": [rule.name for rule in self._rules],
            "sample_size": self.sample_size,
            "signals": [_name(function) for function in self.signals],
        }

    def _is_selected(self, layer: Any) -> bool:
        select: Any = self.layers
        try:
            return bool(select(layer))
        except Exception as error:
            name = attribute(layer, "name")
            self._voice.say(
                f"leaves out layer {name!r}, for which `layers` raises {error!r}. "
                "Training goes on.",
                "layers",
            )
            return False

    def _begin(self) -> None:
        """Right before the first step: other callbacks may have loaded a checkpoint."""
        self._has_begun = True
        run, model = self._here, private.held_model(self)
        fit: dict[str, Any] = self.params or {}
        run.take(model)
        if run.begin_fit(fit.get("steps")):
            self._voice.say(
                f"goes on with its steps where {model.name!r} starts again from fewer: "
                "it was compiled again, or earlier weights were loaded.",
                "steps",
            )
        if attribute(model, "built"):
            run.note_weights()

    def _is_due_in(self, steps: range) -> bool:
        """Whether one of these steps is due."""
        if self._is_broken:  # the step before has made a NaN
            self._is_broken = False
            return True
        counted = self._here.steps
        is_first, self._is_first_of_epoch = self._is_first_of_epoch, False
        before, looked = counted.before or 0, counted.looked
        try:
            is_due = self._schedule(steps, before, looked, is_first, self._epoch_begins)
        except Exception as error:
            self._voice.say(
                f"does not look where `log_freq` raises: {error!r}.", "log_freq"
            )
            return False
        if is_due:
            counted.looked = steps.start
        return is_due

    def _begin_step(self, steps: int) -> bool:
        """Right before a call of so many steps: count them; whether to look at it."""
        if self._is_counted:  # at the beginning of the batch
            self._is_counted = False
            return self._is_due
        if not self._has_begun:
            self._try_to(self._begin, "read the weights")
        # After the first step of an epoch.
        self._voice.is_bar_open = self._has_bar and not self._is_first_of_epoch
        run = self._here
        first = run.steps.count + 1
        self._added = run.optimizers.steps.add(steps)
        run.steps.count += self._added
        is_due = self._is_due_in(range(first, first + steps))
        if run.search.is_on:
            run.search.is_alone = not is_due
            return True
        return is_due

    def _note(self) -> None:
        """Right before a call that is looked at."""
        self._is_due = False
        run = self._here
        run.take(private.held_model(self))
        self._try_to(run.note_weights, "read the weights")

    def _undo(self) -> None:
        """There was no such step: the data had ended."""
        run = self._here
        run.steps.count -= self._added
        run.optimizers.steps.add(-self._added)

    def _before_batch(self, batch: int, logs: Any = None) -> None:
        """In a loop written by hand, which may train by other means than `fit` does."""
        self._look_after_batch()
        self._is_due = self._begin_step(1)
        self._is_counted = True
        if self._is_due:
            run = self._here
            run.take(self.model)
            self._try_to(run.note_weights, "read the weights")

    def _look_after_batch(self) -> None:
        """What no call of the training function has looked at."""
        self._is_counted = False
        if self._is_due:
            self._is_due = False
            self._look()

    def _look(self, seen: Seen | None = None) -> None:
        """Write what a probe saw, and weights and batch norm as they are."""
        self._epoch_begins = False
        model = private.held_model(self)
        self._act(self._here.look(model, seen or Seen()))
        self._draw()

    def _breaks(self, batch: Any, late: int) -> None:
        """The loss became NaN or Inf so many calls ago; with this batch, if known."""
        self._is_broken = True
        model = private.held_model(self)
        late *= model.steps_per_execution
        self._act(self._here.tell_of_broken_loss(model, batch, late))

    def _fails(self, batch: Any) -> None:
        """A call has raised an error, which goes on to the user; of NaN, perhaps."""
        model, run = private.held_model(self), self._here
        found = run.tell_of_broken_loss(model, batch, 0, has_raised=True)
        if any(alert.is_open for alert in found) and not self._voice.is_silent:
            self._voice.begin_line()
            action.act(found, "log")

    def _check_weights(self) -> None:
        """Raise an alert if a weight is not finite; once an epoch."""
        if self._is_epoch_unchecked and self._wrapper is not None:
            self._is_epoch_unchecked = False
            self._wrapper.end_epoch()
            self._act(self._here.check(self.model))

    def _act(self, alerts: Sequence[Alert]) -> None:
        """Do about new alerts what the user asked for."""
        if self._voice.is_silent and self.on_alert == "log":
            return
        if any(alert.is_open for alert in alerts):
            self._voice.begin_line()
        try:
            if action.act(alerts, self.on_alert):
                self.model.stop_training = True
        except BaseException:  # the training ends here: leave its model as it was
            self._unwrap()
            raise

    def _draw(self, *, is_last: bool = False) -> None:
        """Show a notebook how the training goes, unless `fit` is to be silent."""
        fit: dict[str, Any] = self.params or {}
        if fit.get("verbose", 0):
            run, cell = self._here, self._cell
            self._try_to(lambda: cell.draw(run.logged, is_last=is_last), "draw a cell")

    def _sum_up(self) -> None:
        """Say at the end how the training went, if alerts are open."""
        from .report.verdict import summary

        run = self._here
        found, place, here = run.follower.open, run.log.directory, Path.cwd()
        if found and not self._voice.is_silent:
            place = place.relative_to(here) if place.is_relative_to(here) else place
            command = shlex.join(["kbn", "report", str(place)])
            action.log_summary(summary(run.logged(), command), found)

    def _try_to(self, act: Callable[[], None], what: str) -> None:
        self._voice.try_to(act, what)

    # --- the training step ---

    def _refuse_a_second(self, model: Any) -> None:
        function = attribute(model, "train_function")
        if isinstance(function, WatchedFunction) and function.is_of_a_running_fit:
            raise ValueError(
                f"Two TrainingMonitors are given to one fit of {model.name!r}. Pass "
                "one: it writes all that `watch` asks for, at `log_freq`."
            )

    def _wrap(self, model: Any) -> None:
        self._unwrap()
        if not model.compiled:
            return
        if model.train_function is None:
            model.make_train_function()  # as `train_on_batch` would
        while isinstance(model.train_function, WatchedFunction):
            model.train_function.remove()  # of a fit that an exception has ended
        asked = self._here.settings.asked
        if type(model).make_train_function is not keras.Model.make_train_function:
            asked = dataclasses.replace(asked, watch=("weights",), signals=())
            self._voice.say(
                f"cannot see gradients and activations of {model.name!r}, because "
                f"{type(model).__name__} has its own make_train_function: it logs "
                "metrics, weights and batch norm. Override train_step instead."
            )
        contents = self._here.contents
        made = probe.backend().make(model, asked, contents, self._voice.say)
        watcher = Watcher(
            begins=self._begin_step,
            notes=self._note,
            ends=self._undo,
            looks=self._look,
            breaks=self._breaks,
            fails=self._fails,
            follows=lambda: self._try_to(
                lambda: self._wrap(model), "see the training step"
            ),
            waits=self.on_alert in ("stop", "raise"),
        )
        self._wrapper = WatchedFunction(model, made, watcher)

    def _unwrap(self) -> None:
        if self._wrapper is not None:
            self._wrapper.remove()
            self._wrapper = None


def _name(function: Callable[..., object]) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return name.rpartition("<locals>.")[2]
