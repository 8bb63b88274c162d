"""What the architecture tells of outputs and losses: on every backend, at step 1."""

import keras
import numpy as np
import pytest

from kbn.callbacks import TrainingMonitor

layers = keras.layers
IS_UNDONE = keras.backend.backend() == "tensorflow"  # softmax before from_logits=True
# name: (layers after a hidden one, from_logits, what is said of it; None: nothing)
HEADS = {
    "softmax": (lambda: [layers.Dense(3, "softmax")], False, None),
    "logits": (lambda: [layers.Dense(3)], True, None),
    "Softmax layer": (lambda: [layers.Dense(3), layers.Softmax()], False, None),
    "softmax of a ReLU": (
        lambda: [layers.Dense(3, "relu"), layers.Softmax()],
        False,
        "a softmax of what a relu gives",
    ),
    "softmax twice": (
        lambda: [layers.Dense(3, "softmax"), layers.Activation("softmax")],
        False,
        "Take the softmax before the last softmax away",
    ),
    "softmax of a leaky ReLU": (
        lambda: [layers.Dense(3, "leaky_relu"), layers.Softmax()],
        False,
        None,
    ),
    "dropout": (
        lambda: [layers.Dense(3, "softmax"), layers.Dropout(0.5)],
        False,
        "ends with dropout",
    ),
    "no softmax": (lambda: [layers.Dense(3)], False, "ends with linear"),
    "ReLU": (lambda: [layers.Dense(3, "relu")], False, "ends with relu"),
    "tanh as logits": (lambda: [layers.Dense(3, "tanh")], True, "ends with tanh"),
    "softmax as logits": (
        lambda: [layers.Dense(3, "softmax")],
        True,
        None if IS_UNDONE else "ends with softmax",
    ),
    "behind a reshape": (
        lambda: [layers.Dense(3, "relu"), layers.Reshape((3,))],
        False,
        "ends with relu",
    ),
    "in a nested model": (
        lambda: [keras.Sequential([keras.Input((8,)), layers.Dense(3, "relu")])],
        False,
        "ends with relu",
    ),
}


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize("name", HEADS)
def test_what_the_output_ends_with_is_known(name, tmp_path):
    make, from_logits, said = HEADS[name]
    hidden = [keras.Input((6,)), layers.Dense(8, "relu")]
    model = keras.Sequential([*hidden, *make()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile("adam", loss)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
    monitor = TrainingMonitor(tmp_path)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor])
    found = [alert for alert in monitor.alerts if alert.rule == "output_mismatch"]
    assert len(found) == (said is not None)
    for alert in found:
        # Critical on JAX, where probabilities of 0 make the loss NaN.
        assert alert.level != "info"
        assert (alert.step, alert.is_open) == (1, True)
        assert said in alert.message
