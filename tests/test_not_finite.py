"""The first NaN: found at its step, named as far as it can be, kept to train again."""

import contextlib
import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.watch.evidence import Evidence, non_finite
from kbn.callbacks.watch.watched_function import Losses
from tests.event_files import read_log, steps

BACKEND = keras.backend.backend()
BATCH, STEPS = 8, 10
FIT = {"batch_size": BATCH, "verbose": 0, "shuffle": False}


def network(loss="mse", **options):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.01), loss, **options)
    return model


def data(part=None, step=5, example=3, value=math.nan):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * STEPS, 4)).astype("float32")
    y = rng.normal(size=(BATCH * STEPS, 2)).astype("float32")
    if part is not None:
        {"x": x, "y": y}[part][(step - 1) * BATCH + example, 1] = value
    return x, y


def by_hand(model, x, y, monitor):
    callbacks = keras.callbacks.CallbackList([monitor], model=model)
    model.stop_training = False
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for i in range(STEPS):
        callbacks.on_train_batch_begin(i)
        some = slice(i * BATCH, (i + 1) * BATCH)
        loss = model.train_on_batch(x[some], y[some])
        callbacks.on_train_batch_end(i, {"loss": loss})
        if model.stop_training:
            break
    callbacks.on_epoch_end(0, {"loss": float(loss)})
    callbacks.on_train_end()
    return i + 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["x", "y"])
@pytest.mark.parametrize("driver", ["fit", "train_on_batch"])
def test_a_step_that_makes_a_nan_is_named(driver, part, value, tmp_path, caplog):
    if part == "x" and value == math.inf:
        value = -math.inf
    model, monitor = network(), TrainingMonitor(tmp_path, on_alert="stop")
    x, y = data(part, value=value)
    if part == "x" and math.isinf(value):
        y = y * math.inf  # tanh makes a finite number of it
    is_given = BACKEND != "tensorflow" or keras.__version__ >= "3.16"
    knows_batch = is_given or driver == "train_on_batch"
    if driver == "fit":
        model.fit(x, y, callbacks=[monitor], epochs=2, **FIT)
        trained = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    else:
        trained = by_hand(model, x, y, monitor)
    # The data explain the rest, once they were seen.
    found = {one.rule: one for one in monitor.alerts}
    alert = found.get("non_finite_data") or found["non_finite"]
    assert alert.is_open
    if math.isinf(value):
        return
    # On JAX the loss of a step is known after the next one.
    late = int(BACKEND == "jax")
    assert 5 <= alert.step <= 5 + late
    assert trained == alert.step
    log = read_log(tmp_path)
    assert steps(log, "health/non_finite/loss") == [alert.step]
    where = {"x": "inputs/x", "y": "targets/y"}[part]
    if knows_batch:
        assert alert.where == part
        assert f"health/non_finite/{where}" in log
        (said,) = [r.getMessage() for r in caplog.records if "keeps" in r.getMessage()]
        assert "at step 5" in said
        assert f"1 NaN or Inf in {part}, first in example 3" in said
    else:
        assert alert.where in ("sequential", model.name)
        assert "NaN or Inf are in the weights" in alert.message
        assert "Check the data first" in alert.message
        assert not [*tmp_path.glob("non_finite*")]


@contextlib.contextmanager
def raising_on_nan():
    """Gives a loss of which a step with NaN raises an error."""
    if BACKEND == "jax":
        import jax

        with jax.debug_nans(True):
            yield "mse"
    elif BACKEND == "torch":
        yield "binary_crossentropy"  # as it is: "should be between 0 and 1"
    else:

        def loss(y, p):
            found = keras.ops.mean(keras.ops.square(y - p))
            if not np.isfinite(found):
                raise ValueError("it is not finite")
            return found

        yield loss


@pytest.mark.parametrize("value", [math.nan, 0.5])
def test_a_step_that_raises_because_of_nan_is_named(value, tmp_path, caplog):
    x, y = data("x", value=value)
    y = (y > 0).astype("float32")
    model, monitor = network(), TrainingMonitor(tmp_path, log_freq=100)
    model.layers[-1].activation = keras.activations.sigmoid
    with raising_on_nan() as loss:
        model.compile("sgd", loss, run_eagerly=BACKEND == "tensorflow")
        if math.isfinite(value):
            by_hand(model, x, y, monitor)
            assert not monitor.alerts
            return
        with pytest.raises((RuntimeError, ValueError, ArithmeticError), match=r"."):
            by_hand(model, x, y, monitor)
    (alert,) = monitor.alerts
    assert (alert.rule, alert.where) == ("non_finite_data", "x")
    assert alert.step == 4  # the last that was made
    (said,) = [r.getMessage() for r in caplog.records if "keeps" in r.getMessage()]
    assert "1 NaN or Inf in x, first in example 3" in said
    assert [r for r in caplog.records if "non_finite_data" in r.getMessage()]
    assert type(model.train_function).__name__ != "WatchedFunction"


