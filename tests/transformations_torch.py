"""Transformations of torch; see `tests.transformations`.

Most stand there for training and for inference, made from one function. A model's
statistics move in place, which a transformation of torch.func forbids: there the layer
is called without state, as Keras has it.
"""

import contextlib
import copy
import io
import os
import pickle
import tempfile
import threading
import warnings

import keras
import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, prune
from torch.utils import checkpoint

from tests.transformations import Table, draw

TABLE = Table()
SHAPE = (6, 3)


def both(name, within=2e-5):
    """Rows of one function of the layer's class and of whether it trains."""

    def add(function):
        for training, mode in ((True, "training"), (False, "inference")):

            def run(layer_class, training=training):
                with warnings.catch_warnings():
                    # Some of torch's own transformations script their parts.
                    warnings.filterwarnings("ignore", ".torch.jit", DeprecationWarning)
                    return function(layer_class, training)

            TABLE.row(f"{name}, {mode}", within)(run)
        return function

    return add


def compiles(name, within=2e-5):
    """Rows that call a C++ compiler for half a minute: in the long profile only."""
    long = os.environ.get("HYPOTHESIS_PROFILE") == "long"
    return both(name, within) if long else lambda function: function


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


def images(layer_class, training=None):
    inputs = keras.Input((5, 4, 2))
    y = keras.layers.Conv2D(3, 2)(inputs)
    y = layer_class()(y, training=training)
    return keras.Model(inputs, keras.layers.Flatten()(y))


def together(values):
    """As one array: a gradient that ought to be 0 is noise of the others' size."""
    return torch.cat([torch.as_tensor(v).detach().flatten() for v in values])


def gradients(module):
    return together(p.grad for p in module.parameters() if p.grad is not None)


class Call(torch.nn.Module):
    """A layer as a module with one input."""

    def __init__(self, layer, training):
        super().__init__()
        self.layer, self.training_ = layer, training

    def forward(self, x):
        return self.layer(x, training=self.training_)


# Eager, as it is.


@both("backward")
def _(layer_class, training):
    return outcome(built(layer_class), tensor(grad=True), training)


@both("backward of many elements")
def _(layer_class, training):
    shape = (65536, 16)
    return outcome(built(layer_class, shape), tensor(shape, grad=True), training)


@both("backward of many elements of few channels", within=1e-4)
def _(layer_class, training):
    shape = (32768, 3)
    return outcome(built(layer_class, shape), tensor(shape, grad=True), training)


@both("backward twice through a kept graph")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    y = layer(x, training=training)
    (y**2).sum().backward(retain_graph=True)
    (y**3).sum().backward()
    return [x.grad, [v.value.grad for v in layer.trainable_variables]]


@both("gradient penalty")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    loss = (layer(x, training=training) ** 3).sum()
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    ((dx.norm(dim=1) - 1) ** 2).sum().backward()
    return [dx, x.grad, together(v.value.grad for v in layer.trainable_variables)]


@both("gradient penalty of few channels", within=1e-4)
def _(layer_class, training):
    shape = (2048, 3)
    layer, x = built(layer_class, shape), tensor(shape, grad=True)
    loss = (layer(x, training=training) ** 3).mean()
    (dx,) = torch.autograd.grad(loss, x, create_graph=True)
    (2048 * (dx**2).sum()).backward()
    return [dx, x.grad, together(v.value.grad for v in layer.trainable_variables)]


@both("gradgradcheck of the layer without state")
def _(layer_class, training):
    function, weights = pure(layer_class, training, dtype="float64")
    inputs = [v.double().requires_grad_() for v in (tensor(), *weights)]

    def call(x, *weights):
        return function(x, list(weights))[0]

    torch.autograd.gradcheck(call, inputs)
    torch.autograd.gradgradcheck(call, inputs)
    return call(*inputs)


