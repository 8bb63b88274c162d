"""Event files read back with TensorBoard's own reader."""

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.util import tensor_util

from kbn.callbacks.log.records import run_in

# Not seen in a training: what it is, and how TensorBoard is to show it.
SETTINGS = (
    "custom_scalars__config__",
    "_hparams_/",
    "kbn/",
    "health/report",
    "health/worst",
)

Log = dict[str, list[tuple[int, np.ndarray]]]


def read_log(log_dir):
    """{tag: [(step, value), ...]} in the order of writing, without SETTINGS."""
    log: Log = {}
    for path in sorted(Path(log_dir).glob("events.out.tfevents.*")):
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.tag.startswith(SETTINGS):
                    continue
                array = tensor_util.make_ndarray(value.tensor)
                log.setdefault(value.tag, []).append((event.step, array))
    return log


def read_records(log_dir):
    """The run records that describe a running training, in the order of writing."""
    found = []
    for path in sorted(Path(log_dir).glob("events.out.tfevents.*")):
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            found += filter(None, map(run_in, event.summary.value))
    return [x for x in found if x.get("is_running")]


def steps(log, tag):
    return [step for step, _ in log[tag]]


def count(rows):
    """Number of elements in a histogram's (30, 3) rows."""
    assert rows.shape == (30, 3)
    return rows[:, 2].sum()


def values(log, tag):
    return [float(value) for _, value in log[tag]]
