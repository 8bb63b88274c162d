"""kbn.callbacks.log.writer: event files that TensorBoard reads."""

import io

import numpy as np
import pytest
from event_files import read_log, steps, values
from tensorboard.backend.event_processing import event_accumulator, event_file_loader
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

from kbn.callbacks.log.history import History
from kbn.callbacks.log.layout import Layout
from kbn.callbacks.log.run_log import RunLog
from kbn.callbacks.log.writer import EventWriter, framed
from kbn.callbacks.signals import statistics
from kbn.callbacks.signals.statistics import summarize

ARRAY = np.random.default_rng(0).normal(size=(50, 4))


@pytest.fixture
def writer(tmp_path):
    writer = EventWriter(tmp_path / "a" / "run")
    writer.open()
    return writer


def load(writer):
    accumulator = event_accumulator.EventAccumulator(str(writer.log_dir))
    accumulator.Reload()
    return accumulator


def test_scalars_and_histograms_are_read_by_their_plugins(writer):
    summary = summarize(ARRAY, 1000)
    writer.write(3, {"loss": 0.25}, {"weights/kernel": summary})
    writer.write(7, {"loss": float("nan")}, {"weights/kernel": summary})
    accumulator = load(writer)
    plugins = accumulator.PluginTagToContent
    assert list(plugins("scalars")) == ["loss"]
    assert list(plugins("histograms")) == ["weights/kernel"]
    assert [event.step for event in accumulator.Tensors("loss")] == [3, 7]
    log = read_log(writer.log_dir)
    assert values(log, "loss")[0] == 0.25
    assert np.isnan(values(log, "loss")[1])
    np.testing.assert_array_equal(
        log["weights/kernel"][0][1], statistics.histograms([summary])[0]
    )


def test_one_look_is_one_event(writer):
    summary = summarize(ARRAY, 1000)
    writer.write(1, {"a": 1, "b": 2}, {"c": summary, "d": summary})
    (path,) = writer.log_dir.iterdir()
    events = list(event_file_loader.EventFileLoader(str(path)).Load())
    assert [len(event.summary.value) for event in events] == [0, 4]
    assert events[0].file_version == "brain.Event:2"


def test_metadata_is_written_once_per_tag_and_file(writer):
    for step in (1, 2):
        writer.write(step, {"a": 1}, {})
    writer.open()
    writer.write(3, {"a": 1}, {})
    described = []
    for path in sorted(writer.log_dir.iterdir()):
        raw = event_file_loader.RawEventFileLoader(str(path)).Load()
        described.append([b"scalars" in record for record in raw])
    assert described == [[False, True, False], [False, True]]


def test_a_tag_has_one_value_per_step(tmp_path):
    history = History()
    log = RunLog(tmp_path, "", history, pytest.fail)
    summary = summarize(ARRAY, 1000)
    log.open()
    log.write(5, {"a": 1, "b": 1}, {"h": summary}, {})
    log.open()  # also in a second fit
    log.write(5, {"a": 2, "c": 2}, {"h": summary}, {})
    log.write(6, {"a": 3}, {}, {})
    read = read_log(tmp_path)
    assert steps(read, "h") == [5]
    del read["h"]
    assert read == {"a": [(5, 1), (6, 3)], "b": [(5, 1)], "c": [(5, 2)]}
    assert history.by_tag()["a"] == ([5, 6], [1, 3])


def test_complete_values_are_appended_as_they_are(writer):
    layout = Layout()
    writer.write_values(3, [layout.grown(["Epoch/loss"])])
    writer.write_values(9, [layout.grown(["Epoch/auc"])])
    accumulator = load(writer)
    (tag,) = accumulator.PluginTagToContent("custom_scalars")
    assert [event.step for event in accumulator.Tensors(tag)] == [3, 9]


def test_files_are_read_in_the_order_of_writing(writer, monkeypatch):
    # The second within the same second, with fewer digits to its nanoseconds.
    for step, nanoseconds in enumerate((10**18 + 5, 10**18 + 40, 10**18 + 123_456)):
        monkeypatch.setattr("time.time_ns", lambda now=nanoseconds: now)
        writer.open()
        writer.write(step, {"order": 1}, {})
    assert steps(read_log(writer.log_dir), "order") == [0, 1, 2]


def test_every_look_is_on_disk_at_once(writer):
    for step in range(4):
        writer.write(step, {"a": 1}, {})
        assert steps(read_log(writer.log_dir), "a") == list(range(step + 1))


def test_degenerate_histograms_are_read(writer):
    arrays = {
        "constant": np.zeros(3),
        "empty": np.zeros(0),
        "nan": np.full(3, np.nan),
        "inf": np.array([1.0, np.inf]),
    }
    writer.write(1, {}, {tag: summarize(x, 1000) for tag, x in arrays.items()})
    accumulator = load(writer)
    # The reader computes the Distributions tab from the rows: all of it is finite.
    for tag, elements in zip(arrays, (3, 0, 0, 1), strict=True):
        (event,) = accumulator.Tensors(tag)
        rows = tensor_util.make_ndarray(event.tensor_proto)
        assert rows.shape == (30, 3)
        assert np.isfinite(rows).all()
        assert rows[:, 2].sum() == elements


def test_a_vanished_directory_is_an_error(writer):
    (path,) = writer.log_dir.iterdir()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        writer.write(1, {"a": 1}, {})
    assert not any(writer.log_dir.iterdir())


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "logs").write_text("not a directory")
    with pytest.raises(OSError, match="logs"):
        EventWriter(tmp_path / "logs").open()


@pytest.mark.parametrize("size", [0, 1, 7, 100_000])
def test_records_are_those_of_tensorboard(size):
    data = np.random.default_rng(size).bytes(size)
    wanted = io.BytesIO()
    RecordWriter(wanted).write(data)
    assert framed(data) == wanted.getvalue()
    assert framed(data) == wanted.getvalue()  # nothing of the first is left