@both("batched gradients (is_grads_batched)")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    y = layer(x, training=training)
    return torch.autograd.grad(y, x, tensor((4, *SHAPE), 1), is_grads_batched=True)


@both("anomaly mode")
def _(layer_class, training):
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):
        return outcome(built(layer_class), tensor(grad=True), training)


@both("inference mode")
def _(layer_class, training):
    layer = built(layer_class)
    with torch.inference_mode():
        y = layer(tensor(), training=training)
    return [y.clone(), moving(layer)]


@both("no_grad, then backward")
def _(layer_class, training):
    layer = built(layer_class)
    with torch.no_grad():
        layer(tensor(), training=training)
    return outcome(layer, tensor(grad=True), training)


@both("checkpoint, reentrant")
def _(layer_class, training):
    layer = built(layer_class)

    def call(x, training):
        return checkpoint.checkpoint(
            lambda x: layer(x, training=training), x, use_reentrant=True
        )

    return outcome(layer, tensor(grad=True), training, call)


@both("checkpoint, not reentrant")
def _(layer_class, training):
    """Without the statistics: Keras' layer counts the batch twice, ours once."""
    layer = built(layer_class)

    def call(x, training):
        return checkpoint.checkpoint(
            lambda x: layer(x, training=training), x, use_reentrant=False
        )

    return outcome(layer, tensor(grad=True), training, call)[:3]


@both("keras.remat, inputs' gradient")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    y = keras.remat(lambda x: layer(x, training=training))(x)
    (y**3).sum().backward()
    return [y, x.grad]


@both("saved tensors on the CPU")
def _(layer_class, training):
    with torch.autograd.graph.save_on_cpu():
        return outcome(built(layer_class), tensor(grad=True), training)


@both("saved tensors packed in 64 bits")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: (t.dtype, t.double()), lambda pair: pair[1].to(pair[0])
    )
    with hooks:
        y = layer(x, training=training)
    (y**3).sum().backward()
    return [y, x.grad]


@both("module hooks and tensor hooks")
def _(layer_class, training):
    layer, x = built(layer_class), tensor(grad=True)
    seen = []
    layer.register_forward_hook(lambda *a: seen.append(a[-1].detach()))
    layer.register_full_backward_hook(lambda m, gi, go: seen.extend([*gi, *go]))
    y = layer(x, training=training)
    y.register_hook(lambda g: seen.append(g) or 2 * g)
    (y**3).sum().backward()
    return [seen, x.grad]


@both("threads")
def _(layer_class, training):
    layers = [built(layer_class) for _ in range(4)]
    found = {}

    def work(i):
        found[i] = outcome(layers[i], tensor(seed=i, grad=True), training)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(4)]


@both("replicas: a deep copy a thread")
def _(layer_class, training):
    layer = built(layer_class)
    replicas = [copy.deepcopy(layer) for _ in range(2)]
    parts = torch.nn.parallel.parallel_apply if torch.cuda.is_available() else None
    assert parts is None, "written for a CPU"
    found = [None, None]

    def work(i):
        found[i] = replicas[i](tensor(seed=i), training=training)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found, [moving(replica) for replica in replicas], moving(layer)]


# Memory, dtypes, devices.


@both("channels_last memory format")
def _(layer_class, training):
    x = tensor((2, 3, 5, 4)).to(memory_format=torch.channels_last)
    layer = built(layer_class, x.shape, axis=1)
    return outcome(layer, x.requires_grad_(), training)


@both("inputs that are not contiguous")
def _(layer_class, training):
    x = tensor((12, 6))[::2, ::2].requires_grad_()
    return outcome(built(layer_class), x, training)


@both("inputs that are expanded")
def _(layer_class, training):
    x = tensor((6, 1), grad=True)
    y = built(layer_class)(x.expand(6, 3), training=training)
    (y**3).sum().backward()
    return [y, x.grad]


