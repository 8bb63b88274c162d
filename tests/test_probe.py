"""kbn.callbacks.watch: what a probe shows is what a gradient of one's own shows."""

import contextlib

import keras
import numpy as np
import pytest

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.watch import reduction
from tests import watched_models
from tests.watched_models import BACKEND, BATCH

needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")


@pytest.fixture
def seen(monkeypatch):
    """{key of a subject: array} of what the looks have read, whole."""
    found = {}
    real = reduction.Reduction.rows

    def rows(self, replicas):
        found.update({key: np.array(parts[0]) for key, parts in replicas.items()})
        return real(self, replicas)

    monkeypatch.setattr(reduction, "SMALL", 2**40)
    monkeypatch.setattr(reduction.Reduction, "rows", rows)
    return found


class Seeding(keras.callbacks.Callback):
    """Of torch, dropout draws from a generator that data draw from, too."""

    def on_train_batch_begin(self, batch, logs=None):
        keras.utils.set_random_seed(0)


def first(rows, data):
    return keras.tree.map_structure(lambda x: x[:rows], data)


def by_tape(function, weights):
    """The gradients of `function()`, a loss, and what else it returns."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss, rest = function()
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    return [tf.convert_to_tensor(gradient) for gradient in gradients], rest


def by_jax(function, weights):
    import jax

    def differentiated(values):
        mapping = [*zip(weights, values, strict=True)]
        with keras.StatelessScope(mapping, collect_losses=True):
            return function()

    values = [weight.value for weight in weights]
    return jax.jit(jax.grad(differentiated, has_aux=True))(values)


def by_torch(function, weights):
    import torch

    loss, rest = function()
    return torch.autograd.grad(loss, [weight.value for weight in weights]), rest


WAYS = {"tensorflow": by_tape, "jax": by_jax, "torch": by_torch}
DIFFERENTIATE = WAYS[BACKEND]


def differentiated(model, x, y):
    """Gradients by path and outputs by layer of one training step, then undone."""
    x, y = (keras.tree.map_structure(keras.ops.convert_to_tensor, a) for a in (x, y))
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    layers = [layer for layer in model.layers if layer.name != "dropout"]
    layers = [x for x in layers if not isinstance(x, keras.layers.InputLayer)]
    inner = keras.Model(model.inputs, [layer.output for layer in layers])

    keras.utils.set_random_seed(0)

    def loss():
        outputs = model(x, training=True)
        return model.compute_loss(x, y, outputs, None, training=True), ()

    weights = model.trainable_variables
    gradients, _ = DIFFERENTIATE(loss, weights)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    keras.utils.set_random_seed(0)
    shown = inner(x, training=True)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    array = keras.ops.convert_to_numpy
    gradients, shown = ([*map(array, part)] for part in (gradients, shown))
    return (
        dict(zip([weight.path for weight in weights], gradients, strict=True)),
        {layer.name: x for layer, x in zip(layers, shown, strict=True)},
    )


def transformer(**options):
    """Attention, layer normalization, a lookup: of which a probe sees each output."""
    layers = keras.layers
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(8, "relu")(x))
    x = watched_models.head(layers.GlobalAveragePooling1D()(x))
    tokens = np.random.default_rng(4).integers(0, 20, (watched_models.ROWS, 8))
    model = watched_models.compiled(keras.Model(inputs, x), **options)
    return model, tokens, watched_models.classes()


def distance(x, y):
    return np.linalg.norm(np.asarray(x) - y)


ARCHITECTURES = """
sequential kbn_layers convolution residual two_outputs recurrent apart distilled dropout
transformer
"""
MODES = {
    "graph": {},
    "steps-2": {"steps_per_execution": 2},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "float16": {},
}
if BACKEND == "jax":
    del MODES["xla"]  # it is "graph"
if BACKEND == "torch":  # which has no graph
    MODES = {name: MODES[name] for name in ("graph", "xla", "float16")}


@pytest.mark.parametrize("kind", ARCHITECTURES.split())
@pytest.mark.parametrize("mode", [x for x in MODES if x != "float16"])
def test_gradients_and_outputs_are_those_of_ones_own(kind, mode, seen, tmp_path):
    if mode in ("xla", "steps-2") and kind not in ("sequential", "kbn_layers"):
        pytest.skip("each mode with some of them")
    keras.utils.set_random_seed(0)
    kinds = watched_models.KINDS | {"transformer": transformer}
    model, x, y = kinds[kind](**MODES[mode])
    model.optimizer.build(model.trainable_variables)
    gradients, outputs = differentiated(model, first(BATCH, x), first(BATCH, y))
    x, y = first(2 * BATCH, (x, y))
    monitor = TrainingMonitor(tmp_path, log_freq=lambda step: step == 1)
    fit = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[monitor, Seeding()], **fit)
    # That of a bias before batch norm is 0 up to the rounding of the others.
    largest = max(map(np.linalg.norm, gradients.values()))
    for path, gradient in gradients.items():
        size = max(np.linalg.norm(gradient), 0.1 * largest)
        assert distance(seen[f"Gradient:{path}"], gradient) <= 1e-6 * size
    found = {name: seen.get(f"Output:{name}") for name in outputs}
    for name, output in outputs.items():
        if found[name] is not None:  # an LSTM's cells are hidden in their loop
            assert distance(found[name], output) <= 1e-6 * np.linalg.norm(output)
    assert sum(x is not None for x in found.values()) >= len(outputs) - 1


def shown(seen, directory, kind, replicas=1, **options):
    """What a look at the third step sees of a model, trained with these options."""
    seen.clear()
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    scope = contextlib.nullcontext()
    if replicas == 2:
        from tests.replicas import two_replicas

        scope = two_replicas().scope()
    with scope:
        model, x, y = watched_models.KINDS[kind](**options)
    monitor = TrainingMonitor(directory, log_freq=lambda step: step == 3)
    fit = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[monitor], **fit)
    return dict(seen)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        size = np.abs(array).max(initial=0)
        np.testing.assert_allclose(found[key], array, rtol=0, atol=2e-5 * size + 1e-7)


@pytest.mark.parametrize(
    "kind", [x for x in ("gan", "custom_train_step") if x in watched_models.KINDS]
)
@pytest.mark.parametrize("mode", [x for x in ("graph", "xla", "steps-2") if x in MODES])
def test_a_step_of_ones_own_shows_what_it_shows_eagerly(kind, mode, seen, tmp_path):
    # The second update of a GAN reads what the first has written.
    expected = shown(seen, tmp_path, kind, run_eagerly=True)
    found = shown(seen, tmp_path, kind, **MODES[mode])
    if mode == "steps-2" or (mode, kind) == ("xla", "gan"):
        assert found.keys() == expected.keys()  # other steps before; XLA's own noise
    else:
        assert_same(found, expected)


@needs_tensorflow
def test_replicas_show_eagerly_what_they_show_in_a_graph(seen, tmp_path):
    # Eagerly, each calls the model in a thread of its own.
    eager = shown(seen, tmp_path, "sequential", replicas=2, run_eagerly=True)
    in_graph = shown(seen, tmp_path, "sequential", replicas=2)
    assert {"Gradient", "Output", "Loss"} <= {key.partition(":")[0] for key in eager}
    assert_same(eager, in_graph)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_gradients_are_unscaled_in_every_precision(policy, seen, tmp_path):
    keras.config.set_dtype_policy("float32" if policy == "float64" else policy)
    try:
        model, x, y = watched_models.sequential()
    finally:
        keras.config.set_dtype_policy("float32")
    model.optimizer.build(model.trainable_variables)
    reference, *_ = differentiated(model, first(BATCH, x), first(BATCH, y))
    monitor = TrainingMonitor(tmp_path, log_freq=lambda step: step == 1)
    fit = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[monitor], **fit)
    for path, gradient in reference.items():
        size = np.abs(gradient).max()
        shown = seen[f"Gradient:{path}"]
        np.testing.assert_allclose(shown, gradient, rtol=0, atol=0.02 * size)


class Views(keras.Model):
    """Its loss compares what two parts give; the model gives no layer's output."""

    def __init__(self):
        super().__init__()
        dense, norm = keras.layers.Dense, keras.layers.BatchNormalization
        self.encoder = keras.Sequential([dense(8), norm(), keras.layers.ReLU()])
        self.predictor = keras.Sequential([dense(8, activation="relu"), dense(4)])

    def call(self, x):
        codes = [self.encoder(x + shift) for shift in (0.0, 0.1)]
        first, second = map(self.predictor, codes)
        return keras.ops.mean(keras.ops.square(first - second), axis=-1)


class Whole(Views):
    def call(self, x):
        return self.predictor(self.encoder(x))


@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Views, {"re_lu", "sequential", "dense_2", "sequential_1"}),
        (Whole, {"dense_2", "sequential_1"}),
    ],
)
def test_outputs_are_those_of_the_model_or_of_the_models_in_it(
    kind, expected, is_eager, tmp_path
):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = kind()
    model.compile("sgd", "mse", run_eagerly=is_eager)
    x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
    y = np.zeros((64,) if kind is Views else (64, 4), "float32")
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    calls = {
        tag.partition("/")[2]: len(steps)
        for tag, (steps, _) in monitor.history.items()
        if tag.startswith("between_examples/")
    }
    assert {call.partition("#")[0] for call in calls} == expected
    assert {*calls.values()} == {8}  # at every look
