"""Shares of zeros: what is counted, and a training whose weights become 0."""

import keras
import numpy as np
import pytest
from event_files import read_log, values
from keras import layers

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.signals.statistics import merge, summarize

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [64, 20_000])
@pytest.mark.parametrize("given", ["finite", "not finite"])
def test_a_summary_counts_exact_zeros(size, given):
    x = RANDOM.normal(size=size).astype("float32")
    x[RANDOM.permutation(size)[: size // 4]] = 0
    x[0] = 1e-30
    if given == "not finite":
        x[1] = np.nan
    finite = x[np.isfinite(x)]
    assert summarize(x, size).zeros == pytest.approx(np.mean(finite == 0))


def test_merged_zeros_are_weighted_by_count():
    parts = [summarize(np.zeros(30), 30), summarize(np.ones(10), 10)]
    assert merge(parts).zeros == 0.75


def fitted(model, log_dir, epochs=2):
    x = RANDOM.normal(size=(64, 6)).astype("float32")
    y = np.argmax(x[:, :3], axis=1)
    monitor = TrainingMonitor(log_dir, log_freq=2, on_alert=lambda alert: None)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[monitor])
    return monitor, read_log(log_dir)


def network(hidden, optimizer):
    model = keras.Sequential([layers.Input((6,)), hidden, layers.Dense(3, name="last")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def test_zeros_of_a_layer_of_which_half_is_dead(tmp_path):
    bias = keras.initializers.Constant([-100.0] * 4 + [100.0] * 4)
    hidden = layers.Dense(8, activation="relu", bias_initializer=bias, name="hidden")
    model = network(hidden, keras.optimizers.SGD(0.0))
    _, log = fitted(model, tmp_path)
    assert values(log, "zeros/activations/hidden") == [0.5] * 4
    for kernel in (hidden.kernel, model.layers[1].kernel):
        assert values(log, f"zeros/gradients/{kernel.path}") == [0.5] * 4
    assert not any(tag.startswith("zeros/weights/") for tag in log)


def test_weights_that_a_regularizer_has_made_0_are_named(tmp_path):
    hidden = layers.Dense(8, activation="relu", name="hidden")
    optimizer = keras.optimizers.Ftrl(0.1, l1_regularization_strength=50.0)
    monitor, log = fitted(network(hidden, optimizer), tmp_path, epochs=8)
    assert values(log, f"zeros/weights/{hidden.kernel.path}")[-1] == 1
    names = {name for x in monitor.alerts for name in (x.rule, *x.symptoms)}
    assert "zero_weights" in names


def test_weights_that_a_constraint_keeps_at_0_are_not(tmp_path):
    hidden = layers.Dense(8, kernel_constraint="non_neg", name="hidden")
    monitor, log = fitted(network(hidden, keras.optimizers.SGD(0.1)), tmp_path, 8)
    assert values(log, f"zeros/weights/{hidden.kernel.path}")[-1] > 0.1
    names = {name for x in monitor.alerts for name in (x.rule, *x.symptoms)}
    assert "zero_weights" not in names


def test_weights_that_began_as_0_have_no_share(tmp_path):
    hidden = layers.Dense(8, kernel_initializer="zeros", name="hidden")
    _, log = fitted(network(hidden, keras.optimizers.SGD(0.1)), tmp_path)
    assert not any(tag.startswith("zeros/weights/") for tag in log)
