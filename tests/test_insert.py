"""insert_batch_norm: batch norms in their places, all else as it was."""

import functools
import re

import keras
import numpy as np
import pytest
from keras import layers as L

import kbn
from kbn.surgery import copying
from tests.surgical_models import Net, batch, randomized
from tests.test_convert import arrays, assert_close, assert_same, described, weights
from tests.test_fold import on_this_backend

EPSILON = 1e-3
FIRST = functools.partial(L.Conv2D, data_format="channels_first")
# {name: (class, its first arguments, shape of its inputs)}, of 4 channels.
KINDS = {
    "Dense": (L.Dense, [4], (3,)),
    "Dense on sequences": (L.Dense, [4], (5, 3)),
    "Conv1D": (L.Conv1D, [4, 3], (7, 3)),
    "Conv2D": (L.Conv2D, [4, 3], (5, 6, 3)),
    "Conv2D channels first": (FIRST, [4, 3], (3, 5, 6)),
    "Conv3D": (L.Conv3D, [4, 2], (3, 3, 3, 2)),
    "SeparableConv1D": (L.SeparableConv1D, [4, 3], (7, 3)),
    "SeparableConv2D": (L.SeparableConv2D, [4, 3], (5, 6, 3)),
    "DepthwiseConv1D": (L.DepthwiseConv1D, [3], (7, 4)),
    "DepthwiseConv2D": (L.DepthwiseConv2D, [3], (5, 6, 4)),
    "Conv1DTranspose": (L.Conv1DTranspose, [4, 3], (5, 3)),
    "Conv2DTranspose": (L.Conv2DTranspose, [4, 2], (3, 4, 2)),
    "Conv3DTranspose": (L.Conv3DTranspose, [4, 2], (2, 2, 2, 3)),
}
# {name: (activation in the layer, layers behind it)}
ACTIVATIONS = {
    "inside": ("tanh", []),
    "outside": (None, [lambda: L.Activation("tanh", name="outside")]),
    "none": (None, []),
}


def sequential(shape, stack):
    return keras.Sequential([keras.Input(shape), *stack], name="model")


def functional(shape, stack):
    x = keras.Input(shape)
    y = functools.reduce(lambda y, layer: layer(y), stack, x)
    return keras.Model(x, y, name="model")


def nested(shape, stack):
    inner = sequential(shape, stack[:-1])
    inner.name = "inner"
    return functional(shape, [inner, stack[-1]])


def names(model):
    """Of the layers that compute something, in order."""
    inner = [one for layer in model.layers for one in getattr(layer, "layers", [layer])]
    return [one.name for one in inner if not isinstance(one, L.InputLayer)]


def like_before(model, x, tolerance=2e-6, **arguments):
    """The new model, its outputs on x and other inputs compared; `model` untouched."""
    before, description = weights(model), described(model)
    new = kbn.insert_batch_norm(model, like_before=x, **arguments)
    assert_same(weights(model), before)
    assert described(model) == description
    assert not {*map(id, model.variables)} & {*map(id, new.variables)}
    kept = {v.path: v for v in new.variables}
    assert_same(
        [np.array(keras.ops.convert_to_numpy(kept[v.path])) for v in model.variables],
        before,
    )
    for inputs in (x, keras.tree.map_structure(lambda a: a[::-1][:3], x)):
        ours, theirs = (arrays(one(inputs, training=False)) for one in (new, model))
        assert_close(ours, theirs, tolerance)
    return new


@pytest.mark.parametrize("container", [sequential, functional, nested])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_batch_norm_is_undone_by_gamma_and_beta(kind, activation, container):
    cls, given, shape = KINDS[kind]
    axis = 1 if cls is FIRST else -1
    function, others = ACTIVATIONS[activation]
    first = cls(*given, activation=function, use_bias=kind != "Conv2D", name="it")
    stack = [first, *(other() for other in others)]
    model = randomized(container(shape, [*stack, L.Dense(2, name="out")]))
    x = 1 + 3 * batch(40, *shape)
    on_this_backend(model, x)
    new = like_before(model, x, momentum=0.8)
    behind = {"inside": ["it_activation"], "outside": ["outside"], "none": []}
    assert names(new) == ["it", "it_bn", *behind[activation], "out"]
    norm = next(one for one in new._flatten_layers() if one.name == "it_bn")
    assert (type(norm), norm.axis, norm.momentum) == (kbn.BatchNorm, axis, 0.8)

    linear = type(first).from_config({**first.get_config(), "activation": None})
    linear.build((None, *shape))
    linear.set_weights(first.get_weights())
    (z,) = arrays(linear(x))
    over = tuple(i for i in range(z.ndim) if i != axis % z.ndim)
    mean, variance = z.mean(over), z.var(over)
    gamma, beta, *moving = map(np.float64, norm.get_weights())
    assert_close(moving, [mean, variance], 1e-5)
    assert_close([gamma, beta], [np.sqrt(variance + EPSILON), mean], 1e-5)
    # With the statistics of all data as the batch's, and the moving ones after it.
    assert_close(arrays(new(x, training=True)), arrays(model(x)), 2e-5)


