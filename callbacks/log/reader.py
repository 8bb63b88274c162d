"""Event files of a directory -> what a run has logged. Nothing in a file raises."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2, types_pb2

from ..alerts.alert import Alert
from ..alerts.follow import alerts_of
from . import alerts as alert_log
from . import run_record
from .framing import Damaged, records_in
from .logged import Changed, Entry, Histograms, LoggedRun, Recorded, Rows

FILES = "events.out.tfevents.*"
OWN = ".kbn"  # the end of the name of a file that `EventWriter` wrote
DTYPES = {types_pb2.DT_FLOAT: "<f4", types_pb2.DT_DOUBLE: "<f8"}


def find_runs(directory: str | os.PathLike[str]) -> list[Path]:
    """Directories, this one and those below it, that hold event files of kbn's."""
    files = Path(directory).rglob(f"{FILES}{OWN}")
    return sorted({file.parent for file in files if file.is_file()})


def read_run(directory: str | os.PathLike[str], name: str = "") -> LoggedRun:
    """What is logged in one directory, over all fits and resumed trainings.

    Where a later file begins at an earlier step, as after a restart from a checkpoint,
    what was logged from that step on is left out: TensorBoard does the same.
    """
    return _Reading(Path(directory), name).run


def signature(directory: str | os.PathLike[str]) -> tuple[tuple[str, int], ...]:
    """Changes whenever something is logged there: names and sizes of the files."""
    found = []
    for file in sorted(Path(directory).rglob(f"{FILES}{OWN}")):
        try:
            found.append((str(file), file.stat().st_size))
        except OSError:  # gone in this moment
            continue
    return tuple(found)


