"""kbn.capture: what a call shows, and that the model is as before."""

import keras
import numpy as np
import pytest

import kbn
from tests import watched_models
from tests.watched_models import BATCH

BACKEND = keras.backend.backend()
needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="needs TensorFlow"
)


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def close(tensor, expected):
    np.testing.assert_allclose(array(tensor), array(expected), rtol=1e-5, atol=1e-6)


def small(**options):
    """Two dense layers whose gradients are easily found by hand."""
    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            keras.layers.Dense(4, activation="tanh", name="hidden"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    options = {"optimizer": keras.optimizers.SGD(0.1), "loss": "mse", **options}
    model.compile(**options)
    rng = np.random.default_rng(0)
    return model, *(rng.normal(size=(5, n)).astype("float32") for n in (3, 1))


def by_hand(model, x, y):
    """Activations and gradients of `small`, in NumPy."""
    w1, b1, w2, b2 = (weight.astype("float64") for weight in model.get_weights())
    hidden = np.tanh(x @ w1 + b1)
    out = hidden @ w2 + b2
    d_out = 2 * (out - y) / y.size
    d_hidden = d_out @ w2.T * (1 - hidden**2)
    gradients = [x.T @ d_hidden, d_hidden.sum(0), hidden.T @ d_out, d_out.sum(0)]
    paths = [weight.path for weight in model.weights]
    return {"hidden": hidden, "out": out}, dict(zip(paths, gradients, strict=True))


def assert_equal(seen, expected):
    assert seen.keys() == expected.keys()
    for name, tensor in seen.items():
        close(tensor, expected[name])


def state(model):
    things = [model, *model._flatten_layers(), model.optimizer]
    names = ("call", "apply", "compute_loss")
    own = [{k: v for k, v in vars(x).items() if k in names} for x in things]
    functions = model.train_function, model.test_function, model.predict_function
    return own, functions, model.run_eagerly


# --- what it sees ---


def test_a_call_shows_the_activations():
    model, x, y = small()
    activations, _ = by_hand(model, x, y)
    with kbn.capture(model) as seen:
        model(x)
    assert_equal(seen.activations, activations)
    assert seen.gradients == {}
    assert seen.hidden == set()


def test_train_on_batch_shows_activations_and_gradients():
    model, x, y = small()
    activations, gradients = by_hand(model, x, y)
    with kbn.capture(model) as seen:
        model.train_on_batch(x, y)
    assert_equal(seen.activations, activations)
    assert_equal(seen.gradients, gradients)
    assert seen.hidden == set()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda sgd: keras.optimizers.LossScaleOptimizer(sgd, initial_scale=256.0),
        lambda sgd: keras.optimizers.SGD(0.1, loss_scale_factor=64.0),
        lambda sgd: keras.optimizers.SGD(0.1, global_clipnorm=1e-3),
    ],
    ids=["loss-scale", "static-loss-scale", "clipped"],
)
def test_gradients_are_unscaled_and_unclipped(optimizer):
    model, x, y = small(optimizer=optimizer(keras.optimizers.SGD(0.1)))
    _, gradients = by_hand(model, x, y)
    with kbn.capture(model) as seen:
        model.train_on_batch(x, y)
    assert_equal(seen.gradients, gradients)


def test_layers_selects_activations_and_gradients():
    model, x, y = small()
    with kbn.capture(model, layers="out") as seen:
        model.train_on_batch(x, y)
    assert set(seen.activations) == {"out"}
    assert {path.split("/")[-2] for path in seen.gradients} == {"out"}
    with kbn.capture(model, layers=lambda layer: False) as seen:
        model(x)
    assert seen.activations == {}


def test_a_model_that_is_built_by_the_call_is_numbered_from_there():
    model, x, _ = watched_models.unbuilt()
    with kbn.capture(model) as seen:
        model(x)
    assert set(seen.activations) == {"hidden", "norm", "head"}


