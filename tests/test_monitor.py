"""kbn.callbacks.TrainingMonitor: what it writes, and that it changes nothing."""

import logging

import keras
import numpy as np
import pytest
import watched_models
from event_files import count, read_log, steps, values
from watched_models import BATCH, ROWS

from kbn.callbacks import Report, TrainingMonitor
from kbn.callbacks.schedule import Steps
from tests import trainings

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
needs_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="TensorFlow's")
STEPS = -(-ROWS // BATCH)  # per epoch, the last one short

# Where graphs are not the point: nothing to trace.
EAGER = {"run_eagerly": ON_TENSORFLOW}


def train(kind, callbacks=(), epochs=2, fit=None, **options):
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model, x, y = watched_models.KINDS[kind](**options)
    fit = {"epochs": epochs, "batch_size": BATCH, "verbose": 0, **(fit or {})}
    history = model.fit(x, y, callbacks=list(callbacks), **fit)
    return model, history.history


@pytest.fixture
def monitor(tmp_path):
    return TrainingMonitor(tmp_path, log_freq="epoch")


@pytest.fixture
def said(caplog):
    """The warnings that the monitor logged."""
    caplog.set_level(logging.WARNING, "kbn.callbacks")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("kbn.")
    ]


# --- what is written ---


TOPS = """
activation_shift zeros skew speed memory weights gradients activations batch_norm
gradient_norm update_ratio distance_from_init health batch_norm_gap batch_norm_elements
batch_norm_start batch_norm_updates loss_gap loss Epoch epoch learning_rate
activation_std between_examples gradient_rms inputs outputs targets weight_drift
update_from_init weight_growth weight_spread weight_std layers
"""


def test_tags_and_steps_of_a_training(monitor, tmp_path, said):
    model, _ = train("sequential", [monitor], fit={"validation_split": 0.2})
    log = read_log(tmp_path)
    per_epoch = -(-int(ROWS * 0.8) // BATCH)
    first, last = [1, per_epoch + 1], 2 * per_epoch
    norm = model.get_layer("norm").weights
    for weight in model.weights:
        # Issue 11: no variable twice; those of the batch norm are under its own tags.
        is_norm = any(weight is one for one in norm)
        tag = f"weights/{weight.path}"
        assert (tag not in log) if is_norm else steps(log, tag) == [*first, last]
    for weight in model.trainable_weights:
        assert steps(log, f"gradients/{weight.path}") == first
    for layer in ("hidden", "norm", "relu", "head"):
        assert steps(log, f"activations/{layer}") == first
    for part in ("gamma", "beta", "moving_mean", "moving_variance"):
        assert steps(log, f"batch_norm/norm/{part}") == [*first, last]
    assert steps(log, "gradient_norm/global") == first
    assert steps(log, "Epoch/loss") == [per_epoch, last]
    assert steps(log, "Epoch/val_loss") == [per_epoch, last]
    assert steps(log, "learning_rate") == [1, per_epoch, per_epoch + 1, last]
    tops = {tag.split("/")[0] for tag in log}
    assert tops - {"Health"} == {*TOPS.split()}
    assert steps(log, "epoch") == steps(log, "learning_rate")
    assert said() == []


def test_a_skipped_step_of_loss_scaling_has_no_second_value(tmp_path):
    # At this scale the gradients overflow: the first steps do not count as iterations.
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-4), initial_scale=2.0**127
    )
    monitor = TrainingMonitor(tmp_path, log_freq=lambda step: True)
    options = {"optimizer": optimizer, "loss_weights": [1e3]}
    train("sequential", [monitor], epochs=4, **options)
    log = read_log(tmp_path)
    tag = "weights/sequential/head/bias"
    assert 0 < int(optimizer.iterations) < 4 * STEPS
    assert steps(log, tag) == list(range(int(optimizer.iterations) + 1))


