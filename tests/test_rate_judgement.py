"""What is said of steps: learning rates, scales of losses, starts, who trains what."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import zoo_data
import zoo_steps

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log.reader import read_run

ops = keras.ops
by_hand = pytest.mark.skipif(zoo_steps.IS_JAX, reason="its steps return the state")
CLASSES = "sparse_categorical_crossentropy"
HIGH, LOW = "learning_rate_too_high", "learning_rate_too_low"


def network():
    hidden = [layers.Dense(32, "relu") for _ in range(2)]
    return [*hidden, layers.Dense(10, activation="softmax")]


class Low(layers.Layer):
    """A layer of rank 4, of which one factor starts at 0, beside a frozen kernel."""

    def build(self, shape):
        """Make the weights."""
        self.frozen = layers.Dense(32)
        self.frozen.trainable = False
        self.a = self.add_weight(shape=(shape[-1], 4), name="a")
        self.b = self.add_weight(shape=(4, 32), initializer="zeros", name="b")

    def call(self, x):
        """Give x (W + A B)."""
        return self.frozen(x) + x @ self.a @ self.b


def low_rank():
    return [Low(), layers.ReLU(), layers.Dense(10, activation="softmax")]


# (name: optimizer, layers, what is said of the rate, part of the message)
SAID = {
    "adam-0.5": (
        lambda: optimizers.Adam(0.5),
        network,
        HIGH,
        "Adam's learning rate from 0.5 to about",
    ),
    "sgd-1e-5": (lambda: optimizers.SGD(1e-5), network, LOW, "Raise SGD's"),
    "momentum-0.1": (lambda: optimizers.SGD(0.1, 0.9), network, None, ""),
    "zero-start": (lambda: optimizers.Adam(1e-2), low_rank, None, ""),
}
JUDGED = {
    "weight_drift",
    "weight_explosion",
    "update_ratio_high",
    "exploding_gradient",
    "unchanged_weight",
    HIGH,
    LOW,
}


@pytest.mark.parametrize("case", SAID)
def test_rate_is_judged_by_the_first_steps_and_the_loss(case, tmp_path):
    optimizer, made, rule, part = SAID[case]
    keras.utils.set_random_seed(1)
    data = zoo_data.digits(1)
    model = keras.Sequential([layers.Input((64,)), *made()])
    model.compile(optimizer(), CLASSES)
    monitor = TrainingMonitor(tmp_path)
    fit = {"epochs": 4, "batch_size": 32, "verbose": 0, "callbacks": [monitor]}
    model.fit(data.x, data.y, **fit)
    alerts = [x for x in monitor.alerts if x.rule in JUDGED]
    if rule is None:
        assert alerts == []
        return
    (found,) = [x for x in alerts if x.rule in (HIGH, LOW)]
    assert found.rule == rule
    assert part in found.message
    assert found.step <= (8 if rule == HIGH else 3 * 41)


# --- steps of one's own ---


class Own(keras.Model):
    """Parts, a step of its own, and what becomes of the weights after it."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.built = True  # its parts are; it is never called

    def train_step(self, data):
        """Train `net` by `mine`."""
        x, y = data

        def loss_of():
            errors = ops.square(y - self.net(x, training=True))
            return ops.mean(ops.sum(errors, axis=-1))

        weights = self.net.trainable_variables
        loss = zoo_steps.minimize(loss_of, weights, self.mine)
        if hasattr(self, "copy"):
            pairs = zip(self.copy.weights, self.net.weights, strict=True)
            for mean, weight in pairs:
                mean.assign(0.9 * mean + 0.1 * weight)
        return {self.reported: loss}


def autoencoder():
    return keras.Sequential(
        [layers.Input((64,)), layers.Dense(32, "relu"), layers.Dense(64)]
    )


def trained(model, tmp_path, scale=1.0, **options):
    x = scale * zoo_data.digits(1).x[:256]
    monitor = TrainingMonitor(tmp_path, log_freq=1, **options)
    model.fit(x, x, batch_size=32, epochs=3, verbose=0, callbacks=[monitor])
    return monitor


