"""PyTorch's batch norms as ours and back: outputs, gradients, statistics, 20 steps."""

import importlib
import importlib.util
import itertools
import sys

import keras
import numpy as np
import pytest
from keras import ops

import kbn
from tests.cases import MODES
from tests.models_with_batch_norm import LAYERS
from tests.running import Runner, array

BOTH_WAYS = ["from_torch_batch_norm", "to_torch_batch_norm"]


@pytest.mark.parametrize("function", BOTH_WAYS)
def test_without_torch_it_says_so(function, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    message = f"^kbn.{function} needs PyTorch, which is not installed: pip install"
    with pytest.raises(ImportError, match=message):
        getattr(kbn, function)(None)


torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

SHAPES = {
    "BatchNorm1d": (8, 5),
    "BatchNorm1d of sequences": (6, 5, 4),
    "BatchNorm2d": (4, 5, 3, 2),
    "BatchNorm3d": (3, 5, 2, 3, 2),
}
OPTIONS = [
    {},
    {"momentum": 0.3, "eps": 1e-2},
    {"momentum": None},
    {"affine": False},
    {"bias": False},
    {"dtype": "float64"},
    {"momentum": 0.0},
    {"momentum": 1.0},
]
if keras.backend.backend() == "jax":  # which computes in float64 only when told to
    OPTIONS = [options for options in OPTIONS if "dtype" not in options]


def module_of(kind, options):
    """In a state that training may leave it in."""
    options = dict(options)
    dtype = getattr(torch, options.pop("dtype", "float32"))
    module = getattr(torch.nn, kind.split()[0])(5, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.dtype == torch.int64:
                tensor.fill_(3)
            else:
                tensor.uniform_(0.5, 1.5, generator=generator)
    return module


def batch(shape, seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return tuple((rng.normal(size=shape) * 2 + 1).astype(dtype) for _ in range(2))


def step(module, x, dy):
    """Output, and the gradients of sum(y * dy)."""
    x = torch.tensor(x, requires_grad=True)
    module.zero_grad()
    y = module(x)
    (y * torch.tensor(dy)).sum().backward()
    grads = [None if w is None else w.grad for w in (module.weight, module.bias)]
    found = (y, x.grad, *grads)
    return [None if v is None else v.detach().numpy().copy() for v in found]


def assert_near(ours, theirs, steps=1):
    """Within rounding of float32 (of float64, where it is one) for each step."""
    digits = 1.2e-7 if theirs.dtype == np.float32 else 2.3e-16
    room = 20 * steps * digits * max(np.abs(theirs).max(), 1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=room)


@needs_torch
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layer_follows_the_module_for_20_steps(options, kind, axis):
    if options not in OPTIONS[:4] and kind != "BatchNorm1d":
        pytest.skip("pairs are enough")
    module = module_of(kind, options)
    layer = kbn.from_torch_batch_norm(module, axis=axis)
    dtype = options.get("dtype", "float32")
    assert layer.moving_mean.dtype == dtype

    def ours_of(x):
        return np.moveaxis(x, 1, axis)

    shape = ours_of(np.empty(SHAPES[kind])).shape
    x, dy = batch(SHAPES[kind], 100, dtype)
    module.eval()
    theirs = step(module, x, dy)
    ours = Runner(layer, "eager", False, shape)(ours_of(x), ours_of(dy))
    assert_near(ours.y, ours_of(theirs[0]))
    assert_near(ours.dx, ours_of(theirs[1]))
    module.train()
    runner = Runner(layer, MODES[-1] if axis == 1 else "eager", True, shape)
    for number in range(20):
        x, dy = batch(SHAPES[kind], number, dtype)
        theirs = step(module, x, dy)
        ours = runner(ours_of(x), ours_of(dy))
        assert_near(ours.y, ours_of(theirs[0]))
        assert_near(ours.dx, ours_of(theirs[1]))
        for a, b in ((ours.dgamma, theirs[2]), (ours.dbeta, theirs[3])):
            assert (a is None) is (b is None)
            if a is not None:
                assert_near(a, b)
    assert_near(array(layer.moving_mean), module.running_mean.numpy(), 20)
    assert_near(array(layer.moving_variance), module.running_var.numpy(), 20)
    if layer.momentum is None:
        assert int(module.num_batches_tracked) == 23
        np.testing.assert_array_equal(array(layer.num_batches_tracked), 23)


@needs_torch
def test_batches_of_a_module_count_for_a_warmup():
    module = module_of("BatchNorm1d", {})  # has seen 3
    layer = kbn.from_torch_batch_norm(module, warmup=True)
    start = array(layer.moving_mean)
    x, _ = batch((8, 5), 0)
    layer(x, training=True)
    share = 10 / (4 + 9)
    moved = start + share * (x.astype("f8").mean(0) - start)
    np.testing.assert_allclose(array(layer.moving_mean), moved, rtol=1e-6)
    layer(np.where([1, 0, 1, 1, 1], x, np.nan), training=True)
    assert int(kbn.to_torch_batch_norm(layer).num_batches_tracked) == 5


@needs_torch
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_there_and_back_again_is_the_same_module(options, kind):
    module = module_of(kind, options)
    dimensions = None if kind != "BatchNorm1d of sequences" else 1
    back = kbn.to_torch_batch_norm(kbn.from_torch_batch_norm(module), dimensions)
    assert type(back) is type(module)
    for name in ("eps", "momentum", "num_features", "affine", "track_running_stats"):
        assert getattr(back, name) == getattr(module, name)
    assert back.training
    given, got = module.state_dict(), back.state_dict()
    for name, tensor in given.items():
        if name != "num_batches_tracked" or module.momentum is None:
            assert tensor.dtype == got[name].dtype
            np.testing.assert_array_equal(tensor.numpy(), got[name].numpy())
    if module.bias is None and module.affine:
        assert not back.bias.requires_grad
        assert not back.bias.any()
    assert not module.affine or back.weight.requires_grad


KERAS_SHAPES = {2: (8, 5), 3: (6, 4, 5), 4: (4, 3, 2, 5), 5: (3, 2, 3, 2, 5)}


@needs_torch
@pytest.mark.parametrize("rank", KERAS_SHAPES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("center", "scale"), [*itertools.product([True, False], [True, False])]
)
def test_module_computes_what_the_layer_does(layer, rank, center, scale):
    layer = LAYERS[layer](momentum=0.7, center=center, scale=scale)
    layer.build(KERAS_SHAPES[rank])
    rng = np.random.default_rng(rank)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    module = kbn.to_torch_batch_norm(layer)
    assert type(module).__name__ == f"BatchNorm{max(rank - 2, 1)}d"
    assert module.momentum == 0.3
    for training in (False, True):
        module.train(training)
        x, dy = batch(KERAS_SHAPES[rank], 1)
        theirs = step(module, np.moveaxis(x, -1, 1), np.moveaxis(dy, -1, 1))
        ours = Runner(layer, "eager", training, x.shape)(x, dy)
        assert_near(np.moveaxis(ours.y, -1, 1), theirs[0])
        assert_near(np.moveaxis(ours.dx, -1, 1), theirs[1])
        for a, b, has in (
            (ours.dgamma, theirs[2], scale),
            (ours.dbeta, theirs[3], center),
        ):
            assert (b is not None) is has
            if has:
                assert_near(a, b)
    assert_near(array(layer.moving_mean), module.running_mean.numpy())
    n = x.size / 5  # torch tracks the unbiased variance, this layer the biased one
    start = array(layer.moving_variance) - 0.3 * x.var(axis=tuple(range(rank - 1)))
    expected = start + 0.3 * x.var(axis=tuple(range(rank - 1))) * n / (n - 1)
    np.testing.assert_allclose(module.running_var.numpy(), expected, rtol=1e-5)


@needs_torch
@pytest.mark.parametrize("layer", LAYERS)
def test_frozen_layer_gives_a_module_in_evaluation_mode(layer):
    layer = LAYERS[layer]()
    layer.build((None, 5))
    layer.trainable = False
    module = kbn.to_torch_batch_norm(layer)
    assert not module.training
    assert not any(p.requires_grad for p in module.parameters())
    kbn.freeze_batch_norm(layer, train_affine=True)
    module = kbn.to_torch_batch_norm(layer)
    assert not module.training
    assert all(p.requires_grad for p in module.parameters())


@needs_torch
def test_memory_is_not_shared():
    module = module_of("BatchNorm1d", {})
    layer = kbn.from_torch_batch_norm(module)
    back = kbn.to_torch_batch_norm(layer)
    before = [array(w) for w in layer.weights]
    with torch.no_grad():
        for tensor in (*module.state_dict().values(), *back.state_dict().values()):
            tensor.add_(1)
    for weight, old in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), old)


@needs_torch
def test_synchronized_both_ways():
    module = torch.nn.SyncBatchNorm(5, momentum=0.2)
    layer = kbn.from_torch_batch_norm(module, axis=-1, name="theirs")
    assert layer.name == "theirs"
    assert layer.synchronized
    back = kbn.to_torch_batch_norm(layer)
    assert type(back) is torch.nn.SyncBatchNorm
    assert back.momentum == 0.2


@needs_torch
@pytest.mark.parametrize("shape", [(5,), (5, 4)])
def test_layer_of_a_batch_norm_1d_takes_both_ranks_also_when_loaded(shape, tmp_path):
    layer = kbn.from_torch_batch_norm(module_of("BatchNorm1d", {}))
    model = keras.Sequential([keras.Input(shape), layer])
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    expected = array(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(x)), expected)
    with pytest.raises(ValueError, match="expected max_ndim=3, found ndim=4"):
        kbn.from_torch_batch_norm(module_of("BatchNorm1d", {}))(ops.ones((2, 5, 1, 1)))
    with pytest.raises(ValueError, match="expected axis 1 of input shape"):
        kbn.from_torch_batch_norm(module_of("BatchNorm1d", {}))(ops.ones((2, 4)))


