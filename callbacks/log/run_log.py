"""The log of one run: what a look shows goes into history and into event files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..alerts.alert import Alert
from ..diagnostics.statistics import Summary
from . import alerts as alert_log
from . import run_record
from .history import History
from .hyperparameters import hyperparameter_values, hyperparameters, trial_of
from .layout import Layout
from .worst import WorstLayers
from .writer import EventWriter


class RunLog:
    """Writes what one model shows, over all of its fits.

    `name`: of the run in `history`, which is of all models; empty for the first. A file
    that cannot be written any more is said, once, and the training goes on.
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
        self._worst = WorstLayers()
        self._can_write = False

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
        """What one look has shown, and charts for tags that are new."""
        self._history.add(step, {self._tag(tag): x for tag, x in scalars.items()})
        self._try_to(lambda: self._writer.write(step, scalars, histograms))
        layout = self._layout.grown(scalars)
        if layout is not None:
            self._write_values(step, [layout])

    def write_worst(self, step: int, layers: Mapping[str, Mapping[str, float]]) -> None:
        """Which layers are the worst, as a text; see `WorstLayers`."""
        value = self._worst.seen(step, layers)
        if value is not None:
            self._write_values(step, [value])

    def write_record(self, step: int, record: Mapping[str, Any]) -> None:
        """What readers need to know of the run."""
        self._write_values(step, [run_record.value_of(record)])

    def write_hyperparameters(
        self, record: Mapping[str, Any], metrics: Sequence[str]
    ) -> None:
        """What the HParams tab compares, from a run record."""
        trial = trial_of(self.directory)
        values = hyperparameter_values(hyperparameters(record), metrics, trial)
        self._write_values(0, values)

    def write_alerts(
        self, step: int, changed: Sequence[Alert], alerts: Sequence[Alert]
    ) -> None:
        """Those that were raised or ended now, and the state of all as a text."""
        if changed:
            values = [alert_log.value_of(changed), alert_log.text_of(alerts)]
            self._write_values(step, values)

    def _tag(self, tag: str) -> str:
        return f"{self._name}/{tag}" if self._name else tag

    def _write_values(self, step: int, values: Sequence[Any]) -> None:
        self._try_to(lambda: self._writer.write_values(step, values))

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
