"""The torch kernel: where native batch norm serves, and where it must not."""

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import kbn
from kbn.kernels import torch as kernel
from tests import oracle

EPSILON = 1e-3


def data(*shape, mean=0.0, dtype=torch.float32):
    values = np.random.default_rng(0).normal(size=shape) + mean
    return torch.tensor(values, dtype=dtype)


def train(x, axis=-1, gamma=None, beta=None, **options):
    axis %= x.ndim
    return kernel.normalize_batch(x, gamma, beta, axis, EPSILON, **options)


def infer(x, mean, variance):
    channels = x.shape[-1]
    statistics = torch.full((channels,), mean), torch.full((channels,), variance)
    return kernel.normalize_fixed(x, *statistics, None, None, x.ndim - 1, EPSILON)


def nodes(y):
    """The nodes of the autograd graph that leads to `y`."""
    found, left = set(), [y.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [before for before, _ in node.next_functions]
    return found


def operations(y):
    return {type(node).__name__ for node in nodes(y)}


def exact(x):
    return oracle.normalize(x.numpy(), 1.0, 0.0, -1, EPSILON, np.ones(x.shape))


@pytest.fixture
def everything_is_large(monkeypatch):
    """Small and narrow tensors take the way of large ones."""
    for limit in ("SMALL", "SMALL_FIXED", "NARROW"):
        monkeypatch.setattr(kernel, limit, 0)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("rank", [2, 3, 4, 5, 6])
def test_every_rank_and_axis_takes_the_native_op(rank, axis):
    x = data(*range(2, 2 + rank)).requires_grad_()
    variance = torch.ones(x.shape[axis])
    y, *_ = train(x, axis)
    assert operations(y) <= {
        "_NormalizationBackward",
        "ViewBackward0",
        "UnsafeViewBackward0",
        "ReshapeAliasBackward0",
        "MovedimBackward0",
        "PermuteBackward0",
        "AccumulateGrad",
    }
    assert "_NormalizationBackward" in operations(y)
    y = kernel.normalize_fixed(
        x, 0 * variance, variance, None, None, axis % rank, EPSILON
    )
    assert "NativeBatchNormBackward0" in operations(y)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 0, 1, 2)])
@pytest.mark.parametrize("axis", [1, 3])
def test_any_strides_are_right(order, axis):
    back = [order.index(i) for i in range(4)]
    x = data(4, 5, 6, 7).permute(order).contiguous().permute(back)
    y, mean, variance, count = train(x, axis)
    wanted = oracle.normalize(x.numpy(), 1.0, 0.0, axis, EPSILON, np.ones(x.shape))
    np.testing.assert_allclose(y, wanted.y, atol=1e-6)
    np.testing.assert_allclose(mean, wanted.mean, atol=1e-6)
    np.testing.assert_allclose(variance, wanted.variance, rtol=1e-6)
    assert count == x.numel() // x.shape[axis]


def test_transposed_channels_are_read_where_they_lie():
    """As Keras' convolution leaves them; a copy would cost two passes."""
    x = data(4, 5, 6, 7).permute(0, 2, 3, 1)
    planes, restore = kernel._as_planes(x, 3)
    assert planes.data_ptr() == x.data_ptr()
    assert restore(planes).stride() == x.stride()


@pytest.mark.parametrize(
    ("x", "options"),
    [(data(3, 4), {"mask": torch.ones((3, 4), dtype=torch.bool)}), (data(0, 4), {})],
    ids=["mask", "empty"],
)
def test_what_the_native_op_cannot_do_takes_the_formula(x, options):
    y, *_ = train(x.requires_grad_(), **options)
    assert "_NormalizationBackward" not in operations(y)


@pytest.mark.parametrize(
    ("shape", "axis", "node"),
    [
        ((8, 16), 1, "NativeBatchNormBackward0"),
        ((8, 8, 8, 16), 3, "NativeBatchNormBackward0"),
        ((8, 4, 3, 5), 1, "NativeBatchNormBackward0"),
        ((2048, 3), 1, "_NarrowNormalizationBackward"),
        ((2048, 1), 1, "_NarrowNormalizationBackward"),
        ((2048, 16), 1, "_NormalizationBackward"),
        ((1024, 1024), 1, "_NormalizationBackward"),
    ],
)
def test_the_size_decides(shape, axis, node):
    y, *_ = train(data(*shape).requires_grad_(), axis)
    assert node in operations(y)