@both("inputs and gradients transposed")
def _(layer_class, training):
    x = tensor((3, 6), grad=True)
    y = built(layer_class)(x.T, training=training)
    y.backward(tensor((3, 6), 1).T)
    return [y, x.grad]


@TABLE.row("empty batch, inference")
def _(layer_class):
    return outcome(built(layer_class), tensor((0, 3), grad=True), False)


@TABLE.row("batch of one, inference")
def _(layer_class):
    return outcome(built(layer_class), tensor((1, 3), grad=True), False)


@both("inputs of rank 5, axis 2")
def _(layer_class, training):
    shape = (2, 3, 4, 3, 2)
    layer = built(layer_class, shape, axis=2)
    return outcome(layer, tensor(shape, grad=True), training)


for name, within in (("double", 2e-5), ("bfloat16", 0.05), ("half", 0.01)):

    @both(f"model.{name}()", within)
    def _(layer_class, training, name=name):
        layer = built(layer_class)
        getattr(layer, name)()
        x = tensor(grad=True)
        y = layer(x, training=training)
        (y**3).sum().backward()
        values = [v.value for v in layer.weights]
        dtypes = [v.dtype for v in values if v.is_floating_point()]
        assert set(dtypes) == {tensor().__getattribute__(name)().dtype}
        return [y, x.grad, moving(layer)]

    @both(f"model.{name}(), inputs of that dtype", within)
    def _(layer_class, training, name=name):
        layer = built(layer_class)
        getattr(layer, name)()
        x = getattr(tensor(), name)().requires_grad_()
        y = layer(x, training=training)
        (y**3).sum().backward()
        return [y, x.grad, moving(layer)]


@both("model.bfloat16() of a network", 0.1)
def _(layer_class, training):
    model = network(layer_class, training)
    model.bfloat16()
    return model(tensor((6, 4)))


@both("autocast to bfloat16", 0.02)
def _(layer_class, training):
    model = network(layer_class, training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(tensor((6, 4)))
    y.float().sum().backward()
    return y


@both("policy mixed_bfloat16", 0.02)
def _(layer_class, training):
    layer = built(layer_class, dtype="mixed_bfloat16")
    return outcome(layer, tensor().bfloat16().requires_grad_(), training)


@both("default dtype float64")
def _(layer_class, training):
    torch.set_default_dtype(torch.float64)
    try:
        return outcome(built(layer_class), tensor(grad=True), training)
    finally:
        torch.set_default_dtype(torch.float32)


@both("default device")
def _(layer_class, training):
    with torch.device("cpu"):
        return outcome(built(layer_class), tensor(grad=True), training)


@both("meta device")
def _(layer_class, training):
    layer = built(layer_class)
    with keras.device("meta"):
        y = layer(tensor().to("meta"), training=training)
    assert y.is_meta
    return torch.zeros(y.shape)


@both("module to meta and back (to_empty)")
def _(layer_class, training):
    layer = built(layer_class)
    state = layer.state_dict()
    layer.to("meta").to_empty(device="cpu").load_state_dict(state)
    return layer(tensor(), training=training)


@both("shared memory")
def _(layer_class, training):
    layer = built(layer_class)
    layer.share_memory()
    return outcome(layer, tensor().share_memory_().requires_grad_(), training)


@both("deterministic algorithms")
def _(layer_class, training):
    torch.use_deterministic_algorithms(True)
    try:
        return outcome(built(layer_class), tensor(grad=True), training)
    finally:
        torch.use_deterministic_algorithms(False)


# Copies and states.


@both("state_dict saved and loaded")
def _(layer_class, training):
    layer, other = built(layer_class), layer_class(name="other")
    other.build(SHAPE)
    file = io.BytesIO()
    torch.save(list(layer.state_dict().values()), file)
    file.seek(0)
    values = torch.load(file)
    other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
    return outcome(other, tensor(grad=True), training)


@both("deepcopy")
def _(layer_class, training):
    layer = copy.deepcopy(built(layer_class))
    return outcome(layer, tensor(grad=True), training)


@both("pickle")
def _(layer_class, training):
    model = pickle.loads(pickle.dumps(network(layer_class, training)))
    return model(tensor((6, 4)))


@both("torch.save of the module")
def _(layer_class, training):
    file = io.BytesIO()
    torch.save(network(layer_class, training), file)
    file.seek(0)
    return torch.load(file, weights_only=False)(tensor((6, 4)))


@both("averaged model (swa_utils)")
def _(layer_class, training):
    layer = built(layer_class)
    averaged = torch.optim.swa_utils.AveragedModel(layer)
    layer(tensor(), training=True)
    averaged.update_parameters(layer)
    return averaged(tensor(), training=training)


@both("torch optimizer over parameters()")
def _(layer_class, training):
    layer = built(layer_class)
    weights = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, 0.1)
    for seed in range(3):
        optimizer.zero_grad()
        (layer(tensor(seed=seed), training=training) ** 3).sum().backward()
        optimizer.step()
    return [w.value for w in layer.weights]