def test_normalizes_before_the_activation():
    model = sequential((3,), [L.Dense(4, "sigmoid"), L.Dense(2)])
    new = kbn.insert_batch_norm(model, epsilon=0.5, scale=False)
    x = batch(20, 3)
    (kernel, bias), (last, shift) = (layer.get_weights() for layer in model.layers)
    z = np.float64(x) @ kernel + bias
    z = (z - z.mean(0)) / np.sqrt(z.var(0) + 0.5)
    expected = 1 / (1 + np.exp(-z)) @ last + shift
    assert_close(arrays(new(x, training=True)), [expected], 2e-6)


def regularized(regularizer):
    return L.Dense(4, "relu", activity_regularizer=regularizer)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.Dense(4, L.LeakyReLU(negative_slope=0.3)),
        lambda: L.Dense(4, L.PReLU()),
        lambda: L.Dense(4, lambda x: keras.ops.tanh(x) * 1.5),
        lambda: regularized(keras.regularizers.L2(0.3)),
    ],
    ids=["layer", "layer with weights", "lambda", "regularized"],
)
def test_activation_moves_with_all_that_it_is(layer):
    model = sequential((3,), [layer(), L.Dense(2)])
    x = batch(16, 3)
    model(x)  # which builds an activation with weights
    randomized(model)
    new = kbn.insert_batch_norm(model, like_before=x)
    assert_close(arrays(new(x)), arrays(model(x)), 2e-6)
    losses, before = (arrays(sum(one.losses, 0.0)) for one in (new, model))
    assert_close(losses, before, 2e-6)
    assert (before[0] > 0) == (model.layers[0].activity_regularizer is not None)
    assert model.layers[0].activation is not keras.activations.linear


def test_a_shared_layer_has_one_batch_norm_that_pools_its_calls():
    x, z = keras.Input((3,), name="x"), keras.Input((3,), name="z")
    dense = L.Dense(4, "relu", name="both")
    y = L.Dense(2, name="out")(L.Concatenate()([dense(x), dense(z)]))
    model = randomized(keras.Model([x, z], y))
    data = [batch(50, 3), 3 + batch(50, 3, seed=1)]
    new = like_before(model, data)
    kernel, bias = dense.get_weights()
    z = np.concatenate(data) @ kernel + bias
    moving = new.get_layer("both_bn").get_weights()[2:]
    assert_close(moving, [z.mean(0), z.var(0)], 1e-5)


def test_masked_steps_do_not_count():
    x = keras.Input((6,), dtype="int32")
    y = L.Dense(3, "relu", name="it")(L.Embedding(9, 4, mask_zero=True)(x))
    y = L.GlobalAveragePooling1D()(y)
    model = randomized(keras.Model(x, L.Dense(2)(y)))
    data = np.random.default_rng(0).integers(0, 9, (30, 6)).astype("int32")
    new = like_before(model, data)
    kernel, bias = model.get_layer("it").get_weights()
    (table,) = model.layers[1].get_weights()
    z = table[data[data > 0]] @ kernel + bias
    assert_close(new.get_layer("it_bn").get_weights()[2:], [z.mean(0), z.var(0)], 1e-5)


def test_mixed_precision_is_kept():
    policy = "mixed_bfloat16"
    stack = [L.Dense(4, "relu", dtype=policy, name="it"), L.Dense(2, dtype=policy)]
    model = sequential((3,), stack)
    new = like_before(model, batch(16, 3), 4e-3)  # half a unit in its last place
    for name in ("it_bn", "it_activation"):
        assert new.get_layer(name).dtype_policy.name == policy
    assert {v.dtype for v in new.get_layer("it_bn").weights} == {"float32"}


def test_a_constant_channel_is_passed_on():
    model = sequential((2,), [L.Dense(2, name="it"), L.Dense(1)])
    model.layers[0].set_weights([np.float32([[0, 1], [0, 2]]), np.float32([7, 0])])
    x = batch(16, 2)
    gamma, beta, mean, variance = like_before(model, x).get_layer("it_bn").get_weights()
    assert (beta[0], mean[0], variance[0]) == (7, 7, 0)
    assert_close([gamma[0]], [np.sqrt(EPSILON)])


def net_of_all():
    """Reasons to be left alone: {name: why}, and a model with these layers."""
    frozen = L.Dense(4, "relu", name="frozen", trainable=False)
    tower = sequential((4,), [L.Dense(4, "relu", name="in"), L.Dense(4, name="end")])
    tower.name = "tower"
    x = keras.Input((4,))
    y = frozen(L.TimeDistributed(L.Dense(4))(x[:, None])[:, 0])
    y = L.BatchNormalization()(L.ReLU()(L.Dense(4, name="normed")(y)))
    y = L.LayerNormalization()(L.Add()([L.Dropout(0.1)(L.Dense(4, name="ln")(y)), y]))
    y = tower(tower(y))
    y = keras.ops.relu(L.Dense(4, name="fit")(y))
    last = L.Reshape((2, 1))(L.Softmax()(L.Dense(2, name="out")(L.ReLU()(y))))
    model = keras.Model(x, {"last": last, "side": L.Dense(1, name="side")(y)})
    reasons = dict.fromkeys(["normed", "ln"], "is normalized already")
    reasons |= dict.fromkeys(["tower/end", "out", "side"], "gives an output")
    return {"frozen": "is frozen", **reasons}, model


