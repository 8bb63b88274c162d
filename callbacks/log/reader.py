"""Reads what a run has logged from its event files. No file's content raises."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto import event_pb2, types_pb2

from ..alerts.alert import Alert
from ..signals.subjects import EPOCH
from . import records
from .logged import Entry, Histograms, LoggedRun, Rows

FILES = "events.out.tfevents.*"
OWN = ".kbn"  # the end of the name of a file that `EventWriter` wrote
DTYPES = {types_pb2.DT_FLOAT: "<f4", types_pb2.DT_DOUBLE: "<f8"}
HEADER_BYTES, CHECKSUM_BYTES = 12, 4  # around the data of a record


def find_runs(directory: str | os.PathLike[str]) -> list[Path]:
    """Directories, this one and those below it, that hold event files of kbn's."""
    files = Path(directory).rglob(f"{FILES}{OWN}")
    return sorted({file.parent for file in files if file.is_file()})


def read_run(directory: str | os.PathLike[str], name: str = "") -> LoggedRun:
    """Read one directory's log, over all fits and resumed trainings.

    Where a later file begins at an earlier step, as after a restart from a checkpoint,
    what was logged from that step on is left out: TensorBoard does the same.
    """
    return _Reading(Path(directory), name).run


def signature(directory: str | os.PathLike[str]) -> tuple[tuple[str, int], ...]:
    """Names and sizes of the files there, which change whenever something is logged."""
    found = []
    for file in sorted(Path(directory).rglob(f"{FILES}{OWN}")):
        try:
            found.append((str(file), file.stat().st_size))
        except OSError:  # gone in this moment
            continue
    return tuple(found)


class Damaged(ValueError):
    """From here on a file cannot be read; the message says where and how."""


def records_in(file: BinaryIO) -> Iterator[bytes]:
    """The data of each whole record of an event file.

    Of the two checksums only that of the length is compared, without which nothing
    after it could be found. That of the data takes TensorBoard's Python 0.1 s a
    megabyte; data that is not a proto shows when it is parsed.

    Raises:
        Damaged: The file ends within a record, or a length is not one.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    at = 0
    while header := file.read(HEADER_BYTES):
        if len(header) < HEADER_BYTES:
            raise Damaged(f"ends in the middle of a record, at byte {at}")
        if int.from_bytes(header[8:], "little") != _checksum(header[:8]):
            raise Damaged(f"is damaged at byte {at} of {size_bytes}: the rest is lost")
        length = int.from_bytes(header[:8], "little")
        data = file.read(length) if length <= size_bytes else b""
        end = file.read(CHECKSUM_BYTES)
        if len(data) < length or len(end) < CHECKSUM_BYTES:
            raise Damaged(f"ends in the middle of a record, at byte {at}")
        at += HEADER_BYTES + length + CHECKSUM_BYTES
        yield data


def _checksum(data: bytes) -> int:
    """The masked CRC-32C of a few bytes. TensorBoard's takes 0.1 s to import."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class _Reading:
    """One pass over the files of a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.run = LoggedRun(name, directory)
        self._alerts: list[tuple[int, Alert]] = []  # with the step of its change
        self._process: list[str] | None = None
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
        for kind, count in self._unread.items():
            self.run.problems.append(f"{_count(count, kind)} could not be read.")
        self.run.alerts = self._newest()

    def _read_file(self, file: Path) -> None:
        self._begins = True  # until the first snapshot of the file
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
        if self._begins and any(map(_has_numbers, event.summary.value)):
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
            if tag.startswith("epoch/"):  # as 0.1.0 wrote it
                tag = EPOCH + tag.removeprefix("epoch/")
            scalars[tag] = value.tensor.float_val[0]
        elif kind == "histogram":
            tensor = value.tensor
            rows = Rows(step, tensor.tensor_content, DTYPES[tensor.dtype])
            rows.array()  # a ValueError if it is not one
            self.run.histograms.setdefault(tag, Histograms()).add(rows)
        elif kind == records.RUN:
            record = records.run_in(value)
            if record is None or not _is_record(record):
                raise ValueError("a run record that is not one")
            self.run.record = record
        elif kind == records.ALERTS:
            self._alerts += [(step, alert) for alert in records.alerts_in(value)]

    def _begin(self, step: int, file: Path) -> None:
        """Compare a file's first snapshot with what was read of the files before it."""
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
            self._alerts = [one for one in self._alerts if one[0] < step]
            for histograms in run.histograms.values():
                histograms.drop_from(step)
        # Names: events.out.tfevents.<seconds>.<rest>.<host>.<process>.kbn
        process = file.name.split(".")[5:]
        if self._process not in (None, process):
            self._end_alerts(step)
        self._process = process

    def _end_alerts(self, step: int) -> None:
        """End the open alerts: another process goes on, and raises anew what lasts."""
        ended = [
            Alert.from_dict({**alert.to_dict(), "resolved_step": step})
            for alert in self._newest()
            if alert.is_open
        ]
        if ended:
            self._alerts += [(step, alert) for alert in ended]
            rules = ", ".join(sorted({alert.rule for alert in ended}))
            self.run.problems.append(
                f"Another process goes on from step {step}: {rules}, open until then, "
                "counts as over, unless it was raised again."
            )

    def _newest(self) -> list[Alert]:
        """Each alert as it was last written."""
        newest = {(x.rule, x.step, x.level): x for _, x in self._alerts}
        return [*newest.values()]


def _kind_of(value: Any) -> str:
    """The kind of a value by its plugin, or by its shape where the first was lost."""
    plugin = value.metadata.plugin_data.plugin_name
    if plugin in ("scalars", "histograms"):
        return plugin.removesuffix("s")
    if plugin == records.PLUGIN:
        return str(value.tag)
    if plugin or value.tensor.dtype not in DTYPES:
        return ""
    return "histogram" if value.tensor.tensor_shape.dim else "scalar"


def _has_numbers(value: Any) -> bool:
    return _kind_of(value) in ("scalar", "histogram")


def _is_record(record: Any) -> bool:
    """Whether the parts of a run record have the types that readers rely on."""
    if not isinstance(record, Mapping):
        return False
    maps = [record.get(name, {}) for name in ("model", "fit", "versions", "options")]
    lists = [record.get(name, []) for name in ("layers", "optimizers")]
    maps += [x for one in lists if isinstance(one, list) for x in one]
    return all(isinstance(x, Mapping) for x in maps) and all(
        isinstance(x, list) for x in lists
    )


def _count(count: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