@both("in a torch.nn.Sequential")
def _(layer_class, training):
    torch.manual_seed(0)
    layer = Call(built(layer_class, (6, 5)), training)
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), layer, torch.nn.ReLU())
    (module(tensor((6, 4))) ** 3).sum().backward()
    return gradients(module)


@both("parametrized neighbour (weight_norm)")
def _(layer_class, training):
    torch.manual_seed(0)
    linear = parametrizations.weight_norm(torch.nn.Linear(4, 5))
    module = torch.nn.Sequential(linear, Call(built(layer_class, (6, 5)), training))
    return module(tensor((6, 4)))


@both("LoRA of a neighbour")
def _(layer_class, training):
    model = network(layer_class, training)
    model.layers[1].enable_lora(2)
    y = model(tensor((6, 4)))
    (y**3).sum().backward()
    return [y, gradients(model)]


@both("dynamic quantization of a neighbour", 0.05)
def _(layer_class, training):
    torch.manual_seed(0)
    layer = Call(built(layer_class, (6, 5)), training)
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear})
    return module(tensor((6, 4)))


@TABLE.row("keras quantization of neighbours, inference", 0.05)
def _(layer_class):
    model = network(layer_class)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of layers it leaves alone
        model.quantize("int8")
    return model(tensor((6, 4)), training=False)


@both("pruned neighbour")
def _(layer_class, training):
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 5)
    prune.l1_unstructured(linear, "weight", 0.3)
    module = torch.nn.Sequential(linear, Call(built(layer_class, (6, 5)), training))
    return module(tensor((6, 4)))


@both("fit", within=1e-4)
def _(layer_class, training):
    model = network(layer_class, training)
    model.compile("sgd", "mse")
    model.fit(draw((32, 4)), draw((32, 2), 1), batch_size=8, verbose=0, shuffle=False)
    return together(model.get_weights())


# torch.func.


@both("torch.func.grad")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    loss = torch.func.grad(lambda x, w: (function(x, w)[0] ** 3).sum(), (0, 1))
    return loss(tensor(), weights)


@both("torch.func.grad with moved statistics aside")
def _(layer_class, training):
    function, weights = pure(layer_class, training)

    def loss(w, x):
        y, moved = function(x, w)
        return (y**3).sum(), moved

    return torch.func.grad(loss, has_aux=True)(weights, tensor())


@both("torch.func.grad of the layer with state")
def _(layer_class, training):
    layer = built(layer_class)
    return torch.func.grad(lambda x: (layer(x, training=training) ** 3).sum())(tensor())


@both("torch.func.vjp")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    y, back = torch.func.vjp(lambda x, w: function(x, w)[0], tensor(), weights)
    return [y, back(tensor(seed=1))]


@both("torch.func.jvp")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    primals = tensor(), weights
    tangents = tensor(seed=1), [torch.ones(3), torch.ones(3)]
    return torch.func.jvp(lambda x, w: function(x, w)[0], primals, tangents)