ROUTES = {
    "small": (40, 3),
    "small-channels-first": (8, 3, 5),
    "narrow": (1280, 3),
    "one-channel": (1500, 1),
    "odd": (1301, 2),
    "large": (2050, 9),
}


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("shape", ROUTES.values(), ids=ROUTES.keys())
def test_every_route_is_the_formula(shape, mean):
    """To second order, and its statistics, as float64 has them."""
    gamma, beta = data(shape[1]).abs() + 0.5, data(shape[1])
    x, dy = data(*shape, mean=mean), data(*shape).flip(0)
    weights = data(*shape) ** 2, data(shape[1]), torch.ones(shape[1])

    def ours(x, gamma, beta):
        return train(x, 1, gamma, beta)[0]

    def formula(x, gamma, beta):
        return kernel._by_formula(x, gamma, beta, 1, EPSILON)[0]

    inputs = [x, gamma, beta]
    wide = [v.double() for v in inputs]
    y, mean, variance, _ = train(x, 1, gamma, beta)
    wanted = kernel._by_formula(*wide, 1, EPSILON)
    np.testing.assert_allclose(mean, wanted[1], rtol=2e-7, atol=1e-7)
    close(variance, wanted[2], 1e-5)
    close(y, wanted[0], 1e-5)
    close(formula(*inputs), wanted[0], 1e-5)
    exact_gradients = gradients(formula, wide, dy.double())
    for function in (ours, formula):
        for got, want in zip(
            gradients(function, inputs, dy), exact_gradients, strict=True
        ):
            close(got, want, 1e-5)
    exact_second = second_order(
        formula, *wide, dy.double(), [w.double() for w in weights]
    )
    for function in (ours, formula):
        found = second_order(function, *inputs, dy, weights)
        for got, want in zip(found, exact_second, strict=True):
            close(got, want, 2e-5)


def gradients(normalize, inputs, dy):
    inputs = [v.clone().requires_grad_() for v in inputs]
    return torch.autograd.grad(normalize(*inputs), inputs, dy)


def close(got, wanted, within):
    """Relative to the norm."""
    error = (got.double() - wanted).norm() / wanted.norm()
    np.testing.assert_array_less(error.detach(), within)


LONG = [(2**16, 4), (2**16 + 1, 3), (2**20, 1), (2**18, 16), (8192, 16), (1024, 8)]


@pytest.mark.parametrize("shape", [*LONG, (1, 1, 2**20), (3, 2, 2**16 + 1)])
@pytest.mark.parametrize("kind", ["normal", "rare", "two-values"])
def test_variance_of_long_sums(shape, kind):
    """Terms of a few values round all the same way, which sums of normal ones hide."""
    rng = np.random.default_rng(0)
    values = {
        "normal": lambda: rng.normal(size=shape),
        "rare": lambda: rng.uniform(size=shape) < 0.1,
        "two-values": lambda: rng.choice([-0.4, 0.5], size=shape),
    }[kind]()
    x = torch.tensor(values.astype("f4"))
    _, mean, variance, _ = train(x, 1)
    reduced = [i for i in range(x.ndim) if i != 1]
    wanted = torch.var_mean(x.double(), reduced, correction=0)
    np.testing.assert_allclose(variance, wanted[0], rtol=2e-5)
    np.testing.assert_allclose(mean, wanted[1], atol=2e-6)


WATCHED = {
    "vmap": lambda call, x: torch.func.vmap(call)(x[None])[0],
    "grad": lambda call, x: torch.func.vjp(call, x)[0],
    "dual": lambda call, x: torch.func.jvp(call, (x,), (x,))[0],
    "make_fx": lambda call, x: make_fx(call)(x)(x),
    "symbolic": lambda call, x: make_fx(call, tracing_mode="symbolic")(x)(x),
    "compile": lambda call, x: torch.compile(call, backend="eager", fullgraph=True)(x),
    "mode": lambda call, x: within(FlopCounterMode(display=False), call, x),
    "device": lambda call, x: within(torch.device("cpu"), call, x),
}


def within(context, call, x):
    with context:
        return call(x)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("shape", [(6, 3), (1500, 2), (2048, 9)])
@pytest.mark.parametrize("watch", WATCHED.values(), ids=WATCHED.keys())
@pytest.mark.parametrize("training", [True, False])
def test_whatever_watches_gets_the_formula(monkeypatch, watch, shape, training):
    """No native op, no function of Python, and no choice by the data."""

    def call(x):
        if training:
            return train(x, 1)[0]
        ones = torch.ones(shape[1])
        return kernel.normalize_fixed(x, ones, ones, ones, ones, 1, EPSILON)

    x = data(*shape)
    expected = call(x)

    def forbidden(*_):
        raise AssertionError("not for what watches")

    for name in ("_centred", "_normalize", "_apply", "is_ill_conditioned"):
        monkeypatch.setattr(kernel, name, forbidden)
    monkeypatch.setattr(kernel._NarrowNormalization, "apply", forbidden)
    np.testing.assert_allclose(watch(call, x), expected, rtol=1e-5, atol=1e-6)


def test_without_torchs_private_questions_everything_gets_the_formula(monkeypatch):
    monkeypatch.setattr(kernel, "is_transformed", lambda: True)
    y, *_ = train(data(8, 4).requires_grad_())
    assert "RsqrtBackward0" in operations(y)