class _Reading:
    """One pass over the files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.run = LoggedRun(name, directory)
        self._changes: list[Changed] = []
        self._process: tuple[str, ...] | None = None
        self._unread: Counter[str] = Counter()
        files = sorted(directory.glob(FILES), key=lambda file: file.name)
        own = [file for file in files if file.name.endswith(OWN)]
        if others := len(files) - len(own):
            self.run.problems.append(
                f"{_count(others, 'event file')} of other programs in {directory}, "
                "not read."
            )
        for file in own:
            self._read_file(file)
        for what, count in self._unread.items():
            self.run.problems.append(f"{_count(count, what)} could not be read.")
        self.run.alerts = self._alerts()

    def _read_file(self, file: Path) -> None:
        self._begins = True  # until the first look of the file
        self._kinds: dict[str, str] = {}
        is_empty = True
        try:
            with file.open("rb") as opened:
                for data in records_in(opened):
                    is_empty = False
                    self._read_event(data, file)
        except Damaged as error:
            self.run.problems.append(f"{file.name} {error}.")
            return
        except OSError as error:
            why = error.strerror or error
            self.run.problems.append(f"{file.name} could not be opened: {why}.")
            return
        if is_empty:
            self.run.problems.append(f"{file.name} is empty.")

    def _read_event(self, data: bytes, file: Path) -> None:
        try:
            event = event_pb2.Event.FromString(data)
        except DecodeError:
            self._unread["event"] += 1
            return
        scalars: dict[str, float] = {}
        if self._begins and any(map(_kind_of_numbers, event.summary.value)):
            self._begin(event.step, file)
        for value in event.summary.value:
            try:
                self._read_value(event.step, value, scalars)
            except (IndexError, KeyError, TypeError, ValueError, AttributeError):
                self._unread["value"] += 1
        if scalars:
            self.run.entries.append(Entry(event.step, event.wall_time, scalars))

    def _read_value(self, step: int, value: Any, scalars: dict[str, float]) -> None:
        tag = value.tag
        kind = self._kinds.get(tag)
        if kind is None:
            kind = self._kinds[tag] = _kind_of(value)
        if kind == "scalar":
            scalars[tag] = value.tensor.float_val[0]
        elif kind == "histogram":
            tensor = value.tensor
            rows = Rows(step, tensor.tensor_content, DTYPES[tensor.dtype])
            rows.array()  # a ValueError if it is not one
            self.run.histograms.setdefault(tag, Histograms()).add(rows)
        elif kind == run_record.TAG:
            record = run_record.record_of(value)
            if record is None or not _is_record(record):
                raise ValueError("a run record that is not one")
            self.run.records.append(Recorded(step, record))
        elif kind == alert_log.TAG:
            self._changes.append(Changed(step, alert_log.alerts_in(value)))

    def _begin(self, step: int, file: Path) -> None:
        """A file's first look: whether it goes on, and who writes it."""
        self._begins = False
        run = self.run
        if run.entries and run.entries[-1].step > step:
            left = [entry for entry in run.entries if entry.step < step]
            dropped = len(run.entries) - len(left)
            run.problems.append(
                f"Training began again at step {step}: {_count(dropped, 'entry')} that "
                "an earlier one had logged from there on, not shown."
            )
            run.entries = left
            self._changes = [one for one in self._changes if one.step < step]
            for histograms in run.histograms.values():
                histograms.drop_from(step)
        # Names: events.out.tfevents.<seconds>.<rest>.<host>.<process>.kbn
        process = tuple(file.name.split(".")[5:])
        if self._process not in (None, process):
            self._end_alerts(step)
        self._process = process

    def _end_alerts(self, step: int) -> None:
        """Another process goes on: it raises anew what is still ill."""
        ended = [
            Alert.from_dict({**alert.to_dict(), "resolved_step": step})
            for alert in self._folded()
            if alert.is_open
        ]
        if ended:
            self._changes.append(Changed(step, ended))
            rules = ", ".join(sorted({alert.rule for alert in ended}))
            self.run.problems.append(
                f"Another process goes on from step {step}: {rules}, open until then, "
                "counts as over, unless it was raised again."
            )

    def _folded(self) -> list[Alert]:
        """Each alert as it was last written."""
        newest: dict[tuple[str, int, str], Alert] = {}
        for changed in self._changes:
            for alert in changed.alerts:
                newest[alert.rule, alert.step, alert.level] = alert
        return [*newest.values()]

    def _alerts(self) -> list[Alert]:
        options = self.run.record.get("options")
        knows_rules = isinstance(options, Mapping) and "rules" in options
        if self._changes or knows_rules or not self.run.entries:
            return self._folded()
        try:
            return alerts_of(_in_order(self.run))
        except Exception as error:  # of a record that is not one of ours
            self.run.problems.append(f"Its alerts could not be computed: {error!r}.")
            return []


def _in_order(run: LoggedRun) -> Iterator[Any]:
    """Records and entries, a record before the entries of its step."""
    records = [*run.records]
    for entry in run.entries:
        while records and records[0].step <= entry.step:
            yield records.pop(0).record
        yield entry.step, entry.scalars


def _kind_of(value: Any) -> str:
    """By the plugin that it is for; without one, as of a lost first value, by shape."""
    plugin = value.metadata.plugin_data.plugin_name
    if plugin in ("scalars", "histograms"):
        return plugin.removesuffix("s")
    if plugin == run_record.PLUGIN:
        return str(value.tag)
    if plugin or value.tensor.dtype not in DTYPES:
        return ""
    return "histogram" if value.tensor.tensor_shape.dim else "scalar"


def _is_record(record: Any) -> bool:
    """Whether its parts are what readers take them for."""
    if not isinstance(record, Mapping):
        return False
    maps = [record.get(name, {}) for name in ("model", "fit", "versions", "options")]
    lists = [record.get(name, []) for name in ("layers", "optimizers")]
    maps += [x for one in lists if isinstance(one, list) for x in one]
    return all(isinstance(x, Mapping) for x in maps) and all(
        isinstance(x, list) for x in lists
    )


def _kind_of_numbers(value: Any) -> str:
    kind = _kind_of(value)
    return kind if kind in ("scalar", "histogram") else ""


def _count(count: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"