def test_a_step_that_raises_of_something_else_says_nothing(tmp_path, caplog):
    def loss(y, p):
        raise ZeroDivisionError("the user's own")

    model = network(loss)
    x, y = data()
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        model.fit(x, y, callbacks=[TrainingMonitor(tmp_path)], **FIT)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("kbn")] == []


@pytest.mark.parametrize("steps", [1, 2])
def test_training_stops_one_call_after_keras_would_at_most(steps, tmp_path):
    if steps > 1 and BACKEND == "torch":
        pytest.skip("torch runs one step a call")
    ended = {}
    stoppers = {
        "keras": keras.callbacks.TerminateOnNaN(),
        "kbn": TrainingMonitor(tmp_path, on_alert="stop", log_freq="epoch"),
    }
    x, y = data("x")
    for name, stopper in stoppers.items():
        model = network(steps_per_execution=steps)
        model.fit(x, y, callbacks=[stopper], epochs=3, **FIT)
        ended[name] = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    assert ended["keras"] <= ended["kbn"] <= ended["keras"] + steps
    assert ended["kbn"] < STEPS


@pytest.mark.parametrize("part", ["x", "y"])
def test_what_is_kept_trains_again_to_the_same_nan(part, tmp_path):
    x, y = data(part)
    monitor = TrainingMonitor(tmp_path, log_freq=2)
    by_hand(network(), x, y, monitor)
    (directory,) = tmp_path.glob("non_finite_step_*")
    assert directory.name == "non_finite_step_5"
    text = (directory / "replay.py").read_text()
    assert len(text.strip().splitlines()) == 7  # a title and six lines
    kept = np.load(directory / "batch.npz")
    for name, whole in (("x", x), ("y", y)):
        np.testing.assert_array_equal(kept[name], whole[4 * BATCH : 5 * BATCH])
    fresh = network()
    assert all(
        np.isfinite(kept[f"variables/{i}"]).all() for i in range(len(fresh.variables))
    )
    namespace, printed = {}, []
    script = text.replace("model = ...", "model = fresh")
    exec(script, {"fresh": fresh, "print": printed.append}, namespace)
    (logs,) = printed
    assert math.isnan(float(logs["loss"]))


def test_a_look_at_the_bad_step_names_what_it_saw(tmp_path):
    for part, where in (("x", "x"), ("y", "y")):
        monitor = TrainingMonitor(tmp_path / part, log_freq=5)
        network().fit(*data(part), callbacks=[monitor], **FIT)
        if BACKEND == "tensorflow":
            assert monitor.alerts[0].where == where
        assert 5 <= monitor.alerts[0].step <= 6


def test_a_nan_among_the_sample_weights_is_named(tmp_path):
    x, y = data("x", value=0.0)
    weights = np.ones(len(x), "float32")
    weights[17] = math.nan
    monitor = TrainingMonitor(tmp_path, log_freq=50)
    network().fit(x, y, sample_weight=weights, callbacks=[monitor], epochs=2, **FIT)
    (alert,) = [one for one in monitor.alerts if one.is_open]
    assert (alert.rule, alert.where) == ("non_finite_data", "sample_weight")
    assert alert.symptoms == ("non_finite",)
    assert "1 element of sample_weight is NaN or Inf" in alert.message


class Hides(keras.layers.Layer):
    """0 of a NaN, as a fused ReLU may make it: the loss is finite, the weights not."""

    def call(self, x):
        return keras.ops.where(keras.ops.isnan(x), 0.0, x)


class Validated(keras.callbacks.Callback):
    def __init__(self, monitor):
        super().__init__()
        self.monitor, self.open_before = monitor, None

    def on_test_batch_begin(self, batch, logs=None):
        if self.open_before is None:
            self.open_before = [alert.rule for alert in self.monitor.alerts]


