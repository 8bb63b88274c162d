"""The log of one run: its snapshots go into a history and into event files."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tensorboard.plugins.hparams import summary_v2

from ..alerts.alert import Alert
from ..signals.statistics import Summary
from . import layout, records
from .history import History
from .layout import Layout
from .logged import Entry
from .writer import EventWriter


def hyperparameters(record: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """{name: value} from a run record: what kbn knows, and the user's own."""
    kinds = {x["type"] for x in record["layers"] if "batch_norm" in x}
    known: dict[str, bool | float | str] = {
        "batch_norm": ", ".join(sorted(kinds)) or "none",
        "parameters": record["model"]["parameters"],
    }
    # Without one that `compile` was given, the first of the model's own.
    for optimizer in record["optimizers"][:1]:
        known["optimizer"] = optimizer["type"].rpartition(".")[2]
        known["learning_rate"] = optimizer["learning_rate"]
    for name in ("epochs", "steps", "batch_size", "seed"):
        if isinstance(record["fit"].get(name), int):
            known[name] = record["fit"][name]
    if isinstance(record["model"].get("dtype_policy"), str):
        known["precision"] = record["model"]["dtype_policy"]
    return {**known, **record.get("hparams", {})}


def trial_of(directory: Path) -> str:
    """A name for the row of a run: without one, equal runs would share a row."""
    place = str(directory.absolute())
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{directory.name or 'run'}-{digest[:6]}"


# TensorBoard takes the columns of all runs from the configuration of one of them, and
# ticks the first five by their letters.
COLUMNS = (
    *("batch_norm", "batch_size", "epochs", "learning_rate", "optimizer"),
    *("parameters", "precision", "seed", "steps"),
)


def hyperparameter_values(
    known: Mapping[str, bool | float | str], metrics: Sequence[str], trial: str
) -> list[Any]:
    """A row of the HParams tab and its columns, as values of a Summary proto.

    `metrics`: scalar tags to show beside the hyperparameters. `trial`: the row's name.
    """
    own = [name for name in known if name not in COLUMNS]
    config = summary_v2.hparams_config_pb(
        hparams=[summary_v2.HParam(name) for name in (*own, *COLUMNS)],
        # Without a list, the tab has a column for each of hundreds of scalars.
        metrics=[summary_v2.Metric(tag) for tag in metrics],
    )
    return [*config.value, *summary_v2.hparams_pb(dict(known), trial_id=trial).value]


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
        self._worst = layout.WorstLayers()
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

    def entries(self) -> list[Entry]:
        """The scalars so far, as far as the history has them; without their times."""
        by_step: dict[int, dict[str, float]] = {}
        prefix = self._tag("")
        for tag, points in self._history.by_tag().items():
            if tag.startswith(prefix):
                for step, value in zip(*points, strict=True):
                    by_step.setdefault(step, {})[tag.removeprefix(prefix)] = value
        return [Entry(step, 0.0, by_step[step]) for step in sorted(by_step)]

    def write(
        self,
        step: int,
        scalars: Mapping[str, float],
        histograms: Mapping[str, Summary],
        layers: Mapping[str, Mapping[str, float]],
    ) -> None:
        """Write one snapshot, and charts for tags that are new.

        Of `layers` the worst are named in the Text tab; see `WorstLayers`.
        """
        scalars, histograms = self._fresh(step, scalars), self._fresh(step, histograms)
        self._history.add(step, {self._tag(tag): x for tag, x in scalars.items()})
        more = [self._layout.grown(scalars), self._worst.seen(step, layers)]
        values = [x for x in more if x is not None]
        self._try_to(lambda: self._writer.write(step, scalars, histograms, values))

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
            table = layout.alerts_text(alerts)
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
