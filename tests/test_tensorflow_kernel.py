"""The TensorFlow kernel: where the fused op serves, and where it must not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn.kernels import reference
from kbn.kernels import tensorflow as kernel
from tests import oracle

EPSILON = 1e-3


def data(*shape, mean=0.0, dtype="float32"):
    return tf.constant(np.random.default_rng(0).normal(size=shape) + mean, dtype)


def operations(function, *arguments):
    """The types of all operations of a traced function, branches included."""
    graph = tf.function(function).get_concrete_function(*arguments).graph
    definition = graph.as_graph_def()
    nodes = list(definition.node)
    for inner in definition.library.function:
        nodes += inner.node_def
    return {node.op for node in nodes}


def train(x, axis=-1, **options):
    axis %= len(x.shape)
    return kernel.normalize_batch(x, None, None, axis, EPSILON, **options)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("rank", [2, 3, 4, 5, 6])
def test_every_rank_and_axis_takes_the_fused_op(rank, axis):
    x = data(*[3] * rank)
    assert "FusedBatchNormV3" in operations(lambda x: train(x, axis)[0], x)


@pytest.mark.parametrize(
    ("x", "options"),
    [
        (data(3, 4, dtype="float64"), {}),
        (data(3, 4), {"mask": tf.ones((3, 4), tf.bool)}),
        (data(3, 0), {}),
    ],
    ids=["float64", "mask", "no-channels"],
)
def test_what_the_fused_op_cannot_do_takes_the_formula(x, options):
    found = operations(lambda x: train(x, **options)[0], x)
    assert "FusedBatchNormV3" not in found


def test_sixteen_bits_are_read_as_they_are():
    x = data(4, 5, 6, 3, dtype="bfloat16")
    graph = tf.function(lambda x: train(x)[0]).get_concrete_function(x).graph
    casts = [op for op in graph.get_operations() if op.type == "Cast"]
    assert all(op.outputs[0].shape.rank <= 1 for op in casts)


# https://github.com/keras-team/keras/pull/18795: E[x^2] - E[x]^2 is NaN here.
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
def test_xla_never_sees_the_fused_op(mean):
    x = data(4096, 8, mean=mean)
    y = tf.function(lambda x: train(x)[0], jit_compile=True)(x)
    exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, np.ones(x.shape)).y
    np.testing.assert_allclose(y, exact, atol=1e-5)

    compiled = tf.function(lambda x: train(x)[0], jit_compile=True)
    graph = compiled.get_concrete_function(x).graph
    types = {op.type for op in graph.get_operations()}
    assert "FusedBatchNormV3" not in types
    assert types  # something was traced


def test_function_traced_earlier_escapes_the_guard_but_stays_right_near_zero():
    """A graph does not know who calls it: documented in `_fused_is_right`."""
    inner = tf.function(lambda x: train(x)[0])
    x = data(64, 8, mean=1.0)
    inner(x)  # traced outside of XLA, with the fused op in it
    y = tf.function(inner, jit_compile=True)(x)
    exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, np.ones(x.shape)).y
    np.testing.assert_allclose(y, exact, atol=1e-5)


def test_without_the_private_guard_graphs_take_the_formula(monkeypatch):
    monkeypatch.setattr(kernel, "GraphOrParentsInXlaContext", None)
    x = data(8, 4)
    assert "FusedBatchNormV3" not in operations(lambda x: train(x)[0], x)
    np.testing.assert_allclose(
        tf.function(lambda x: train(x)[0])(x), train(x)[0], atol=1e-6
    )


def test_tensorflow_still_has_the_private_guard():
    assert kernel.GraphOrParentsInXlaContext is not None


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 3, 4)])
def test_empty_batch_has_no_statistics_and_no_gradient(mode, shape):
    gamma, beta = tf.ones(4), tf.zeros(4)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y, *statistics = kernel.normalize_batch(
                x, gamma, beta, len(shape) - 1, EPSILON
            )
        return [y, *statistics, *tape.gradient(y, [x, gamma, beta])]

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    y, mean, variance, count, dx, dgamma, dbeta = step(tf.zeros(shape))
    assert y.shape == dx.shape == shape
    for value in (mean, variance, count, dgamma, dbeta):
        np.testing.assert_array_equal(value, np.zeros(4))


def test_one_element_has_no_variance():
    y, mean, variance, count = train(data(1, 4, mean=3.0))
    np.testing.assert_array_equal(y, np.zeros((1, 4)))
    np.testing.assert_array_equal(variance, np.zeros(4))
    np.testing.assert_array_equal(count, np.ones(4))
    np.testing.assert_array_equal(mean, data(1, 4, mean=3.0)[0])


def test_variance_is_the_biased_one():
    x = data(8, 4)
    np.testing.assert_allclose(train(x)[2], np.var(x, 0), rtol=1e-6)


def second_order(normalize, x, dy, ddx):
    """d/dx of sum(ddx * dx), the product with the Hessian."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = normalize(x)
        dx = inner.gradient(y, x, dy)
    return outer.gradient(dx, x, ddx)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("mean", [0.0, 10.0, 1e3, 1e5])
