"""Writes event files that TensorBoard reads."""

import io
import math
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto import (
    event_pb2,
    summary_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.summary.writer.record_writer import RecordWriter

from ..signals import statistics
from ..signals.registry import describe
from ..signals.statistics import TENSORBOARD_BINS, Summary

SIZES = (TENSORBOARD_BINS, 3)  # of a histogram
SHAPE = tensor_shape_pb2.TensorShapeProto(dim=[{"size": size} for size in SIZES])


class EventWriter:
    """Appends snapshots to one event file in `log_dir`, each as one Summary proto.

    The file is opened for each snapshot and closed after it: what was written survives
    a killed process, and an abandoned training leaves no open file behind.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = Path(log_dir)
        self._file: Path | None = None

    def open(self) -> None:
        """Start a new event file; an OSError if `log_dir` cannot be written."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a run in the order of their names: the time
        # first, and all digits of it, for two fits within one second.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = self.log_dir / f"events.out.tfevents.{name}.kbn"
        self._described: set[str] = set()
        # By tag and size of the numbers at their end.
        self._before: dict[tuple[str, int], bytes] = {}
        self._append(event_pb2.Event(file_version="brain.Event:2"), mode="xb")

    def write(
        self,
        step: int,
        scalars: Mapping[str, float],
        histograms: Mapping[str, Summary],
        values: Sequence[Any] = (),
    ) -> None:
        """Append one snapshot: scalars, histograms, and values that are complete."""
        with np.errstate(over="ignore"):
            numbers = np.array([*scalars.values()], np.float64).astype("<f4").tobytes()
        parts = [
            self._value(tag, numbers[4 * i : 4 * i + 4], scalar_metadata)
            for i, tag in enumerate(scalars)
        ]
        made = statistics.histograms([*histograms.values()])
        for tag, rows in zip(histograms, made, strict=True):
            parts.append(self._value(tag, rows.tobytes(), histogram_metadata))
        if parts or values:
            summary = summary_pb2.Summary.FromString(b"".join(parts))
            summary.value.extend(values)
            self._append(event_pb2.Event(step=step, summary=summary), mode="r+b")

    def write_values(self, step: int, values: Sequence[Any]) -> None:
        """Append values that are complete: a run record, a layout, hyperparameters."""
        summary = summary_pb2.Summary(value=values)
        self._append(event_pb2.Event(step=step, summary=summary), mode="r+b")

    def _append(self, event: Any, mode: str) -> None:
        assert self._file is not None, "open() comes first"
        event.wall_time = time.time()
        # "r+b" rather than "ab": a file that vanished is an error, not a new file
        # without the version record that makes it an event file.
        record = framed(event.SerializeToString())
        with self._file.open(mode) as file:
            file.seek(0, os.SEEK_END)
            file.write(record)

    def _value(self, tag: str, content: bytes, plugin: Any) -> bytes:
        """A value as a Summary proto; its description comes with the first of a tag.

        Of later ones, all but the numbers is kept: there are thousands at a look.
        """
        before = self._before.get((tag, len(content)))
        if before is not None:
            return before + content
        summary = summary_pb2.Summary()
        value = summary.value.add(tag=tag)
        if plugin is scalar_metadata:
            value.tensor.dtype = types_pb2.DT_FLOAT
            value.tensor.float_val.append(np.frombuffer(content, "<f4")[0])
        else:
            kinds = {4: types_pb2.DT_FLOAT, 8: types_pb2.DT_DOUBLE}
            value.tensor.dtype = kinds[len(content) // math.prod(SIZES)]
            value.tensor.tensor_shape.CopyFrom(SHAPE)
            value.tensor.tensor_content = content
        self._before[tag, len(content)] = summary.SerializeToString()[: -len(content)]
        if tag not in self._described:
            self._described.add(tag)
            metadata = plugin.create_summary_metadata(
                display_name="", description=describe(tag)
            )
            metadata.data_class = (
                summary_pb2.DATA_CLASS_SCALAR
                if plugin is scalar_metadata
                else summary_pb2.DATA_CLASS_TENSOR
            )
            value.metadata.CopyFrom(metadata)
        return summary.SerializeToString()


def framed(data: bytes) -> bytes:
    """`data` as a record of an event file: length and data, each with its checksum.

    TensorBoard computes the checksum in Python: 10 ms for a snapshot of a small
    network, a third of a training step. TensorFlow, where it is loaded anyway, takes
    1 ms.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        buffer = io.BytesIO()
        RecordWriter(buffer).write(data)
        return buffer.getvalue()
    # It writes to files only; this one is in memory, and of this process and thread.
    place = f"ram://kbn-{os.getpid()}-{id(data)}"
    try:
        with tensorflow.io.TFRecordWriter(place) as writer:
            writer.write(data)
        with tensorflow.io.gfile.GFile(place, "rb") as file:
            record: bytes = file.read()
    finally:
        tensorflow.io.gfile.remove(place)
    return record
