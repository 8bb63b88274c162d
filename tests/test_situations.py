"""Trainings that a monitor once ended, changed or told lies about: issue 11, 1 to 9.

Each goes on as it does unwatched, to the same weights, and its log can be read.
"""

import contextlib
import copy
import functools
import logging
import os

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("own training steps are TensorFlow's", allow_module_level=True)

import tensorflow as tf
from keras import layers

import kbn
from kbn.callbacks import TrainingMonitor
from tests import trainings, watched_models
from tests.event_files import read_log, steps, values
from tests.trainings import ODD, odd
from tests.watched_models import BATCH, ROWS

STEPS = -(-ROWS // BATCH)
FIT = {"batch_size": BATCH, "verbose": 0}


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "kbn.callbacks")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("kbn")]


def same_weights(train, *monitors):
    """Train unwatched and watched, from one seed; the watched model."""
    models = []
    for callbacks in ([], list(monitors)):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        models.append(train(callbacks))
    free, watched = models
    for weight, other in zip(free.variables, watched.variables, strict=True):
        np.testing.assert_array_equal(weight, other, err_msg=weight.path)
    assert not any(
        {"call", "apply", "compute_loss"} & set(vars(x))
        for x in [watched, *watched._flatten_layers()]
    )
    return watched


# --- 1: methods of any signature ---


class OddArguments(layers.Layer):
    def build(self, shape):
        self.inner = layers.Dense(shape[-1])
        self.inner.build(shape)

    def call(self, one, *others, flag=False, **more):
        return self.inner(one) * more["factor"] if flag else one


class PickyOptimizer(keras.optimizers.SGD):
    def apply(self, grads, trainable_variables=None, *, note="", **more):
        super().apply(grads, trainable_variables)


def test_layers_and_optimizers_of_odd_signatures(tmp_path):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.odd = OddArguments(name="odd")

        def call(self, x, *, training=False):
            return self.odd(x, flag=True, factor=0.5)

        def train_step(self, data):
            with tf.GradientTape() as tape:
                (x, *_) = keras.utils.unpack_x_y_sample_weight(data)
                loss = tf.reduce_mean(self(x, training=True) ** 2)
            weights = self.trainable_variables
            gradients = (g for g in tape.gradient(loss, weights))
            self.optimizer.apply(grads=list(gradients), trainable_variables=weights)
            self.optimizer.apply([w * 0.1 for w in weights], weights, note="decay")
            return {"loss": loss}

    def train(callbacks):
        model = Model()
        model.compile(PickyOptimizer(0.1), jit_compile=False)
        model.fit(watched_models.rows(6), callbacks=callbacks, **FIT)
        return model

    same_weights(train, TrainingMonitor(tmp_path, log_freq=2))
    log = read_log(tmp_path)
    assert "activations/odd" in log
    assert any("#1" in tag for tag in log if tag.startswith("gradients/"))


@pytest.mark.parametrize("eager", [False, True])
def test_a_train_step_set_on_the_instance_trains_and_stays(eager, tmp_path, said):
    def train(callbacks):
        model, x, y = watched_models.sequential(run_eagerly=eager)
        model.train_step = functools.partial(type(model).train_step, model)
        own = model.train_step
        model.fit(x, y, callbacks=callbacks, **FIT)
        assert model.train_step is own
        return model

    same_weights(train, TrainingMonitor(tmp_path, log_freq="epoch"))
    assert not said()
    assert "activations/head" in read_log(tmp_path)


# --- 2: whose steps they are ---


