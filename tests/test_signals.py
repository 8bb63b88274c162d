"""kbn.callbacks.signals: each against a second computation, written by hand."""

import itertools
import math

import keras
import numpy as np
import pytest
import watched_models
from event_files import count, read_log, steps, values
from keras import layers

import kbn
from kbn.callbacks import TrainingMonitor, arguments
from kbn.callbacks.signals import (
    activations,
    batch_norm,
    gradients,
    loss,
    registry,
    rows,
    weights,
)
from kbn.callbacks.signals.collapse import between_examples
from kbn.callbacks.signals.registry import REGISTRY
from kbn.callbacks.signals.statistics import summarize
from kbn.callbacks.signals.subjects import Moments
from kbn.callbacks.watch.activations import activation_of, unit_axis
from tests.pages import PAGES

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
needs_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="TensorFlow's")
BATCH_NORMS = {"keras": layers.BatchNormalization, "kbn": kbn.BatchNorm}
RANDOM = np.random.default_rng(0)


# --- the formulas ---


def test_ratios_are_those_of_norms():
    before, after = RANDOM.normal(size=(2, 5, 3))
    change, square = np.sum((after - before) ** 2), np.sum(before**2)
    ratio = np.linalg.norm(after - before) / np.linalg.norm(before)
    np.testing.assert_allclose(weights.update_ratio(change, square), ratio)
    np.testing.assert_allclose(weights.distance_from_init(change, square), ratio)


def test_ratios_of_weights_that_were_zero():
    assert weights.update_ratio(0.0, 0.0) is None
    assert weights.update_ratio(4.0, 0.0) is None
    assert weights.update_ratio(4.0, 1.0) == 2
    assert weights.distance_from_init(4.0, 0.0) is None


def test_suggested_clip_is_the_90th_percentile_of_the_finite_norms():
    norms = [*range(1, 12), math.nan, math.inf]
    assert gradients.suggested_clip(norms) == 10
    assert gradients.suggested_clip([math.nan]) is None


def test_dead_is_less_than_a_hundredth():
    assert activations.dead_units(np.array([0, 1, 2, 50]), 100) == 0.25
    assert activations.dead_units(np.array([0, 0, 1, 3]), 200) == 0.75


def test_merged_moments_are_those_of_the_whole():
    whole = RANDOM.normal(3, 2, size=(30, 4))
    parts = [
        Moments(len(x), x.mean(axis=0), x.var(axis=0)) for x in (whole[:5], whole[5:])
    ]
    empty = Moments(0, np.full(4, np.nan), np.full(4, np.nan))
    merged = batch_norm.merge_moments([*parts, empty])
    assert merged.elements == 30
    np.testing.assert_allclose(merged.mean, whole.mean(axis=0))
    np.testing.assert_allclose(merged.variance, whole.var(axis=0))
    assert batch_norm.merge_moments([empty, empty]).elements == 0


def test_gaps_between_batch_and_moving_moments():
    batch = Moments(10, np.array([1.0, -2, 5]), np.array([4.0, 1, 0]))
    moving = np.array([0.0, 0, 0])
    assert batch_norm.mean_gap(batch, moving) == np.mean([1 / 2, 2 / 1])
    moving = np.array([8.0, 0.5, 7])  # the last channel is constant over the batch
    np.testing.assert_allclose(batch_norm.variance_gap(batch, moving), math.log(2))
    constant = Moments(10, np.ones(2), np.zeros(2))
    assert batch_norm.mean_gap(constant, np.zeros(2)) is None
    assert batch_norm.variance_gap(constant, np.ones(2)) is None


def test_gap_of_the_loss_is_relative():
    assert loss.train_eval_gap(2.0, 3.0) == 0.5
    assert loss.train_eval_gap(-2.0, -3.0) == -0.5
    assert loss.train_eval_gap(0.0, 3.0) is None