@both("torch.func.linearize")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its own graph
        y, push = torch.func.linearize(lambda x: function(x, weights)[0], tensor())
    return [y, push(tensor(seed=1))]


@both("dual numbers (forward_ad)")
def _(layer_class, training):
    layer = built(layer_class)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(tensor(), tensor(seed=1))
        y = forward_ad.unpack_dual(layer(x, training=training))
    return [y.primal, y.tangent]


@both("forward over reverse, by dual numbers", 1e-4)
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(tensor(grad=True), tensor(seed=1))
        loss = (function(x, weights)[0] ** 3).sum()
        (dx,) = torch.autograd.grad(loss, x, create_graph=True)
        return [*forward_ad.unpack_dual(dx)]


@both("torch.func.jacrev")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    return torch.func.jacrev(lambda x, w: function(x, w)[0], (0, 1))(tensor(), weights)


@both("torch.func.jacfwd")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    return torch.func.jacfwd(lambda x, w: function(x, w)[0], (0, 1))(tensor(), weights)


@both("torch.func.hessian", 1e-4)
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    return torch.func.hessian(lambda x: (function(x, weights)[0] ** 3).sum())(tensor())


@both("torch.autograd.functional.jacobian")
def _(layer_class, training):
    layer = built(layer_class)
    return torch.autograd.functional.jacobian(
        lambda x: layer(x, training=training), tensor()
    )


@both("torch.autograd.functional.jacobian, vectorized")
def _(layer_class, training):
    layer = built(layer_class)
    return torch.autograd.functional.jacobian(
        lambda x: layer(x, training=training), tensor(), vectorize=True
    )


@both("torch.autograd.functional.jacobian, forward mode")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    return torch.autograd.functional.jacobian(
        lambda x: function(x, weights)[0],
        tensor(),
        vectorize=True,
        strategy="forward-mode",
    )


@both("torch.autograd.functional.hvp", 1e-4)
def _(layer_class, training):
    layer = built(layer_class)
    return torch.autograd.functional.hvp(
        lambda x: (layer(x, training=training) ** 3).sum(), tensor(), tensor(seed=1)
    )


@both("vmap over an ensemble of weights")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    stacked = [torch.stack([w, 2 * w, w + 1]) for w in weights]
    return torch.func.vmap(function, (None, 0))(tensor(), stacked)


@both("vmap over an ensemble of weights and batches")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    stacked = [torch.stack([w, 2 * w, w + 1]) for w in weights]
    return torch.func.vmap(function)(tensor((3, *SHAPE)), stacked)


@both("vmap over an ensemble of statistics")
def _(layer_class, training):
    layer = built(layer_class)
    weights = [v.value.detach() for v in layer.trainable_variables]
    stacked = [torch.stack([v, v + 1]) for v in moving(layer)]

    def call(fixed, x):
        return layer.stateless_call(weights, fixed, x, training=training)

    return torch.func.vmap(call, (0, None))(stacked, tensor())


@both("vmap of an ensemble's gradients")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    stacked = [torch.stack([w, 2 * w, w + 1]) for w in weights]
    grad = torch.func.grad(lambda w, x: (function(x, w)[0] ** 3).sum())
    return torch.func.vmap(grad)(stacked, tensor((3, *SHAPE)))


@both("vmap over batches")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    return torch.func.vmap(lambda x: function(x, weights)[0])(tensor((4, *SHAPE)))


@both("vmap over the last axis")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    call = torch.func.vmap(lambda x: function(x, weights)[0], -1, -1)
    return call(tensor((*SHAPE, 4)))


@both("vmap in chunks")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    call = torch.func.vmap(lambda x: function(x, weights)[0], chunk_size=2)
    return call(tensor((4, *SHAPE)))