def test_second_order_is_that_of_float64(mean, mode):
    gamma, beta = tf.constant([0.5, 1.5, 2.0]), tf.constant([1.0, -1.0, 0.0])
    x, dy, ddx = data(40, 3, mean=mean), data(40, 3)[::-1], data(40, 3) ** 2

    def ours(x):
        return kernel.normalize_batch(x, gamma, beta, 1, EPSILON)[0]

    def exact(x):
        affine = tf.cast(gamma, "float64"), tf.cast(beta, "float64")
        return reference.normalize_batch(x, *affine, 1, EPSILON)[0]

    run = second_order
    if mode != "eager":
        run = tf.function(second_order, jit_compile=mode == "xla")
    got = run(ours, x, dy, ddx)
    wide = (tf.cast(v, "float64") for v in (x, dy, ddx))
    wanted = second_order(exact, *wide)
    error = np.linalg.norm(got.numpy() - wanted) / np.linalg.norm(wanted)
    assert error < 1e-5


def test_forward_mode_is_right_or_raises():
    x, tangent = data(16, 3), data(16, 3)[::-1]
    with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
        y = train(x)[0]
    jvp = accumulator.jvp(y)
    step = 1e-3
    central = (train(x + step * tangent)[0] - train(x - step * tangent)[0]) / (2 * step)
    np.testing.assert_allclose(jvp, central, atol=2e-3)


def rerun(x):
    """Whether the ill-conditioned branch was taken: it changes y's last digits."""
    image = tf.reshape(x, (-1, 1, 1, x.shape[-1]))
    raw, *_ = tf.raw_ops.FusedBatchNormV3(
        x=image,
        scale=tf.ones(x.shape[-1]),
        offset=tf.zeros(x.shape[-1]),
        mean=tf.constant([], tf.float32),
        variance=tf.constant([], tf.float32),
        epsilon=EPSILON,
        is_training=True,
    )
    return not np.array_equal(train(x)[0], tf.reshape(raw, x.shape))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (data(4096, 8), False),
        (data(4096, 8, mean=25.0), False),
        (tf.nn.relu(data(4096, 8)), False),
        (tf.ones((4096, 8)) * 5.0, False),  # a constant channel is no reason
        (data(4096, 8, mean=100.0), True),
        (data(4096, 8, mean=1e6), True),
    ],
    ids=["ordinary", "25-deviations", "relu", "constant", "100", "1e6"],
)
def test_only_ill_conditioned_batches_run_twice(x, expected):
    assert rerun(x) == expected


def test_one_ill_conditioned_channel_is_enough():
    x = tf.concat([data(4096, 7), data(4096, 1, mean=1e5)], axis=1)
    exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, np.ones(x.shape)).y
    np.testing.assert_allclose(train(x)[0], exact, atol=2e-5)


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 3)])
def test_inference_of_rank_four_is_fused(shape):
    def infer(x):
        statistics = tf.zeros(3), tf.ones(3)
        return kernel.normalize_fixed(
            x, *statistics, None, None, len(shape) - 1, EPSILON
        )

    found = operations(infer, data(*shape))
    assert ("FusedBatchNormV3" in found) == (len(shape) == 4)


# tf.lite says that it will move to a package of its own: TensorFlow 2.21.
@pytest.mark.filterwarnings("ignore:.*tf.lite:UserWarning")
@pytest.mark.parametrize(
    ("before", "shape"),
    [
        (keras.layers.Dense(4), (3,)),
        (keras.layers.Conv1D(4, 3), (8, 2)),
        (keras.layers.Conv2D(4, 3), (8, 8, 2)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_tflite_folds_the_layer_into_the_one_before(before, shape, tmp_path, capfd):
    model = keras.Sequential([keras.Input(shape), before, kbn.BatchNorm()])
    weights = model.get_weights()
    model.set_weights(
        [np.random.default_rng(0).uniform(1, 2, w.shape) for w in weights]
    )
    model.export(tmp_path, verbose=False)
    converted = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    capfd.readouterr()
    tf.lite.experimental.Analyzer.analyze(model_content=converted)
    listing = capfd.readouterr().out
    assert "FULLY_CONNECTED" in listing or "CONV_2D" in listing
    assert "MUL" not in listing
    assert "ADD(" not in listing