def test_distance_of_distributions_is_that_of_sorted_samples():
    before, after = RANDOM.normal(size=4000), 0.5 + 3 * RANDOM.normal(size=4000)
    summaries = [summarize(x, x.size) for x in (before, after)]
    exact = np.mean(np.abs(np.sort(after) - np.sort(before))) / before.std()
    assert exact > 1
    np.testing.assert_allclose(weights.weight_drift(*summaries), exact, rtol=0.02)
    least = 2 * before.std()
    drift = weights.weight_drift(*summaries, least)
    np.testing.assert_allclose(drift, exact / 2, rtol=0.02)
    spread = after.std() / before.std()
    np.testing.assert_allclose(weights.weight_spread(*summaries), spread)
    shifted = summarize(before + 2, before.size)
    drift = weights.weight_drift(summaries[0], shifted)
    np.testing.assert_allclose(drift, 2 / before.std(), rtol=1e-2)
    assert weights.weight_drift(summaries[0], summaries[0]) == 0


def test_distributions_without_a_spread_or_a_number_have_no_distance():
    some, constant, none = (
        summarize(np.array(x), 9) for x in ([1.0, 2], [3.0, 3], [math.nan])
    )
    assert weights.weight_drift(constant, some) is None
    assert weights.weight_drift(some, none) is None
    assert weights.weight_drift(none, some) is None
    assert weights.weight_spread(constant, some) is None
    assert weights.weight_spread(some, none) is None
    assert weights.weight_std(none) is None
    np.testing.assert_allclose(weights.weight_drift(some, constant), 3.0, rtol=1e-2)


def test_growth_is_a_ratio_of_norms():
    assert weights.weight_growth(4.0, 36.0) == 3
    assert weights.weight_growth(0.0, 36.0) is None
    assert weights.weight_growth(0.0, 36.0, 9.0) == 2
    assert (
        weights.update_from_init(4.0, 1.0) == weights.update_from_init(0, 1, 4) == 0.5
    )


def test_rms_of_a_gradient():
    x = RANDOM.normal(size=(5, 3))
    rms = np.sqrt(np.mean(x**2))
    np.testing.assert_allclose(gradients.gradient_rms(summarize(x, 15)), rms)


def test_collapsed_channels():
    batch = Moments(10, np.zeros(4), np.array([1.0, 9e-5, 1.1e-4, 5]))
    gamma = np.array([1.0, 1, 1, -5e-4])
    assert batch_norm.collapsed_channels(batch, gamma, 1e-3) == 0.5
    assert batch_norm.collapsed_channels(batch, None, 1e-3) == 0.25


# --- one step by hand ---


def network(batch_norm="keras", **options):
    """Convolutions with relu and tanh, batch norm, two dense layers with sigmoid."""
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.Conv2D(5, 3, activation="tanh", name="tanh"),
            BATCH_NORMS[batch_norm](momentum=0.9, name="norm"),
            layers.Flatten(name="flatten"),
            layers.Dense(7, activation="sigmoid", name="hidden"),
            layers.Dense(1, activation="sigmoid", name="head"),
        ],
        name="network",
    )
    # Some units dead, some saturated, a mean away from the moving one.
    shifts = {"conv": np.linspace(-3, 0, 8), "tanh": 1, "hidden": 0}
    for (name, shift), scale in zip(shifts.items(), (1, 6, 9), strict=True):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel * scale, bias + shift])
    optimizer = keras.optimizers.SGD(0.5)
    # Eagerly, for the numbers: test_probe.py compares what a graph shows.
    usual = {"optimizer": optimizer, "loss": "mse", "run_eagerly": ON_TENSORFLOW}
    model.compile(**{**usual, **options})
    return model


def batch(size=64):
    random = np.random.default_rng(3)
    x = random.normal(size=(size, 6, 6, 2)).astype("float32")
    return x, random.integers(0, 2, (size, 1)).astype("float32")


