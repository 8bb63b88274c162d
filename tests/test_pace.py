"""Speed, memory, and what the record says of where a training ran."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from kbn.callbacks import TrainingMonitor, pace
from kbn.callbacks.log import records
from kbn.callbacks.log.reader import read_run

ON_TORCH = keras.backend.backend() == "torch"


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(pace, "time", found)
    return found


def test_the_time_of_looks_and_of_validation_is_left_out(clock):
    watch = pace.Stopwatch()
    watch.start()
    watch.before_look(0)
    assert [*watch.read(32)] == []
    clock.now += 50  # the look
    watch.after_look(1)
    clock.now += 2
    watch.pause()
    clock.now += 1000  # a validation
    watch.go_on()
    clock.now += 3
    watch.before_look(11)
    clock.now += 7
    (found,) = watch.read(32)
    assert (found.steps, found.seconds, found.batch_size) == (10, 5.0, 32)
    assert watch.seconds == 1062.0


def test_every_step_looked_at_has_no_pace(clock):
    watch = pace.Stopwatch()
    watch.start()
    for step in range(3):
        watch.before_look(step)
        assert [*watch.read(32)] == []
        watch.after_look(step + 1)


# On torch, Keras takes one step a call.
@pytest.mark.parametrize("at_once", {1, 1 if ON_TORCH else 2})
def test_a_training_tells_its_speed(at_once, tmp_path):
    model = keras.Sequential([layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=at_once)
    monitor = TrainingMonitor(tmp_path, log_freq=4)
    x, y = np.ones((96, 3)), np.ones((96, 1))
    model.fit(x, y, 8, callbacks=[monitor], validation_data=(x, y), verbose=0)
    steps, speeds = monitor.history["speed/steps"]
    assert steps == [8, 12]
    np.testing.assert_allclose(
        monitor.history["speed/examples"][1], np.multiply(speeds, 8), rtol=1e-6
    )
    assert min(speeds) > 0
    if sys.platform != "win32":
        assert monitor.history["memory/host"][1][0] > 50


def test_the_record_says_where_and_of_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "commit", lambda: "abc123")
    model = keras.Sequential([layers.Dense(1)])
    model.compile("sgd", "mse")
    monitor = TrainingMonitor(tmp_path)
    x, y = np.ones((8, 3)), np.ones((8, 1))
    model.fit(x, y, callbacks=[monitor], verbose=0)
    known = read_run(tmp_path, "").record
    assert known["commit"] == "abc123"
    assert isinstance(known["device"], str)
    assert known["seconds"] > 0
    assert "abc123" in str(monitor.report().to_markdown())


def test_the_commit_is_that_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.commit() is None

    def git(*arguments):
        names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        command = ["git", *names, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        git("init")
    except FileNotFoundError:
        pytest.skip("there is no git")
    assert records.commit() is None
    git("commit", "--allow-empty", "-m", "first")
    assert records.commit() == git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.commit() is None