@by_hand
@pytest.mark.parametrize("reported", ["loss", "total_loss", "error"])
def test_summed_loss_of_an_own_step_is_no_explosion(reported, tmp_path):
    keras.utils.set_random_seed(1)
    model = Own(net=autoencoder(), mine=optimizers.Adam(1e-3), reported=reported)
    model.compile()
    monitor = trained(model, tmp_path, scale=100.0)
    norms = monitor.history["gradient_norm/global"][1]
    assert min(norms[:8]) > 1e3
    assert [x for x in monitor.alerts if x.rule == "exploding_gradient"] == []
    assert ("loss/train" in monitor.history) == ("loss" in reported)


@by_hand
def test_optimizer_that_nobody_applies_is_not_blamed(tmp_path):
    keras.utils.set_random_seed(1)
    model = Own(net=autoencoder(), mine=optimizers.Adam(2.0), reported="loss")
    model.compile()  # makes an RMSprop
    monitor = trained(model, tmp_path)
    (found,) = [x for x in monitor.alerts if x.rule == HIGH]
    assert "Adam's learning rate from 2 to about" in found.message
    assert not any("RMSprop" in str(x) for x in monitor.alerts)
    (one,) = read_run(tmp_path, "").record["optimizers"]
    assert (one["name"], one["type"]) == ("mine", "keras.Adam")


@by_hand
def test_copy_that_follows_is_not_judged_as_trained(tmp_path):
    keras.utils.set_random_seed(1)
    net, copy = autoencoder(), autoencoder()
    model = Own(net=net, copy=copy, mine=optimizers.Adam(1e-2), reported="loss")
    model.compile()
    monitor = trained(model, tmp_path)
    kernels = [
        [w.path for w in part.weights if len(w.shape) > 1] for part in (net, copy)
    ]
    for measure in ("update_ratio", "distance_from_init", "weight_std"):
        logged = [[f"{measure}/{x}" in monitor.history for x in own] for own in kernels]
        assert logged == [[True, True], [False, False]]


@pytest.mark.parametrize("is_eager", [False, True], ids=["graph", "eager"])
def test_start_is_before_the_step_that_builds(is_eager, tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Dense(8), layers.Dense(64)])
    model.compile(optimizers.SGD(0.1), "mse", run_eagerly=is_eager)
    history = trained(model, tmp_path).history
    for weight in (w for w in model.weights if len(w.shape) > 1):
        first = [
            history[f"{tag}/{weight.path}"][1][0]
            for tag in ("update_ratio", "distance_from_init")
        ]
        assert first[0] > 0
        np.testing.assert_allclose(*first)


class Two(keras.Model):
    """Two losses and two optimizers, of gradients that are a million times apart."""

    def __init__(self):
        super().__init__()
        self.first = keras.Sequential([layers.Input((64,)), layers.Dense(8, "sigmoid")])
        self.second = keras.Sequential([layers.Input((8,)), layers.Dense(8, "sigmoid")])
        self.of_first, self.of_second = optimizers.SGD(1e-9), optimizers.Adam(1e-3)
        self.built = True

    def train_step(self, data):
        """Train each by its own."""

        def loss_of_first():
            return 1e6 * ops.mean(self.first(data[0]))

        def loss_of_second():
            return ops.mean(self.second(self.first(data[0])))

        one, other = self.first.trainable_variables, self.second.trainable_variables
        losses = (
            zoo_steps.minimize(loss_of_first, one, self.of_first),
            zoo_steps.minimize(loss_of_second, other, self.of_second),
        )
        return {"first_loss": losses[0], "second_loss": losses[1]}


@by_hand
def test_losses_of_their_own_are_told_apart(tmp_path):
    keras.utils.set_random_seed(1)
    model = Two()
    model.compile()
    monitor = trained(model, tmp_path)
    assert [x for x in monitor.alerts if "gradient" in x.rule] == []
    assert "loss/train" not in monitor.history
    record = read_run(tmp_path, "").record
    kinds = {x["name"]: x["type"] for x in record["optimizers"]}
    assert kinds == {"of_first": "keras.SGD", "of_second": "keras.Adam"}
    dense = [x for x in record["layers"] if x["type"] == "keras.Dense"]
    owners = [{w["optimizer"] for w in x["weights"]} for x in dense]
    assert owners == [{"of_first"}, {"of_second"}]
    assert [{w["call"] for w in x["weights"]} for x in dense] == [{0}, {1}]
    # What a model in the model gives is output, and may be confident.
    assert all(x["is_output"] for x in dense)
