"""(tag, step, Summary) -> event file, as TensorBoard reads it."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata

from ..diagnostics.registry import describe
from ..diagnostics.statistics import Summary
from .framing import framed


class EventWriter:
    """Appends looks to one event file in `log_dir`, one Summary proto per look.

    The file is opened for each look and closed after it: what was written survives a
    killed process, and an abandoned training leaves no open file behind. A value whose
    tag already has one at the same step is left out.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self.log_dir = Path(log_dir)
        self._file: Path | None = None
        self._last_step: dict[str, int] = {}

    def open(self) -> None:
        """Start a new event file; an OSError if `log_dir` cannot be written."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a run in the order of their names: the time
        # first, and all digits of it, for two fits within one second.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = self.log_dir / f"events.out.tfevents.{name}.kbn"
        self._described: set[str] = set()
        self._append(event_pb2.Event(file_version="brain.Event:2"), mode="xb")

    def write(
        self,
        step: int,
        scalars: Mapping[str, float],
        histograms: Mapping[str, Summary],
    ) -> None:
        """Append everything that one look saw."""
        values = [
            *(self._scalar(tag, value) for tag, value in scalars.items()),
            *(self._histogram(tag, value) for tag, value in histograms.items()),
        ]
        fresh = [value for value in values if self._last_step.get(value.tag) != step]
        if not fresh:
            return
        summary = summary_pb2.Summary(value=fresh)
        self._append(event_pb2.Event(step=step, summary=summary), mode="r+b")
        for value in fresh:
            self._last_step[value.tag] = step
            self._described.add(value.tag)

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

    def _scalar(self, tag: str, value: float) -> Any:
        # A third of the time of `make_tensor_proto`, and there are hundreds of them.
        proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[value])
        proto.tensor_shape.SetInParent()
        return self._value(tag, proto, scalar_metadata)

    def _histogram(self, tag: str, summary: Summary) -> Any:
        rows = summary.histogram()
        proto = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT if rows.itemsize == 4 else types_pb2.DT_DOUBLE,
            tensor_content=rows.tobytes(),
        )
        for size in rows.shape:
            proto.tensor_shape.dim.add(size=size)
        return self._value(tag, proto, histogram_metadata)

    def _value(self, tag: str, proto: Any, plugin: Any) -> Any:
        value = summary_pb2.Summary.Value(tag=tag, tensor=proto)
        if tag not in self._described:
            metadata = plugin.create_summary_metadata(
                display_name="", description=describe(tag)
            )
            metadata.data_class = (
                summary_pb2.DATA_CLASS_SCALAR
                if plugin is scalar_metadata
                else summary_pb2.DATA_CLASS_TENSOR
            )
            value.metadata.CopyFrom(metadata)
        return value
