"""kbn.callbacks.log.reader: what a run has logged, whatever state its files are in."""

import dataclasses
import os

import numpy as np
import pytest

from kbn.callbacks.alerts.alert import Alert
from kbn.callbacks.log import reader
from kbn.callbacks.log.layout import alerts_text
from kbn.callbacks.log.logged import KEPT
from kbn.callbacks.log.records import alerts_value, run_value
from kbn.callbacks.log.writer import EventWriter, framed
from kbn.callbacks.signals.statistics import histograms, summarize

DEAD = Alert("dead_relu", "warning", "hidden", 3, 1, 0.75, 0.5, "Dead.", others=1)
SUMMARY = summarize(np.arange(5.0), 10)


def writer(directory, process=None):
    """A writer with an open file; `process`: as if another one wrote it."""
    new = EventWriter(directory)
    new.open()
    if process is not None:
        file = new._file
        new._file = file.with_name(file.name.replace(f".{os.getpid()}.", process))
        file.rename(new._file)
    return new


def write(directory, steps, value=1.0, process=None, rules=("dead_relu",)):
    log = writer(directory, process)
    record = {"model": {"name": "net"}, "layers": [], "options": {"rules": [*rules]}}
    log.write_values(0, [run_value(record)])
    for step in steps:
        log.write(step, {"loss/train": value * step}, {"weights/net/w": SUMMARY})
    return log


def own_files(directory):
    return sorted(directory.glob("*.kbn"))


def test_a_run_is_read_as_it_was_written(tmp_path):
    log = write(tmp_path, (1, 3, 5), np.nan)
    log.write_values(3, [alerts_value([DEAD]), alerts_text([DEAD])])
    run = reader.read_run(tmp_path, "mine")
    assert (run.name, run.directory, run.problems) == ("mine", tmp_path, [])
    assert [entry.step for entry in run.entries] == [1, 3, 5]
    assert np.isnan([entry.scalars["loss/train"] for entry in run.entries]).all()
    assert run.entries[0].seconds > 1e9
    assert run.record["model"]["name"] == "net"
    assert run.alerts == [DEAD]
    (_, _, rows) = run.histograms["weights/net/w"]
    np.testing.assert_array_equal(rows.array(), histograms([SUMMARY])[0])


def test_histograms_are_thinned_evenly_with_the_last(tmp_path):
    write(tmp_path, range(1, 501))
    kept = [rows.step for rows in reader.read_run(tmp_path).histograms["weights/net/w"]]
    assert KEPT / 2 <= len(kept) <= KEPT + 1
    assert (kept[0], kept[-1]) == (1, 500)
    assert len({*np.diff(kept[:-1])}) == 1


def test_fits_of_one_training_are_joined(tmp_path):
    write(tmp_path, (1, 2))
    write(tmp_path, (2, 3))
    run = reader.read_run(tmp_path)
    assert [entry.step for entry in run.entries] == [1, 2, 2, 3]
    assert (run.record["model"], run.problems) == ({"name": "net"}, [])


def test_what_a_restart_does_again_is_left_out(tmp_path):
    old = write(tmp_path, (1, 3, 5))
    late = dataclasses.replace(DEAD, step=5)
    old.write_values(5, [alerts_value([late])])
    write(tmp_path, (3, 4), value=2.0)
    run = reader.read_run(tmp_path)
    assert [(x.step, x.scalars["loss/train"]) for x in run.entries] == [
        (1, 1.0),
        (3, 6.0),
        (4, 8.0),
    ]
    assert run.alerts == []
    assert [rows.step for rows in run.histograms["weights/net/w"]] == [1, 3, 4]
    (problem,) = run.problems
    assert problem.startswith("Training began again at step 3: 2 entries")


def test_a_resolved_alert_is_open_again_where_the_restart_lies_before_its_end(tmp_path):
    old = write(tmp_path, (1, 3, 5))
    old.write_values(3, [alerts_value([DEAD])])
    over = dataclasses.replace(DEAD, resolved_step=5)
    old.write_values(5, [alerts_value([over])])
    assert reader.read_run(tmp_path).alerts == [over]
    write(tmp_path, (4,))
    assert reader.read_run(tmp_path).alerts == [DEAD]


