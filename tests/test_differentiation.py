"""kbn.callbacks.watch on JAX: what leaves a differentiation, and at what price."""

import logging

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("of JAX", allow_module_level=True)

import jax
from jax import grad

from kbn.callbacks import TrainingMonitor
from kbn.private.keras import jax_train_step
from tests import watched_models
from tests.event_files import read_log
from tests.watched_models import BATCH, ROWS


def with_penalty(loss, weights):
    """Of the loss and its squared gradient: a differentiation in another."""

    def penalized(weights):
        inner = jax.grad(loss)(weights)
        return loss(weights) + 0.1 * sum((x**2).sum() for x in inner)

    return jax.grad(penalized)(weights)


def by_example(loss, weights):
    one = jax.vmap(jax.grad(loss), in_axes=(None, 0))
    return [x.mean(axis=0) for x in one(weights, np.arange(2.0))]


# How a step may differentiate, and what a monitor sees of it.
BOTH, GRADIENTS = {"activations", "gradients"}, {"gradients"}
WAYS = {
    "value_and_grad": (lambda f, w: jax.value_and_grad(f)(w)[1], BOTH),
    "grad": (lambda f, w: jax.grad(f)(w), BOTH),
    "with aux": (lambda f, w: jax.grad(lambda w: (f(w), 1), has_aux=True)(w)[0], BOTH),
    "grad of grad": (with_penalty, BOTH),
    "an imported name": (lambda f, w: grad(f)(w), GRADIENTS),
    "vjp": (lambda f, w: jax.vjp(f, w)[1](1.0)[0], GRADIENTS),
    "vmap": (by_example, GRADIENTS),
    "checkpoint": (lambda f, w: jax.grad(jax.checkpoint(f))(w), GRADIENTS),
    "jit": (lambda f, w: jax.jit(jax.grad(f))(w), GRADIENTS),
}


class Own(keras.Model):
    def train_step(self, state, data):
        trainable, others, optimizer, metrics = state
        x, y = data

        def loss(weights, scale=1.0):
            output, _ = self.stateless_call(weights, others, x, training=True)
            return keras.ops.mean((output * scale - y) ** 2)

        gradients = self.differentiate(loss, trainable)
        apply = self.optimizer.stateless_apply
        trainable, optimizer = apply(optimizer, gradients, trainable)
        return {"loss": gradients[0].sum()}, (trainable, others, optimizer, metrics)


def train(way, callbacks, **options):
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, "tanh", name="hidden")(inputs)
    model = Own(inputs, keras.layers.Dense(1, name="head")(x), name="own")
    model.differentiate, _ = WAYS[way]
    model.compile("adam", **options)
    data = watched_models.rows(6), watched_models.rows(1, seed=1)
    model.fit(*data, batch_size=BATCH, verbose=0, callbacks=callbacks)
    return model.get_weights()


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}], ids=["jit", "eager"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_seen_of_a_step_that_differentiates(way, mode, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "kbn")
    functions = jax.grad, jax.value_and_grad
    expected = train(way, [], **mode)
    weights = train(way, [TrainingMonitor(tmp_path, log_freq=2)], **mode)
    assert (jax.grad, jax.value_and_grad) == functions
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(weight, other)
    seen = {tag.partition("/")[0] for tag in read_log(tmp_path)} & BOTH
    assert seen == WAYS[way][1]
    said = [x.getMessage() for x in caplog.records]
    messages = [x for x in said if "cannot leave" in x]
    assert [("hidden" in x, "head" in x) for x in messages] == [(True, True)] * (
        seen != BOTH
    )


def test_a_step_is_compiled_as_often_as_unwatched_and_a_probe_once(tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    compiled = []
    for callbacks in ([], [monitor]):
        model, x, y = watched_models.sequential()
        for _ in range(2):
            model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)
        compiled.append(jax_train_step(model.train_function)._cache_size())
    assert compiled == [2, 2]  # the last batch of an epoch is a short one
    probe = model.train_function._kbn_probe
    probes = [jitted._function for _, jitted in probe._jitted.values()]
    assert [x._cache_size() for x in probes] == [1, 1]
    steps = 2 * -(-ROWS // BATCH)
    assert len(monitor.history["gradient_norm/global"][0]) == steps


class Kept(keras.layers.Layer):
    """Its traced function keeps tensors of the trace that came first."""

    def build(self, shape):
        self.inner = keras.layers.Dense(6)
        self.inner.build(shape)
        self.function = jax.checkpoint(lambda x: self.inner(x))

    def call(self, x):
        return self.function(x)


def test_a_step_is_traced_before_a_probe(tmp_path, caplog):
    weights = []
    for callbacks in ([], [TrainingMonitor(tmp_path, log_freq=1)]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), Kept(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        x = watched_models.rows(6)
        model.fit(x, x[:, :1], batch_size=BATCH, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for weight, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(weight, other)
    (message,) = [x.getMessage() for x in caplog.records]
    assert "cannot see gradients and activations" in message


class Token(keras.layers.Layer):
    """Gives a weight as it is, which the step is about to take."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 6), name="token")

    def call(self, x):
        return keras.ops.convert_to_tensor(self.token)


def test_an_output_that_is_a_weight_can_be_read(tmp_path, caplog):
    inputs = keras.Input((6,))
    x = inputs + Token(name="token")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    x = watched_models.rows(6)
    model.fit(x, x[:, :1], verbose=0, callbacks=[TrainingMonitor(tmp_path)])
    assert "activations/token" in read_log(tmp_path)
    assert not caplog.records