@pytest.mark.parametrize(
    ("iterations", "shown"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([0, 0, 1, 1, 2], [0, 0, 1, 1, 2]),  # some that are skipped
        ([0] * 14, [0] * 11 + [12, 13, 14]),
        ([1, *[1] * 12, 2, 3], [1] * 11 + [12, 13, 14, 15]),  # and steps again
        ([5, 6, 1, 2], [5, 6, 7, 8]),  # compiled again
    ],
)
def test_steps_go_on_while_an_optimizer_skips_all(iterations, shown):
    counted, found = Steps(), []
    for tried, one in enumerate(iterations, start=1):
        counted.count = max(tried, iterations[0] + tried - 1)
        found.append(counted.show(one))
    assert found == shown


@pytest.mark.parametrize("log_freq", [10**6, lambda step: False])
def test_all_steps_of_a_fit_are_not_taken_for_one(log_freq, tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq=log_freq)
    train("sequential", [monitor], epochs=4)
    log = read_log(tmp_path)
    assert steps(log, "weights/sequential/head/kernel") == [4 * STEPS]
    assert "distance_from_init/sequential/head/kernel" in log
    assert not [tag for tag in log if tag.startswith("update_ratio")]


def infinitely_steep(y, y_pred):
    return keras.ops.mean(keras.ops.sqrt(y_pred - keras.ops.stop_gradient(y_pred)))


def test_training_of_which_every_step_is_skipped_is_ill(tmp_path):
    x = np.eye(64, 4, dtype="float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer, infinitely_steep)
    monitor = TrainingMonitor(tmp_path)
    model.fit(x, x[:, :3], batch_size=2, epochs=2, verbose=0, callbacks=[monitor])
    assert int(optimizer.iterations) == 0
    (run,) = Report.read(tmp_path).runs
    for alerts in (monitor.alerts, run.alerts):
        assert "loss_scale_collapse" in {x.rule for x in alerts if x.is_open}


def test_non_finite_values_are_counted_apart(tmp_path):
    model, x, y = watched_models.sequential(**EAGER)
    x[3, 2] = np.nan
    monitor = TrainingMonitor(tmp_path, log_freq="epoch")
    model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[monitor])
    log = read_log(tmp_path)
    # One row of the batch before the batch norm, all of it after.
    assert values(log, "health/non_finite/activations/hidden") == [8]
    assert count(log["activations/hidden"][0][1]) == ROWS * 8 - 8
    assert values(log, "health/non_finite/activations/head") == [ROWS * 3]
    assert not log["activations/head"][0][1].any()
    assert np.isnan(values(log, "gradient_norm/global")).all()


def test_sample_size_bounds_the_histogram_only(tmp_path):
    model, x, y = watched_models.convolution(**EAGER)
    monitor = TrainingMonitor(tmp_path, log_freq="epoch", sample_size=64)
    model.fit(x, y, batch_size=ROWS, verbose=0, callbacks=[monitor])
    rows = read_log(tmp_path)["activations/conv"][0][1]
    size = ROWS * 6 * 6 * 4
    np.testing.assert_allclose(count(rows), size)
    lumps = rows[:, 2] / (size / 64)  # each sampled element stands for size / 64
    assert lumps.max() > 1
    assert (rows[:, 2][rows[:, 2] > 0] >= 0.9 * size / 64).all()


def test_layers_selects_activations_weights_and_batch_norm(tmp_path):
    train(
        "sequential",
        [TrainingMonitor(tmp_path, log_freq="epoch", layers="norm|head")],
        **EAGER,
    )
    log = read_log(tmp_path)
    tags = {tag for tag in log if not tag.startswith(("quantiles", "epoch"))}
    mentioned = {tag.split("/")[-2] for tag in tags if tag.startswith(("weig", "grad"))}
    assert mentioned - {"gradient_norm"} == {"norm", "head"}
    assert any(tag.startswith("batch_norm/norm/") for tag in tags)
    assert {t for t in tags if t.startswith("activations")} == {
        "activations/norm",
        "activations/head",
    }


