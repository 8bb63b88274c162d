"""The log of one run: its snapshots go into a history and into event files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..alerts.alert import Alert
from ..signals.statistics import Summary
from . import records, texts
from .history import History
from .hyperparameters import hyperparameter_values, hyperparameters, trial_of
from .layout import Layout
from .writer import EventWriter

Value = TypeVar("Value")


class RunLog:
    """Writes the snapshots of one model, over all of its fits.

    A tag has one value a step: a second one, as of a fit that begins where the last one
    ended, is left out. A file that cannot be written any more is reported once, and the
    training goes on.

    `name`: of the run in `history`, which is of all models; empty for the first.
    """

    def __init__(
        self, directory: Path, name: str, history: History, say: Callable[[str], None]
    ) -> None:
        self.directory = directory
        self._name = name
        self._history = history
        self._say = say
        self._writer = EventWriter(directory)
        self._layout = Layout()
        self._worst = texts.WorstLayers()
        self._last_step: dict[str, int] = {}
        self._can_write = False
        self.commit = records.commit()

    def open(self) -> None:
        """Start an event file; an OSError if the directory cannot be written."""
        self._writer.open()
        self._can_write = True

    def past(self, tag: str) -> list[float]:
        """The values of a tag so far."""
        return self._history.values(self._tag(tag))

    def write(
        self,
        step: int,
        scalars: Mapping[str, float],
        histograms: Mapping[str, Summary],
    ) -> None:
        """Write one snapshot, and charts for tags that are new."""
        scalars, histograms = self._fresh(step, scalars), self._fresh(step, histograms)
        self._history.add(step, {self._tag(tag): x for tag, x in scalars.items()})
        self._try_to(lambda: self._writer.write(step, scalars, histograms))
        self._write_values(step, self._layout.grown(scalars))

    def write_worst(self, step: int, layers: Mapping[str, Mapping[str, float]]) -> None:
        """Name the worst layers in the Text tab; see `WorstLayers`."""
        self._write_values(step, self._worst.seen(step, layers))

    def write_record(self, step: int, record: Mapping[str, Any]) -> None:
        """Write the run record, which describes the run to readers."""
        self._write_values(step, records.run_value(record))

    def write_hyperparameters(
        self, record: Mapping[str, Any], metrics: Sequence[str]
    ) -> None:
        """Write what the HParams tab compares, from a run record."""
        trial = trial_of(self.directory)
        known = hyperparameters(record)
        self._write_values(0, *hyperparameter_values(known, metrics, trial))

    def write_alerts(
        self, step: int, changed: Sequence[Alert], alerts: Sequence[Alert]
    ) -> None:
        """Write the alerts that were raised or ended, and all of them as a text."""
        if changed:
            table = texts.alerts_text(alerts)
            self._write_values(step, records.alerts_value(changed), table)

    def _tag(self, tag: str) -> str:
        return f"{self._name}/{tag}" if self._name else tag

    def _fresh(self, step: int, by_tag: Mapping[str, Value]) -> dict[str, Value]:
        fresh = {k: x for k, x in by_tag.items() if self._last_step.get(k) != step}
        self._last_step |= dict.fromkeys(fresh, step)
        return fresh

    def _write_values(self, step: int, *values: Any) -> None:
        """Write values of a Summary proto; None is nothing new."""
        if new := [value for value in values if value is not None]:
            self._try_to(lambda: self._writer.write_values(step, new))

    def _try_to(self, write: Callable[[], None]) -> None:
        if not self._can_write:
            return
        try:
            write()
        except Exception as error:  # whatever it is, it is no reason to lose a training
            self._can_write = False
            self._say(
                f"cannot write to {str(self.directory)!r} any more: {error!r}. "
                "Training goes on, unlogged from here."
            )
