"""The JAX kernel: the formula, and derivatives that XLA makes as fast as by hand."""

import jax
import keras
import numpy as np
import pytest
from jax import numpy as jnp
from jax.experimental import jet

import kbn
from kbn.kernels import jax as kernel
from tests import oracle

EPSILON = 1e-3


def data(*shape, mean=0.0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape) + mean, dtype)


def train(x, axis=-1, gamma=None, beta=None, **options):
    return kernel.normalize_batch(x, gamma, beta, axis % x.ndim, EPSILON, **options)


def exact(x, gamma, beta):
    """The formula on its own, to be differentiated in float64."""
    mean = x.mean(0)
    return gamma * (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(0) + EPSILON) + beta


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 3, 4)])
def test_empty_batch_has_no_statistics_and_no_gradient(shape, compiled):
    def step(x, gamma, beta):
        y, pullback, statistics = jax.vjp(
            lambda *a: (lambda y, *s: (y, s))(*train(a[0], -1, *a[1:])),
            x,
            gamma,
            beta,
            has_aux=True,
        )
        return y, statistics, pullback(y)

    step = jax.jit(step) if compiled else step
    y, statistics, (dx, *affine) = step(jnp.zeros(shape), jnp.ones(4), jnp.zeros(4))
    assert y.shape == dx.shape == shape
    for value in (*statistics, *affine):
        np.testing.assert_array_equal(value, np.zeros(4))


def test_statistics_are_biased_and_carry_no_gradient():
    x = data(8, 4)
    np.testing.assert_allclose(train(x)[2], np.var(x, 0), rtol=1e-6)
    gradient = jax.grad(lambda x: sum(v.sum() for v in train(x)[1:3]))(x)
    np.testing.assert_array_equal(gradient, np.zeros((8, 4)))


def second_order(normalize, arguments, dy, weights):
    """Gradients of sum(weights * gradients), the product with the Hessian."""

    def loss(*arguments):
        _, pullback = jax.vjp(normalize, *arguments)
        products = (g * w for g, w in zip(pullback(dy), weights, strict=True))
        return sum(p.sum() for p in products)

    return jax.grad(loss, argnums=(0, 1))(*arguments)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("mean", [0.0, 10.0, 1e3, 1e5])
