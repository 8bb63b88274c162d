"""What a CPU can show of a GPU: its kernels are registered, its arithmetic is right."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

import kbn
from kbn.kernels import tensorflow as kernel
from tests import oracle
from tests.running import array

registry = pytest.importorskip("tensorflow.python.framework.kernels")

# Every plan that `_plan` may answer, and the dtypes that it is made for.
NARROW = ("float32", "mixed_bfloat16", "mixed_float16")
PLANS = {
    ("gpu",): NARROW,
    ("formula",): NARROW,
    ("fused",): NARROW,
    ("tall",): NARROW,
    ("formula", "fused", "tall"): NARROW,
    ("fused", "tall"): NARROW,
    ("guarded",): (*NARROW, "float64"),
}
SHAPES = [((None, 6, 6, 5), -1), ((None, 5, 6), 1)]
# How a function is called and returns; the runtime's own, of no device.
OF_THE_RUNTIME = {"Placeholder", "PlaceholderWithDefault", "_Arg", "_Retval"}


def nodes(graph):
    """Those of a graph and of all functions in it."""
    definition = graph.as_graph_def()
    inside = (function.node_def for function in definition.library.function)
    return [*definition.node, *itertools.chain(*inside)]


def has_gpu_kernel(node):
    """Whether one is registered for the types of a node; DEFAULT is any device."""

    def fits(kernel):
        return kernel.device_type in ("GPU", "DEFAULT") and all(
            {*node.attr[c.name].list.type, node.attr[c.name].type} - {0}
            <= {*c.allowed_values.list.type}
            for c in kernel.constraint
        )

    return any(map(fits, kernels_of(node.op)))


@functools.cache
def kernels_of(op):
    return registry.get_registered_kernels_for_op(op).kernel


def traced(layer, shape, training):
    """The graph of a step of a layer: its output, and the gradients."""
    layer.build(shape)
    spec = tf.TensorSpec(shape, layer.compute_dtype)

    @tf.function(input_signature=[spec, spec], autograph=False)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return y, tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    return step.get_concrete_function().graph


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize(
    ("plan", "policy"),
    [(plan, policy) for plan, policies in PLANS.items() for policy in policies],
    ids=str,
)
def test_every_op_of_a_training_step_has_a_gpu_kernel(
    plan, policy, shape, axis, monkeypatch
):
    monkeypatch.setattr(kernel, "_plan", lambda *_: plan)
    layer = kbn.BatchNorm(axis=axis, warmup=True, dtype=policy)
    found = nodes(traced(layer, shape, True))
    fused = [node.op for node in found if "FusedBatchNorm" in node.op]
    assert bool(fused) == any(name not in ("formula", "guarded") for name in plan)
    assert {n.op for n in found if not has_gpu_kernel(n)} <= OF_THE_RUNTIME


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("policy", [*NARROW, "float64"])
@pytest.mark.parametrize(
    "arguments", [{}, {"renorm": True}, {"virtual_batch_size": 4}], ids=str
)
def test_every_op_around_the_kernels_has_a_gpu_kernel(arguments, policy, shape, axis):
    """Inference, and what the layer itself adds to a training step."""
    for training in (False, True):
        layer = kbn.BatchNorm(axis=axis, dtype=policy, **arguments)
        found = nodes(traced(layer, shape, training))
        assert {n.op for n in found if not has_gpu_kernel(n)} <= OF_THE_RUNTIME


def test_an_op_without_a_gpu_kernel_is_told():
    @tf.function
    def text(x):
        return tf.strings.length(tf.strings.as_string(x))

    found = nodes(text.get_concrete_function(tf.TensorSpec((2,), tf.float32)).graph)
    without = {n.op for n in found if not has_gpu_kernel(n)} - OF_THE_RUNTIME
    assert "AsString" in without


CASES = [
    ((64, 5), -1, 0.0),
    ((6, 5, 4), 1, 3.0),
    ((4, 6, 6, 5), -1, 100.0),
    ((4, 5, 6, 6), 1, 1e4),
    ((3, 2, 4, 2, 5), -1, 0.0),
    ((1, 5), -1, 2.0),  # cuDNN answers a variance of NaN
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("shape", "axis", "mean"), CASES, ids=str)
def test_what_a_gpu_is_given_computes_what_the_oracle_does(
    shape, axis, mean, dtype, monkeypatch
):
    monkeypatch.setattr(kernel, "_on_gpu", lambda: True)
    assert kernel._plan(tf.zeros(shape), axis % len(shape)) == ("gpu",)
    if dtype != "float32" and mean > 3:
        pytest.skip("16 bits do not hold such a mean")
    rng = np.random.default_rng(0)
    x, dy = (tf.cast(rng.normal(m, 1, shape), dtype) for m in (mean, 0))
    gamma, beta = rng.uniform(0.5, 1.5, 5), rng.normal(size=5)
    weights = [tf.constant(v, tf.float32) for v in (gamma, beta)]

    @tf.function(autograph=False)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            y, *statistics = kernel.normalize_batch(
                x, *weights, axis % len(shape), 1e-3
            )
        return y, *statistics, *tape.gradient(y, [x, *weights], dy)

    got = [array(value) for value in map(tf.convert_to_tensor, step(x, dy))]
    exact = oracle.normalize(array(x), gamma, beta, axis, 1e-3, array(dy))
    wanted = [exact.y, exact.mean, exact.variance, exact.count]
    wanted += [exact.dx, exact.dgamma, exact.dbeta]
    narrow = {"float32": 0, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    # The design's limits at such means.
    limit = max({0.0: 2e-5, 100.0: 5e-4, 1e4: 1e-3}.get(mean, 2e-5), narrow)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=limit, atol=4 * limit)


def test_empty_batch_for_a_gpu_has_no_say(monkeypatch):
    monkeypatch.setattr(kernel, "_on_gpu", lambda: True)
    layer = kbn.BatchNorm()
    layer.build((None, 5))
    before = layer.get_weights()

    @tf.function(input_signature=[tf.TensorSpec((None, 5))])
    def step(x):
        return layer(x, training=True)

    assert step(tf.zeros((0, 5))).shape == (0, 5)
    for value, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("scope", ["CPU:0", "CPU:1", "/job:localhost/device:CPU:0"])
def test_plan_goes_by_where_the_op_is_placed(scope, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    with tf.device(scope):
        assert not kernel._on_gpu()


def test_plan_of_a_graph_is_a_gpus_where_it_is_placed_there_or_nowhere(monkeypatch):
    assert not kernel._on_gpu()  # this machine has none
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind])
    with tf.Graph().as_default():
        assert kernel._on_gpu()
        with tf.device("GPU:0"):
            assert kernel._on_gpu()
        with tf.device("CPU:0"):
            assert not kernel._on_gpu()
