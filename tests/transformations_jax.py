"""Transformations of JAX; see `tests.transformations`.

Most rows are about one function of a layer, `y = f(weights, x)`.
"""

import copy
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from tests.transformations import Table, draw

TABLE = Table()
BATCH, EVERYWHERE = PartitionSpec("batch"), PartitionSpec()


class Pure:
    """A new layer as functions: (weights, x) to y, to (y, moved), to a loss."""

    def __init__(self, layer_class, shape, training, **arguments):
        self.layer = layer_class(**arguments)
        self.layer.build(shape)
        self.training = training
        self.fixed = [v.value for v in self.layer.non_trainable_variables]
        rng = np.random.default_rng(1)
        self.weights = [
            jnp.asarray(v.value + rng.normal(0, 0.3, v.shape), v.dtype)
            for v in self.layer.trainable_variables
        ]

    def step(self, weights, x, fixed=None, **call):
        fixed = self.fixed if fixed is None else fixed
        return self.layer.stateless_call(
            weights, fixed, x, training=self.training, **call
        )

    def y(self, weights, x, **call):
        return self.step(weights, x, **call)[0]

    def loss(self, weights, x, **call):
        y = self.y(weights, x, **call)
        return jnp.sum(y.astype(jnp.promote_types(y.dtype, "float32")) ** 3)

    def gradient(self, weights, x, **call):
        return jax.grad(self.loss, (0, 1))(weights, x, **call)


def row(
    name,
    shape=(6, 3),
    inference=False,
    within=2e-5,
    stack=0,
    x64=False,
    **arguments,
):
    """A row of a function of (Pure, x) in training, with `inference` one there too.

    `stack` leading axes of x are not the layer's. With `x64` x and the weights are
    float64, in which Keras' layer computes in float32 all the same.
    """

    def add(run):
        def judged(layer_class, training):
            x = draw(shape, dtype="float64" if x64 else "float32")
            own = {**arguments, "dtype": "float64"} if x64 else arguments
            with jax.enable_x64(x64):
                f = Pure(layer_class, shape[stack:], training, **own)
                return run(f, jnp.asarray(x))

        TABLE.modes(name, within, inference)(judged)
        return run

    return add


def tangents(tree):
    return jax.tree.map(lambda v: jnp.cos(3 * v), tree)


def mesh():
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((2,), ("batch",), axis_types=auto)


# --- Gradients and jit


@row("jit of a gradient", inference=True)
def _(f, x):
    return jax.jit(f.gradient)(f.weights, x)


@row("jit in jit, value_and_grad with moved statistics")
def _(f, x):
    @jax.jit
    def step(w, x):
        inner = jax.jit(f.step)

        def loss(w, x):
            y, moved = inner(w, x)
            return jnp.sum(y**3), moved

        return jax.value_and_grad(loss, has_aux=True)(w, x)

    return step(f.weights, x)


# --- Forward mode, Jacobians, higher order


@row("jvp", inference=True)
def _(f, x):
    at = (f.weights, x)
    return jax.jvp(f.y, at, tangents(at))


# Keras\' float32 cancels in the next two, down to 1e-4 of the terms.
@row("hessian", inference=True, shape=(5, 2), within=1e-2, x64=True)
def _(f, x):
    return jax.jit(jax.hessian(f.loss, (0, 1)))(f.weights, x)


@row("gradient of a gradient (gradient penalty)", within=1e-2, x64=True)
def _(f, x):
    def penalty(w, x):
        return jnp.mean((jnp.linalg.norm(jax.grad(f.loss, 1)(w, x)) - 1) ** 2)

    return jax.jit(jax.grad(penalty, (0, 1)))(f.weights, x)


# --- Control flow


def _through_scan(f, xs):
    def loss(w, xs):
        def body(fixed, x):
            y, fixed = f.step(w, x, fixed)
            return fixed, jnp.sum(y**3)

        moved, losses = jax.lax.scan(body, f.fixed, xs)
        return jnp.sum(losses), moved

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(f.weights, xs)


SCANNED = {"shape": (4, 6, 3), "stack": 1}
row("gradient through scan", **SCANNED)(_through_scan)
row("renorm: gradient through scan", **SCANNED, renorm=True)(_through_scan)


@row("gradient through cond and switch")
def _(f, x):
    def loss(w, x, which):
        y = jax.lax.cond(which > 0, f.y, lambda w, x: x, w, x)
        branches = [f.y, lambda w, x: x, lambda w, x: 2 * f.y(w, x)]
        return jnp.sum(y**3) + jnp.sum(jax.lax.switch(which, branches, w, x) ** 2)

    run = jax.jit(jax.grad(loss, (0, 1)))
    return [run(f.weights, x, which) for which in (0, 1, 2)]