@pytest.mark.parametrize("weights", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_of_another_dtype(inputs, weights):
    """`model.double()` and its like cast the weights, not what enters."""
    x = data(8, 4, dtype=inputs)
    given = [torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=weights)] * 2
    same = [v.to(torch.promote_types(inputs, torch.float32)) for v in given]
    y, mean, *_ = train(x, -1, *given)
    assert y.dtype == inputs
    assert mean.dtype == same[0].dtype
    assert torch.equal(y, train(x, -1, *same)[0])
    fixed = (kernel.normalize_fixed(x, *w, *w, 1, EPSILON) for w in (given, same))
    assert torch.equal(*fixed)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_read_as_they_are(dtype):
    x = data(4, 5, 6, 3, dtype=dtype).requires_grad_()
    gamma = torch.ones(3, requires_grad=True)
    y, mean, variance, _ = train(x, gamma=gamma)
    assert y.dtype == dtype
    assert mean.dtype == variance.dtype == torch.float32
    (node,) = (n for n in nodes(y) if type(n).__name__ == "_NormalizationBackward")
    large = [t for t in node.saved_tensors if t is not None and t.ndim > 1]
    assert [t.dtype for t in large] == [dtype]
    assert large[0].data_ptr() == x.data_ptr()
    assert "ToCopyBackward0" not in operations(y)


def test_statistics_are_biased_and_carry_no_gradient():
    x = data(8, 4).requires_grad_()
    _, mean, variance, count = train(x)
    np.testing.assert_allclose(variance, np.var(x.detach().numpy(), 0), rtol=1e-6)
    assert count == 8
    assert not mean.requires_grad
    assert not variance.requires_grad


def second_order(normalize, x, gamma, beta, dy, weights):
    """Gradients of sum(weights * gradients), the product with the Hessian."""
    inputs = [v.clone().requires_grad_() for v in (x, gamma, beta)]
    first = torch.autograd.grad(normalize(*inputs), inputs, dy, create_graph=True)
    loss = sum((g * w).sum() for g, w in zip(first, weights, strict=True))
    return torch.autograd.grad(loss, inputs[:2])


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_float64_gradients_are_those_of_differences(mean):
    arguments = data(4, 2, 2, dtype=torch.float64) + mean, data(2).double()
    arguments = [*arguments, torch.ones(2, dtype=torch.float64)]
    for value in arguments:
        value.requires_grad_()

    def ours(x, gamma, beta):
        return train(x, 1, gamma, beta)[0]

    assert torch.autograd.gradcheck(ours, arguments)
    assert torch.autograd.gradgradcheck(ours, arguments)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_forward_mode_is_that_of_differences(mean):
    x, step = data(16, 3, dtype=torch.float64) + mean, data(16, 3).double().flip(0)

    def call(x):
        return train(x)[0]

    y, tangent = torch.func.jvp(call, (x,), (step,))
    np.testing.assert_allclose(y, call(x), rtol=1e-12, atol=1e-12)
    wanted = (call(x + 1e-5 * step) - call(x - 1e-5 * step)) / 2e-5
    np.testing.assert_allclose(tangent, wanted, atol=1e-6)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (data(4096, 8), False),
        (data(4096, 8, mean=25.0), False),
        (data(4096, 8).relu(), False),
        (data(4096, 8, mean=100.0), True),
        (data(4096, 8, mean=1e6), True),
        (torch.cat([data(4096, 7), data(4096, 1, mean=1e5)], 1), True),
    ],
    ids=["ordinary", "25-deviations", "relu", "100", "1e6", "one-channel"],
)
def test_only_ill_conditioned_batches_are_centred(x, expected):
    y, *_ = train(x.requires_grad_())
    assert ("SubBackward0" in operations(y)) == expected
    np.testing.assert_allclose(y.detach(), exact(x.detach()).y, atol=1e-4)


def test_constant_channel_far_from_zero_gives_beta():
    """The native op computes x * a + b, which loses it: the batch is centred first."""
    x = torch.full((4096, 8), 1e6)
    y, *_ = train(x, beta=torch.full((8,), 0.3))
    np.testing.assert_array_equal(y, np.full(x.shape, 0.3, "float32"))


def test_nan_stays_in_its_channel():
    x = data(64, 3, mean=100.0)
    x[5, 1] = np.nan
    y, mean, variance, _ = train(x)
    for value in (y, mean, variance):
        assert torch.isnan(value[..., 1]).all()
        assert torch.isfinite(value[..., [0, 2]]).all()


# D19
@pytest.mark.parametrize("mean", [0.0, 20.0, 1e2, 1e4, 1e6])
def test_inference_is_exact_at_any_mean(mean):
    x = data(4096, 8, mean=mean)
    wanted = (x.double() - mean) / np.sqrt(1 + EPSILON)
    np.testing.assert_allclose(infer(x, mean, 1.0), wanted, atol=1e-5)


def test_inference_may_be_differentiated_after_the_statistics_moved():
    layer = kbn.BatchNorm()
    x = data(8, 4).requires_grad_()
    y = layer(x, training=False)
    layer(x, training=True)
    (dx,) = torch.autograd.grad(y.sum(), x)
    np.testing.assert_allclose(dx, np.full((8, 4), 1 / np.sqrt(1 + EPSILON)), rtol=1e-6)