def fit(model, log_dir, x, y, epochs=1, **options):
    monitor = TrainingMonitor(log_dir, **{"log_freq": "epoch", **options})
    model.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0, callbacks=[monitor])
    return monitor, read_log(log_dir)


def outputs(model, x, training):
    """{layer name: output}, of the layers called one by one."""
    found = {}
    for layer in model.layers:
        options = {"training": training} if "norm" in layer.name else {}
        x = layer(x, **options)
        found[layer.name] = np.asarray(keras.ops.convert_to_numpy(x), "f8")
    return found


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
def test_health_and_batch_norm_of_one_step(batch_norm, tmp_path):
    model = network(batch_norm)
    x, y = batch()
    before = model.get_weights()
    _, log = fit(model, tmp_path, x, y)
    moved = [np.asarray(w, "f8") for w in model.get_weights()]
    moving = {w.name: v for w, v in zip(model.weights, moved, strict=True)}
    model.set_weights(before)
    seen = outputs(model, x, training=True)

    active = (seen["conv"] != 0).mean(axis=(0, 1, 2))
    assert 0 < (active < 0.01).sum() < 8
    assert values(log, "health/dead_units/conv") == [np.float32((active < 0.01).mean())]
    ends = {
        "tanh": np.abs(seen["tanh"]) > 0.99,
        "hidden": (seen["hidden"] < 0.01) | (seen["hidden"] > 0.99),
    }
    for name, flat in ends.items():
        assert 0 < flat.mean() < 1
        assert values(log, f"health/saturated/{name}") == [np.float32(flat.mean())]
    assert "health/saturated/head" not in log  # the output is to be near 0 or 1

    mean, variance = (getattr(seen["tanh"], f)(axis=(0, 1, 2)) for f in ("mean", "var"))
    for name, array in (("batch_mean", mean), ("batch_variance", variance)):
        rows = log[f"batch_norm/norm/{name}"][0][1]
        assert rows[:, 2].sum() == 5
        ends = [array.min(), array.max()]
        np.testing.assert_allclose(rows[[0, -1], [0, 1]], ends, rtol=1e-5)
    gap = np.mean(np.abs(mean - moving["moving_mean"]) / np.sqrt(variance))
    np.testing.assert_allclose(values(log, "batch_norm_gap/norm/mean"), gap, rtol=1e-5)
    gap = np.mean(np.abs(np.log(moving["moving_variance"] / variance)))
    measured = values(log, "batch_norm_gap/norm/variance")
    np.testing.assert_allclose(measured, gap, rtol=1e-5)
    assert values(log, "batch_norm_elements/norm") == [len(x) * 2 * 2]
    collapsed = np.mean(variance < 1e-3 / 10)
    assert values(log, "health/collapsed_channels/norm") == [np.float32(collapsed)]

    for name in ("conv", "hidden", "head"):
        std = seen[name].std()
        np.testing.assert_allclose(
            values(log, f"activation_std/{name}"), std, rtol=1e-4
        )
    np.testing.assert_allclose(values(log, "inputs/x/mean"), x.mean(), rtol=1e-4)
    np.testing.assert_allclose(values(log, "inputs/x/std"), x.std(), rtol=1e-4)
    loss = np.mean((seen["head"] - y) ** 2)
    np.testing.assert_allclose(values(log, "loss/train"), loss, rtol=1e-4)


def test_loss_gap_of_one_step(tmp_path):
    model = network("kbn")
    x, y = batch()
    before = model.get_weights()
    _, log = fit(model, tmp_path, x, y)
    model.set_weights(before)
    losses = {}
    for training in (False, True):  # the second moves the statistics
        losses[training] = np.mean((outputs(model, x, training)["head"] - y) ** 2)
    gap = (losses[False] - losses[True]) / losses[True]
    assert abs(gap) > 0.01
    np.testing.assert_allclose(values(log, "loss_gap/train_eval"), gap, rtol=1e-4)