@pytest.mark.parametrize(
    "watch",
    [
        ("weights",),
        ("activations",),
        ("gradients", "batch_norm"),
        ("weights", "quantiles"),
        (),
    ],
)
def test_watch_selects(watch, tmp_path, said):
    train(
        "sequential",
        [TrainingMonitor(tmp_path, log_freq="epoch", watch=watch)],
        epochs=1,
        **EAGER,
    )
    kinds = {tag.split("/")[0] for tag in read_log(tmp_path)}
    of = {
        "weights": {
            "update_ratio",
            "distance_from_init",
            "update_from_init",
            *(f"weight_{x}" for x in ("drift", "growth", "spread", "std")),
        },
        "gradients": {"gradient_norm", "gradient_rms", "loss"},
        "activations": {"activation_std", "health", "inputs", "outputs", "targets"},
        "quantiles": set(),
        "batch_norm": {
            "batch_norm_elements",
            "batch_norm_gap",
            "batch_norm_start",
            "batch_norm_updates",
            "health",
            "loss",
            "loss_gap",
        },
    }
    expected = {"loss"}.union(watch, *(of[what] for what in watch))
    expected |= {"Epoch", "epoch", "learning_rate"}
    assert kinds - {"layers"} == expected
    assert ("layers" in kinds) == bool(watch)
    assert said() == []


@pytest.mark.parametrize(
    ("log_freq", "looks"),
    [
        (3, [3, 6]),
        (1, [1, 2, 3, 4, 5, 6, 7, 8]),
        (100, []),
        (lambda step: step in (2, 7), [2, 7]),
        ("epoch", [1, 5]),
        ("auto", [1, 2, 4, 8]),
    ],
    ids=["every-3", "every-1", "every-100", "function", "epoch", "auto"],
)
def test_log_freq(log_freq, looks, tmp_path):
    train("sequential", [TrainingMonitor(tmp_path, log_freq=log_freq)], **EAGER)
    log = read_log(tmp_path)
    assert [step for step, _ in log.get("activations/head", [])] == looks
    # Weights once more when training ends.
    assert steps(log, "weights/sequential/head/bias") == sorted({*looks, 8})


@needs_tensorflow
def test_a_gan_logs_both_optimizers(monitor, tmp_path):
    model, _ = train("gan", [monitor], epochs=1)
    log = read_log(tmp_path)
    gradients = {tag for tag in log if tag.startswith("gradients/")}
    assert gradients == {f"gradients/{w.path}" for w in model.trainable_weights}
    assert values(log, "learning_rate/d_optimizer")[0] == np.float32(1e-2)
    assert "learning_rate/optimizer" not in log
    assert steps(log, "Epoch/d_loss") == [STEPS]


def test_repeated_calls_are_numbered(monitor, tmp_path):
    train("nested_and_shared", [monitor], epochs=1, **EAGER)
    log = read_log(tmp_path)
    for tag in ("inner", "inner#1", "encoder", "encoder#1", "join"):
        assert steps(log, f"activations/{tag}") == [1]


def test_a_layer_born_in_build_is_seen(monitor, tmp_path):
    train("subclassed", [monitor])
    log = read_log(tmp_path)
    assert steps(log, "activations/born_late") == [1, STEPS + 1]
    assert steps(log, "activations/lazy") == [1, STEPS + 1]
    assert steps(log, "weights/subclassed/lazy/born_late/bias") == [1, 5, 8]


# --- watching changes nothing: see also test_transparency.py ---


@needs_tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, either way
def test_the_end_of_data_of_unknown_length_is_no_look(monitor, tmp_path):
    import tensorflow as tf

    model, x, y = watched_models.dropout()
    whole = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    data = whole.filter(lambda x, y: True)
    model.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
    # Keras tries a step more at the end of data of unknown length: its iterations
    # advance with it, watched or not.
    looks = steps(read_log(tmp_path), "activations/head")
    assert looks == [1, STEPS + 2]


def test_a_step_that_is_not_due_is_the_original(tmp_path):
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):  # after the monitor, so inside its wrapper
            wrapper = self.model.train_function
            original = wrapper.original
            wrapper.original = lambda *given: seen.append(given) or original(*given)

    monitor = TrainingMonitor(tmp_path, log_freq=3)
    train("sequential", [monitor, Spy()], epochs=1)
    assert len(seen) == STEPS - 1  # all but step 3


# --- no trace ---