class TwoOptimizers(keras.Model):
    """A GAN in kind: two networks, each with an optimizer somewhere in the model."""

    def __init__(self, place):
        super().__init__()
        self.left, self.right = layers.Dense(6, name="left"), layers.Dense(6)
        pair = keras.optimizers.SGD(0.25), keras.optimizers.SGD(0.5)
        if place == "attributes":
            self.one, self.other = pair
        elif place == "dictionary":
            self.optimizers = {"one": pair[0], "other": pair[1]}
        elif place == "list":
            self.optimizers = [*pair]
        else:
            self.held = {"deep": {"er": pair}}
        self.pair = lambda: pair

    def call(self, x):
        return self.right(self.left(x))

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        parts = zip((self.left, self.right), self.pair(), strict=True)
        for layer, optimizer in parts:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - x) ** 2)
            weights = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
        return {"d_loss": loss}


@pytest.mark.parametrize(
    ("place", "log_freq"),
    [("attributes", 3), ("dictionary", 3 * STEPS), ("list", "epoch"), ("nested", 3)],
)
def test_an_unused_default_optimizer_counts_no_steps(place, log_freq, tmp_path):
    keras.utils.set_random_seed(0)
    model = TwoOptimizers(place)
    model.compile(run_eagerly=True)
    monitor = TrainingMonitor(tmp_path, log_freq=log_freq)
    model.fit(watched_models.rows(6), epochs=5, callbacks=[monitor], **FIT)
    log = read_log(tmp_path)
    ends = [STEPS * epoch for epoch in range(1, 6)]
    assert steps(log, "Epoch/d_loss") == ends
    due = [1 + end - STEPS for end in ends] if log_freq == "epoch" else None
    due = due or [step for step in range(1, 5 * STEPS + 1) if step % log_freq == 0]
    assert steps(log, "activations/left") == due
    rates = {t: values(log, t)[-1] for t in log if t.startswith("learning_rate")}
    assert sorted(rates.values()) == [0.25, 0.5]


def test_steps_go_on_when_nothing_tells_them(tmp_path):
    inputs = keras.Input((6,))
    model = trainings.ByHand(inputs, watched_models.head(inputs))
    model.compile(run_eagerly=True)
    x, y = watched_models.rows(6), watched_models.classes()
    monitor = TrainingMonitor(tmp_path, log_freq=3)
    model.fit(x, y, epochs=3, callbacks=[monitor], **FIT)
    log = read_log(tmp_path)
    assert steps(log, "Epoch/loss") == [4, 8, 12]
    assert steps(log, "activations/head") == [3, 6, 9, 12]


# --- 3: several fits, several models ---


@pytest.mark.parametrize("log_freq", ["epoch", 3])
def test_a_model_that_is_compiled_again_goes_on(log_freq, tmp_path, said):
    monitor = TrainingMonitor(tmp_path, log_freq=log_freq)
    model, x, y = watched_models.sequential(run_eagerly=True)
    for _ in range(3):
        model.fit(x, y, epochs=2, callbacks=[monitor], **FIT)
        watched_models.compiled(model, run_eagerly=True)
    log = read_log(tmp_path)
    assert steps(log, "Epoch/loss") == [STEPS * epoch for epoch in range(1, 7)]
    for tag in log:
        assert steps(log, tag) == sorted(set(steps(log, tag)))
    looks = {"epoch": 6, 3: 2 * STEPS}[log_freq]
    assert len(steps(log, "activations/head")) == looks
    (message,) = said()
    assert "'sequential'" in message
    assert "starts again" in message


def test_each_model_has_a_log_of_its_own(tmp_path, said):
    monitor = TrainingMonitor(tmp_path, log_freq=2)
    for fold in range(3):
        model, x, y = watched_models.sequential(run_eagerly=True)
        model.name = "fold" if fold else "first"
        for _ in range(2):
            model.fit(x, y, callbacks=[monitor], **FIT)
    logs = [read_log(tmp_path / name) for name in ("", "fold", "fold_1")]
    for log in logs:
        assert steps(log, "Epoch/loss") == [STEPS, 2 * STEPS]
        assert steps(log, "activations/head") == [2, 4, 6, 8]
    for name, message in zip(("fold", "fold_1"), said(), strict=True):
        assert f"'{tmp_path / name}'" in message
    assert monitor.history["fold_1/Epoch/loss"][0] == [STEPS, 2 * STEPS]


