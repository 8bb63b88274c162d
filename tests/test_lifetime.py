"""A monitor over several fits, beside other callbacks, and when a training breaks."""

import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the models and modes are TensorFlow's", allow_module_level=True)

from kbn.callbacks import TrainingMonitor
from tests import watched_models
from tests.event_files import read_log, steps
from tests.watched_models import BATCH, ROWS

STEPS = -(-ROWS // BATCH)
FIT = {"batch_size": BATCH, "verbose": 0}


def assert_steps_increase(log):
    for tag in log:
        seen = steps(log, tag)
        assert seen == sorted(set(seen)), f"{tag}: {seen}"


# --- several fits ---


@pytest.mark.parametrize("log_freq", ["epoch", 1, 3])
def test_steps_increase_over_three_fits_and_a_resumed_one(log_freq, tmp_path):
    def monitor():
        return TrainingMonitor(tmp_path / "logs", log_freq=log_freq)

    model, x, y = watched_models.sequential(run_eagerly=True)
    first = monitor()
    for number in range(3):
        epochs = {"initial_epoch": 2 * number, "epochs": 2 * number + 2}
        model.fit(x, y, callbacks=[first], **epochs, **FIT)
    model.save(tmp_path / "model.keras")
    keras.backend.clear_session(free_memory=False)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.compile(loaded.optimizer, loaded.loss, run_eagerly=True)
    loaded.fit(x, y, callbacks=[monitor()], initial_epoch=6, epochs=8, **FIT)

    log = read_log(tmp_path / "logs")
    assert_steps_increase(log)
    assert steps(log, "Epoch/loss") == [STEPS * epoch for epoch in range(1, 9)]
    due = {
        "epoch": [STEPS * epoch + 1 for epoch in range(8)],
        1: [*range(1, 8 * STEPS + 1)],
        3: [*range(3, 8 * STEPS + 1, 3)],
    }[log_freq]
    assert steps(log, "activations/head") == due
    # Weights are looked at once more at the end of each fit.
    ends = [2 * STEPS * fit for fit in range(1, 5)]
    tags = dict.fromkeys(f"weights/{x.weights[-1].path}" for x in (model, loaded))
    seen = [step for tag in tags for step in steps(log, tag)]  # a path may be another
    assert seen == sorted({*due, *ends})


@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
@pytest.mark.parametrize("monitor_is", ["first", "last"])
def test_with_the_callback_of_keras_in_the_same_log_dir(monitor_is, tmp_path):
    def train(log_dir, with_keras):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, x, y = watched_models.sequential()
        callbacks = [TrainingMonitor(log_dir, log_freq=2)]
        if with_keras:
            board = keras.callbacks.TensorBoard(
                log_dir, histogram_freq=1, update_freq=1
            )
            callbacks.insert(1 if monitor_is == "first" else 0, board)
        fit = {"epochs": 2, "validation_split": 0.3, **FIT}
        model.fit(x, y, callbacks=callbacks, **fit)
        watched_models.assert_unwatched(model)

    train(tmp_path / "both", True)
    train(tmp_path / "alone", False)
    log, alone = (read_log(tmp_path / name) for name in ("both", "alone"))
    assert_steps_increase(log)
    assert {tag: steps(log, tag) for tag in log} == {
        tag: steps(alone, tag) for tag in alone
    }
    assert "epoch_loss" in read_log(tmp_path / "both" / "train")
    assert "epoch_loss" in read_log(tmp_path / "both" / "validation")


def test_a_training_gives_no_warning_of_ours(tmp_path):
    model, x, y = watched_models.sequential()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # without what pyproject.toml lets pass
        model.fit(x, y, callbacks=[TrainingMonitor(tmp_path, log_freq=2)], **FIT)
    assert steps(read_log(tmp_path), "learning_rate") == [2, 4]


# --- interrupts ---

PHASES = """
on_train_begin on_epoch_begin on_train_batch_begin on_train_batch_end on_test_begin
on_test_batch_end on_epoch_end on_train_end
"""


class Interrupt(keras.callbacks.Callback):
    """Raises what Ctrl-C does, when `phase` comes for the second time, if it does."""

    def __init__(self, phase):
        super().__init__()
        self.left = 0 if phase in ("on_train_begin", "on_train_end") else 1
        setattr(self, phase, self.interrupt)

    def interrupt(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def interrupted(phase, monitor=None, is_first=False, mode=None):
    """A model whose fit was interrupted, and that was trained again afterwards."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model, x, y = watched_models.dropout(run_eagerly=True)
    callbacks = [Interrupt(phase)]
    if monitor is not None:
        callbacks.insert(1 if is_first else 0, monitor)
    fit = {"validation_split": 0.3, **FIT}
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=2, callbacks=callbacks, **fit)
    model.fit(x, y, **fit)
    watched_models.assert_unwatched(model)
    return model


@pytest.mark.parametrize("is_first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("phase", PHASES.split())
def test_an_interrupt_leaves_no_trace(phase, is_first, tmp_path):
    free = interrupted(phase)
    monitor = TrainingMonitor(tmp_path / "logs", log_freq=1)
    model = interrupted(phase, monitor, is_first)
    for variable, expected in zip(model.variables, free.variables, strict=True):
        np.testing.assert_array_equal(variable, expected, err_msg=variable.path)
    assert int(model.optimizer.iterations) == int(free.optimizer.iterations)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for weight, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    if phase != "on_train_begin":
        assert_steps_increase(read_log(tmp_path / "logs"))


@pytest.mark.parametrize("where", ["layer", "schedule", "writer"])
def test_an_interrupt_in_a_look_leaves_no_trace(where, tmp_path, monkeypatch):
    model, x, y = watched_models.sequential(run_eagerly=True)
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(args)
        raise KeyboardInterrupt

    schedule = interrupt if where == "schedule" else lambda step: step == 2
    monitor = TrainingMonitor(tmp_path, log_freq=schedule)
    if where == "writer":
        monkeypatch.setattr("kbn.callbacks.log.writer.EventWriter.write", interrupt)
    if where == "layer":
        layer = model.layers[0]
        call = layer.call

        def watched_call(*args, **kwargs):
            # Watched, so it is the look that runs it.
            is_look = vars(layer)["call"] is not own
            return interrupt() if is_look else call(*args, **kwargs)

        object.__setattr__(layer, "call", watched_call)
        own = vars(layer)["call"]
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, callbacks=[monitor], **FIT)
    assert len(calls) == 1
    monkeypatch.undo()
    if where == "layer":
        assert vars(layer)["call"] is own
        object.__delattr__(layer, "call")
    watched_models.assert_unwatched(model)
    done = {"layer": 1, "schedule": 0, "writer": 2}[where]
    assert int(model.optimizer.iterations) == done
    model.fit(x, y, **FIT)
    assert int(model.optimizer.iterations) == done + STEPS


# --- a process that dies, a disk that is full ---

SCRIPT = """
    import os, sys
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import keras
    import numpy as np
    import kbn

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
    model.compile("sgd", "mse")
    x, y = np.ones((64, 3)), np.ones((64, 2))
    monitor = kbn.callbacks.TrainingMonitor(sys.argv[1], log_freq=1)
"""


def script(body, *arguments, **options):
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(body)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


@pytest.mark.long
def test_a_killed_process_leaves_a_log_up_to_its_last_look(tmp_path):
    body = """
    print("training", flush=True)
    model.fit(x, y, batch_size=8, epochs=10**6, verbose=0, callbacks=[monitor])
    """
    process = script(body, tmp_path, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "training\n"
        while process.poll() is None:
            files = list(tmp_path.iterdir())
            if files and files[0].stat().st_size > 3 * 10**5:
                break
            time.sleep(0.02)
        assert process.poll() is None, "it ended by itself"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    log = read_log(tmp_path)
    looks = steps(log, "activations/out")
    assert len(looks) > 10
    assert looks == list(range(1, len(looks) + 1))
    for tag in ("weights/sequential/out/kernel", "gradients/sequential/out/bias"):
        assert steps(log, tag) == looks  # a look is there as a whole or not at all


@pytest.mark.long
def test_a_full_disk_loses_no_training_and_no_look_before(tmp_path):
    body = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an OSError instead
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    history = model.fit(x, y, batch_size=8, epochs=20, verbose=0, callbacks=[monitor])
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert len(history.history["loss"]) == 20
    assert type(model.train_function).__name__ == "function"
    model.save(sys.argv[2])
    """
    model = tmp_path / "model.keras"
    process = script(body, tmp_path / "logs", model, stderr=subprocess.PIPE)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert said.count("cannot write to") == 1
    assert "Training goes on" in said
    assert int(keras.models.load_model(model).optimizer.iterations) == 160
    (path,) = (tmp_path / "logs").iterdir()
    assert path.stat().st_size <= 100_000
    looks = steps(read_log(tmp_path / "logs"), "activations/out")
    assert 2 < len(looks) < 160
    assert looks == list(range(1, len(looks) + 1))


def test_a_vanished_directory_loses_no_training(tmp_path, caplog):
    class Vanish(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                for path in logs_dir.iterdir():
                    path.unlink()
                logs_dir.rmdir()

    logs_dir = tmp_path / "logs"
    model, x, y = watched_models.sequential(run_eagerly=True)
    monitor = TrainingMonitor(logs_dir, log_freq="epoch")
    model.fit(x, y, epochs=3, callbacks=[monitor, Vanish()], **FIT)
    assert int(model.optimizer.iterations) == 3 * STEPS
    assert [r.getMessage() for r in caplog.records if "cannot write" in r.getMessage()]
    assert not logs_dir.exists()
    model.fit(x, y, callbacks=[monitor], **FIT)  # a new fit makes it again
    assert steps(read_log(logs_dir), "activations/head") == [3 * STEPS + 1]


@pytest.mark.parametrize("log_freq", ["auto", "epoch", 2])
def test_a_used_monitor_is_pickled_with_what_it_saw_and_without_the_model(
    log_freq, tmp_path
):
    model, x, y = watched_models.sequential(run_eagerly=True)
    monitor = TrainingMonitor(tmp_path / "logs", log_freq=log_freq)
    model.fit(x, y, callbacks=[monitor], **FIT)
    copied = pickle.loads(pickle.dumps(monitor))
    assert repr(copied.history) == repr(monitor.history)  # NaN is not itself
    assert copied.alerts == monitor.alerts
    assert copied.report().verdict == monitor.report().verdict
    assert copied.model is None
    other, x, y = watched_models.sequential(run_eagerly=True)
    other.fit(x, y, callbacks=[copied], **FIT)
    assert f"{other.name}/Epoch/loss" in copied.history
