"""A record of an event file: length and data, each with its checksum (CRC-32C)."""

import io
import os
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO

from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

LENGTH = struct.Struct("<QI")  # of the data, and its checksum
DATA_CHECKSUM_BYTES = 4


class Damaged(ValueError):
    """From here on a file cannot be read; the message says where and how."""


def framed(data: bytes) -> bytes:
    """`data` as a record.

    TensorBoard computes the checksum in Python: 10 ms for a look at a small network, a
    third of a training step. TensorFlow, where it is loaded anyway, takes 1 ms.
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


def records_in(file: BinaryIO) -> Iterator[bytes]:
    """The data of each whole record.

    Of the two checksums only that of the length is compared, without which nothing
    after it could be found. That of the data takes TensorBoard's Python 0.1 s a
    megabyte; data that is not a proto shows when it is parsed.

    Raises:
        Damaged: The file ends within a record, or a length is not one.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    at = 0
    while header := file.read(LENGTH.size):
        if len(header) < LENGTH.size:
            raise Damaged(f"ends in the middle of a record, at byte {at}")
        length, checksum = LENGTH.unpack(header)
        if checksum != masked_crc32c(header[:8]):
            raise Damaged(f"is damaged at byte {at} of {size_bytes}: the rest is lost")
        data = file.read(length) if length <= size_bytes else b""
        end = file.read(DATA_CHECKSUM_BYTES)
        if len(data) < length or len(end) < DATA_CHECKSUM_BYTES:
            raise Damaged(f"ends in the middle of a record, at byte {at}")
        at += LENGTH.size + length + DATA_CHECKSUM_BYTES
        yield data