def inserted(model, **arguments):
    new = kbn.insert_batch_norm(model, **arguments)
    return {one.name[:-3] for one in new._flatten_layers() if one.name[-3:] == "_bn"}


def test_layers_that_are_left_alone():
    reasons, model = net_of_all()
    assert inserted(model) == {"in", "fit"}
    with pytest.raises(ValueError, match="there is no place") as error:
        kbn.insert_batch_norm(model, where="^no")
    for name, reason in {**reasons, "fit": "is not picked"}.items():
        assert f"'{name}' {reason}" in str(error.value)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("^(tower/|fit|out)", {"in", "fit"}),
        (lambda layer: layer.name in ("fit", "out"), {"fit"}),
        (["out", "frozen", "tower/end"], {"out", "frozen", "end"}),
        (("normed",), {"normed"}),
    ],
    ids=["regular expression", "function", "list of names", "tuple"],
)
def test_where(where, found):
    assert inserted(net_of_all()[1], where=where) == found


def small():
    return sequential((3,), [L.Dense(4, "relu", name="a"), L.Dense(2, name="out")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"where": "b"}, "(where='b'): there is no place for a batch norm in 'model': "
         "'a' is not picked, 'out' gives an output."),
        ({"where": []}, "there is no place"),
        ({"where": ["b"]}, "'b' is no Dense layer or convolution of 'model', which has "
         "a, out."),
        ({"where": "("}, "where is no regular expression: missing )"),
        ({"where": 3}, "where=3): where must be a regular expression, a list of"),
        ({"steps_per_epoch": 3}, "An epoch of 3 steps is too short for any momentum"),
        ({"steps_per_epoch": 0}, "steps_per_epoch to be an integer from 1, received 0"),
        ({"steps_per_epoch": 9, "momentum": 0.9}, "or momentum, not both"),
        ({"like_before": True}, "like_before=True is no data. Did you mean like"),
        ({"like_before": batch(4, 3), "scale": False}, "like_before needs gamma and"),
        ({"like_before": batch(0, 3)}, "There is no batch in `data`."),
    ],
)  # fmt: skip
def test_what_is_refused(arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        kbn.insert_batch_norm(small(), **arguments)


def test_models_that_cannot_be_rewired():
    with pytest.raises(
        ValueError, match=r"rewire 'net' \(Net\).* call a kbn.BatchNorm"
    ):
        kbn.insert_batch_norm(Net(name="net"))
    with pytest.raises(ValueError, match="give it a keras"):
        kbn.insert_batch_norm(keras.Sequential([L.Dense(3), L.Dense(2)]))
    with pytest.raises(ValueError, match="batch norm in 'model': it has no such"):
        kbn.insert_batch_norm(sequential((3,), [L.ReLU()]))


@pytest.mark.parametrize(("steps", "momentum"), [(4, 0.5), (25, 0.9), (1000, 0.99)])
def test_momentum_fits_the_epoch(steps, momentum):
    new = kbn.insert_batch_norm(small(), steps_per_epoch=steps)
    assert new.get_layer("a_bn").momentum == momentum


def test_compiled_trained_saved_and_inserted_once(tmp_path):
    model = sequential((3,), [L.Dense(4, "relu", name="a"), L.Dense(2, name="a_bn")])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x, y = batch(32, 3), batch(32, 2, seed=1)
    model.fit(x, y, verbose=0)
    new = kbn.insert_batch_norm(model, like_before=x)
    assert names(new) == ["a", "a_bn_1", "a_activation", "a_bn"]
    theirs, ours = (one.evaluate(x, y, verbose=0) for one in (model, new))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    before = new.get_layer("a_bn_1").get_weights()
    losses = new.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for old, now in zip(before, new.get_layer("a_bn_1").get_weights(), strict=True):
        assert np.all(old != now)
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    assert_same(arrays(loaded(x)), arrays(new(x)))
    with pytest.raises(ValueError, match="'a' is normalized already"):
        kbn.insert_batch_norm(new)


def test_a_layer_with_lora_has_its_own_matrices():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="out")])
    model.layers[0].enable_lora(2)
    twin, _ = copying.copy(model)
    for given, made in zip(model.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(given), keras.ops.convert_to_numpy(made)
        )


class Nameless(keras.layers.Layer):
    """Its constructor takes nothing of Keras' own."""

    def __init__(self, units):
        super().__init__()
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x)


def test_a_class_whose_constructor_takes_no_name_is_copied():
    model = keras.Sequential([keras.Input((4,)), Nameless(3)])
    model.layers[0].trainable = False
    twin, _ = copying.copy(model)
    assert twin.layers[0].name == model.layers[0].name
    assert not twin.trainable_variables
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model(x)), keras.ops.convert_to_numpy(twin(x))
    )