def array(weight):
    return np.array(keras.ops.convert_to_numpy(weight), "f8")


@pytest.mark.parametrize("sample_size", [65536, 16], ids=["whole", "sampled"])
def test_updates_and_distances_over_two_fits(sample_size, tmp_path):
    model = network()
    x, y = batch()
    monitor = TrainingMonitor(tmp_path, log_freq="epoch", sample_size=sample_size)
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    states = [[array(w) for w in kernels]]
    for _ in range(3):
        model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[monitor])
        states.append([array(w) for w in kernels])
    log = read_log(tmp_path)

    def ratio(new, old):
        stride = diagnostics_stride(old, sample_size)
        new, old = (a.reshape(-1)[::stride] for a in (new, old))
        return np.linalg.norm(new - old) / np.linalg.norm(old)

    for index, kernel in enumerate(kernels):
        w = [state[index] for state in states]
        updates = [ratio(new, old) for old, new in itertools.pairwise(w)]
        logged = values(log, f"update_ratio/{kernel.path}")
        np.testing.assert_allclose(logged, updates, rtol=1e-4)
        usual = w[0].shape[-1] ** 0.5  # of deviation 1 / sqrt(inputs of a unit)
        start = max(np.linalg.norm(w[0]), usual)
        growth = [np.linalg.norm(new) / start for new in w[1:]]
        if w[0].size <= sample_size:
            logged = values(log, f"weight_growth/{kernel.path}")
            np.testing.assert_allclose(logged, growth, rtol=1e-4)
            moved = [np.linalg.norm(b - a) / start for a, b in itertools.pairwise(w)]
            logged = values(log, f"update_from_init/{kernel.path}")
            np.testing.assert_allclose(logged, moved, rtol=1e-4)
        spread = [new.std() / w[0].std() for new in w[1:]]
        logged = values(log, f"weight_spread/{kernel.path}")
        np.testing.assert_allclose(logged, spread, rtol=1e-3)
        distances = [ratio(new, w[0]) for new in w[1:]]
        logged = values(log, f"distance_from_init/{kernel.path}")
        np.testing.assert_allclose(logged, distances, rtol=1e-4)
    small = {w.path for w in model.weights} - {w.path for w in kernels}
    assert not any(f"update_ratio/{path}" in log for path in small)


def diagnostics_stride(array, sample_size):
    """The smallest n from size / sample_size without a factor of the channels'."""
    n = max(1, math.ceil(array.size / sample_size))
    while math.gcd(n, array.shape[-1]) > 1:
        n += 1
    return n


def test_accumulated_gradients_update_nothing(tmp_path):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    x, y = batch(32)
    model = network(optimizer=optimizer, run_eagerly=True)
    monitor = TrainingMonitor(tmp_path, log_freq=lambda step: True)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[monitor])
    _, updates = monitor.history["update_ratio/network/hidden/kernel"]
    assert min(updates) == 0


@needs_tensorflow
def test_replicas_are_merged(tmp_path, monkeypatch):
    from tests.replicas import two_replicas

    logs = {}
    x, y = batch(50)
    for name in ("one", "two"):
        keras.utils.set_random_seed(0)
        if name == "one":
            model = network()
        else:
            with two_replicas().scope():
                model = network(run_eagerly=False)
        _, logs[name] = fit(model, tmp_path / name, x, y)
    one, two = logs["one"], logs["two"]
    for tag in ("health/dead_units/conv", "health/saturated/tanh"):
        assert values(two, tag) == values(one, tag)
    for tag in ("activations/hidden", "gradients/network/hidden/kernel"):
        assert count(two[tag][0][1]) == count(one[tag][0][1])
    for part in ("batch_mean", "batch_variance"):
        rows = [log[f"batch_norm/norm/{part}"][0][1] for log in (two, one)]
        np.testing.assert_allclose(*rows, rtol=1e-5, atol=1e-6)
    assert {"loss_gap/train_eval", "batch_norm_gap/norm/mean"} <= two.keys()


