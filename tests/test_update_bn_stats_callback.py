"""A callback that validates with population statistics, and trains as without it."""

import itertools

import keras
import numpy as np
import pytest

import kbn
from tests.models_with_batch_norm import (
    FEATURES,
    LAYERS,
    data,
    norms,
    statistics,
    values,
)


def trained(layer="Keras", callbacks=(), epochs=3, momentum=0.99):
    """A model after a fit with a validation after each epoch, and its history."""
    keras.utils.set_random_seed(0)
    norm = LAYERS[layer]
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            norm(momentum=momentum),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.Dropout(0.3),
            norm(momentum=momentum),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    x, y = data(32)
    history = model.fit(
        x, y, batch_size=8, epochs=epochs, validation_data=(x, y), verbose=0,
        validation_batch_size=8, callbacks=list(callbacks),
    )  # fmt: skip
    return model, history.history


def without_statistics(model):
    moving = [w for x in norms(model) for w in (x.moving_mean, x.moving_variance)]
    moving = set(map(id, moving))
    return values(w for w in model.variables if id(w) not in moving)


class Seen(keras.callbacks.Callback):
    """The statistics at certain moments."""

    def __init__(self):
        super().__init__()
        self.validated, self.epochs = [], []

    def on_test_begin(self, logs=None):
        self.validated.append(statistics(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(statistics(self.model))


@pytest.mark.parametrize(
    ("layer", "restore", "exact"),
    [("Keras", False, False), ("kbn", True, False), ("kbn", False, True)],
)
def test_callback_disturbs_no_training(layer, restore, exact):
    alone_seen = Seen()
    alone, history = trained(layer, [alone_seen])
    x, _ = data(32)
    seen = Seen()
    callback = kbn.callbacks.UpdateBatchNormStats(
        x, exact=exact, restore=restore, batch_size=8
    )
    model, watched = trained(layer, [callback, seen])
    for old, new in zip(
        without_statistics(alone), without_statistics(model), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert watched["loss"] == history["loss"]
    assert watched["val_loss"] != history["val_loss"]
    # What was validated is the population of the first layer, whatever training keeps.
    for moving in seen.validated:
        np.testing.assert_allclose(moving[0], x.mean(0), rtol=1e-5)
        np.testing.assert_allclose(moving[1], np.float64(x).var(0), rtol=1e-5)
    for number, epoch in enumerate(seen.epochs):
        expected = alone_seen.epochs if restore else seen.validated
        for old, new in zip(expected[number], epoch, strict=True):
            np.testing.assert_array_equal(old, new)
    left = statistics(model)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    kbn.update_bn_stats(again, x, exact=exact, batch_size=8, verbose=0)
    for old, new in zip(
        left,
        values(w for w in again.weights if w.name.startswith("moving")),
        strict=True,
    ):
        np.testing.assert_allclose(old, new, rtol=1e-5, atol=1e-6)


def test_callback_outside_of_fit_does_nothing():
    x, y = data(32)
    callback = kbn.callbacks.UpdateBatchNormStats(x)
    model, _ = trained(callbacks=[callback], epochs=1)
    for layer in norms(model):
        layer.moving_mean.assign(layer.moving_mean + 1)
    before = values(model.weights)
    model.evaluate(x, y, verbose=0, callbacks=[callback])
    for old, new in zip(before, values(model.weights), strict=True):
        np.testing.assert_array_equal(old, new)


def test_callback_follows_weights_that_early_stopping_puts_back():
    x, _ = data(32)
    stop = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=1, restore_best_weights=True
    )
    callback = kbn.callbacks.UpdateBatchNormStats(x, batch_size=8)
    model, history = trained(callbacks=[stop, callback], epochs=6)
    assert len(history["loss"]) < 6
    left = values(model.weights)
    kbn.update_bn_stats(model, x, batch_size=8, verbose=0)
    for old, new in zip(left, values(model.weights), strict=True):
        np.testing.assert_allclose(old, new, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("is_behind", [True, False])
def test_weights_that_are_swapped_after_the_update_are_told(is_behind, caplog):
    x, y = data(32)
    dense, norm = keras.layers.Dense(1), kbn.BatchNorm()
    model = keras.Sequential([keras.Input((FEATURES,)), dense, norm])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse")
    gaps = []

    def compare(logs):
        kernel, bias = values(dense.weights)
        gaps.append(abs(float((x @ kernel + bias).mean() - statistics(model)[0][0])))

    callbacks = [
        kbn.callbacks.UpdateBatchNormStats(x),
        keras.callbacks.SwapEMAWeights(),
    ]
    model.fit(
        x, y, epochs=3, validation_data=(x, y), verbose=0,
        callbacks=[
            *callbacks[:: -1 if is_behind else 1],
            keras.callbacks.LambdaCallback(on_test_begin=compare),
        ],
    )  # fmt: skip
    told = [line for line in caplog.messages if "behind that one" in line]
    assert len(told) == (not is_behind)
    assert (max(gaps) < 1e-4) == is_behind


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (iter, {}, "`data` is read again and again, .* read only once"),
        (lambda x: x, {"steps": -1}, "steps to be an integer from 1"),
        (iter, {"steps": 2, "exact": True}, "exact=True reads"),
        (lambda x: 3, {}, "Expected `data` to be arrays"),
    ],
    ids=["once", "steps", "exact", "number"],
)
def test_callback_refuses_at_once_what_makes_no_sense(given, options, message):
    with pytest.raises(ValueError, match=message):
        kbn.callbacks.UpdateBatchNormStats(given(data(20)[0]), **options)


def test_callback_reads_on_in_a_generator_that_never_ends():
    batches = [np.ones((2, FEATURES), "float32"), data(3)[0]]
    callback = kbn.callbacks.UpdateBatchNormStats(itertools.cycle(batches), steps=2)
    model, _ = trained(callbacks=[callback], epochs=2)
    whole = np.concatenate(batches)
    mean = norms(model)[0].get_weights()[2]
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-5)