@pytest.mark.long
def test_a_tuners_copies_are_one_monitor(tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq="epoch")
    for _ in range(2):
        model, x, y = watched_models.sequential(run_eagerly=True)
        model.name = "trial"
        model.fit(x, y, callbacks=copy.deepcopy([monitor]), **FIT)
    assert steps(read_log(tmp_path), "Epoch/loss") == [STEPS]
    assert steps(read_log(tmp_path / "trial"), "Epoch/loss") == [STEPS]


# --- 4: loops written by hand ---


def loop(model, callbacks, step, epochs=2):
    listed = keras.callbacks.CallbackList(callbacks, model=model)
    x, y = watched_models.rows(6), watched_models.classes()
    listed.on_train_begin()
    for epoch in range(epochs):
        listed.on_epoch_begin(epoch)
        for index in range(3):
            rows = slice(index * BATCH, (index + 1) * BATCH)
            listed.on_train_batch_begin(index)
            logs = step(model, x[rows], y[rows])
            listed.on_train_batch_end(index, logs)
        model.test_on_batch(x, y) if model.compiled else None
        listed.on_epoch_end(epoch, logs)
    listed.on_train_end()
    return model


def on_batch(model, x, y):
    return model.train_on_batch(x, y, return_dict=True)


@pytest.mark.parametrize(
    ("log_freq", "mode"), [("epoch", {"run_eagerly": True}), (2, {})]
)
def test_a_loop_of_train_on_batch_shows_all(log_freq, mode, tmp_path):
    def train(callbacks):
        model = watched_models.sequential(**mode)[0]
        return loop(model, callbacks, on_batch)

    model = same_weights(train, TrainingMonitor(tmp_path, log_freq=log_freq))
    log = read_log(tmp_path)
    due = {"epoch": [1, 4], 2: [2, 4, 6]}[log_freq]
    for tag in ("activations/head", f"gradients/{model.weights[-1].path}"):
        assert steps(log, tag) == due
    assert steps(log, f"weights/{model.weights[-1].path}") == sorted({*due, 6})
    assert steps(log, "Epoch/loss") == [3, 6]
    assert type(model.train_function).__name__ == "function"


@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_loop_of_ones_own_shows_weights_and_epochs(is_compiled, tmp_path):
    optimizer = keras.optimizers.SGD(0.1)

    def step(model, x, y):
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(y, model(x))
            loss = tf.reduce_mean(loss)
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": float(loss)}

    model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(name="n")])
    model.add(layers.Dense(3, activation="softmax", name="head"))
    if is_compiled:
        watched_models.compiled(model)
    loop(model, [TrainingMonitor(tmp_path, log_freq=2)], step)
    log = read_log(tmp_path)
    for tag in (model.weights[-1].path, model.weights[-2].path):
        assert steps(log, f"weights/{tag}") == [2, 4, 6]
    assert steps(log, "batch_norm/n/moving_mean") == [2, 4, 6]
    assert steps(log, f"update_ratio/{model.weights[-2].path}") == [2, 4, 6]
    assert steps(log, "Epoch/loss") == [3, 6]


# --- 5: capture without compile ---


def test_a_model_that_is_not_compiled_is_captured():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="out")])
    x = np.ones((4, 3), "float32")
    before = dict(vars(model))
    with kbn.capture(model) as seen:
        y = model(x)
    np.testing.assert_array_equal(seen.activations["out"], y)
    assert vars(model).keys() == before.keys()
    with pytest.raises(KeyError, match=r"'oot' was not seen. Did you mean 'out'\?"):
        seen.activations["oot"]


# --- 7: what is odd in a layer ---


def trained_around(first, callbacks):
    """A model of these layers, a batch norm and a head, after two epochs."""
    norm = layers.BatchNormalization(name="norm")
    head = layers.Dense(3, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((6,)), *first, norm, head])
    watched_models.compiled(model, run_eagerly=True)
    x, y = watched_models.rows(6), watched_models.classes()
    model.fit(x, y, epochs=2, callbacks=callbacks, **FIT)
    return model