class Activated(torch.nn.BatchNorm2d if torch else object):
    def forward(self, x):
        return super().forward(x).relu()


class Called(torch.nn.BatchNorm2d if torch else object):
    def __call__(self, x):
        return super().__call__(x).relu()


def with_hook(kind):
    module = torch.nn.BatchNorm2d(5)
    getattr(module, f"register_{kind}_hook")(lambda *_: None)
    return module


def patched():
    module = torch.nn.BatchNorm2d(5)
    own = module.forward
    module.forward = lambda x: own(x).relu()
    return module


def parametrized():
    module, parametrize = torch.nn.BatchNorm2d(5), torch.nn.utils.parametrize
    parametrize.register_parametrization(module, "weight", torch.nn.Softplus())
    return module


class Renamed(torch.nn.BatchNorm2d if torch else object):
    pass


@needs_torch
def test_derived_module_without_a_forward_of_its_own_is_taken():
    assert kbn.from_torch_batch_norm(Renamed(5)).moving_mean.shape == (5,)


FROM_REFUSED = {
    "other": (lambda: torch.nn.LayerNorm(5), "Expected a .*BatchNorm1d, .* LayerN"),
    "instance": (lambda: torch.nn.InstanceNorm2d(5), "received InstanceNorm2d"),
    "layer": (lambda: kbn.BatchNorm(), "received BatchNormalization"),
    "lazy": (lambda: torch.nn.LazyBatchNorm1d(), "not know its channels yet: run"),
    "derived": (lambda: Activated(5), "Activated is a BatchNorm2d with a forward"),
    # https://github.com/pytorch/pytorch/issues/187298
    "called": (lambda: Called(5), "Called is a BatchNorm2d with a __call__"),
    "patched": (lambda: patched(), "BatchNorm2d with a forward.. of its own, which"),
    "hook": (lambda: with_hook("forward"), "a forward hook, which a layer would not"),
    "before": (lambda: with_hook("forward_pre"), "a forward-pre hook"),
    "gradient": (lambda: with_hook("full_backward"), "a backward hook"),
    "gradient before": (lambda: with_hook("full_backward_pre"), "a backward-pre hook"),
    "weights": (lambda: parametrized(), "a parametrization of its weight"),
    "untracked": (
        lambda: torch.nn.BatchNorm1d(5, track_running_stats=False),
        r"BatchNorm1d\(track_running_stats=False\) uses the batch's statistics in",
    ),
    "group": (
        lambda: torch.nn.SyncBatchNorm(5, process_group=object()),
        "process_group of its own",
    ),
    "epsilon": (lambda: torch.nn.BatchNorm1d(5, eps=0), "epsilon=0.*greater than 0"),
}  # fmt: skip


