"""activation_shift: how far what enters activation functions moves between looks."""

import itertools

import keras
import numpy as np
import pytest
from event_files import read_log, steps, values
from keras import layers

import kbn
from kbn.callbacks import TrainingMonitor
from kbn.callbacks.signals import rows
from kbn.callbacks.signals.shift import activation_shift, merged

RANDOM = np.random.default_rng(0)


def row(x, axis=-1):
    return rows.units_row(np.asarray(x, "float32"), axis)


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 3), (6, 5, 4, 3)])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_row_has_the_moments_of_each_unit(shape, kind):
    x = RANDOM.normal(2, 3, shape).astype("float32")
    given = keras.ops.convert_to_tensor(x) if kind == "tensor" else x
    found = keras.ops.convert_to_numpy(rows.units_row(given, -1))
    units = x.reshape(-1, 3).astype("float64")
    of_examples = x.reshape(6, -1, 3).astype("float64").mean(axis=1)
    noise = 1.5 * of_examples.var(axis=0, ddof=1).sum() / 6
    expected = [6, noise, *units.mean(axis=0), *units.std(axis=0)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_units_on_axis_1_are_those_of_the_transpose():
    x = RANDOM.normal(size=(6, 3, 5, 4))
    np.testing.assert_allclose(row(x, 1), row(x.transpose(0, 2, 3, 1)), rtol=1e-6)


def test_of_a_large_tensor_every_so_many_places_are_read(monkeypatch):
    x = RANDOM.normal(size=(6, 25, 4))
    expected = row(x[:, ::6])
    monkeypatch.setattr(rows, "SAMPLE", 100)
    np.testing.assert_array_equal(row(x), expected)


def test_rows_of_replicas_are_merged_to_that_of_the_whole():
    x = RANDOM.normal(RANDOM.normal(size=5), 2, (400, 5))
    whole, parts = row(x), np.stack([row(x[:200]), row(x[200:])])
    np.testing.assert_allclose(merged(parts), whole, rtol=0.05)
    np.testing.assert_allclose(merged(parts)[2:], whole[2:], rtol=1e-5)


def test_without_noise_it_is_the_distance_of_normal_distributions():
    x = RANDOM.normal(size=(50, 3))
    moved = 2 * x + [1, -3, 0]
    before, now = row(x), row(moved)
    deviations = np.sqrt(np.sum(x.std(axis=0) ** 2))
    means = np.linalg.norm(moved.mean(axis=0) - x.mean(axis=0))
    stds = np.linalg.norm(x.std(axis=0))
    expected = np.hypot(means, stds) / deviations
    np.testing.assert_allclose(activation_shift(before, now, False), expected, 1e-5)
    assert activation_shift(before, before, False) == 0


@pytest.mark.parametrize("places", [(), (9,)])
def test_two_batches_of_one_distribution_are_on_average_not_apart(places):
    def batch():
        of_example = RANDOM.normal(size=(32, *(1 for _ in places), 20))
        return row(of_example + 0.5 * RANDOM.normal(size=(32, *places, 20)))

    pairs = [(batch(), batch()) for _ in range(300)]
    noise = [one[1] + other[1] for one, other in pairs]
    change = [np.square(one[2:] - other[2:]).sum() for one, other in pairs]
    np.testing.assert_allclose(np.mean(change), np.mean(noise), rtol=0.1)


def test_what_is_not_known_has_no_distance():
    x = RANDOM.normal(size=(8, 3))
    assert activation_shift(row(np.ones((8, 3))), row(x)) is None
    assert activation_shift(row(x), row(x * np.nan)) is None
    assert activation_shift(row(x[:1]), row(x)) is None


def network(*hidden):
    model = keras.Sequential([layers.Input((6,)), *hidden, layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3), loss)
    return model


def fitted(model, log_dir, first, size=64, **options):
    """(weights of that layer before each step, inputs, the log) of three steps."""
    noted = [[np.array(x) for x in first.get_weights()]]
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: noted.append(first.get_weights())
    )
    x = np.random.default_rng(1).normal(size=(size, 6)).astype("float32")
    fit = {"batch_size": 64, "epochs": 3 * 64 // size, "shuffle": False, "verbose": 0}
    monitor = TrainingMonitor(log_dir, log_freq=1)
    y = np.argmax(x[:, :3], axis=1)
    model.fit(x, y, callbacks=[note, monitor], **{**fit, **options})
    return noted[:3], x, read_log(log_dir)


@pytest.mark.parametrize("kind", ["argument", "layer", "function"])
def test_it_is_of_what_enters_the_function(kind, tmp_path):
    keras.utils.set_random_seed(0)
    hidden = {
        "argument": [layers.Dense(8, activation="relu", name="one")],
        "layer": [layers.Dense(8, name="dense"), layers.ReLU(name="one")],
        "function": [layers.Dense(8), layers.Activation("tanh", name="one")],
    }[kind]
    model = network(*hidden)
    weights, x, log = fitted(model, tmp_path, model.layers[0])
    entering = [row(x @ kernel + bias) for kernel, bias in weights]
    # The whole data are the batch of every look: there is no noise.
    pairs = itertools.pairwise(entering)
    expected = [activation_shift(*pair, False) for pair in pairs]
    assert steps(log, "activation_shift/one") == [2, 3]
    found = values(log, "activation_shift/one")
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert min(found) > 0


@pytest.mark.parametrize("norm", [kbn.BatchNorm, layers.BatchNormalization])
def test_behind_a_batch_norm_only_gamma_and_beta_move_it(norm, tmp_path):
    model = network(
        layers.Dense(8), norm(epsilon=1e-7, name="norm"), layers.ReLU(name="one")
    )
    weights, _, log = fitted(model, tmp_path, model.get_layer("norm"), size=192)
    affine = [np.concatenate(known[:2]) for known in weights]  # gamma, beta
    pairs = itertools.pairwise(affine)
    expected = [
        np.linalg.norm(now - before) / np.linalg.norm(before[:8])
        for before, now in pairs
    ]
    found = values(log, "activation_shift/one")
    np.testing.assert_allclose(found, expected, rtol=0.02)
    assert min(found) > 0


def test_the_noise_of_other_batches_is_taken_off(tmp_path):
    model = network(layers.Dense(64, activation="relu", name="one"))
    model.optimizer.learning_rate = 0.0
    _, _, log = fitted(model, tmp_path, model.layers[0], size=192)
    assert max(values(log, "activation_shift/one")) < 0.15  # else about 0.2


def test_outputs_and_linear_layers_have_no_activation_to_enter(tmp_path):
    model = network(layers.Dense(8, name="linear"), layers.Dense(8, "tanh", name="one"))
    model.add(layers.Activation("tanh", name="last"))
    _, _, log = fitted(model, tmp_path, model.layers[0])
    found = [tag for tag in log if tag.startswith("activation_shift/")]
    assert found == ["activation_shift/one"]


def test_a_batch_of_one_class_is_left_out(tmp_path):
    model = network(layers.Dense(8, activation="relu", name="one"))
    x = RANDOM.normal(size=(192, 6)).astype("float32")
    monitor = TrainingMonitor(tmp_path, log_freq=1, rules=None)
    y = np.repeat([0, 1, 2], 64)
    model.fit(x, y, 64, shuffle=False, verbose=0, callbacks=[monitor])
    assert "activation_shift/one" not in monitor.history