@needs_tensorflow
def test_an_embeddings_gradient_is_dense():
    model = keras.Sequential(
        [keras.layers.Embedding(6, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    with kbn.capture(model) as seen:
        model.train_on_batch(np.array([[0, 1], [1, 1]]), np.ones((2, 1)))
    table = array(seen.gradients[model.weights[0].path])
    assert table.shape == (6, 3)
    assert not table[2:].any()
    assert table[:2].any()


@needs_tensorflow
def test_a_loop_of_ones_own():
    import tensorflow as tf

    model, x, y = small()
    activations, gradients = by_hand(model, x, y)
    with kbn.capture(model) as seen:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        weights = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, weights), weights)
    assert_equal(seen.activations, activations)
    assert_equal(seen.gradients, gradients)


@needs_tensorflow
@pytest.mark.parametrize("is_opened", ["inside", "around"])
def test_a_function_that_is_traced_within(is_opened):
    import tensorflow as tf

    model, x, y = small(
        optimizer=keras.optimizers.SGD(0.1, loss_scale_factor=64.0), jit_compile=False
    )
    activations, gradients = by_hand(model, x, y)

    def step(seen):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
            loss = model.optimizer.scale_loss(loss)
        weights = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, weights), weights)
        return seen.activations, seen.gradients

    if is_opened == "inside":

        @tf.function
        def function():
            with kbn.capture(model) as seen:
                return step(seen)

        results = function()
    else:
        with kbn.capture(model) as seen:
            results = tf.function(lambda: step(seen))()
    assert_equal(results[0], activations)
    assert_equal(results[1], gradients)


@needs_tensorflow
def test_what_is_inside_a_loop_is_hidden():
    import tensorflow as tf

    model, x, _ = watched_models.looped()

    @tf.function
    def outputs():
        with kbn.capture(model) as seen:
            model(x)
        return seen.activations, tf.constant(sorted(seen.hidden))

    activations, hidden = outputs()
    assert set(activations) == {"repeated", "dropout", "head"}
    assert [name.decode() for name in hidden.numpy()] == ["body"]


@needs_tensorflow
def test_what_is_inside_a_function_of_an_eager_call_is_hidden():
    import tensorflow as tf

    model, x, _ = watched_models.function_layer()
    with kbn.capture(model) as seen:
        model(x)
    assert set(seen.activations) == {"in_function", "head"}  # traced before
    layer = model.get_layer("in_function")
    layer.function = tf.function(layer.inner)
    with kbn.capture(model) as seen:
        model(x)
    assert set(seen.activations) == {"in_function", "head"}
    assert seen.hidden == {"inner"}


@needs_tensorflow
def test_a_model_in_a_condition_is_hidden():
    import tensorflow as tf

    model, x, _ = small()

    @tf.function
    def outputs(flag):
        with kbn.capture(model) as seen:
            y = tf.cond(flag, lambda: model(x), lambda: tf.zeros((5, 1)))
        return y, seen.activations, tf.constant(sorted(seen.hidden))

    _, activations, hidden = outputs(tf.constant(True))
    assert activations == {}
    assert [name.decode() for name in hidden.numpy()] == ["hidden", "out"]


def test_captures_in_each_other_see_the_same():
    model, x, _ = small()
    before = state(model)
    with kbn.capture(model) as outer:
        with kbn.capture(model, layers="out") as inner:
            model(x)
        assert set(inner.activations) == {"out"}
        model(x)
    assert set(outer.activations) == {"hidden", "out", "hidden#1", "out#1"}
    close(outer.activations["out"], inner.activations["out"])
    assert state(model) == before


# --- no trace ---


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_leaves_no_trace(error):
    model, x, y = small()
    model.fit(x, y, verbose=0)
    model.predict(x, verbose=0)
    before = state(model)
    with pytest.raises(error), kbn.capture(model):  # noqa: PT012
        model(x)
        raise error("stop")
    assert state(model) == before


@needs_tensorflow
def test_a_training_goes_on_as_if_nothing_had_been_captured():
    def train(wants_capture):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, x, y = watched_models.dropout()
        fit = {"batch_size": BATCH, "verbose": 0}
        model.fit(x, y, **fit)
        if wants_capture:
            with kbn.capture(model) as seen:
                model(x, training=False)
            assert "gelu" in seen.activations
        else:
            model(x, training=False)
        model.fit(x, y, **fit)
        return model.get_weights()

    for weight, expected in zip(train(True), train(False), strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_captured_model_is_saved_and_loaded(tmp_path):
    model, x, y = small()
    with kbn.capture(model):
        model.train_on_batch(x, y)
        model.save(tmp_path / "inside.keras")
    model.save(tmp_path / "after.keras")
    # Keras 3.16 saves an activation by its name only if it is its own function.
    inside = ["inside"] if keras.__version__ < "3.16" else []
    for name in (*inside, "after"):
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        close(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


# --- what it says ---


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"capture\(model=<Dense.*a Dense, not a keras"):
        kbn.capture(keras.layers.Dense(1)).__enter__()
