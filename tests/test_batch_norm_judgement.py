"""Batch norm's rules on real trainings: where its statistics come from, and go."""

import keras
import numpy as np
import pytest
from keras import layers

import kbn

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
EXAMPLES, BATCH, STEPS = 2048, 64, 32  # steps of an epoch


def often(step):
    """Early, and then once an epoch."""
    return step & (step - 1) == 0 or step % STEPS == 1


def data(examples=EXAMPLES, deviation=1.0):
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, 8)).astype("float32")[:examples]
    y = np.argmax(x @ random.normal(size=(8, 4)), axis=1)
    return deviation * x, y


def network(norm, deviation=1.0, mean=5.0, model=keras.Sequential):
    """Dense, batch norm, ReLU; the inputs of batch norm have these moments, about."""
    kernel = keras.initializers.RandomNormal(stddev=deviation / 8**0.5, seed=1)
    bias = keras.initializers.Constant(mean)
    made = model(
        [
            layers.Input((8,)),
            layers.Dense(16, kernel_initializer=kernel, bias_initializer=bias),
            norm,
            layers.ReLU(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    made.compile(keras.optimizers.Adam(2e-2), "sparse_categorical_crossentropy")
    return made


class Always(layers.Layer):
    """Calls a batch norm in one mode, whatever the model's."""

    def __init__(self, training, times=1, **options):
        super().__init__()
        self.norm = layers.BatchNormalization(name="norm", **options)
        self.training, self.times = training, times

    def call(self, x):
        for _ in range(self.times):
            y = self.norm(x, training=self.training)
        return y


class Repeated(Always):
    """Calls a batch norm several times, as a critic is called in one step."""

    def call(self, x, training=None):
        for _ in range(self.times):
            y = self.norm(x, training=training)
        return y


class Forgetful(keras.Sequential):
    """Its train_step forgets training=True."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def loaded(norm, mean=5.0, deviation=1.0):
    """A batch norm that begins with other statistics than 0 and 1."""
    if not norm.built:
        norm.build((None, 16))
    norm.moving_mean.assign(np.full(16, mean))
    norm.moving_variance.assign(np.full(16, deviation**2))
    return norm


class Reset(keras.callbacks.Callback):
    """Puts the initial statistics back when an epoch begins."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            norm = self.model.layers[1]
            norm.moving_mean.assign(np.zeros(16))
            norm.moving_variance.assign(np.ones(16))


def watched(model, tmp_path, epochs=2, **fit):
    x, y = data()
    monitor = kbn.callbacks.TrainingMonitor(
        tmp_path, log_freq=often, on_alert=lambda alert: None
    )
    fit = {"batch_size": BATCH, "validation_data": data(128), **fit}
    callbacks = [*fit.pop("callbacks", []), monitor]
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks, **fit)
    return monitor


def said(monitor):
    """Rules on batch norm that warned."""
    return {
        alert.rule
        for alert in monitor.alerts
        if alert.rule.startswith("bn_") and alert.level != "info"
    }


def shares(monitor):
    (found,) = (
        dict(zip(*series, strict=True))
        for tag, series in monitor.history.items()
        if tag.startswith("batch_norm_start/") and tag.endswith("/share")
    )
    return found


def bn(**options):
    return layers.BatchNormalization(name="norm", **options)


COLD, NOTHING, IDLE = {"bn_stats_cold"}, set(), {"bn_not_updated"}


def inside(outer, start=False):
    """A network with a batch norm in a layer that calls it in its own way."""
    return network(outer if not start else (loaded(outer.norm), outer)[1])


# What is trained, and the rules that are to warn.
FAMILY = {
    "keras, 0.9": (lambda: network(bn(momentum=0.9)), NOTHING),
    "keras, 0.99": (lambda: network(bn()), COLD),
    "kbn, 0.99": (lambda: network(kbn.BatchNorm()), COLD),
    "kbn, no momentum": (lambda: network(kbn.BatchNorm(momentum=None)), NOTHING),
    "kbn, warm-up": (lambda: network(kbn.BatchNorm(warmup=True)), NOTHING),
    "inputs of 0.03": (lambda: network(bn(momentum=0.9), 0.03, 0.0), NOTHING),
    "loaded, wrong": (lambda: network(loaded(bn(), -3.0, 4.0)), COLD),
    "frozen": (lambda: network(bn(trainable=False)), NOTHING),
    "always in training": (lambda: inside(Always(True)), NOTHING),
    "never in training": (lambda: inside(Always(False)), IDLE),
    "never in training, loaded": (lambda: inside(Always(False), True), NOTHING),
    "called three times, 0.95": (
        lambda: inside(Repeated(None, times=3, momentum=0.95)),
        NOTHING,
    ),
}
IN_SHORT = ("keras, 0.9", "kbn, 0.99", "kbn, warm-up", "loaded, wrong", "frozen")
IN_SHORT += ("always in training", "never in training")


def marked(name):
    return name if name in IN_SHORT else pytest.param(name, marks=pytest.mark.long)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # of what is not called
@pytest.mark.parametrize("name", [marked(x) for x in FAMILY])
def test_rules_on_where_statistics_come_from(name, tmp_path):
    make, expected = FAMILY[name]
    monitor = watched(make(), tmp_path)
    assert said(monitor) == expected
    if expected == COLD:
        (alert,) = [one for one in monitor.alerts if one.rule == "bn_stats_cold"]
        # At the first validation; where only the epoch's mean is seen, at the second.
        assert alert.step <= (STEPS + 1 if IS_TENSORFLOW else 2 * STEPS)
        is_fresh = "loaded" not in name
        assert ("its initial 0 and 1" in alert.message) == is_fresh
        assert ("kbn.BatchNorm(warmup=True)" in alert.remedy.words) == is_fresh


# --- how much of the start is left ---


@pytest.mark.skipif(not IS_TENSORFLOW, reason="only there are the calls of a step seen")
def test_each_call_in_training_is_an_update(tmp_path):
    outer = Repeated(None, times=3, momentum=0.9)
    monitor = watched(inside(outer), tmp_path, epochs=1, steps_per_epoch=4)
    assert shares(monitor) == pytest.approx({n: 0.9 ** (3 * n) for n in (1, 2, 4)})
    assert monitor.history["batch_norm_updates/norm"][1] == [3, 3, 3]


def test_statistics_that_were_reset_are_young_again(tmp_path):
    model = network(bn(momentum=0.9))
    found = shares(watched(model, tmp_path, epochs=3, callbacks=[Reset()]))
    assert found[STEPS + 1] == pytest.approx(0.9 ** (STEPS + 1))
    assert found[2 * STEPS + 1] == pytest.approx(0.9)


def test_layer_that_is_unfrozen_begins_then(tmp_path):
    model = network(bn(momentum=0.9, trainable=False))
    x, y = data()
    monitor = kbn.callbacks.TrainingMonitor(tmp_path, log_freq=often)
    fit = {"batch_size": BATCH, "callbacks": [monitor], "verbose": 0}
    model.fit(x, y, **fit)
    model.layers[1].trainable = True
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(x, y, **fit)
    found = shares(monitor)
    assert found[STEPS] == 1
    assert found[STEPS + 1] == pytest.approx(0.9)
    assert found[2 * STEPS] == pytest.approx(0.9**STEPS)


def test_statistics_set_between_two_fits_are_a_new_start(tmp_path):
    model = network(bn(momentum=0.9))
    x, y = data()
    monitor = kbn.callbacks.TrainingMonitor(tmp_path, log_freq=often)
    fit = {"batch_size": BATCH, "callbacks": [monitor], "verbose": 0}
    model.fit(x, y, **fit)
    loaded(model.layers[1], 2.0, 2.0)
    model.fit(x, y, **fit)
    assert shares(monitor)[STEPS + 1] == pytest.approx(0.9)
    (norm,) = [x for _, x in monitor._run.follower._record.batch_norms()]
    assert norm["is_fresh"] is False


def test_a_layer_that_the_first_step_builds_began_at_0_and_1(tmp_path):
    unbuilt = keras.Sequential([layers.Dense(4), bn(momentum=0.9), layers.Softmax()])
    unbuilt.compile("sgd", "sparse_categorical_crossentropy")
    found = shares(watched(unbuilt, tmp_path, epochs=1))
    assert found[1] == pytest.approx(0.9)
    assert found[STEPS] == pytest.approx(0.9**STEPS)


@pytest.mark.parametrize(
    ("make", "kept"),
    [
        (lambda: kbn.BatchNorm(momentum=None), 0.0),
        (lambda: kbn.BatchNorm(momentum=0.9, warmup=True), 0.0),
        (lambda: kbn.BatchNorm(momentum=0.9), 0.9**4),
    ],
    ids=["no momentum", "warm-up", "0.9"],
)
def test_share_is_that_of_the_layer_itself(make, kept, tmp_path):
    """Two layers, one that began elsewhere: what differs in the end is what is left."""
    ends = []
    for start in (0.0, 100.0):
        norm = make()
        norm.build((None, 16))
        norm.moving_mean.assign(np.full(16, start))
        keras.utils.set_random_seed(0)
        model = network(norm, mean=0.0)
        fit = {"epochs": 1, "steps_per_epoch": 4, "shuffle": False}
        monitor = watched(model, tmp_path / str(start), **fit)
        ends.append(keras.ops.convert_to_numpy(norm.moving_mean))
        assert shares(monitor)[4] == pytest.approx(kept)
    np.testing.assert_allclose((ends[1] - ends[0]) / 100, kept, atol=1e-5)


def test_what_a_little_of_the_start_makes_of_a_small_variance(tmp_path):
    model = network(bn(momentum=0.9), 0.03, 0.0)
    model.optimizer.learning_rate = 1e-6
    monitor = watched(model, tmp_path, epochs=1)
    gaps = dict(zip(*monitor.history["batch_norm_start/norm/gap"], strict=True))
    assert shares(monitor)[STEPS] < 0.05
    assert gaps[STEPS] > 2


# --- batches of one, a step of one's own ---


@pytest.mark.skipif(not IS_TENSORFLOW, reason="its step is TensorFlow's")
def test_step_that_forgets_training_is_told_in_its_second_look(tmp_path):
    monitor = watched(network(bn(), model=Forgetful), tmp_path, epochs=1)
    assert said(monitor) == IDLE
    assert {x.step for x in monitor.alerts if x.rule == "bn_not_updated"} == {2}