def test_alerts_of_a_process_that_ended_are_over_unless_raised_again(tmp_path):
    old = write(tmp_path, (1, 3), process=".1.")
    old.write_values(3, [alerts_value([DEAD])])
    new = write(tmp_path, (4, 6))
    run = reader.read_run(tmp_path)
    assert run.alerts == [dataclasses.replace(DEAD, resolved_step=4)]
    assert "dead_relu, open until then, counts as over" in run.problems[0]
    again = dataclasses.replace(DEAD, step=6)
    new.write_values(6, [alerts_value([again])])
    assert [alert.is_open for alert in reader.read_run(tmp_path).alerts] == [
        False,
        True,
    ]


def cut(data):
    return data[:-7]


def cut_in_length(data):
    return data + b"\x01\x02"


def flip_length(data):
    # The first record's: nothing after it can be found.
    return bytes([data[0] ^ 1]) + data[1:]


def garbage(data):
    return b"\x00\xff" * 500


DAMAGES = {
    "cut": (cut, [1, 2], "ends in the middle of a record, at byte"),
    "cut-in-length": (cut_in_length, [1, 2, 3], "ends in the middle of a record"),
    "flipped-length": (flip_length, [], "is damaged at byte 0"),
    "garbage": (garbage, [], "is damaged at byte 0 of 1000"),
    "empty": (lambda data: b"", [], "is empty"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_can_be_read_of_a_damaged_file_is_read(tmp_path, damage):
    spoil, steps, problem = DAMAGES[damage]
    write(tmp_path, (1, 2, 3))
    (file,) = own_files(tmp_path)
    file.write_bytes(spoil(file.read_bytes()))
    write(tmp_path, (4,))
    run = reader.read_run(tmp_path)
    assert [entry.step for entry in run.entries] == [*steps, 4]
    (said,) = run.problems
    assert said.startswith(f"{file.name} {problem}")


def test_a_record_that_is_no_event_is_counted(tmp_path):
    log = write(tmp_path, (1,))
    with log._file.open("ab") as file:
        file.write(framed(b"\xff\xff\xff"))
    log.write(2, {"loss/train": 1.0}, {})
    run = reader.read_run(tmp_path)
    assert [entry.step for entry in run.entries] == [1, 2]
    assert run.problems == ["1 event could not be read."]


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"null", b"\xff"])
def test_values_that_are_not_what_they_say_are_counted(tmp_path, text):
    log = write(tmp_path, (1,))
    spoilt = [run_value({}), alerts_value([])]
    for value in spoilt:
        value.tensor.string_val[0] = text
    log.write_values(1, spoilt)
    run = reader.read_run(tmp_path)
    assert (len(run.entries), run.record["layers"], run.alerts) == (1, [], [])
    assert run.problems == ["2 values could not be read."]


def test_files_of_other_programs_are_said(tmp_path):
    (tmp_path / "events.out.tfevents.1700000000.host").write_bytes(b"what")
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, (1,))
    run = reader.read_run(tmp_path)
    assert len(run.entries) == 1
    (problem,) = run.problems
    assert problem.startswith("1 event file of other programs")


def test_a_directory_without_a_log_is_an_empty_run(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        run = reader.read_run(directory)
        assert run.is_empty
        assert (run.record, run.alerts, run.problems) == ({}, [], [])
        assert reader.find_runs(directory) == []


def test_runs_are_found_below_and_signed(tmp_path):
    for name in ("", "b", "a/inner", "a"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    before = reader.signature(tmp_path)
    write(tmp_path, (1,))
    log = write(tmp_path / "a" / "inner", (1,))
    assert reader.find_runs(tmp_path) == [tmp_path, tmp_path / "a" / "inner"]
    signed = reader.signature(tmp_path)
    assert before == ()
    log.write(2, {"loss/train": 1.0}, {})
    assert reader.signature(tmp_path) != signed