def test_the_model_is_left_as_it_was(monitor, tmp_path):
    model, x, y = watched_models.sequential()
    model.fit(x, y, verbose=0)
    original = model.train_function
    model.fit(x, y, verbose=0, callbacks=[monitor])
    assert model.train_function is original
    watched_models.assert_unwatched(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x))


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_an_exception_in_the_model_is_raised_and_leaves_no_trace(mode, monitor):
    class Failing(keras.layers.Layer):
        def call(self, x):
            raise ValueError("this layer fails")

    model = keras.Sequential([keras.layers.Dense(2), Failing()])
    model.compile("sgd", "mse", run_eagerly=mode == "eager")
    with pytest.raises(ValueError, match="this layer fails"):
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[monitor])
    watched_models.assert_unwatched(model)


# --- what cannot be seen is said, once ---


def of_a_step_that_is_hidden(cls, monitor, tmp_path, said):
    """What is said of a model whose steps cannot be watched, and that weights are."""
    inputs = keras.Input((6,))
    model = cls(inputs, watched_models.head(inputs), name="own")
    watched_models.compiled(model)
    x, y = watched_models.rows(6), watched_models.classes()
    for _ in range(2):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[monitor])
    (message,) = said()
    assert "'own'" in message
    log = read_log(tmp_path)
    assert steps(log, "weights/head/bias") == [1, 4, 5, 8]
    assert not any(tag.startswith(("activations", "gradients")) for tag in log)
    return message


def test_an_own_make_train_function_falls_back(monitor, tmp_path, said):
    class Own(keras.Model):
        def make_train_function(self, force=False):
            super().make_train_function(force)
            return self.train_function

    message = of_a_step_that_is_hidden(Own, monitor, tmp_path, said)
    assert "make_train_function" in message


@needs_tensorflow
def test_a_train_step_in_a_tf_function_falls_back(monitor, tmp_path, said):
    import tensorflow as tf

    class Hidden(keras.Model):
        @tf.function
        def train_step(self, data):
            return super().train_step(data)

    message = of_a_step_that_is_hidden(Hidden, monitor, tmp_path, said)
    assert "tf.function" in message


@needs_tensorflow
def test_a_step_that_applies_no_optimizer_says_so(monitor, tmp_path, said):
    inputs = keras.Input((6,))
    model = trainings.ByHand(inputs, watched_models.head(inputs))
    watched_models.compiled(model)
    x, y = watched_models.rows(6), watched_models.classes()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[monitor])
    (message,) = said()
    assert "no optimizer was applied" in message
    log = read_log(tmp_path)
    assert len(log["activations/head"]) == 1
    assert not any(tag.startswith("gradients") for tag in log)


def test_what_is_inside_a_loop_is_listed(monitor, tmp_path, said):
    train("recurrent", [monitor])
    log = read_log(tmp_path)
    shown = {tag for tag in log if tag.startswith("activations") and "cell" in tag}
    (message,) = said()
    assert "forward_simple_rnn/simple_rnn_cell" in message
    # torch has an LSTM of its own, which calls no cell.
    assert ("lstm_cell" in message) == (keras.backend.backend() != "torch")
    assert not shown
    layers = ("embedding", "both", "forward_simple_rnn", "every", "each#3", "lstm")
    for layer in layers:
        assert steps(log, f"activations/{layer}") == [1, STEPS + 1]


# --- what cannot be written ---


def test_a_log_dir_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    model, x, y = watched_models.sequential()
    before = model.get_weights()
    monitor = TrainingMonitor(tmp_path / "logs" / "run")
    with pytest.raises(OSError, match=r"log_dir=.*logs/run.*cannot be written.*Pass a"):
        model.fit(x, y, verbose=0, callbacks=[monitor])
    for weight, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_a_metric_of_one_value_a_class_is_logged_by_class(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    f1 = keras.metrics.F1Score(average=None, name="f1")
    model.compile("sgd", "mse", metrics=[f1], **EAGER)
    monitor = TrainingMonitor(tmp_path, log_freq="epoch")
    x, y = np.ones((12, 4)), np.eye(3)[np.arange(12) % 3]
    model.fit(x, y, validation_data=(x, y), verbose=0, callbacks=[monitor])
    tags = {f"Epoch/{name}/{i}" for name in ("f1", "val_f1") for i in range(3)}
    assert tags <= monitor.history.keys()
