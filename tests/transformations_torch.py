"""Transformations of torch; see `tests.transformations`.

A model's statistics move in place, which a transformation of torch.func forbids: there
the layer is called without state, as Keras has it.
"""

import contextlib
import io
import tempfile
import warnings

import keras
import torch
from torch.autograd import forward_ad
from torch.utils import checkpoint

from tests.transformations import Table, draw

TABLE = Table()
row = TABLE.modes
SHAPE = (6, 3)


def tensor(shape=SHAPE, seed=0, grad=False):
    return torch.tensor(draw(shape, seed)).requires_grad_(grad)


def built(layer_class, shape=SHAPE, **arguments):
    """A layer whose weights and statistics are no ones and zeros."""
    layer = layer_class(**arguments)
    layer.build(shape)
    for seed, weight in enumerate(layer.weights, 1):
        weight.assign(0.5 + abs(draw(weight.shape, seed)))
    return layer


def moving(layer):
    return [v.value.detach().clone() for v in layer.non_trainable_variables]


def pure(layer_class, training, shape=SHAPE, **arguments):
    """`function(x, weights) -> (y, moved)` without state, and the weights."""
    layer = built(layer_class, shape, **arguments)
    fixed = moving(layer)

    def function(x, weights):
        return layer.stateless_call(weights, fixed, x, training=training)

    return function, [v.value.detach() for v in layer.trainable_variables]


def outcome(layer, x, training=True, call=None):
    """Everything that a user sees of one call and its backward pass."""
    y = (call or layer)(x, training=training)
    (y**3).sum().backward()
    affine = [v.value.grad for v in layer.trainable_variables]
    return [y, x.grad, affine, moving(layer)]


def network(layer_class, training=None):
    """Dense, batch norm, ReLU, Dense, as a functional model."""
    inputs = keras.Input((4,))
    y = keras.layers.Dense(5)(inputs)
    y = layer_class()(y, training=training)
    y = keras.layers.Dense(2)(keras.layers.ReLU()(y))
    return keras.Model(inputs, y)


def together(values):
    """As one array: a gradient that ought to be 0 is noise of the others' size."""
    return torch.cat([torch.as_tensor(v).detach().flatten() for v in values])


class Call(torch.nn.Module):
    """A layer as a module with one input."""

    def __init__(self, layer, training):
        super().__init__()
        self.layer, self.training_ = layer, training

    def forward(self, x):
        return self.layer(x, training=self.training_)


# Eager, as it is.


@row("backward", inference=True)
def _(layer_class, training):
    return outcome(built(layer_class), tensor(grad=True), training)


@row("gradient penalty")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    loss = (layer(x, training=training) ** 3).sum()
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    ((dx.norm(dim=1) - 1) ** 2).sum().backward()
    return [dx, x.grad, together(v.value.grad for v in layer.trainable_variables)]


@row("inference mode")
def _(layer_class, training):
    layer = built(layer_class)
    with torch.inference_mode():
        y = layer(tensor(), training=training)
    return [y.clone(), moving(layer)]


@row("checkpoint, not reentrant", inference=True)
def _(layer_class, training):
    """Without the statistics: Keras' layer counts the batch twice, ours once."""
    layer = built(layer_class)

    def call(x, training):
        return checkpoint.checkpoint(
            lambda x: layer(x, training=training), x, use_reentrant=False
        )

    return outcome(layer, tensor(grad=True), training, call)[:3]


# Memory, dtypes, devices.


@row("channels_last memory format", inference=True)
def _(layer_class, training):
    x = tensor((2, 3, 5, 4)).to(memory_format=torch.channels_last)
    layer = built(layer_class, x.shape, axis=1)
    return outcome(layer, x.requires_grad_(), training)


@row("model.bfloat16()", 0.05)
def _(layer_class, training):
    layer, x = built(layer_class).bfloat16(), tensor(grad=True)
    y = layer(x, training=training)
    (y**3).sum().backward()
    dtypes = {v.value.dtype for v in layer.weights if v.value.is_floating_point()}
    assert dtypes == {torch.bfloat16}
    return [y, x.grad, moving(layer)]


