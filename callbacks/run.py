"""The run of one model: what a monitor reads of it, keeps and writes."""

import platform
import sys
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .alerts.alert import LEVELS, Alert
from .alerts.follow import Follower
from .alerts.rule import Rule
from .diagnostics.look import Look, look
from .diagnostics.reading import read, read_back
from .diagnostics.subjects import Metric, OpenAlerts, Output, Progress, Subject
from .log import alerts as alert_log
from .log import run_record
from .log.history import History
from .log.hyperparameters import hyperparameter_values, hyperparameters
from .log.layout import Layout
from .log.writer import EventWriter
from .model.description import describe
from .model.inventory import Contents, Inventory, Selection
from .model.layers import Select
from .step.optimizers import OptimizerReader
from .step.steps import Steps
from .step.weights import WeightReader
from .telling import Voice

Rows = Mapping[tuple[str, str], Any]
VERSIONED = ("keras", "tensorflow", "jax", "torch", "numpy", "tensorboard")


@dataclass(frozen=True)
class Settings:
    """What a monitor was asked for; `described`: the same, as JSON has it."""

    watch: Collection[str]
    select: Select
    sample_size: int
    layers: str  # as the user wrote it
    rules: Sequence[Rule]
    described: Mapping[str, Any]


class Run:
    """The log of one model, and what was met of it: over all of its fits."""

    def __init__(
        self,
        model: Any,
        directory: Path,
        name: str,
        settings: Settings,
        history: History,
        voice: Voice,
    ) -> None:
        self.name = name  # of its subdirectory, empty for the first
        self.settings = settings
        self.steps = Steps()
        self.writer = EventWriter(directory)
        self.optimizers = OptimizerReader()
        self.twin: Any = None
        self.follower = Follower(settings.rules)
        self.epoch = 1  # of the fit, from 1
        self._weights = WeightReader(settings.watch, settings.sample_size)
        self._layout = Layout()
        self._history = history
        self._voice = voice
        self._contents = Contents()
        self._selection: Selection | None = None
        self._order: dict[str, None] = {}  # layers as they were first seen called
        self._final: set[str] = set()
        self._recorded: tuple[Any, ...] = ()
        self._has_hyperparameters = False
        self._can_write = False
        self._fit: dict[str, Any] = {}
        self._model = weakref.ref(model)

    def is_of(self, model: Any) -> bool:
        """Whether it is this model's."""
        return self._model() is model

    @property
    def is_over(self) -> bool:
        """Whether its model is gone."""
        return self._model() is None

    def forget_tensors(self) -> None:
        """Let go of what keeps a model in memory that is watched no more."""
        self.twin = None
        self._contents, self._selection = Contents(), None

    def open(self, fit: Mapping[str, Any]) -> None:
        """Start an event file for a fit with these parameters; may be an OSError."""
        self.writer.open()
        self._can_write = True
        self._fit = {k: v for k, v in fit.items() if isinstance(v, int)}
        self._recorded = ()

    def selection(self, model: Any) -> Selection:
        """What is watched of the model as it is now."""
        inventory = self._contents.of(model)
        if self._selection is None or self._selection.inventory is not inventory:
            self._selection = Selection(inventory, self.settings.select)
        return self._selection

    def begin_fit(self, model: Any, steps: int | None) -> bool:
        """Right before its first step; whether the optimizer starts again from fewer.

        `steps` of an epoch, None if unknown.
        """
        found = self._contents.of(model).optimizers
        return self.steps.begin_fit(self.optimizers.begin_fit(found, steps))

    def iterations(self, model: Any) -> int | None:
        """Steps of the optimizer that the training goes by; None if none is known."""
        return self.optimizers.iterations(self._contents.of(model).optimizers)

    def note_weights(self, model: Any) -> None:
        """Note the weights as they are, for a look after the step."""
        self._weights.before_step(self.selection(model))

    def look(
        self,
        model: Any,
        subjects: Sequence[Subject],
        rows: Rows,
        applied: Sequence[str],
    ) -> list[Alert]:
        """Write what a twin saw of a step, and weights and batch norm as they are.

        Returns the alerts that this raises or ends. `subjects`, `rows`: see
        `diagnostics.reading`; `applied`: names of optimizers.
        """
        self.optimizers.saw_applied(applied)
        each = getattr(model, "steps_per_execution", 1) == 1
        if each:
            self._try_to(
                lambda: self.steps.meet(self.iterations(model)), "count the steps"
            )
        seen = Look()

        def see() -> None:
            read: list[Subject] = [Progress("", self.epoch)]
            read += self._read_optimizers(model, after_each_step=each)
            read += self._read_tensors(model, subjects, rows)
            shown = look(read, self.settings.watch, self._past)
            seen.scalars |= shown.scalars
            seen.histograms |= shown.histograms
            for tag, error in shown.failed.items():
                self._voice.say(f"leaves out {tag}: {error!r}. Training goes on.", tag)
            self._tell_of_layers(model)

        self._try_to(see, "summarize a step")
        return self._write(model, seen)

    def end_epoch(self, model: Any, logs: Mapping[str, Any]) -> list[Alert]:
        """Write what `fit` reports for an epoch, and what the optimizers tell.

        Returns the alerts that this raises or ends.
        """
        seen = Look()

        def see() -> None:
            metrics = look([Progress("", self.epoch), *_metrics(logs)])
            seen.scalars |= metrics.scalars
            told = look(self._read_optimizers(model, after_each_step=True))
            seen.scalars |= told.scalars
            if not self._has_hyperparameters:
                self._has_hyperparameters = True
                self._write_hyperparameters(
                    model, [tag for tag in metrics.scalars if tag != "epoch"]
                )

        self._try_to(see, "read the metrics")
        return self._write(model, seen)

    def end_training(self, model: Any) -> list[Alert]:
        """The alerts that only the end of a training raises."""
        found = self.follower.end()
        self._write_alerts(self._step(model), found)
        return found

    # --- reading ---

    def _read_optimizers(self, model: Any, *, after_each_step: bool) -> list[Subject]:
        found: list[Subject] = []
        optimizers = self._contents.of(model).optimizers

        def read_them() -> None:
            found.extend(
                self.optimizers.read(optimizers, after_each_step=after_each_step)
            )

        self._try_to(read_them, "read the optimizers")
        return found

    def _read_tensors(
        self, model: Any, subjects: Sequence[Subject], rows: Rows
    ) -> list[Subject]:
        selection = self.selection(model)
        own, own_rows = self._weights.read(selection, self.epoch)
        for subject in subjects:
            if isinstance(subject, Output):
                self._order.setdefault(subject.layer)
                self._final |= {subject.layer} if subject.is_final else set()
        found = read([*own, *subjects], read_back({**rows, **own_rows}))
        self._weights.saw(selection, found)
        return found

    def _past(self, tag: str) -> Sequence[float]:
        return self._history.values(self._tag(tag))

    def _tag(self, tag: str) -> str:
        """A tag in `history`, which is of all models."""
        return f"{self.name}/{tag}" if self.name else tag

    def _tell_of_layers(self, model: Any) -> None:
        selected = self.selection(model)
        known = selected.inventory.layers
        if known and not selected.layers:
            names = ", ".join([*known][:20])
            self._voice.say(
                f"(layers={self.settings.layers}) selects no layer of "
                f"{model.name!r}, whose layers are: {names}"
                f"{', ...' * (len(known) > 20)}."
            )

    # --- writing ---

    def _step(self, model: Any) -> int:
        """The step to write."""
        try:
            return self.steps.show(self.iterations(model))
        except Exception:  # as `try_to`, which has said it
            return self.steps.show(None)

    def _write(self, model: Any, seen: Look) -> list[Alert]:
        step = self._step(model)
        self._try_to(lambda: self._write_record(model, step), "describe the run")
        found = self.follower.look(step, seen.scalars)
        for rule, error in self.follower.failures.items():
            self._voice.say(
                f"leaves out the rule {rule}: {error!r}. Training goes on.", rule
            )
        if self.follower.alerts:
            counts = [alert.level for alert in self.follower.open]
            levels = [OpenAlerts(level, counts.count(level)) for level in LEVELS]
            seen.scalars |= look(levels).scalars
        scalars = {self._tag(tag): value for tag, value in seen.scalars.items()}
        self._history.add(step, scalars)
        self._try_to_write(
            lambda: self.writer.write(step, seen.scalars, seen.histograms)
        )
        layout = self._layout.grown(seen.scalars)
        if layout is not None:
            self._try_to_write(lambda: self.writer.write_values(step, [layout]))
        self._write_alerts(step, found)
        return found

    def _write_alerts(self, step: int, found: Sequence[Alert]) -> None:
        if found:
            self._try_to_write(
                lambda: self.writer.write_values(
                    step,
                    [
                        alert_log.value_of(found),
                        alert_log.text_of(self.follower.alerts),
                    ],
                )
            )

    def _write_record(self, model: Any, step: int) -> None:
        """Describe the run where it begins, and where its model has changed."""
        inventory = self._contents.of(model)
        state = inventory, len(self._order), len(self._final)
        if state != self._recorded and inventory.weights:
            self._recorded = state
            record = self._record(model, inventory, step)
            self.follower.record(record)
            value = run_record.value_of(record)
            self._try_to_write(lambda: self.writer.write_values(step, [value]))

    def _record(self, model: Any, inventory: Inventory, step: int) -> dict[str, Any]:
        return {
            "step": step,
            **describe(model, inventory, [*self._order], self._final),
            "fit": self._fit,
            "versions": _versions(),
            "options": dict(self.settings.described),
        }

    def _write_hyperparameters(self, model: Any, metrics: Sequence[str]) -> None:
        record = self._record(model, self._contents.of(model), 0)
        values = hyperparameter_values(hyperparameters(record), metrics)
        self._try_to_write(lambda: self.writer.write_values(0, values))

    def _try_to(self, act: Callable[[], None], what: str) -> None:
        self._voice.try_to(act, what)

    def _try_to_write(self, write: Callable[[], None]) -> None:
        if not self._can_write:
            return
        try:
            write()
        except Exception as error:  # whatever it is, it is no reason to lose a training
            self._can_write = False
            self._voice.say(
                f"cannot write to {str(self.writer.log_dir)!r} any more: {error!r}. "
                "Training goes on, unlogged from here."
            )


def _metrics(logs: Mapping[str, Any]) -> list[Metric]:
    found = []
    for name, value in logs.items():
        try:
            found.append(Metric(name, float(np.asarray(value).item())))
        except (TypeError, ValueError):  # a metric may be an array, or a word
            continue
    return found


def _versions() -> dict[str, str]:
    """Of what a run depends on, where it is loaded."""
    found = {name: metadata.version(name) for name in VERSIONED if name in sys.modules}
    return {
        "kbn": sys.modules["kbn"].__version__,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        **found,
    }
