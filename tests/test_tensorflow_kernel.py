"""The TensorFlow kernel: where the fused op serves, and where it must not."""

import itertools
import threading

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


BIG = {2: (50_000, 4), 3: (500, 8, 50), 4: (50, 4, 8, 125), 5: (50, 4, 8, 5, 25)}


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("rank", BIG)
def test_every_rank_and_axis_takes_the_fused_op_when_large(rank, axis):
    x = tf.zeros(BIG[rank])
    assert tf.size(x) > kernel.SMALL
    assert "FusedBatchNormV3" in operations(lambda x: train(x, axis)[0], x)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 3), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
def test_small_tensors_take_the_formula_without_a_condition(shape, axis):
    found = operations(lambda x: train(x, axis)[0], data(*shape))
    assert not {"FusedBatchNormV3", "If", "StatelessIf"} & found


def plan(shape, dtype="float32", axis=-1):
    """The ways that a function of inputs of this shape may take."""
    plans = []

    def step(x):
        plans.append(kernel._plan(x, axis % len(shape)))
        return x

    tf.function(step).get_concrete_function(tf.TensorSpec(shape, dtype))
    return plans[0]


@pytest.mark.parametrize(
    ("shape", "ways"),
    [
        ((32, 64), ["formula"]),
        ((2048, 64), ["formula"]),  # 2^17 elements
        ((2049, 64), ["fused"]),
        ((64, 56, 56, 64), ["fused"]),  # 200 704 elements a channel
        ((32, 112, 112, 64), ["tall"]),
        ((2**16, 4), ["fused"]),
        ((2**16 + 1, 4), ["tall"]),
        ((2**17, 1), ["formula"]),
        ((2**24, 1), ["tall"]),
        ((0, 4), ["guarded"]),
        ((None, 4), ["guarded"]),
        ((None, 1024), ["guarded"]),
        ((None, 1025), ["formula", "fused", "tall"]),
        ((None, None, 2048), ["formula", "fused", "tall"]),
        ((None, 512, 512), ["fused", "tall"]),
        ((None, 512, 512, 3), ["tall"]),
        ((None, 0, 4), ["guarded"]),
    ],
    ids=str,
)
def test_size_decides_which_way_is_taken(shape, ways):
    assert plan(shape) == tuple(ways)


# The same batch gives the same numbers whether its size is known or not.
@pytest.mark.parametrize(
    "shape", [(0, 1100), (1, 1100), (100, 1100), (150, 1100), (0, 8), (9, 8)]
)
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_unknown_sizes_give_the_same_numbers(shape, mean):
    x = data(*shape, mean=mean)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, *statistics = train(x)
            loss = tf.reduce_sum(y**3)
        return [y, *statistics[:2], tape.gradient(loss, x)]

    known = tf.function(step).get_concrete_function(x)(x)
    spec = tf.TensorSpec((None, shape[1]))
    unknown = tf.function(step, input_signature=[spec])(x)
    for one, other in zip(known, unknown, strict=True):
        np.testing.assert_allclose(
            one, other, atol=1e-6 * np.max(np.abs(one), initial=1)
        )


@pytest.mark.parametrize(
    ("power", "channels"),
    [*itertools.product([14, 16, 18], [1, 3, 16, 64]), (20, 16), (20, 1), (22, 1)],
)
def test_sums_of_any_length_keep_their_digits(power, channels):
    x = data(2**power, channels)
    gamma, beta = tf.ones(x.shape[1]), tf.zeros(x.shape[1])
    with tf.GradientTape() as tape:
        tape.watch([gamma, beta])
        y, mean, variance, _ = kernel.normalize_batch(x, gamma, beta, 1, EPSILON)
    dy = tf.cast(x > 0, "float32")
    dgamma, dbeta = tape.gradient(y, [gamma, beta], dy)
    wide = x.numpy().astype("f8")
    exact = wide.var(0)
    np.testing.assert_allclose(variance, exact, rtol=2e-5)
    np.testing.assert_allclose(mean, wide.mean(0), atol=2e-6)
    z = (wide - wide.mean(0)) / np.sqrt(exact + EPSILON)
    np.testing.assert_allclose(dgamma, (z * dy.numpy()).sum(0), rtol=1e-4)
    np.testing.assert_allclose(dbeta, dy.numpy().sum(0, dtype="f8"), rtol=1e-4)


def test_rows_left_over_by_the_groups_count():
    x = tf.concat([data(200_705, 8), data(37, 8, mean=50.0)], 0)
    assert plan(tuple(x.shape)) == ("tall",)
    _, mean, variance, _ = train(x)
    wide = x.numpy().astype("f8")
    np.testing.assert_allclose(mean, wide.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, wide.var(0), rtol=2e-5)


