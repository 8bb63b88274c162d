"""kbn.callbacks.TrainingMonitor(signals=): functions of the user's own."""

import contextlib

import keras
import numpy as np
import pytest

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.rules import Reading, Rule
from kbn.callbacks.signals import registry
from tests import watched_models
from tests.event_files import read_log

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="its replicas"
)
FIT = {"batch_size": 16, "verbose": 0, "shuffle": False}


def mean_of_hidden(look):
    """Mean output of the hidden layer."""
    return keras.ops.mean(look.activations["hidden"])


def gradient_size(look):
    """Sum of squares of all gradients."""
    return sum(keras.ops.sum(keras.ops.square(x)) for x in look.gradients.values())


def kernel_sum(look):
    """Sum of the first kernel."""
    return keras.ops.sum(look.weights["network/hidden/kernel"])


def network(**options):
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")
    layers = [keras.Input((4,)), hidden, keras.layers.Dense(2, name="out")]
    model = keras.Sequential(layers, name="network")
    model.compile(keras.optimizers.SGD(0.1), "mse", **options)
    return model


def data(rows=32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 4)).astype("f"), rng.normal(size=(rows, 2))


@pytest.mark.parametrize("watch", [("weights",), ("gradients", "activations")])
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}])
def test_a_signal_of_ones_own_is_of_the_looked_at_step(options, watch, tmp_path):
    model, (x, y) = network(**options), data()
    kernel, bias = (np.array(w) for w in model.get_weights()[:2])
    other = model.get_weights()[2:]
    signals = [mean_of_hidden, gradient_size, kernel_sum]
    monitor = TrainingMonitor(tmp_path, log_freq=1, watch=watch, signals=signals)
    model.fit(x[:16], y[:16], callbacks=[monitor], **FIT)
    found = {tag: values for tag, (_, values) in monitor.history.items()}
    hidden = np.maximum(x[:16] @ kernel + bias, 0)
    np.testing.assert_allclose(
        found["signals/mean_of_hidden"][0], hidden.mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        found["signals/kernel_sum"][0], kernel.sum(), rtol=1e-5, atol=1e-6
    )
    error = 2 * (hidden @ other[0] + other[1] - y[:16]) / y[:16].size
    back = (error @ other[0].T) * (hidden > 0)
    parts = [x[:16].T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
    np.testing.assert_allclose(
        found["signals/gradient_size"][0],
        sum(np.square(part).sum() for part in parts),
        rtol=1e-4,
    )


def test_it_has_a_description_and_a_chart(tmp_path):
    model, (x, y) = network(), data()
    monitor = TrainingMonitor(tmp_path, signals=[kernel_sum])
    model.fit(x, y, callbacks=[monitor], **FIT)
    log = read_log(tmp_path)
    assert "signals/kernel_sum" in log
    assert registry.describe("signals/kernel_sum") == "Sum of the first kernel."
    assert registry.find("signals/kernel_sum").chart.title == "kernel_sum"


def test_a_rule_may_read_it(tmp_path):
    class LargeSum(Rule):
        """The sum is above -1000."""

        reads = ("signals/kernel_sum",)

        def readings(self, view):
            yield Reading("", view["signals/kernel_sum"], limit=-1e3)

    model, (x, y) = network(), data()
    monitor = TrainingMonitor(
        tmp_path, signals=[kernel_sum], rules=[LargeSum()], on_alert=lambda alert: None
    )
    model.fit(x, y, callbacks=[monitor], **FIT)
    (alert,) = monitor.alerts
    assert alert.rule == "large_sum"


@needs_tensorflow
def test_it_is_of_all_replicas(tmp_path):
    from tests.replicas import two_replicas

    x, y = data()
    found = []
    for scope in (two_replicas().scope(), contextlib.nullcontext()):
        with scope:
            model = network()
        monitor = TrainingMonitor(tmp_path, signals=[mean_of_hidden, gradient_size])
        model.fit(x[:16], y[:16], callbacks=[monitor], **FIT)
        history = monitor.history
        names = ("signals/mean_of_hidden", "signals/gradient_size")
        found.append([history[name][1][0] for name in names])
    np.testing.assert_allclose(*found, rtol=1e-5)


def of_no_layer(look):
    """Of a layer that is not there."""
    return keras.ops.mean(look.activations["absent"])


def of_many(look):
    """No number."""
    return look.weights["network/hidden/kernel"]


@pytest.mark.parametrize(
    ("signal", "words"),
    [(of_no_layer, "no tensor 'absent'; there are: "), (of_many, r"(4, 6)")],
)
def test_one_that_raises_is_left_out(signal, words, tmp_path, caplog):
    model, (x, y) = network(), data()
    monitor = TrainingMonitor(tmp_path, log_freq=1, signals=[signal, kernel_sum])
    model.fit(x, y, callbacks=[monitor], **FIT)
    assert len(monitor.history["signals/kernel_sum"][1]) == 2
    said = [r.getMessage() for r in caplog.records if "the signal" in r.getMessage()]
    (message,) = said
    assert f"leaves out the signal {signal.__name__}" in message
    assert words in message


def test_it_changes_no_bit(tmp_path):
    weights = []
    signals = [mean_of_hidden, gradient_size]
    monitor = TrainingMonitor(tmp_path, log_freq=1, signals=signals)
    for callbacks in ([], [monitor]):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, x, y = watched_models.dropout()
        model.fit(x, y, callbacks=callbacks, **FIT)
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)