@pytest.mark.parametrize("kind", ODD)
def test_a_layer_with_odd_attributes_loses_nothing_of_others(kind, tmp_path, said):
    def train(callbacks):
        hidden = layers.Dense(4, activation="relu", name="hidden")
        return trained_around([hidden, odd(kind, name="odd")], callbacks)

    same_weights(train, TrainingMonitor(tmp_path, log_freq="epoch"))
    log = read_log(tmp_path)
    for tag in ("activations/odd", "health/dead_units/hidden", "batch_norm/norm/gamma"):
        assert len(log[tag]) >= 2
    assert said() == []


def test_a_selection_that_raises_leaves_out_that_layer(tmp_path, said):
    def select(layer):
        return layer.units > 0  # of Dense only

    def train(callbacks):
        model, x, y = watched_models.sequential(run_eagerly=True)
        model.fit(x, y, epochs=2, callbacks=callbacks, **FIT)
        return model

    same_weights(train, TrainingMonitor(tmp_path, log_freq="epoch", layers=select))
    log = read_log(tmp_path)
    assert {tag for tag in log if tag.startswith("activations")} == {
        "activations/hidden",
        "activations/head",
    }
    (message,) = said()
    assert "Training goes on." in message


def test_a_selection_of_nothing_says_so(tmp_path, said):
    model, x, y = watched_models.sequential(run_eagerly=True)
    monitor = TrainingMonitor(tmp_path, log_freq="epoch", layers="conv")
    model.fit(x, y, epochs=2, callbacks=[monitor], **FIT)
    (message,) = said()
    assert "layers='conv'" in message
    assert "hidden, norm, relu, head" in message


def failing(culprit, kind, tmp_path, monkeypatch):
    """The log of a training in which a function of kbn.callbacks fails."""

    def fail(*args, **kwargs):
        raise RuntimeError("no look today")

    def train(callbacks):
        model, x, y = watched_models.KINDS[kind]()
        model.fit(x, y, epochs=2, callbacks=callbacks, **FIT)
        return model

    monkeypatch.setattr(f"kbn.callbacks.{culprit}", fail)
    same_weights(train, TrainingMonitor(tmp_path, log_freq="epoch"))
    return read_log(tmp_path)


@pytest.mark.parametrize(
    "culprit",
    ["signals.rows.active_row", "watch.notes._loss_of", "watch.tensorflow.spec_of"],
)
def test_what_fails_in_a_look_is_left_out(culprit, tmp_path, monkeypatch):
    log = failing(culprit, "sequential", tmp_path, monkeypatch)
    assert steps(log, "activations/head") == [1, STEPS + 1]


@pytest.mark.parametrize(
    "culprit",
    [
        "tensorflow.Probe._probe",
        "pruned.PrunedStep.__init__",
        "pruned.PrunedStep.__call__",
        "reduction.Reduction.rows",
        "notes.Noter._override",
    ],
)
def test_a_look_that_fails_leaves_the_step_to_keras(
    culprit, tmp_path, said, monkeypatch
):
    log = failing(f"watch.{culprit}", "dropout", tmp_path, monkeypatch)
    (message,) = said()
    assert "no look today" in message or "sees no gradients" in message
    assert steps(log, "Epoch/loss") == [STEPS, 2 * STEPS]
    assert any(tag.startswith("weights/") for tag in log)


# --- 8: frozen, compiled again, somewhere else ---