@row("autocast to bfloat16", 0.02)
def _(layer_class, training):
    model = network(layer_class, training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(tensor((6, 4)))
    y.float().sum().backward()
    return y


@row("meta device")
def _(layer_class, training):
    layer = built(layer_class)
    with keras.device("meta"):
        y = layer(tensor().to("meta"), training=training)
    assert y.is_meta
    return torch.zeros(y.shape)


# Copies and states.


@row("state_dict saved and loaded", inference=True)
def _(layer_class, training):
    layer, other = built(layer_class), layer_class(name="other")
    other.build(SHAPE)
    file = io.BytesIO()
    torch.save(list(layer.state_dict().values()), file)
    file.seek(0)
    values = torch.load(file)
    other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
    return outcome(other, tensor(grad=True), training)


# torch.func.


@row("torch.func.grad", inference=True)
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    loss = torch.func.grad(lambda x, w: (function(x, w)[0] ** 3).sum(), (0, 1))
    return loss(tensor(), weights)


@row("torch.func.jvp")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    primals = tensor(), weights
    tangents = tensor(seed=1), [torch.ones(3), torch.ones(3)]
    return torch.func.jvp(lambda x, w: function(x, w)[0], primals, tangents)


@row("forward over reverse, by dual numbers", 1e-4)
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(tensor(grad=True), tensor(seed=1))
        loss = (function(x, weights)[0] ** 3).sum()
        (dx,) = torch.autograd.grad(loss, x, create_graph=True)
        return [*forward_ad.unpack_dual(dx)]


@row("vmap over an ensemble of weights and batches", inference=True)
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    stacked = [torch.stack([w, 2 * w, w + 1]) for w in weights]
    return torch.func.vmap(function)(tensor((3, *SHAPE)), stacked)


@row("gradients an example")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    grad = torch.func.grad(lambda w, x: (function(x[None], w)[0] ** 3).sum())
    return torch.func.vmap(grad, (None, 0))(weights, tensor())


@row("functional_call")
def _(layer_class, training):
    layer = built(layer_class)
    state = {k: 2 * v.detach() for k, v in layer.named_parameters()}
    return torch.func.functional_call(layer, state, (tensor(),), {"training": training})


# Traced, compiled, exported.


@row("jit.trace", inference=True)
def _(layer_class, training):
    module = Call(built(layer_class), training)
    with warnings.catch_warnings():
        # Keras' own `assign` compares sizes, which are tensors here.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, tensor(), check_trace=False)
        return [traced(tensor(seed=1)), traced(tensor((9, 3)))]


@row("a subclass of Tensor")
def _(layer_class, training):
    class Mine(torch.Tensor):
        pass

    y = built(layer_class)(tensor().as_subclass(Mine), training=training)
    assert type(y) is Mine
    return y.as_subclass(torch.Tensor)


@contextlib.contextmanager
def compiler():
    """torch.compile, with nothing kept from another row."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch._dynamo.reset()


@row("torch.compile, aot_eager, dynamic", is_long=True)
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    with compiler():
        module = Call(layer, training)
        call = torch.compile(module, backend="aot_eager", dynamic=True)
        return outcome(layer, x, training, lambda x, training: call(x))


@row("torch.compile of a gradient", is_long=True)
def _(layer_class, training):
    function, weights = pure(layer_class, training)

    def loss(x, w):
        return (function(x, w)[0] ** 3).sum()

    with compiler():
        grad = torch.compile(torch.func.grad(loss, (0, 1)), backend="aot_eager")
        return grad(tensor(), weights)


@row("torch.export, not strict, any batch size", inference=True)
def _(layer_class, training):
    batch = torch.export.Dim("batch")
    with compiler():
        program = torch.export.export(
            Call(built(layer_class), training),
            (tensor(),),
            dynamic_shapes=({0: batch},),
            strict=False,
        )
        module = program.module()
        return [module(tensor((n, 3))) for n in (6, 9, 2)]


@TABLE.row("model.export to torch, inference")
def _(layer_class):
    model = network(layer_class)
    with compiler(), tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.pt2"
        model.export(path, format="torch", verbose=False)
        return torch.export.load(path).module()(tensor((1, 4)))
