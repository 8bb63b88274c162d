"""skew: whether validation data are of the kind of the training data."""

import keras
import numpy as np
import pytest
from keras import layers

from kbn.callbacks import TrainingMonitor

RANDOM = np.random.default_rng(0)


def fitted(log_dir, scale=1.0, shape=(6,), is_array=True):
    model = keras.Sequential([layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    x = RANDOM.normal(1, 2, size=(192, *shape)).astype("float32")
    y = RANDOM.normal(size=(192, 1))
    validation = scale * x[:64], y[:64]
    if not is_array:
        validation = ((scale * x[i : i + 32], y[i : i + 32]) for i in (0, 32))
    steps = {} if is_array else {"validation_steps": 1}
    monitor = TrainingMonitor(log_dir, log_freq=1, on_alert=lambda alert: None)
    callbacks = {"callbacks": [monitor], "validation_data": validation, **steps}
    model.fit(x[64:], y[64:], batch_size=64, epochs=2, verbose=0, **callbacks)
    return monitor


@pytest.mark.parametrize("shape", [(6,), (4, 4, 3)])
def test_data_of_one_kind_have_little(shape, tmp_path):
    monitor = fitted(tmp_path, shape=shape)
    steps, values = monitor.history["skew/x"]
    assert steps == [3, 4]  # from the first validation on
    assert max(values) < 0.5
    assert "skewed" not in {alert.rule for alert in monitor.alerts}


def test_data_of_another_scale_are_named(tmp_path):
    monitor = fitted(tmp_path, scale=255.0)
    _, values = monitor.history["skew/x"]
    # sqrt((254 mean)^2 + (254 std)^2) / std of mean 1, std 2
    np.testing.assert_allclose(values, 254 * np.sqrt(1.25), rtol=0.2)
    (alert,) = [x for x in monitor.alerts if x.rule == "skewed"]
    assert (alert.where, alert.level, alert.step) == ("x", "warning", 3)


def test_what_cannot_be_looked_at_is_left_out(tmp_path):
    monitor = fitted(tmp_path, is_array=False)
    assert "skew/x" not in monitor.history
    assert "Epoch/val_loss" in monitor.history