@pytest.mark.parametrize(("place", "makes"), [("first", True), ("last", False)])
def test_a_callback_that_compiles_again_is_followed(place, makes, tmp_path):
    class Again(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                if makes:
                    watched_models.compiled(self.model)
                self.model.make_train_function(force=True)

    def train(callbacks):
        model, x, y = watched_models.sequential()
        callbacks.insert(0 if place == "last" else len(callbacks), Again())
        model.fit(x, y, epochs=3, callbacks=callbacks, **FIT)
        return model

    model = same_weights(train, TrainingMonitor(tmp_path, log_freq="epoch"))
    log = read_log(tmp_path)
    assert steps(log, "activations/head") == [1, STEPS + 1, 2 * STEPS + 1]
    assert steps(log, "Epoch/loss") == [STEPS, 2 * STEPS, 3 * STEPS]
    assert type(model.train_function).__name__ == "function"


def test_a_training_that_changes_its_directory_is_logged(tmp_path, monkeypatch, said):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    act = lambda *_: os.chdir(tmp_path / "elsewhere")  # noqa: E731
    moving = keras.callbacks.LambdaCallback(on_epoch_begin=act)
    model, x, y = watched_models.sequential(run_eagerly=True)
    monitor = TrainingMonitor("logs")
    for _ in range(2):
        model.fit(x, y, epochs=2, callbacks=[monitor, moving], **FIT)
    assert said() == []
    assert len(read_log(tmp_path / "logs")["Epoch/loss"]) == 4
    assert not (tmp_path / "elsewhere" / "logs").exists()


# --- 9: numbers that lie ---


@pytest.mark.parametrize("make", [layers.BatchNormalization, kbn.BatchNorm])
def test_a_frozen_batch_norm_has_no_gap(make, tmp_path):
    model = keras.Sequential(
        [keras.Input((6,)), make(name="frozen"), make(name="free"), layers.Dense(1)]
    )
    model.get_layer("frozen").trainable = False
    model.compile("sgd", "mse", run_eagerly=True)
    x = watched_models.rows(6) * 9
    model.fit(
        x, x[:, :1], callbacks=[TrainingMonitor(tmp_path, log_freq="epoch")], **FIT
    )
    log = read_log(tmp_path)
    assert {t.split("/")[1] for t in log if t.startswith("batch_norm_gap")} == {"free"}
    assert "batch_norm/frozen/moving_mean" in log


@pytest.mark.parametrize("is_first", [True, False])
def test_before_and_after_backup_and_restore(is_first, tmp_path):
    def fit(epochs, callbacks):
        keras.utils.set_random_seed(0)
        model = watched_models.sequential(
            optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
            run_eagerly=True,
        )[0]
        x, y = watched_models.rows(6), watched_models.classes()
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(x, y, epochs=epochs, callbacks=callbacks, **FIT)

    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    fit(5, [backup, Break()])
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    callbacks = [backup, TrainingMonitor(tmp_path / "logs", log_freq=1)]
    fit(5, callbacks[::-1] if is_first else callbacks)
    log = read_log(tmp_path / "logs")
    assert steps(log, "Epoch/loss") == [4 * STEPS, 5 * STEPS]
    assert set(values(log, "skipped_steps")) == {0}
    tags = [x for x in log if x.startswith("distance_from_init") and "hidden" in x]
    (tag,) = tags
    ratio = values(log, tag.replace("distance_from_init", "update_ratio"))
    np.testing.assert_allclose(values(log, tag)[0], ratio[0], rtol=1e-5)


def test_words_do_not_switch_the_loss_gap_off(tmp_path):
    inputs = keras.Input((1,), dtype="string")
    x = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(inputs)
    x = layers.Dropout(0.5)(layers.Dense(4)(x))
    model = watched_models.compiled(keras.Model(inputs, watched_models.head(x)))
    words = tf.constant([["a"], ["b"], ["c"], ["a"]])
    data = tf.data.Dataset.from_tensor_slices((words, [0, 1, 2, 0])).batch(4)
    monitor = TrainingMonitor(tmp_path, log_freq="epoch")
    model.fit(data, shuffle=False, verbose=0, callbacks=[monitor])
    assert len(read_log(tmp_path)["loss_gap/train_eval"]) == 1