@pytest.mark.parametrize(
    ("batch_norm", "policy"), [("keras", "mixed_float16"), ("kbn", "mixed_bfloat16")]
)
def test_mixed_precision(batch_norm, policy, tmp_path):
    logs = {}
    x, y = batch()
    for name in ("float32", policy):
        keras.utils.set_random_seed(0)
        keras.config.set_dtype_policy(name)
        _, logs[name] = fit(network(batch_norm), tmp_path / name, x, y)
    wide, narrow = logs["float32"], logs[policy]
    assert wide.keys() - {"loss_scale"} <= narrow.keys()
    rounding = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}[policy]
    for tag in ("batch_mean", "batch_variance"):
        rows = [log[f"batch_norm/norm/{tag}"][0][1][:, 0] for log in (narrow, wide)]
        np.testing.assert_allclose(*rows, rtol=0, atol=rounding)
    for tag in ("health/dead_units/conv", "health/saturated/tanh"):
        tolerance = {"rtol": 0, "atol": 0.05}  # outputs round over the limit
        np.testing.assert_allclose(values(narrow, tag), values(wide, tag), **tolerance)


# --- which layers ---


@pytest.mark.parametrize(
    ("make", "tags"),
    [
        (lambda: layers.ReLU(max_value=6), "dead_units saturated"),
        (lambda: layers.ELU(0.5), "saturated"),
        (lambda: layers.Dense(4, activation="gelu"), "dead_units"),
        (lambda: layers.LSTM(4, return_sequences=True), ""),
    ],
)
def test_layers_that_can_be_dead_or_saturated(make, tags, tmp_path):
    layer = make()
    model = keras.Sequential([layers.Input((3, 4)), layer, layers.Dense(2)])
    model.compile("sgd", "mse", run_eagerly=True)
    x = RANDOM.normal(size=(4, 3, 4)).astype("float32")
    _, log = fit(model, tmp_path, x, x[..., :2])
    health = {t for t in log if t.startswith("health/")}
    assert health == {f"health/{tag}/{layer.name}" for tag in tags.split()}


@pytest.mark.parametrize("operation", ["relu6", "tanh"])
def test_operations_that_are_no_layers(operation, tmp_path):
    inputs = keras.Input((4,))
    outputs = layers.Dense(2)(getattr(keras.ops, operation)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", run_eagerly=True)
    x = 20 * np.abs(RANDOM.normal(size=(6, 4)).astype("float32"))
    x[:, 0] = 0
    _, log = fit(model, tmp_path, x, x[:, :2])
    found = {t.split("/")[1]: v for t, ((_, v),) in log.items() if "health/" in t}
    flat = x > 6 if operation == "relu6" else np.tanh(x) > 0.99
    expected = {"saturated": np.float32(flat.mean())}
    expected |= {"dead_units": 0.25} if operation == "relu6" else {}
    assert found == expected


def test_units_of_channels_first_lie_on_axis_1(tmp_path):
    layer = layers.Conv2D(3, 2, activation="relu", data_format="channels_first")
    assert (activation_of(layer).name, unit_axis(layer)) == ("relu", 1)
    x = np.abs(RANDOM.normal(size=(2, 3, 4, 5))).astype("float32")
    x[:, 1] = 0
    row = keras.ops.convert_to_numpy(rows.active_row(keras.ops.array(x), 1))
    np.testing.assert_array_equal(row, [40, 40, 0, 40])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 2, 5)])
def test_spread_between_examples_is_that_of_numpy(shape, dtype):
    x = (3 + RANDOM.normal(size=shape)).astype(dtype)
    wide = x.astype("f8")
    expected = [len(x), wide.var(axis=0).mean(), np.square(wide).mean()]
    inside = rows.spread_row(keras.ops.convert_to_tensor(x))
    for row in (rows.spread_row(x), keras.ops.convert_to_numpy(inside)):
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    assert between_examples.value(np.array([expected])) == pytest.approx(
        np.sqrt(expected[1] / expected[2])
    )