def test_second_order_is_that_of_float64(mean, compiled):
    arguments = (
        data(40, 3, mean=mean),
        jnp.array([0.5, 1.5, 2.0]),
        jnp.array([1.0, -1.0, 0.0]),
    )
    dy = data(40, 3)[::-1]
    weights = data(40, 3) ** 2, jnp.array([1.0, 2.0, 3.0]), jnp.ones(3)

    def ours(*arguments):
        return second_order(lambda x, g, b: train(x, -1, g, b)[0], *arguments)

    run = jax.jit(ours) if compiled else ours
    got = jax.device_get(run(arguments, dy, weights))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: np.asarray(v, "f8"), (arguments, dy, weights))
        wanted = jax.device_get(second_order(exact, *wide))
    for mine, right in zip(got, wanted, strict=True):
        assert np.linalg.norm(mine - right) / np.linalg.norm(right) < 1e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_forward_mode_is_that_of_float64(mean, masked):
    x, tangent = data(40, 3, mean=mean), data(40, 3)[::-1]
    gamma, beta = jnp.array([0.5, 1.5, 2.0]), jnp.array([1.0, -1.0, 0.0])
    mask = (jnp.arange(40) < 30)[:, None] if masked else None

    def ours(x, gamma, beta):
        return train(x, -1, gamma, beta, mask=mask)[0][:30]

    def formula(x, gamma, beta):
        return exact(x[:30] if masked else x, gamma, beta)[:30]

    inputs, directions = (x, gamma, beta), (tangent, beta, gamma)
    got = jax.device_get(jax.jvp(ours, inputs, directions))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: np.asarray(v, "f8"), (inputs, directions))
        wanted = jax.device_get(jax.jvp(formula, *wide))
    for mine, right in zip(got, wanted, strict=True):
        assert np.linalg.norm(mine - right) / np.linalg.norm(right) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_have_wide_statistics_and_narrow_gradients(dtype):
    x = data(64, 3, dtype=dtype)
    y, pullback, statistics = jax.vjp(
        lambda x: (lambda y, *s: (y, s))(*train(x)), x, has_aux=True
    )
    (dx,) = pullback(y)
    assert y.dtype == dx.dtype == dtype
    assert {v.dtype for v in statistics[:2]} == {jnp.dtype("float32")}


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_calls_without_jit_compile_once(training):
    """Nothing new is compiled, or kept, after the first call of a shape."""
    compiled = []
    event = "/jax/core/compile/backend_compile_duration"
    layer = kbn.BatchNorm()
    x = data(7, 3)

    def step(x):
        y, pullback = jax.vjp(lambda x: layer(x, training=training), x)
        return layer(x, training=training), pullback(y)

    jax.block_until_ready(step(x))

    def listen(name, *_, **__):
        if name == event:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(step(data(9, 3)))  # another shape: the listener hears
        assert compiled
        compiled.clear()
        for _ in range(3):
            jax.block_until_ready(step(x))
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("depth", [1, 4])
def test_program_is_no_longer_than_that_of_keras(depth):
    """Instructions that XLA makes of a chain of layers, and what it is given."""

    def lengths(layer_class):
        layers = [layer_class() for _ in range(depth)]
        for layer in layers:
            layer.build((64, 8))
        weights, fixed = (
            [[v.value for v in variables] for variables in kinds]
            for kinds in (
                [layer.trainable_variables for layer in layers],
                [layer.non_trainable_variables for layer in layers],
            )
        )

        def chain(x, weights):
            moved = []
            for layer, own, other in zip(layers, weights, fixed, strict=True):
                x, after = layer.stateless_call(own, other, x, training=True)
                moved.append(after)
            return x, moved

        def step(x, weights):
            y, pullback, moved = jax.vjp(chain, x, weights, has_aux=True)
            return y, pullback(y), moved

        lowered = jax.jit(step).lower(data(64, 8), weights)
        texts = lowered.as_text(), lowered.compile().as_text()
        return np.array([text.count(" = ") for text in texts])

    theirs = lengths(keras.layers.BatchNormalization)
    assert (lengths(kbn.BatchNorm) <= 1.1 * theirs).all()


@pytest.mark.parametrize("size", [65536, 99991])
def test_long_sums_keep_their_digits(size):
    x = jnp.stack([jnp.full(size, 0.9), jax.nn.relu(data(size))], 1)
    wanted = oracle.normalize(np.asarray(x), 1.0, 0.0, -1, EPSILON, np.ones(x.shape))
    y, mean, variance, _ = jax.jit(train)(x)
    np.testing.assert_allclose(mean, wanted.mean, rtol=1e-5)
    np.testing.assert_allclose(variance[1], wanted.variance[1], rtol=1e-4)
    np.testing.assert_allclose(y, wanted.y, atol=1e-3)


@pytest.mark.parametrize("shape", [(2**20, 1), (2**22, 1), (2**18, 16)])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_any_number_of_elements_keeps_the_variance(shape, compiled):
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape, "f4"))
    _, mean, variance, _ = (jax.jit(train) if compiled else train)(x)
    wide = np.asarray(x, "f8")
    np.testing.assert_allclose(mean, wide.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, wide.var(0), rtol=1e-6)


def test_taylor_mode_raises_as_for_a_relu():
    """JAX's own limit: when this fails, jet takes a custom_jvp; add training's row."""
    x = data(6, 3)
    for function in (jax.nn.relu, lambda x: train(x)[0]):
        with pytest.raises(jax.errors.UnexpectedTracerError):
            jet.jet(function, (x,), [[x, x]])
