"""`keras.optimizers.MultiOptimizer` is applied, and its parts are told apart.

https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/multi_optimizer.py
"""

import keras
import numpy as np
import pytest
from keras import optimizers

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.watch.description import describe
from kbn.callbacks.watch.inventory import Inventory
from kbn.callbacks.watch.optimizers import parts_of
from tests import watched_models
from tests.event_files import read_records

if not hasattr(optimizers, "MultiOptimizer"):
    pytest.skip("Keras 3.14 has none", allow_module_level=True)


def mapped(**options):
    """Adam for the hidden layer, SGD with a schedule for the rest."""
    halved = optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    adam = optimizers.Adam(0.01)
    rest = optimizers.OptimizerMap(optimizers.SGD(halved), {".*hidden/.*": adam})
    return optimizers.MultiOptimizer(rest, **options)


def chosen():
    """The same by a function, which Keras asks at the first step."""
    halved = optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    adam, sgd = optimizers.Adam(0.01), optimizers.SGD(halved)
    return optimizers.MultiOptimizer(lambda x: adam if "hidden" in x.path else sgd)


MADE = {
    "mapped": mapped,
    "static-scale": lambda: mapped(loss_scale_factor=64.0),
    "chosen": chosen,
    "loss-scale": lambda: optimizers.LossScaleOptimizer(mapped(), 256.0),
}


def train(make, **options):
    """The model, and all that its training has left."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model, x, y = watched_models.sequential(optimizer=make())
    history = model.fit(x, y, epochs=2, batch_size=16, verbose=0, **options)
    state = [*model.weights, *model.optimizer.variables]
    left = [keras.ops.convert_to_numpy(x) for x in state]
    return model, [*left, *map(np.asarray, history.history.values())]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_watching_changes_no_bit_and_logs_each_learning_rate(make, tmp_path):
    _, expected = train(make)
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    _, found = train(make, callbacks=[monitor])
    for theirs, ours in zip(expected, found, strict=True):
        np.testing.assert_array_equal(theirs, ours)
    rates = {k: v for k, v in monitor.history.items() if k.startswith("learning_rate")}
    assert {*rates} == {"learning_rate/optimizer/adam", "learning_rate/optimizer/sgd"}
    steps, halved = rates["learning_rate/optimizer/sgd"]
    assert steps == [*range(1, 9)]
    np.testing.assert_allclose(halved, [0.5 ** (1 + step) for step in steps], 1e-6)
    np.testing.assert_allclose(rates["learning_rate/optimizer/adam"][1], 0.01, 1e-6)


def test_scale_that_they_share_is_told_once(tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    train(MADE["loss-scale"], callbacks=[monitor])
    scales = {k: v for k, v in monitor.history.items() if k.startswith("loss_scale")}
    assert {k: {*values} for k, (_, values) in scales.items()} == {
        "loss_scale/optimizer/adam": {256.0}
    }
    assert monitor.history["skipped_steps/optimizer/adam"][1][-1] == 0


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_gradients_are_those_that_the_training_step_gives(make, tmp_path):
    logged = []
    for optimizer in (make(), optimizers.SGD()):
        keras.backend.clear_session(free_memory=False)  # the same names
        keras.utils.set_random_seed(0)
        model, x, y = watched_models.sequential(optimizer=optimizer)
        monitor = TrainingMonitor(tmp_path / type(optimizer).__name__)
        model.fit(x[:16], y[:16], verbose=0, callbacks=[monitor])
        seen = monitor.history.items()
        logged.append({k: v for k, (_, v) in seen if k.startswith("gradient_rms/")})
    ours, theirs = logged
    kernels = {f"gradient_rms/sequential/{name}/kernel" for name in ("head", "hidden")}
    assert ours.keys() == theirs.keys() == kernels
    for tag, values in ours.items():
        np.testing.assert_allclose(values, theirs[tag], 1e-5, err_msg=tag)


def test_only_the_outer_one_is_in_the_inventory():
    model, *_ = watched_models.sequential(optimizer=mapped())
    model.mine = model.optimizer.optimizers[0]
    model.more = {"sgd": model.optimizer.optimizers[1]}
    assert Inventory(model).optimizers == {"optimizer": model.optimizer}


def test_parts_are_named_without_the_number_that_keras_gives():
    def build():
        names = [None, None, "adam_2", "encoder_1", "sgd_momentum"]
        kinds = [optimizers.RMSprop] * 2 + [optimizers.SGD] * 3
        made = [kind(name=name) for kind, name in zip(kinds, names, strict=True)]
        rest = dict(zip("abcd", made[:-1], strict=True))
        return optimizers.MultiOptimizer(optimizers.OptimizerMap(made[-1], rest))

    build()
    assert [*parts_of("optimizer", build())] == [
        "optimizer/rm_sprop",
        "optimizer/rm_sprop_1",
        "optimizer/adam_2",
        "optimizer/encoder_1",
        "optimizer/sgd_momentum",
    ]


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_real_ones_are_described(make, tmp_path):
    monitor = TrainingMonitor(tmp_path)
    model, _ = train(make, callbacks=[monitor])
    (record,) = read_records(tmp_path)
    described = {x["name"]: x for x in record["optimizers"]}
    assert {*described} == {"optimizer/adam", "optimizer/sgd"}
    adam, sgd = described["optimizer/adam"], described["optimizer/sgd"]
    assert (adam["type"], sgd["type"]) == ("keras.Adam", "keras.SGD")
    assert adam["learning_rate"] == adam["settings"]["learning_rate"] == 0.01
    is_scaled = isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    scaling = "keras.LossScaleOptimizer" if is_scaled else None
    assert adam["loss_scaling"] == sgd["loss_scaling"] == scaling


def test_one_that_chooses_at_the_first_step_has_no_parts_before():
    model, *_ = watched_models.sequential(optimizer=chosen())
    assert describe(model, Inventory(model))["optimizers"] == []