@TABLE.row("torch.func.vmap over an ensemble, the layer with state, inference")
def _(layer_class):
    layer = built(layer_class)
    return torch.func.vmap(lambda x: layer(x, training=False))(tensor((4, *SHAPE)))


@both("gradients an example")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    grad = torch.func.grad(lambda w, x: (function(x[None], w)[0] ** 3).sum())
    return torch.func.vmap(grad, (None, 0))(weights, tensor())


@both("gradients an example of images")
def _(layer_class, training):
    shape = (2, 5, 4, 3)
    function, weights = pure(layer_class, training, shape)
    grad = torch.func.grad(lambda w, x: (function(x[None], w)[0] ** 3).sum())
    return torch.func.vmap(grad, (None, 0))(weights, tensor(shape))


@both("functional_call")
def _(layer_class, training):
    layer = built(layer_class)
    state = {k: 2 * v.detach() for k, v in layer.named_parameters()}
    return torch.func.functional_call(layer, state, (tensor(),), {"training": training})


@both("functionalize")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    return torch.func.functionalize(lambda x: function(x, weights)[0])(tensor())


# Traced, compiled, exported.


@both("jit.trace")
def _(layer_class, training):
    module = Call(built(layer_class), training)
    with warnings.catch_warnings():
        # Keras' own `assign` compares sizes, which are tensors here.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(module, tensor(), check_trace=False)
        return [traced(tensor(seed=1)), traced(tensor((9, 3)))]


@both("fx.symbolic_trace")
def _(layer_class, training):
    return torch.fx.symbolic_trace(Call(built(layer_class), training))(tensor())


@both("make_fx")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    make_fx = torch.fx.experimental.proxy_tensor.make_fx
    traced = make_fx(lambda x: function(x, weights)[0])(tensor())
    return traced(tensor(seed=1))


@both("make_fx of a gradient, any sizes")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    make_fx = torch.fx.experimental.proxy_tensor.make_fx
    grad = torch.func.grad(lambda x: (function(x, weights)[0] ** 3).sum())
    traced = make_fx(grad, tracing_mode="symbolic")(tensor())
    return [traced(tensor(seed=1)), traced(tensor((9, 3)))]


@both("fake tensors")
def _(layer_class, training):
    layer = built(layer_class)
    mode = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        function = layer.stateless_call
        y, _ = function(
            [v.value for v in layer.trainable_variables],
            [v.value for v in layer.non_trainable_variables],
            mode.from_tensor(tensor()),
            training=training,
        )
    return torch.zeros(tuple(y.shape))


@both("a dispatch mode that counts operations")
def _(layer_class, training):
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        return outcome(built(layer_class), tensor(grad=True), training)


@both("a function mode")
def _(layer_class, training):
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Mode():
        return outcome(built(layer_class), tensor(grad=True), training)


@both("the profiler")
def _(layer_class, training):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile():
            return outcome(built(layer_class), tensor(grad=True), training)


@both("a subclass of Tensor")
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


def compiled(backend, **options):
    def run(layer_class, training):
        layer, x = built(layer_class), tensor(grad=True)
        with compiler():
            module = Call(layer, training)
            call = torch.compile(module, backend=backend, **options)
            return outcome(layer, x, training, lambda x, training: call(x))

    return run


both("torch.compile(fullgraph), eager")(compiled("eager", fullgraph=True))
both("torch.compile(fullgraph), aot_eager")(compiled("aot_eager", fullgraph=True))
both("torch.compile, aot_eager, dynamic")(compiled("aot_eager", dynamic=True))
compiles("torch.compile(fullgraph), inductor")(compiled("inductor", fullgraph=True))


@both("torch.compile of images, several batch sizes")
def _(layer_class, training):
    module = Call(built(layer_class, (2, 5, 4, 3)), training)
    with compiler():
        call = torch.compile(module, backend="eager")
        return [call(tensor((n, 5, 4, 3))) for n in (2, 3, 5)]