@needs_torch
@pytest.mark.parametrize("case", FROM_REFUSED)
def test_module_that_cannot_be_a_layer_is_refused(case):
    module, message = FROM_REFUSED[case]
    with pytest.raises(ValueError, match=message):
        kbn.from_torch_batch_norm(module())


@needs_torch
def test_lazy_module_is_taken_once_it_knows_its_channels():
    module = torch.nn.LazyBatchNorm1d()
    module(torch.ones(4, 5))
    assert kbn.from_torch_batch_norm(module).moving_mean.shape == (5,)


def built(shape=(None, 5), **options):
    layer = kbn.BatchNorm(**options)
    layer.build(shape)
    return layer


TO_REFUSED = {
    "other": (lambda: keras.layers.LayerNormalization(), {}, "received LayerNormal"),
    "unbuilt": (lambda: kbn.BatchNorm(name="new"), {}, "'new' is not built: call it"),
    "renorm": (lambda: built(renorm=True), {}, "has renorm=True: torch has no such"),
    "virtual": (lambda: built(virtual_batch_size=4), {}, "has virtual_batch_size=4"),
    "axes": (lambda: built((None, 2, 3), axis=[1, 2]), {}, r"has axis=\[1, 2\]"),
    "rank": (lambda: built((None, 1, 1, 1, 1, 5)), {}, "of rank 6; .* dimensions=1, 2"),
    "dimensions": (lambda: built(), {"dimensions": 4}, "to be 1, 2 or 3, received 4"),
}


@needs_torch
@pytest.mark.parametrize("case", TO_REFUSED)
def test_layer_that_cannot_be_a_module_is_refused(case):
    layer, options, message = TO_REFUSED[case]
    with pytest.raises(ValueError, match=message):
        kbn.to_torch_batch_norm(layer(), **options)


@needs_torch
def test_dimensions_may_be_chosen():
    for dimensions in (1, 2, 3):
        module = kbn.to_torch_batch_norm(built(), dimensions)
        assert type(module).__name__ == f"BatchNorm{dimensions}d"