def test_spread_of_nothing_and_of_one_is_not_known():
    for replicas in ([[0, 0, 0]], [[1, 0, 4]], [[4, np.nan, 1]]):
        assert between_examples.value(np.array(replicas, float)) is None


def test_moments_of_several_axes_have_the_order_of_the_weights():
    x = 1e4 + RANDOM.normal(size=(50, 3, 4, 2)).astype("float32")
    row = rows.moments_row(keras.ops.array(x), [1, 3])
    row = keras.ops.convert_to_numpy(row)
    wide = x.astype("f8")
    assert row[0] == 50 * 4
    mean, variance = np.split(row[1:], 2)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2)).ravel(), rtol=1e-7)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 2)).ravel(), rtol=1e-3)


class Norms(keras.Model):
    """One batch norm, called with a mask, in training and in inference."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(name="norm")
        self.top = layers.Dense(2)

    def call(self, x, training=None):
        y = self.norm(x, mask=keras.ops.ones(keras.ops.shape(x)[:-1], "bool"))
        y += self.norm(x, training=training) + self.norm(x, training=False)
        return self.top(y)


def test_batch_norm_with_a_mask_or_in_inference_is_left_out(tmp_path):
    model = Norms()
    model.compile("sgd", "mse", run_eagerly=True)
    x = RANDOM.normal(size=(4, 5, 2)).astype("float32")
    model(x)
    _, log = fit(model, tmp_path, x, x)
    found = {t.split("/")[1] for t in log if t.startswith("batch_norm_gap/")}
    assert found == {"norm#1"}
    assert {"batch_norm/norm#1/batch_mean", "batch_norm/norm/gamma"} <= log.keys()


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_an_update_is_told_of_one_step_only(steps_per_execution, tmp_path):
    if steps_per_execution > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras refuses it on torch")
    model, x, y = watched_models.sequential(steps_per_execution=steps_per_execution)
    _, log = fit(model, tmp_path, x, y)
    found = {tag.split("/")[0] for tag in log}
    assert "distance_from_init" in found
    assert ("update_ratio" in found) == (steps_per_execution == 1)


# --- loss scales ---


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_skipped_steps_are_counted_all(steps_per_execution, tmp_path):
    if steps_per_execution > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras refuses it on torch")
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-4), initial_scale=2.0**127
    )
    model, x, y = watched_models.sequential(
        optimizer=optimizer,
        loss_weights=[1e3],
        steps_per_execution=steps_per_execution,
    )
    monitor = TrainingMonitor(tmp_path, log_freq="epoch")
    arguments = {"batch_size": 16, "verbose": 0, "callbacks": [monitor]}
    model.fit(x, y, epochs=2, **arguments)
    model.fit(x, y, epochs=2, **arguments)
    tried = 4 * 4
    skipped = tried - int(optimizer.iterations)
    assert 0 < skipped < tried
    assert monitor.history["skipped_steps"][1][-1] == skipped
    # Each of them halved the scale, and so few steps do not double it.
    assert monitor.history["loss_scale"][1][-1] == 2.0 ** (127 - skipped)


# --- the loss gap leaves no trace, or is left out ---


@pytest.mark.parametrize("kind", ["unbuilt", "sequential", "dropout", "residual"])
def test_loss_gap_is_of_models_that_tell_modes_apart(kind, tmp_path):
    model, x, y = watched_models.KINDS[kind]()
    _, log = fit(model, tmp_path, x, y, epochs=3)
    assert len(log.get("loss_gap/train_eval", [])) == (0 if kind == "unbuilt" else 3)


class Augmented(keras.Model):
    def train_step(self, *given):
        *state, (x, y) = given  # on JAX, there is one
        return super().train_step(*state, (x + 1, y))


def test_loss_gap_is_left_out_where_the_step_changes_the_batch(tmp_path):
    inputs = keras.Input((6,))
    x = watched_models.rows(6)
    outputs = layers.Dense(1)(layers.BatchNormalization()(inputs))
    for make, is_there in ((keras.Model, True), (Augmented, False)):
        model = make(inputs, outputs)
        model.compile("sgd", "mse")
        _, log = fit(model, tmp_path / make.__name__, x, x[:, :1])
        assert ("loss_gap/train_eval" in log) is is_there


# --- history ---


def test_history_is_what_was_written(tmp_path):
    model, x, y = watched_models.sequential(run_eagerly=ON_TENSORFLOW)
    monitor, log = fit(model, tmp_path, x, y, epochs=5)
    history = monitor.history
    scalars = {tag for tag, ((_, value), *_) in log.items() if value.ndim == 0}
    assert history.keys() == scalars
    for tag in scalars:
        looks, seen = history[tag]
        assert looks == steps(log, tag)
        np.testing.assert_array_equal(np.float32(seen), values(log, tag))
    if not ON_TENSORFLOW:
        return
    norms = values(log, "gradient_norm/global")
    clips = values(log, "gradient_norm/suggested_clip")
    expected = [np.quantile(norms[: i + 1], 0.9) for i in range(5)]
    np.testing.assert_allclose(clips, expected, rtol=1e-6)


# --- what is documented is what is written ---


def test_page_has_the_table_of_the_registry():
    assert registry.table() in PAGES["docs/tags.md"]


@needs_tensorflow
def test_every_tag_is_written_and_no_other(tmp_path):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    watch = (*arguments.USUAL, "quantiles")
    model = network(optimizer=scaled)
    monitor = TrainingMonitor(tmp_path / "a", log_freq="epoch", watch=watch)
    validation = {"validation_data": batch(4)}
    model.fit(*batch(), epochs=2, verbose=0, callbacks=[monitor], **validation)
    logs = [read_log(tmp_path / "a")]
    x = batch()[0]
    x[0] = np.nan
    logs += [fit(network(), tmp_path / "b", x, batch()[1] * np.nan)[1]]
    model, x, _ = watched_models.gan()
    for name in ("d_optimizer", "g_optimizer"):
        inner = getattr(model, name)
        setattr(model, name, keras.optimizers.LossScaleOptimizer(inner))
    logs += [fit(model, tmp_path / "c", x, None)[1]]
    inputs, rng = keras.Input((3,)), np.random.default_rng(0)
    kind = keras.layers.Dense(2, activation="softmax", kernel_regularizer="l2")
    number = keras.layers.Dense(1, activation="tanh")
    model = keras.Model(inputs, [kind(inputs), number(inputs)])
    losses = ["sparse_categorical_crossentropy", "mse"]
    model.compile("sgd", losses)
    monitor = TrainingMonitor(tmp_path / "d", log_freq=1)
    targets = [rng.integers(0, 2, 128), rng.normal(size=(128, 1))]
    x = rng.normal(size=(128, 3))
    model.fit(x, targets, verbose=0, callbacks=[monitor])
    logs += [read_log(tmp_path / "d")]
    model = keras.Sequential([layers.Input((3,)), layers.Dense(1)])
    model.compile(keras.optimizers.Ftrl(0.1, l1_regularization_strength=50.0), "mse")
    monitor = TrainingMonitor(tmp_path / "e", log_freq=2)
    y = targets[1]
    validation = {"validation_data": (x, y)}
    model.fit(x, y, epochs=4, verbose=0, callbacks=[monitor], **validation)
    logs += [read_log(tmp_path / "e")]
    tags = {tag for log in logs for tag in log}
    assert all(registry.find(tag) for tag in tags)
    assert {registry.find(tag).tag for tag in tags} == REGISTRY.keys()