def nodes_of_training(layer_class, shape, depth=20):
    """How many nodes a training step of so many layers has, library included."""
    layers = [layer_class() for _ in range(depth)]
    for layer in layers:
        layer.build(shape)
    weights = [v.value for layer in layers for v in layer.trainable_variables]

    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in layers:
                y = layer(y, training=True)
        return tape.gradient(y, [x, *weights], dy)

    spec = tf.TensorSpec(shape)
    graph = tf.function(step, autograph=False).get_concrete_function(spec, spec).graph
    definition = graph.as_graph_def()
    library = sum(len(f.node_def) for f in definition.library.function)
    return len(definition.node) + library


@pytest.mark.parametrize(
    ("shape", "limit"),
    [((32, 64), 1.2), ((None, 64), 1.2), ((None, 8, 8, 64), 2.0), ((4, 6, 5), 1.2)],
    ids=str,
)
def test_graph_of_twenty_layers_is_not_much_larger_than_keras_own(shape, limit):
    ours = nodes_of_training(kbn.BatchNorm, shape)
    theirs = nodes_of_training(keras.layers.BatchNormalization, shape)
    assert ours <= limit * theirs


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
    x = data(40, 40, 30, 3, dtype="bfloat16")
    assert plan(tuple(x.shape), x.dtype) == ("fused",)
    traced = kernel._traced(("fused",), 4, 3, x.dtype, EPSILON)
    graph = traced.get_concrete_function().graph
    casts = [op for op in graph.get_operations() if op.type == "Cast"]
    assert casts
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
    """A graph does not know who calls it: documented in `_under_xla`."""
    inner = tf.function(lambda x: train(x)[0])
    x = data(20_000, 8, mean=1.0)
    inner(x)  # traced outside of XLA, with the fused op in it
    y = tf.function(inner, jit_compile=True)(x)
    exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, np.ones(x.shape)).y
    np.testing.assert_allclose(y, exact, atol=1e-5)


def test_without_the_private_guard_graphs_take_the_formula(monkeypatch):
    monkeypatch.setattr(kernel, "is_built_for_xla", lambda graph: True)
    x = data(20_000, 8)
    assert "FusedBatchNormV3" not in operations(lambda x: train(x)[0], x)
    exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, np.ones(x.shape)).y
    np.testing.assert_allclose(tf.function(lambda x: train(x)[0])(x), exact, atol=2e-5)


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
    assert count == 0
    for value in (mean, variance, dgamma, dbeta):
        np.testing.assert_array_equal(value, np.zeros(4))


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


FUSED = 20_000, 8  # too large for the formula


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
        (data(*FUSED), False),
        (data(*FUSED, mean=25.0), False),
        (tf.nn.relu(data(*FUSED)), False),
        (tf.ones(FUSED) * 4.0, False),  # a constant channel is no reason
        (data(*FUSED, mean=100.0), True),
        (data(*FUSED, mean=1e6), True),
    ],
    ids=["ordinary", "25-deviations", "relu", "constant", "100", "1e6"],
)
def test_only_ill_conditioned_batches_run_twice(x, expected):
    assert rerun(x) == expected


@pytest.mark.parametrize(
    ("shape", "fused"),
    [
        ((4, 5, 6, 3), False),
        ((8, 28, 28, 128), False),
        ((32, 56, 56, 64), True),
        ((None, 56, 56, 64), False),
        ((6_422_528, 3), False),  # TFLite folds no reshape
    ],
)
@pytest.mark.parametrize("onednn", [True, False])
def test_inference_of_large_images_is_fused(shape, fused, onednn, monkeypatch):
    monkeypatch.setattr(kernel, "is_onednn_enabled", lambda: onednn)

    def infer(x):
        statistics = tf.zeros(shape[-1]), tf.ones(shape[-1])
        return kernel.normalize_fixed(
            x, *statistics, None, None, len(shape) - 1, EPSILON
        )

    found = operations(infer, tf.TensorSpec(shape))
    assert ("FusedBatchNormV3" in found) == (fused and onednn)


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


def test_refused_inputs_do_not_lock_out_other_threads():
    train(data(4, 3))
    with pytest.raises((ValueError, TypeError)):
        train(tf.sparse.from_dense(tf.ones((4, 3))))
    done = threading.Event()

    def work():
        train(data(4, 3))
        done.set()

    threading.Thread(target=work, daemon=True).start()
    assert done.wait(timeout=60)