@row("while_loop, and forward mode through it")
def _(f, x):
    def run(x):
        return jax.lax.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, f.y(f.weights, c[1])), (0, x)
        )[1]

    return run(x), jax.jvp(run, (x,), (tangents(x),))


# --- Rematerialization


@row("gradient through checkpoint")
def _(f, x):
    block = jax.checkpoint(lambda w, x: jnp.tanh(f.y(w, x)))
    return jax.jit(jax.grad(lambda w, x: jnp.sum(block(w, x) ** 3), (0, 1)))(
        f.weights, x
    )


# --- Batching and devices


@row("vmap over an ensemble", inference=True, shape=(4, 6, 3), stack=1)
def _(f, xs):
    many = [jnp.stack([w, w * 0.5, w + 1, w - 1]) for w in f.weights]
    return jax.vmap(f.step)(many, xs), jax.jit(jax.vmap(f.gradient))(many, xs)


@row("jit of sharded inputs")
def _(f, x):
    x = jax.device_put(x, NamedSharding(mesh(), BATCH))
    return jax.jit(f.step)(f.weights, x), jax.jit(f.gradient)(f.weights, x)


@row("gradient of shard_map, and its jvp")
def _(f, x):
    specs = {"in_specs": (EVERYWHERE, BATCH), "out_specs": BATCH}
    run = jax.shard_map(f.y, mesh=mesh(), **specs)

    @jax.jit
    def derivatives(*at):
        gradient = jax.grad(lambda w, x: jnp.sum(run(w, x) ** 3), (0, 1))
        return gradient(*at), jax.jvp(run, at, tangents(at))

    return derivatives(f.weights, x)


@row("gradient inside shard_map, check_vma=False", inference=True)
def _(f, x):
    def step(w, x):
        dw, dx = f.gradient(w, x)
        return jax.lax.psum(dw, "batch"), dx

    specs = {"in_specs": (EVERYWHERE, BATCH), "out_specs": (EVERYWHERE, BATCH)}
    run = jax.shard_map(step, mesh=mesh(), check_vma=False, **specs)
    return jax.jit(run)(f.weights, x)


# --- Export and serialization


@row("jax.export with symbolic images", inference=True, shape=(2, 4, 4, 3))
def _(f, x):
    spec = jax.ShapeDtypeStruct(export.symbolic_shape("b, h, w, 3"), x.dtype)
    exported = export.export(jax.jit(f.gradient))(f.weights, spec)
    return [exported.call(f.weights, v) for v in (x, jnp.concatenate([x, 2 * x]))]


@row("deepcopy and pickle of the layer")
def _(f, x):
    results = []
    for layer in (copy.deepcopy(f.layer), pickle.loads(pickle.dumps(f.layer))):
        results += [layer(x, training=f.training), layer.get_weights()]
    return results


# --- What JAX can be told to check


@row("numpy_dtype_promotion is strict")
def _(f, x):
    with jax.numpy_dtype_promotion("strict"):
        return jax.jit(f.gradient)(f.weights, x), f.step(f.weights, x)


@row("debug_nans with a constant channel and one row", shape=(1, 3))
def _(f, x):
    with jax.debug_nans(True):
        return f.gradient(f.weights, x), jax.jit(f.gradient)(f.weights, 0 * x)


# --- Masks, renorm and other routes through the layer


@row("mask: vmap, and debug_nans", shape=(3, 4, 2), within=1e-4)
def _(f, x):
    mask = jnp.arange(x.shape[1]) < jnp.array([[2], [4], [1]])
    gradient = partial(f.gradient, mask=mask)
    many = jax.jit(jax.vmap(gradient, (None, 0)))(f.weights, jnp.stack([x, 2 * x]))
    with jax.debug_nans(True):
        return many, gradient(f.weights, x), jax.jit(gradient)(f.weights, x)


# --- Keras' own ways


def _network(layer_class):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            # Without a bias: its gradient is 0 before batch norm, up to noise.
            keras.layers.Dense(3, use_bias=False),
            layer_class(),
            keras.layers.Dense(1),
        ]
    )


def _fit(model, **how):
    model.compile("sgd", "mse", **how)
    x = draw((16, 4))
    model.fit(x, x[:, :1], batch_size=8, epochs=2, verbose=0, shuffle=False)
    return model.get_weights(), model.predict(x, verbose=0)


@TABLE.row("model.fit with a dynamic loss scale under mixed_float16", within=2e-2)
def _(layer_class):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return _fit(_network(layer_class))
    finally:
        keras.config.set_dtype_policy(policy)