def test_weights_are_checked_though_the_loss_is_finite(tmp_path):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(6, name="hidden")
    layers = [keras.Input((4,)), hidden, Hides(), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x, y = data("x")
    monitor = TrainingMonitor(tmp_path, "epoch", on_alert=lambda alert: None)
    then = Validated(monitor)
    fit = {**FIT, "validation_data": (x[:BATCH], y[:BATCH])}
    history = model.fit(x, y, callbacks=[monitor, then], **fit)
    assert math.isfinite(history.history["loss"][0])
    (alert,) = monitor.alerts
    assert (alert.rule, alert.step) == ("non_finite", STEPS)
    assert then.open_before == ["non_finite"]
    assert "the weights sequential" in alert.message
    assert "even where the loss stays finite" in alert.message


def number(loss, waits):
    """A string is a number that a device has not computed."""
    return float(loss) if waits or not isinstance(loss, str) else None


def test_a_loss_is_waited_for_after_so_many_calls():
    for latest in (1, 4):
        losses = Losses(number, latest)
        assert losses.add({"loss": "1.0", "accuracy": math.nan}, None) is None
        for _ in range(latest):
            assert losses.add({"loss": "nan", "accuracy": 1}, None) is None
        broken = losses.add({"loss": "nan", "accuracy": 1}, None)
        assert broken.call == 2
        assert losses.add({"loss": math.nan}, None) is None  # it stays so
        assert losses.all() is None
        losses.start_anew()
        assert losses.add({"loss": math.inf}, None).call == latest + 4


def test_a_look_waits_for_all_losses_and_nobody_for_one_that_is_there():
    assert Losses(number, 16).add({"loss": math.nan}, None).call == 1
    losses = Losses(number, 16)
    assert losses.add({"loss": "nan"}, None) is None
    assert losses.all().call == 1


def test_losses_of_ones_own_are_checked_too():
    losses = Losses(number, 1)
    first = {"d_loss": 1.0, "g_loss": None, "loss_in_words": {}}
    assert losses.add(first, None) is None
    assert losses.add({"d_loss": 1.0, "g_loss": -math.inf}, None).call == 2
    assert Losses(number, 1).add({}, None) is None


BATCHES = {
    "x and y": ((np.ones((3, 2)), np.array([[1.0], [math.nan], [math.inf]])), "y"),
    "named": (({"a": np.array([[0.0], [math.nan]])}, np.zeros(2)), "a"),
    "listed": (([np.zeros(2), np.array([math.nan, 1])], None), "1"),
    "integers and words": ((np.array([1, 2]), np.array(["a", "b"])), None),
    "no targets": (np.array([math.nan]), "x"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_where_a_batch_is_not_finite(name):
    batch, bad = BATCHES[name]
    found = non_finite(batch)
    assert [where for _, where in found] == ([bad] if bad else [])
    for count, first in found.values():
        assert count >= 1
        assert first in (0, 1)


def test_a_model_beyond_the_limit_is_kept_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("kbn.callbacks.watch.evidence.LARGEST_BYTES", 10)
    evidence = Evidence()
    evidence.keep(network(), 3)
    evidence.save(tmp_path, 4, (np.ones((2, 4)), np.ones((2, 2))))
    assert sorted(np.load(tmp_path / "batch.npz")) == ["x", "y"]
    assert "none were kept" in (tmp_path / "replay.py").read_text()


ONEDNN = """
import keras, numpy as np, sys, kbn
keras.utils.set_random_seed(0)
dense = lambda n, a: keras.layers.Dense(n, activation=a)
layers = [keras.Input((64,)), dense(64, "relu"), dense(64, "relu"), dense(6, "softmax")]
model = keras.Sequential(layers)
model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
rng = np.random.default_rng(0)
x, y = rng.normal(size=(320, 64)).astype("float32"), rng.integers(0, 6, 320)
x[67, 3] = np.nan
monitor = kbn.callbacks.TrainingMonitor(sys.argv[1], on_alert=lambda alert: None)
history = model.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[monitor])
(alert,) = monitor.alerts
print(alert.rule, alert.step, history.history["loss"][0])
"""


@pytest.mark.long
@pytest.mark.skipif(BACKEND != "tensorflow", reason="oneDNN is TensorFlow's")
@pytest.mark.parametrize("onednn", ["0", "1"])
def test_a_nan_in_the_data_is_told_of_with_onednn_and_without(onednn, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", ONEDNN, str(tmp_path)],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    rule, step, loss = re.split(r"\s+", run.stdout.strip().splitlines()[-1])
    assert rule.startswith("non_finite")
    # Where a fused ReLU hides it, the weights tell at the next look.
    assert int(step) == (4 if math.isfinite(float(loss)) else 3)


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog):
    caplog.set_level(logging.WARNING, "kbn")
