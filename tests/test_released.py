"""What kbn has worked on is not kept: a model goes when nobody else holds it.

Beside it the same model, unwatched: what Keras itself keeps is no fault of ours.
"""

import gc
import weakref

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import TrainingMonitor, UpdateBatchNormStats

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = X[:, :2]


def build(**options):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(5, activation="relu"),
        keras.layers.Dense(5),
        kbn.BatchNorm(),
        keras.layers.ReLU(),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.01), "mse", **options)
    return model


def fit(model, *callbacks, epochs=2):
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def untouched(model, log_dir):
    return fit(model)


def watched(model, log_dir, **options):
    monitor = TrainingMonitor(log_dir, **options)
    fit(model, monitor)
    monitor.report()
    return model


def frozen_between(model, log_dir):
    monitor = TrainingMonitor(log_dir, log_freq=1)
    fit(model, monitor)
    kbn.freeze_batch_norm(model, train_affine=True)
    fit(model, monitor)
    kbn.unfreeze_batch_norm(model)
    return fit(model, monitor)


def interrupted(model, log_dir):
    def stop(batch, logs=None):
        raise KeyboardInterrupt

    last = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        fit(model, TrainingMonitor(log_dir, log_freq=1), last)
    return model


def by_hand(model, log_dir):
    monitor = TrainingMonitor(log_dir, log_freq=1)
    callbacks = keras.callbacks.CallbackList([monitor], model=model)
    callbacks.on_train_begin()
    for step in range(3):
        callbacks.on_train_batch_begin(step)
        model.train_on_batch(X, Y)
        callbacks.on_train_batch_end(step)
    callbacks.on_train_end()
    return model


def captured(model, log_dir):
    with kbn.capture(model):
        model.train_on_batch(X, Y)
    return model


def updated(model, log_dir):
    kbn.update_bn_stats(model, X)
    return fit(model, UpdateBatchNormStats(X))


def converted(model, log_dir):
    return kbn.convert_batch_norm(kbn.convert_batch_norm(model, back=True))


def folded(model, log_dir):
    return kbn.fold_batch_norm(model)


WAYS = {
    "fit": untouched,
    "watched": watched,
    "watched at every step": lambda *a: watched(*a, log_freq=1),
    "weights only": lambda *a: watched(*a, watch=("weights",)),
    "frozen between": frozen_between,
    "interrupted": interrupted,
    "loop by hand": by_hand,
    "captured": captured,
    "updated": updated,
    "converted": converted,
    "folded": folded,
}
MODES = {"graph": {}}
if ON_TENSORFLOW:
    MODES |= {
        "eager": {"run_eagerly": True},
        "XLA": {"jit_compile": True},
        "steps": {"steps_per_execution": 2},
    }


# Each way, and those that watch a fit in each mode.
CASES = [(way, "graph") for way in WAYS]
CASES += [
    (way, mode)
    for way in ("watched at every step", "frozen between", "interrupted")
    for mode in MODES
    if mode != "graph"
]


@pytest.mark.parametrize(("way", "mode"), CASES)
def test_a_model_is_not_kept(way, mode, tmp_path):
    def references():
        model = build(**MODES[mode])
        result = WAYS[way](model, tmp_path)
        return [weakref.ref(thing) for thing in (model, result, model.layers[2])]

    kept = references()
    keras.backend.clear_session(free_memory=False)
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3