@both("torch.compile of a gradient")
def _(layer_class, training):
    function, weights = pure(layer_class, training)

    def loss(x, w):
        return (function(x, w)[0] ** 3).sum()

    with compiler():
        grad = torch.compile(torch.func.grad(loss, (0, 1)), backend="aot_eager")
        return grad(tensor(), weights)


@compiles("compile(jit_compile=True) and fit", 1e-4)
def _(layer_class, training):
    model = network(layer_class, training)
    with compiler():
        model.compile("sgd", "mse", jit_compile=True)
        x, y = draw((16, 4)), draw((16, 2), 1)
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    return together(model.get_weights())


def exported(strict):
    def run(layer_class, training):
        batch = torch.export.Dim("batch")
        with compiler():
            program = torch.export.export(
                Call(built(layer_class), training),
                (tensor(),),
                dynamic_shapes=({0: batch},),
                strict=strict,
            )
            module = program.module()
            return [module(tensor((n, 3))) for n in (6, 9, 2)]

    return run


both("torch.export, strict, any batch size")(exported(True))
both("torch.export, not strict, any batch size")(exported(False))


@both("torch.export of an image model, fixed sizes")
def _(layer_class, training):
    x = tensor((2, 5, 4, 2))
    with compiler():
        program = torch.export.export(images(layer_class, training), (x,), strict=False)
        return program.module()(x)


@both("torch.export, decomposed")
def _(layer_class, training):
    with compiler():
        module = Call(built(layer_class), training)
        program = torch.export.export(module, (tensor(),), strict=False)
        return program.run_decompositions().module()(tensor())


@compiles("AOTInductor")
def _(layer_class, training):
    with compiler():
        module = Call(built(layer_class), training).eval()
        with torch.no_grad():
            program = torch.export.export(module, (tensor(),), strict=False)
            path = torch._inductor.aoti_compile_and_package(program)
            return torch._inductor.aoti_load_package(path)(tensor())


@both("torch.cond")
def _(layer_class, training):
    function, weights = pure(layer_class, training)
    with compiler():
        return torch.cond(
            torch.tensor(True),
            lambda x: function(x, weights)[0],
            lambda x: x + 1,
            (tensor(),),
        )


def onnx(export, x):
    """What the ONNX program of `export(path)` says of `x`."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX is not installed")
    pytest.importorskip("onnxscript", reason="ONNX is not installed")
    with compiler(), tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        export(path)
        session = runtime.InferenceSession(path)
        (name,) = (one.name for one in session.get_inputs())
        return session.run(None, {name: x.numpy()})


@both("torch.onnx.export")
def _(layer_class, training):
    module, x = Call(built(layer_class), training).eval(), tensor()
    return onnx(lambda path: torch.onnx.export(module, (x,), path, dynamo=True), x)


@both("torch.onnx.export, any batch size")
def _(layer_class, training):
    module = Call(built(layer_class), training).eval()
    batch = torch.export.Dim("batch")

    def export(path):
        torch.onnx.export(
            module, (tensor(),), path, dynamo=True, dynamic_shapes=({0: batch},)
        )

    return onnx(export, tensor((9, 3)))


@TABLE.row("model.export to ONNX, inference")
def _(layer_class):
    model = images(layer_class)
    x = tensor((2, 5, 4, 2))

    def export(path):
        model.export(path, format="onnx", verbose=False)

    return onnx(export, x)


@TABLE.row("model.export to torch, inference")
def _(layer_class):
    model = network(layer_class)
    with compiler(), tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.pt2"
        model.export(path, format="torch", verbose=False)
        return torch.export.load(path).module()(tensor((1, 4)))


@TABLE.row("torch.export saved and loaded, inference")
def _(layer_class):
    with compiler():
        module = Call(built(layer_class), False)
        file = io.BytesIO()
        torch.export.save(torch.export.export(module, (tensor(),)), file)
        file.seek(0)
        return torch.export.load(file).module()(tensor())
