"""The run of one model: what a monitor reads of it, keeps and writes."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kbn.private.keras import random_seed

from .alerts.alert import LEVELS, Alert
from .alerts.follow import Follower
from .log.history import History
from .log.logged import Entry, LoggedRun
from .log.records import versions
from .log.run_log import RunLog
from .pace import Stopwatch
from .schedule import Steps
from .signals.look import Look, look
from .signals.reading import read
from .signals.rule import Rule
from .signals.statistics import np_histograms
from .signals.subjects import (
    BrokenLoss,
    Input,
    Loss,
    Metric,
    NormInput,
    OpenAlerts,
    Own,
    Progress,
    Subject,
)
from .sinks import Sink
from .telling import Voice
from .watch import probe
from .watch.activations import Activity
from .watch.description import Met, describe
from .watch.evidence import Evidence, Search, arrays_of, broken_weights, non_finite
from .watch.inputs import first_of_each, validation_rows
from .watch.inventory import Contents, Inventory, Selection
from .watch.layers import attribute
from .watch.optimizers import OptimizerReader
from .watch.probe import Asked, Seen
from .watch.targets import HeadReader, Supervision
from .watch.tensors import to_numpy
from .watch.weights import WeightReader

Rows = Mapping[tuple[str, str], Any]


@dataclass(frozen=True)
class Settings:
    """What a monitor was asked for; `described`: the same, as JSON has it."""

    asked: Asked
    layers: str  # as the user wrote it
    rules: Sequence[Rule]
    described: Mapping[str, Any]
    hparams: Mapping[str, bool | float | str]
    sink: Sink | None  # where all that is logged goes too


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
        self.log = RunLog(directory, name, history, voice.say)
        self.optimizers = OptimizerReader()
        self.follower = Follower(settings.rules)
        self._activity = Activity()
        self.stopwatch = Stopwatch()
        self.search = Search()  # for the data that made a NaN
        self._evidence = Evidence()
        self._has_evidence = False
        self.epoch = 1  # of the fit, from 1
        self.batch_size: int | None = None  # of the first batch that was looked at
        self._heads = HeadReader()
        self._weights = WeightReader(settings.asked.watch, settings.asked.sample_size)
        self._voice = voice
        self.contents = Contents()
        self._selection: Selection | None = None
        self._inventory: Inventory  # see `take`
        self._met = Met()
        self._knows_applied = False  # of all optimizers, to what
        self._began: int | None = None  # steps of the optimizer before the first fit
        self._first_look: int | None = None  # and before the first look
        self._iterations: int | None = None  # when the weights were noted last
        self._noted_at = 0  # and the step that was to follow
        self._described: tuple[Any, ...] = ()
        self._has_hyperparameters = False
        self._is_running = False
        self._fit: dict[str, Any] = {}
        self._record_of_run: Mapping[str, Any] = {}
        self._validation: dict[str, Any] = {}  # rows of its inputs, by key
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
        self.contents, self._selection = Contents(), None

    def open(self, fit: Mapping[str, Any]) -> None:
        """Start an event file for a fit with these parameters; may be an OSError.

        Of several processes that train together, the first writes and speaks.
        """
        is_first = probe.backend().is_first_process()
        self._voice.is_silent = not is_first
        if is_first:
            self.log.open()
        self._fit = {k: v for k, v in fit.items() if isinstance(v, int)}
        self._validation.clear()
        self._described, self._is_running = (), True
        self.stopwatch.start()

    def take(self, model: Any) -> None:
        """See what there is in the model now: what follows goes by that."""

        def see() -> None:
            self._inventory = self.contents.of(model)

        self._voice.try_to(see, "see what there is in the model")

    @property
    def selection(self) -> Selection:
        """What is watched of what there is."""
        if self._selection is None or self._selection.inventory is not self._inventory:
            self._selection = Selection(self._inventory, self.settings.asked.select)
        return self._selection

    def begin_fit(self, steps: int | None) -> bool:
        """Right before its first step; whether the optimizer starts again from fewer.

        `steps` of an epoch, None if unknown.
        """
        found = self._inventory.optimizers
        taken = self.optimizers.begin_fit(found, steps)
        starts_again = self.steps.begin_fit(taken)
        self._weights.begin_fit(self.steps.count)
        if self._began is None and found:
            self._began = taken
        return starts_again

    def iterations(self) -> int | None:
        """Steps of the optimizer that the training goes by; None if none is known."""
        return self.optimizers.iterations(self._inventory.optimizers)

    def note_weights(self) -> None:
        """Note the weights as they are, for a look after the step."""
        self._iterations = self.iterations()
        self._noted_at = self.steps.count
        self.stopwatch.before_look(self.steps.count - _steps_a_call(self._model()))
        self._weights.before_step(self.selection, self.steps.count)

    def look(self, model: Any, step: Seen) -> list[Alert]:
        """Write what a probe saw of a step, and weights and batch norm as they are.

        Returns the alerts that this raises or ends.
        """
        self.take(model)
        self.batch_size = self.batch_size or step.batch_size
        if self._first_look is None:
            tried = self.steps.count - _steps_a_call(model)
            known = self._iterations  # None: the optimizer was not built yet
            self._first_look = max(tried, 0) if known is None else known
        self.optimizers.saw_applied(step.applied)
        self._knows_applied |= step.knows_applied
        each = _steps_a_call(model) == 1
        is_one_step = each and self.steps.count == self._noted_at
        if each:
            self._voice.try_to(
                lambda: self.steps.meet(self.iterations()), "count the steps"
            )
        found = self._found_in_data(step)
        is_alone, self.search.is_alone = self.search.is_alone, False
        if is_alone:
            return self._write(model, self._broken(found)) if found else []
        seen = Look()

        def see() -> None:
            read: list[Subject] = [Progress("", self.epoch)]
            own = {name: float(to_numpy(x)) for name, x in step.own.items()}
            read += [Own(name, value=x) for name, x in own.items()]
            read += self._read_optimizers(after_each_step=each)
            subjects = [*step.subjects]
            if not any(isinstance(x, Loss) for x in subjects):
                subjects.append(Loss("", reported=step.reported))
            read += self._read_tensors(subjects, step.rows, is_one_step=is_one_step)
            read += self._read_heads(model, step.supervision, read)
            read += broken_weights(step.supervision)
            read += self.stopwatch.read(self.batch_size)
            shown = look(read, self.settings.asked.watch, self.log.past)
            seen.scalars |= shown.scalars
            seen.histograms |= shown.histograms
            seen.layers |= shown.layers
            for tag, error in shown.failed.items():
                self._voice.say(f"leaves out {tag}: {error!r}. Training goes on.", tag)
            self._tell_of_layers(model)

        self._voice.try_to(see, "summarize a step")
        for name, raised in step.failed.items():
            self._voice.say(
                f"leaves out the signal {name}: {raised!r}. Training goes on.", name
            )
        if step.knows_batches:
            self._voice.try_to(
                lambda: self._evidence.keep(model, self._step()), "keep the weights"
            )
        found_alerts = self._write(model, seen)
        self.stopwatch.after_look(self.steps.count)
        return found_alerts

    def _found_in_data(self, step: Seen) -> dict[str, int]:
        """What of its batch is not finite, if that is searched for."""
        found: dict[str, int] = {}
        if self.search.is_on:
            given = [x for x in step.subjects if isinstance(x, Input)]  # and targets

            def search() -> None:
                weights = broken_weights(step.supervision)
                found.update(self.search.saw([*read(given, step.rows), *weights]))

            self._voice.try_to(search, "search the data for NaN")
        return found

    def validates(self, model: Any) -> None:
        """A validation begins: see what its inputs are like, once in a fit."""
        if not self._validation and Input.watch in self.settings.asked.watch:
            self._voice.try_to(
                lambda: self._validation.update(validation_rows(model)),
                "read the validation data",
            )

    def check(self, model: Any) -> list[Alert]:
        """Look whether the weights are finite; the alerts that this raises or ends."""
        counts: dict[str, int] = {}

        def see() -> None:
            self.take(model)
            counts.update(self._weights.non_finite(self._inventory))

        self._voice.try_to(see, "read the weights")
        named = {f"weights/{path}": count for path, count in counts.items()}
        return self._write(model, self._broken(named)) if counts else []

    def tell_of_broken_loss(
        self, model: Any, batch: Any, late: int, *, has_raised: bool = False
    ) -> list[Alert]:
        """The loss has become NaN or Inf: say where that is seen, keep the batch.

        `batch`: with which it did, `late` steps ago; None if that is not known.
        `has_raised`: the step has raised an error in place of a loss, which is told of
        if something is NaN or Inf. Returns the alerts that this raises or ends.
        """
        seen = Look()

        def see() -> None:
            self.take(model)
            counts: dict[str, int] = {}
            known = None if batch is None else arrays_of(batch)
            bad = {} if known is None else non_finite(known)
            places = {"x": "inputs", "y": "targets", "sample_weight": "targets"}
            for (part, name), (count, _) in bad.items():
                if part in places:
                    counts[f"{places[part]}/{name}"] = count
            if not (has_raised and counts):
                weights = self._weights.non_finite(self._inventory)
                counts |= {f"weights/{path}": n for path, n in weights.items()}
            if has_raised and not counts:
                return
            seen.scalars |= self._broken(counts).scalars
            if not has_raised:
                seen.scalars |= look([BrokenLoss("")]).scalars
            if known is not None:
                self.search.end()
                self._keep(known, bad, self._step() - late)

        if not has_raised:
            self._voice.try_to(see, "see where the loss became NaN")
            return self._write(model, seen)
        # The step's own error goes on to the user, who is to read that. On JAX the
        # weights are gone with it.
        with contextlib.suppress(Exception):
            see()
        return self._write(model, seen) if seen.scalars else []

    def _broken(self, counts: Mapping[str, int]) -> Look:
        seen = look([Progress("", self.epoch)])
        for name, count in counts.items():
            seen.scalars[f"health/non_finite/{name}"] = float(count)
        return seen

    def _keep(
        self, batch: Any, bad: Mapping[tuple[str, str], tuple[int, int]], step: int
    ) -> None:
        if self._has_evidence or self._voice.is_silent:
            return
        self._has_evidence = True
        directory = self.log.directory / f"non_finite_step_{step}"
        self._evidence.save(directory, step, batch)
        found = [
            f"{count} NaN or Inf in {part if name == part else f'{part}/{name}'}, "
            f"first in example {first}"
            for (part, name), (count, first) in bad.items()
        ] or ["its inputs and targets are finite"]
        self._voice.say(
            f"keeps the batch after which the loss was NaN or Inf, at step {step}, in "
            f"{str(directory)!r}: {'; '.join(found)}. Its replay.py trains on it again."
        )

    def end_epoch(self, model: Any, logs: Mapping[str, Any]) -> list[Alert]:
        """Write what `fit` reports for an epoch, and what the optimizers tell.

        Returns the alerts that this raises or ends.
        """
        self.take(model)
        seen = Look()

        def see() -> None:
            metrics = look([Progress("", self.epoch), *_metrics(logs)])
            seen.scalars |= metrics.scalars
            told = look(
                [
                    *self._read_optimizers(after_each_step=True),
                    *self._heads.penalty(model),
                ]
            )
            seen.scalars |= told.scalars
            if not self._has_hyperparameters:
                self._has_hyperparameters = True
                tags = [tag for tag in metrics.scalars if tag != "epoch"]
                self.log.write_hyperparameters(self._record(model, 0), tags)

        self._voice.try_to(see, "read the metrics")
        return self._write(model, seen)

    def end_training(self, model: Any) -> list[Alert]:
        """The alerts that only the end of a training raises."""
        self.take(model)
        found, step = self.follower.end(), self._step()
        self._write_alerts(step, found)
        self._is_running = False
        self._voice.try_to(
            lambda: self.log.write_record(step, self._record(model, step)),
            "describe the run",
        )
        return found

    def logged(self) -> LoggedRun:
        """Its log without histograms, from memory."""
        entries = self.log.entries()
        entries.append(Entry(self._step(), 0.0, {"epoch": float(self.epoch)}))
        record = {
            "model": {"name": attribute(self._model(), "name")},
            **self._record_of_run,
            "is_running": self._is_running,
            "options": self.settings.described,
        }
        return LoggedRun(
            self.name,
            self.log.directory,
            entries=entries if self.steps.count else [],
            record=record,
            alerts=self.follower.alerts,
        )

    # --- reading ---

    def _read_optimizers(self, *, after_each_step: bool) -> list[Subject]:
        found: list[Subject] = []
        optimizers = self._inventory.optimizers

        def read_them() -> None:
            found.extend(
                self.optimizers.read(optimizers, after_each_step=after_each_step)
            )

        self._voice.try_to(read_them, "read the optimizers")
        return found

    def _read_heads(
        self, model: Any, given: Supervision | None, read: Sequence[Subject]
    ) -> list[Subject]:
        found: list[Subject] = []
        losses = [x.trained for x in read if isinstance(x, Loss)]
        trained = next(iter(losses), None)
        self._voice.try_to(
            lambda: found.extend(self._heads.read(model, given, trained)),
            "compare outputs and targets",
        )
        return found

    def _read_tensors(
        self, subjects: Sequence[Subject], rows: Rows, *, is_one_step: bool
    ) -> list[Subject]:
        selection = self.selection
        calls = Counter(x.layer for x in subjects if isinstance(x, NormInput))
        own, own_rows = self._weights.read(
            selection,
            self.steps.count,
            calls,
            self.optimizers.of_weight if self._knows_applied else None,
            is_one_step=is_one_step,
        )
        self._met.see(subjects)
        found = read([*own, *subjects], {**rows, **own_rows})
        self._weights.saw(selection, found)
        found = [
            x.having({"validation": self._validation.get(x.key)})
            if isinstance(x, Input)
            else x
            for x in found
        ]
        return self._activity.over_looks(found, self.batch_size)

    def _tell_of_layers(self, model: Any) -> None:
        selected = self.selection
        known = selected.inventory.layers
        if known and not selected.layers:
            names = ", ".join([*known][:20])
            self._voice.say(
                f"(layers={self.settings.layers}) selects no layer of "
                f"{model.name!r}, whose layers are: {names}"
                f"{', ...' * (len(known) > 20)}."
            )

    # --- writing ---

    def _step(self) -> int:
        """The step to write."""
        try:
            return self.steps.show(self.iterations())
        except Exception:  # as `try_to`, which has said it
            return self.steps.show(None)

    def _write(self, model: Any, seen: Look) -> list[Alert]:
        step = self._step()
        self._voice.try_to(lambda: self._describe(model, step), "describe the run")
        # Where the probe shows no inputs, there is nothing to search.
        if self._met.inputs and self.search.is_needed(seen.scalars):
            self.search.begin(self._fit.get("steps"))
        found = self.follower.look(step, seen.scalars)
        for rule, error in self.follower.failures.items():
            self._voice.say(
                f"leaves out the rule {rule}: {error!r}. Training goes on.", rule
            )
        if self.follower.alerts:
            counts = [alert.level for alert in self.follower.open]
            levels = [OpenAlerts(level, counts.count(level)) for level in LEVELS]
            seen.scalars |= look(levels).scalars
        self.log.write(step, seen.scalars, seen.histograms, seen.layers)
        self._hand_on(step, seen)
        self._write_alerts(step, found)
        return found

    def _write_alerts(self, step: int, found: Sequence[Alert]) -> None:
        """Write those that were raised or ended, and those that explain others now."""
        changed = [*found, *self.follower.grown]
        self.log.write_alerts(step, changed, self.follower.alerts)
        for alert in found:
            if alert.is_open:
                self.tell(methodcaller("alert", alert))

    def _hand_on(self, step: int, seen: Look) -> None:
        prefix = f"{self.name}/" if self.name else ""

        def look_at(sink: Sink) -> None:
            scalars = {f"{prefix}{tag}": x for tag, x in seen.scalars.items()}
            drawn = {f"{prefix}{tag}": x for tag, x in seen.histograms.items()}
            sink.look(step, scalars, np_histograms(drawn))

        if seen.scalars:
            self.tell(look_at)

    def tell(self, act: Callable[[Sink], object]) -> None:
        """Hand on to the user's own home for what is logged; one process does."""
        sink = self.settings.sink
        if sink is None or self._voice.is_silent:
            return
        try:
            act(sink)
        except Exception as error:  # of a server that is away: no reason to end
            self._voice.say(f"on_look raises {error!r}. Training goes on.", "on_look")

    def _describe(self, model: Any, step: int) -> None:
        """Describe the run where it begins, and where its model has changed."""
        applied = [*self.optimizers.applied(self._inventory.optimizers)]
        fresh = self._weights.fresh
        state = (
            self._inventory,
            self._met.state,
            len(self.optimizers.of_weight),
            applied,
            fresh,
            self._heads.state,
        )
        if state != self._described and self._inventory.weights:
            self._described = state
            record = self._record_of_run = self._record(model, step)
            self.follower.record(record)
            self.log.write_record(step, record)

    def _record(self, model: Any, step: int) -> dict[str, Any]:
        known = self._inventory
        told = describe(model, known, self._met, self._weights.fresh, self.optimizers)
        layers = {x["name"]: known.layers[x["name"]] for x in told["layers"]}
        inputs: dict[str, Any] = {}
        self._voice.try_to(
            lambda: inputs.update(first_of_each(model, self._met.inputs, layers)),
            "follow the inputs",
        )
        return {
            "step": step,
            "is_running": self._is_running,
            **told,
            "inputs": inputs,
            "began": self._began,
            "first_look": self._first_look,
            "heads": self._heads.describe(model, known, self._met.final),
            "no_guess": self._heads.why_no_guess(model),
            "fit": {**self._fit, **self._found_out()},
            "hparams": dict(self.settings.hparams),
            "versions": {"backend": keras.backend.backend(), **versions()},
            "commit": self.log.commit,
            "device": probe.backend().device(),
            "seconds": self.stopwatch.seconds,
            "options": dict(self.settings.described),
        }

    def _found_out(self) -> dict[str, int]:
        known = {"batch_size": self.batch_size, "seed": random_seed()}
        return {name: value for name, value in known.items() if value is not None}


def _steps_a_call(model: Any) -> int:
    """How many steps one call of the training function takes."""
    return int(getattr(model, "steps_per_execution", 1))


def _metrics(logs: Mapping[str, Any]) -> list[Metric]:
    """Of a metric of several values, as one a class, each by its number: `f1/0`."""
    found = []
    for name, value in logs.items():
        try:
            values = np.asarray(value, np.float64)
        except (TypeError, ValueError):  # a word
            continue
        if values.size == 1:
            found.append(Metric(name, float(values.item())))
        elif values.ndim == 1:
            found += [Metric(f"{name}/{i}", float(x)) for i, x in enumerate(values)]
    return found
