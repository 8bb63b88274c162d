"""fold_batch_norm: the same outputs in inference, from fewer layers."""

import re
from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from tests.cases import BACKEND
from tests.defects import is_reached
from tests.surgical_models import MAKERS, Net, batch, made, norm, randomized
from tests.test_convert import arrays, assert_close, assert_same, described, weights

NORMS = {"Keras": keras.layers.BatchNormalization, "kbn": kbn.BatchNorm}
# Both models compute in float32: their roundings differ by a few of its 1.2e-7.
TOLERANCE = 5e-6


def on_this_backend(model, x):
    """Skip what Keras cannot run here."""
    try:
        model(x, training=False)
    except Exception as error:
        if BACKEND == "tensorflow" and "NHWC" in str(error):
            pytest.skip("TensorFlow has no such convolution on a CPU")
        raise


def folded_like(model, x, tolerance=TOLERANCE):
    """The folded model, its outputs compared, the original untouched."""
    on_this_backend(model, x)
    before, description = weights(model), described(model)
    folded = kbn.fold_batch_norm(model)
    assert_same(weights(model), before)
    assert described(model) == description
    assert not {*map(id, model.variables)} & {*map(id, folded.variables)}
    assert_close(
        arrays(folded(x, training=False)), arrays(model(x, training=False)), tolerance
    )
    assert folded.folding.difference < tolerance
    norms = [
        layer
        for layer in folded._flatten_layers()
        if isinstance(layer, tuple(NORMS.values()))
    ]
    assert len(norms) == len(folded.folding.left)
    return folded


L = layers
# Keras 3.14 forgets this argument in a config, so a copy has another shape.
KEEPS = "output_padding" in L.Conv2DTranspose(1, 1).get_config()
PADDED = {"output_padding": 1} if KEEPS else {}
ONES = {"strides": 2, "padding": "same", "activation": "relu"}
CAUSAL = {"padding": "causal"}
SAME = {"padding": "same"}
TWO, THREE = {"depth_multiplier": 2}, {"depth_multiplier": 3}
# What takes up a batch norm: {name: (class, first arguments, others, inputs, axis)}.
EITHER = {
    "Dense": (L.Dense, [5], {}, (4,), -1),
    "Dense rank 4": (L.Dense, [5], {}, (3, 2, 4), 3),
    "Conv1D dilation": (L.Conv1D, [5, 3], {"dilation_rate": 2}, (9, 4), -1),
    "Conv2D strides": (L.Conv2D, [6, (3, 2), 2], {}, (9, 8, 4), -1),
    "Conv2D groups": (L.Conv2D, [6, 3], {"groups": 2}, (8, 8, 4), 3),
    "Conv3D": (L.Conv3D, [3, 2], {}, (4, 4, 4, 2), -1),
    "DepthwiseConv1D": (L.DepthwiseConv1D, [3], TWO, (7, 4), -1),
    "DepthwiseConv2D": (L.DepthwiseConv2D, [3, 2], THREE, (8, 8, 4), -1),
    "SeparableConv1D": (L.SeparableConv1D, [5, 3], TWO, (7, 4), -1),
    "SeparableConv2D": (L.SeparableConv2D, [5, 3], {}, (8, 8, 4), -1),
    "Conv1D first": (L.Conv1D, [6, 3], {}, (4, 7), 1),
    "Conv2D first": (L.Conv2D, [8, 3], {}, (4, 8, 8), 1),
    "Conv2D groups first": (L.Conv2D, [8, 3], {"groups": 2}, (4, 8, 8), 1),
    "Conv3D first": (L.Conv3D, [4, 2], {}, (2, 4, 4, 4), 1),
    "DepthwiseConv2D first": (L.DepthwiseConv2D, [3], TWO, (4, 8, 8), 1),
    "SeparableConv2D first": (L.SeparableConv2D, [5, 3], {}, (4, 8, 8), 1),
}
# Of a batch norm behind it: what it pads, it pads before it is normalized.
AFTER = EITHER | {
    "Conv1D same": (L.Conv1D, [5, 3], SAME, (7, 4), -1),
    "Conv1D causal": (L.Conv1D, [5, 3], CAUSAL | {"dilation_rate": 2}, (7, 4), 2),
    "Conv2D same": (L.Conv2D, [6, 3], SAME | {"dilation_rate": 2}, (9, 8, 4), -1),
    "Conv1DTranspose": (L.Conv1DTranspose, [5, 3, 2], SAME, (6, 4), -1),
    "Conv2DTranspose": (L.Conv2DTranspose, [5, 3, 2], PADDED, (5, 6, 4), -1),
    "Conv2DTranspose first": (L.Conv2DTranspose, [5, 3], {}, (4, 5, 6), 1),
    "Conv3DTranspose": (L.Conv3DTranspose, [3, 2], {}, (3, 3, 3, 2), 4),
    "DepthwiseConv2D same": (L.DepthwiseConv2D, [3, 2], SAME, (8, 8, 4), -1),
    "SeparableConv2D same": (L.SeparableConv2D, [5, 3], SAME, (8, 8, 4), -1),
}
# Of one before it: a window of one has no border, and its activation is no hindrance.
BEFORE = EITHER | {
    "Dense with ReLU": (L.Dense, [5], {"activation": "relu"}, (3, 4), 2),
    "Conv2D of one": (L.Conv2D, [6, 1], ONES, (7, 8, 4), -1),
    "Conv1D causal of one": (L.Conv1D, [6, 1], CAUSAL, (7, 4), -1),
}


def layer_of(cls, given, more, shape, axis, bias):
    order = {"data_format": "channels_first"} if axis == 1 else {}
    return cls(*given, use_bias=bias, **more, **order)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", AFTER)
def test_layers_take_up_the_batch_norm_behind_them(name, bias):
    *_, shape, axis = AFTER[name]
    kind = NORMS["Keras" if bias else "kbn"]
    x = keras.Input(shape)
    y = kind(axis=axis, name="norm")(layer_of(*AFTER[name], bias)(x))
    model = randomized(keras.Model(x, layers.ReLU()(y)))
    folded = folded_like(model, batch(3, *shape))
    (fold,) = folded.folding
    assert fold == ("norm", model.layers[1].name, "")
    kinds = [type(layer) for layer in folded.layers[1:]]
    assert kinds == [type(model.layers[1]), layers.ReLU]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", BEFORE)
def test_layers_take_up_the_batch_norm_before_them(name, bias):
    *_, shape, axis = BEFORE[name]
    kind = NORMS["kbn" if bias else "Keras"]
    pair = [kind(axis=axis, name="norm"), layer_of(*BEFORE[name], bias)]
    model = keras.Sequential([keras.Input(shape), *pair])
    folded = folded_like(randomized(model), batch(3, *shape))
    assert [fold.into for fold in folded.folding] == [model.layers[1].name]
    assert len(folded.layers) == 1


POOLS = {
    1: (L.GlobalAveragePooling1D, (6, 4), (4, 6)),
    2: (L.GlobalAveragePooling2D, (5, 6, 4), (4, 5, 6)),
    3: (L.GlobalAveragePooling3D, (2, 3, 5, 4), (4, 2, 3, 5)),
}


@pytest.mark.parametrize(
    ("rank", "first", "keepdims"),
    [(1, False, False), (2, True, False), (2, False, True), (3, False, False)],
)
def test_dense_takes_up_a_batch_norm_before_global_average_pooling(
    rank, first, keepdims
):
    pool, *shapes = POOLS[rank]
    order = "channels_first" if first else "channels_last"
    stack = [
        norm(axis=1 if first else -1, name="norm"),
        pool(keepdims=keepdims, data_format=order),
        layers.Dropout(0.5),
        layers.Dense(5, "relu", name="dense"),
    ]
    model = randomized(keras.Sequential([keras.Input(shapes[first]), *stack]))
    folded = folded_like(model, batch(3, *shapes[first]))
    assert folded.folding.folds == (("norm", "dense", ""),)
    assert [type(one) for one in folded.layers] == [pool, layers.Dropout, layers.Dense]


def test_pooling_stays_apart_where_it_is_read_twice_or_of_other_axes():
    x = keras.Input((4, 6, 5))
    pooled = layers.GlobalAveragePooling2D(name="pool")(norm(name="norm")(x))
    twice = keras.Model(x, [layers.Dense(2)(pooled), pooled])
    odd = layers.GlobalAveragePooling2D(name="pool")(norm(axis=1, name="norm")(x))
    largest = layers.GlobalMaxPooling2D(name="pool")(norm(name="norm")(x))
    for model, reason in (
        (twice, "it gives an output"),
        (keras.Model(x, layers.Dense(2)(odd)), "'pool' behind it takes means over"),
        (keras.Model(x, layers.Dense(2)(largest)), r"'pool' \(Global.* cannot take it"),
    ):
        (left,) = kbn.fold_batch_norm(randomized(model)).folding.left
        assert re.search(reason, left.reason)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(center=False),
        dict(scale=False),
        dict(center=False, scale=False),
        dict(epsilon=0.3),
        dict(renorm=True),
        dict(trainable=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", NORMS)
def test_every_argument_of_the_batch_norm(kind, arguments):
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            NORMS[kind](**arguments),
            layers.Conv1D(3, 2),
            NORMS[kind](**arguments),
        ]
    )
    folded = folded_like(randomized(model), batch(5, 6, 4))
    assert len(folded.folding.folded) == 2


def test_every_option_of_a_layer_is_kept():
    options = dict(
        kernel_regularizer=keras.regularizers.L2(0.01),
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        kernel_constraint=keras.constraints.MaxNorm(5),
        strides=2,
        padding="same",
    )
    conv = layers.Conv2D(3, 3, use_bias=False, name="conv", **options)
    conv.trainable = False
    x = keras.Input((8, 8, 2))
    model = randomized(keras.Model(x, norm()(conv(x)), name="model"))
    folded = folded_like(model, batch(2, 8, 8, 2))
    assert folded.name == "model"
    theirs, ours = conv.get_config(), folded.get_layer("conv").get_config()
    assert {key for key in ours if ours[key] != theirs[key]} == {"use_bias"}
    assert not folded.get_layer("conv").trainable
    assert not folded.trainable_variables


class MyDense(layers.Dense):
    """It may do anything."""


class MyNorm(keras.layers.BatchNormalization):
    """It may do anything."""


def dense(units=3, **more):
    return L.Dense(units, **more)


def twice(call, x):
    return call(call(x))


def read_twice(x, *also):
    """A batch norm behind a layer of which more is read."""
    y = dense()(x)
    return [norm()(y), *(one(y) for one in also)]


def block(*inner):
    return keras.Sequential([keras.Input((4,)), *inner], name="block")


def within(model):
    x = keras.Input((4,))
    return keras.Model(x, model(x))


def changed(layer, change):
    """A batch norm behind a layer that is changed afterwards."""

    def build(x):
        y = norm()(layer(x))
        change(layer)
        return y

    return build


def not_finite(x):
    normal = norm()
    y = normal(dense(2)(x))
    normal.moving_variance.assign([np.nan, 1])
    return y


def shared_norm(x):
    shared = norm()
    return shared(dense()(x)) + shared(dense()(x))


# Where folding is not exact: {name: (inputs, model of them, what the reason says)}.
FLAT, ROWS, IMAGE = (4,), (3, 4), (6, 6, 3)
READ, TRAINS = "'dense'.*read elsewhere", "called with training=True"
BEHIND = r"\({}\) before it cannot"
STAYS = {
    "activation between": (FLAT, lambda x: norm()(L.ReLU()(dense()(x))), "'re_lu' "),
    "activation in the layer": (
        FLAT,
        lambda x: norm()(dense(activation="tanh")(x)),
        "'dense'.*has an activation",
    ),
    "read elsewhere": (FLAT, lambda x: read_twice(x, L.ReLU()), READ),
    "read by an operation": (FLAT, lambda x: read_twice(x, keras.ops.sum), READ),
    "an output itself": (FLAT, lambda x: read_twice(x, lambda y: y), READ),
    "layer called twice": (
        FLAT,
        lambda x: norm()(twice(dense(4), x)),
        "'dense'.*is called 2 times",
    ),
    "batch norm called twice": (FLAT, shared_norm, "it is called 2 times"),
    "in training always": (FLAT, lambda x: norm()(dense()(x), training=True), TRAINS),
    "model in training always": (
        FLAT,
        lambda x: within(block(dense(), norm()))(x, training=True),
        TRAINS,
    ),
    "dropout in training always": (
        FLAT,
        lambda x: norm()(L.Dropout(0.5)(dense()(x), training=True)),
        BEHIND.format("Dropout"),
    ),
    "other axis": (
        IMAGE,
        lambda x: norm(axis=1)(L.Conv2D(4, 3)(x)),
        "channels on axis 3.* on 1",
    ),
    "several axes": (
        ROWS,
        lambda x: kbn.BatchNorm(axis=[1, 2])(dense()(x)),
        "on axis 2.* on 1, 2",
    ),
    "einsum": (
        ROWS,
        lambda x: norm()(L.EinsumDense("abc,cd->abd", (3, 5))(x)),
        BEHIND.format("EinsumDense"),
    ),
    "before a padded convolution": (
        IMAGE,
        lambda x: L.Conv2D(4, 3, padding="same")(norm()(x)),
        "before it is an input; 'conv2d'.* behind it pads its inputs",
    ),
    "before a transposed convolution": (
        IMAGE,
        lambda x: L.Conv2DTranspose(4, 3)(norm()(x)),
        "sums over a part of its window at the border",
    ),
    "before padding": (
        IMAGE,
        lambda x: L.Conv2D(4, 3)(L.ZeroPadding2D()(norm()(x))),
        r"\(ZeroPadding2D\) behind it cannot",
    ),
    "before two layers": (
        FLAT,
        lambda x: (lambda y: dense()(y) + dense()(y))(norm()(x)),
        "2 calls read it",
    ),
    "before a layer and an output": (
        FLAT,
        lambda x: (lambda y: [dense()(y), y])(norm()(x)),
        "it gives an output",
    ),
    "regularized output": (
        FLAT,
        lambda x: norm()(dense(activity_regularizer="l2")(x)),
        "'dense'.*regularizer of its output",
    ),
    "regularized normal output": (
        FLAT,
        lambda x: norm(activity_regularizer="l2")(dense()(x)),
        "^it has a regularizer of its output",
    ),
    "another dtype": (
        FLAT,
        lambda x: norm(dtype="float32")(dense(dtype="mixed_bfloat16")(x)),
        "computes in bfloat16, and it in float32",
    ),
    "a wrapper": (
        ROWS,
        lambda x: norm()(L.TimeDistributed(dense())(x)),
        BEHIND.format("TimeDistributed"),
    ),
    "in a wrapper": (
        ROWS,
        lambda x: L.TimeDistributed(norm())(x),
        "'time_distributed'.* code of its own",
    ),
    "a layer of the users": (FLAT, lambda x: norm()(MyDense(3)(x)), "MyDense. before"),
    "a batch norm of the users": (
        FLAT,
        lambda x: MyNorm()(dense()(x)),
        "MyNorm is a class of its own",
    ),
    "a subclassed model inside": (
        FLAT,
        lambda x: Net()(x),
        r"'net' \(Net\) calls it in code of its own",
    ),
    "lora": (
        FLAT,
        lambda x: changed(dense(), lambda layer: layer.enable_lora(2))(x),
        "'dense'.*has LoRA weights",
    ),
    "quantized": (
        (16,),
        lambda x: changed(dense(4), lambda layer: layer.quantize("int8"))(x),
        "'dense'.*is quantized",
    ),
    "not finite": (FLAT, not_finite, "statistics are not finite"),
    "called twice in a model": (
        FLAT,
        lambda x: norm()(twice(block(dense(4)), x)),
        "'block'.* is called 2 times",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_would_not_be_exact_stays_and_says_why(name):
    shape, build, reason = STAYS[name]
    x = keras.Input(shape)
    model = keras.Model(x, build(x))
    if name not in ("quantized", "not finite"):
        randomized(model)
    folded = folded_like(model, batch(3, *shape))
    assert not folded.folding.folded
    for fold in folded.folding.left:
        assert fold.into is None
        assert re.search(reason, fold.reason), fold.reason
    assert len(folded.folding) == len(folded.folding.left) > 0


def test_a_bias_that_keras_would_add_elsewhere_is_not_made():
    # Keras before 3.16 on TensorFlow: outputs (6, 6, 6), a bias of 6 for axis 1.
    conv = layers.Conv2D(6, 3, groups=2, use_bias=False, data_format="channels_first")
    square = randomized(
        keras.Sequential([keras.Input((4, 8, 8)), conv, norm(axis=1, name="norm")])
    )
    (fold,) = folded_like(square, batch(3, 4, 8, 8)).folding
    if BACKEND == "tensorflow" and not is_reached("keras 3.16"):
        assert "added along the last axis" in fold.reason
    else:
        assert fold.into


# Models in which more than a pair is folded: {name: (shape, model of x, folded, left)}.
def _chain(x):
    y = norm(name="a")(x)
    y = norm(name="b")(y)
    y = norm(name="d")(norm(name="c")(layers.Dense(4)(y)))
    return layers.ReLU()(layers.Dense(3)(norm(name="e")(layers.Dropout(0.3)(y))))


def _dropout_between(x):
    y = layers.GaussianNoise(1.0)(layers.Dropout(0.5)(layers.Dense(3)(x)))
    y = layers.Activation("linear")(y)
    return layers.ReLU()(norm()(y))


def _branches(x):
    a, b = norm()(layers.Dense(3)(x)), norm()(layers.Dense(3, use_bias=False)(x))
    return layers.Add()([a, layers.ReLU()(b)])


def _in_a_model_called_twice(x):
    i = keras.Input((4,))
    block = keras.Model(i, layers.ReLU()(norm()(layers.Dense(4)(i))))
    return block(block(x))


def _behind_a_model(x):
    block = keras.Sequential([keras.Input((4,)), layers.ReLU(), layers.Dense(3)])
    return norm()(block(x))


def _before_a_model(x):
    block = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.ReLU()])
    return block(norm()(layers.ReLU()(layers.Dense(3)(x))))


def _alone_in_a_model(x):
    alone = keras.Sequential([keras.Input((3,)), norm(name="alone")])
    i = keras.Input((3,))
    functional = keras.Model(i, norm(name="single")(i))
    return layers.ReLU()(functional(layers.Dropout(0.1)(alone(layers.Dense(3)(x)))))


def _first_and_last_in_models(x):
    i = keras.Input((4,))
    first = keras.Model(i, layers.Dense(3)(layers.ReLU()(norm()(i))))
    j, k = keras.Input((3,), name="j"), keras.Input((3,), name="k")
    last = keras.Model({"j": j, "k": k}, [norm()(j), k])
    y = layers.Dense(4)(x)
    a, b = last({"j": first(y), "k": layers.Dense(3)(x)})
    return a + b


def _deep(x):
    def block(depth):
        i = keras.Input((4,))
        y = block(depth - 1)(i) if depth else i
        return keras.Model(i, norm()(layers.Dense(4)(y)))

    return block(2)(x)


def _same_tensor_twice(x):
    y = norm()(layers.Dense(3)(x))
    return [y, y, layers.Concatenate()([y, y])]


def _fixed_inference(x):
    return layers.ReLU()(norm()(training=False, inputs=layers.Dense(3)(x)))


CHAINS = {
    f.__name__.strip("_"): (f, folded)
    for f, folded in (
        (_chain, 5),
        (_dropout_between, 1),
        (_branches, 2),
        (_in_a_model_called_twice, 1),
        (_behind_a_model, 1),
        (_before_a_model, 1),
        (_alone_in_a_model, 2),
        (_first_and_last_in_models, 2),
        (_deep, 3),
        (_same_tensor_twice, 1),
        (_fixed_inference, 1),
    )
}


@pytest.mark.parametrize("name", CHAINS)
def test_graphs_fold_through_chains_branches_and_models(name):
    build, folded_count = CHAINS[name]
    x = keras.Input((4,))
    model = randomized(keras.Model(x, build(x)))
    folded = folded_like(model, batch(6, 4))
    assert len(folded.folding.folded) == folded_count
    assert not folded.folding.left


FOLDED = {  # of the models that conversions are tested on
    "sequential": 2,
    "built_by_a_call": 1,
    "branches": 2,
    "shared_layers": 0,
    "nested": 2,
    "shared_between_levels": 0,
    "several_inputs_and_outputs": 1,
    "called_with_arguments": 2,
    "masked": 1,
    "wrapped": 0,
    "functions_of_the_users": 0,
    "channels_first": 0,
    "all_arguments": 2,
    "mixed_precision": 1,
    "narrow_weights": 0,
    "partly_frozen": 2,
    "random_layers": 1,
    "adapted": 0,
    "custom_layers": 0,
    "functional_subclass": 1,
    "functional_by_config": 1,
}
SUBCLASSED = ("subclassed", "subclassed_of_dictionaries")


@pytest.mark.parametrize("name", FOLDED)
def test_models_of_every_build_fold(name):
    model, x = made(name)
    tolerance = 3e-2 if name == "mixed_precision" else TOLERANCE
    folded = folded_like(model, x, tolerance)
    assert len(folded.folding.folded) == FOLDED[name]
    converted = kbn.convert_batch_norm(model)
    again = kbn.fold_batch_norm(converted)
    assert len(again.folding.folded) == FOLDED[name]
    assert_close(arrays(again(x)), arrays(model(x)), max(tolerance, 2e-5))


def test_every_model_is_named():
    assert FOLDED.keys() | set(SUBCLASSED) == MAKERS.keys()


@pytest.mark.parametrize("name", SUBCLASSED)
def test_subclassed_models_are_refused_by_name(name):
    model, _ = made(name)
    before = weights(model)
    with pytest.raises(ValueError, match=rf"'{model.name}' \({type(model).__name__}\)"):
        kbn.fold_batch_norm(model)
    assert_same(weights(model), before)


def test_what_has_no_shapes_yet_is_refused():
    model = keras.Sequential([layers.Dense(3), norm()], name="unbuilt")
    with pytest.raises(ValueError, match=r"'unbuilt'.*call it first"):
        kbn.fold_batch_norm(model)
    with pytest.raises(ValueError, match=r"expects a Keras model or layer.* type str"):
        kbn.fold_batch_norm("model")


def test_folding_lists_all_and_prints(capsys):
    x = keras.Input((4,))
    block = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="dense"), norm(name="one")],
        name="block",
    )
    y = norm(name="two")(layers.ReLU(name="relu")(block(x)))
    model = randomized(keras.Model(x, y))
    folded = kbn.fold_batch_norm(model)
    assert capsys.readouterr().out == ""
    first, second = folded.folding
    assert first == ("block/one", "block/dense", "")
    assert second[:2] == ("two", None)
    assert second.reason == (
        "'relu' (ReLU) before it cannot take it up; it gives an output"
    )
    assert folded.folding.folded == (first,)
    assert folded.folding.left == (second,)
    kbn.fold_batch_norm(model, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "1 of 2 batch norms folded.",
        "  block/one -> block/dense",
        f"  two stays: {second.reason}",
    ]
    assert re.fullmatch(r"Outputs on a probe batch differ by \S+ of the .*", lines[3])
    assert len(lines) == 4


def test_the_probe_may_be_given():
    model = randomized(keras.Sequential([keras.Input((4,)), layers.Dense(3), norm()]))
    seen = []

    class Spy(layers.Layer):
        def call(self, x):
            seen.append(tuple(x.shape))
            return x

        def compute_output_shape(self, shape):
            return shape

    model = keras.Sequential([*model.layers, Spy()])
    model.build((None, 4))
    folded = kbn.fold_batch_norm(model, probe=batch(7, 4))
    assert (7, 3) in seen
    assert folded.folding.difference < TOLERANCE


def test_a_difference_is_seen_and_said():
    class Odd(layers.Layer):
        """Every copy of it is another."""

        made = 0

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            Odd.made += 1
            self.factor = Odd.made

        def call(self, x):
            return x * self.factor

    model = keras.Sequential([keras.Input((4,)), Odd(), layers.Dense(2), norm()])
    folded = kbn.fold_batch_norm(model)
    assert folded.folding.difference > 0.1
    assert f"{folded.folding.difference:.1e}" in str(folded.folding)


@pytest.mark.parametrize("shape", [(None, None, 3), (None, 3)])
def test_open_sizes_are_probed(shape):
    kind = layers.Conv2D if len(shape) == 3 else layers.Conv1D
    model = keras.Sequential(
        [keras.Input(shape), kind(4, 3), norm(), kind(2, 40), layers.ReLU()]
    )
    folded = kbn.fold_batch_norm(randomized(model))
    assert 0 < folded.folding.difference < TOLERANCE


def test_what_cannot_be_probed_says_so():
    x = keras.Input((None,))
    fixed = layers.Reshape((17,))(x)
    folded = kbn.fold_batch_norm(
        keras.Model(x, norm()(layers.Dense(2)(layers.Flatten()(fixed))))
    )
    assert folded.folding.difference is None
    assert "were not compared: " in str(folded.folding)
    assert folded.folding.folded


def test_the_original_is_run_without_a_trace():
    # training=True fixed in a call: running it would move its statistics.
    x = keras.Input((4,))
    y = norm(momentum=0.0)(layers.Dense(3)(x), training=True)
    y = layers.Dropout(0.5, seed=1)(y, training=True)
    model = keras.Model(x, norm()(layers.Dense(2)(y)))
    before = weights(model)
    folded = kbn.fold_batch_norm(model)
    assert_same(weights(model), before)
    assert len(folded.folding.folded) == 1


def test_an_error_leaves_the_original_intact():
    class Unmade(layers.Layer):
        """It has no config."""

        def __init__(self, function):
            super().__init__(name="unmade")
            self.function = function

        def call(self, x):
            return self.function(x)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), norm(), Unmade(abs)])
    randomized(model)
    x, before, description = batch(3, 4), weights(model), described(model)
    y = arrays(model(x))
    with pytest.raises(ValueError, match=r"'unmade'.*cannot be copied"):
        kbn.fold_batch_norm(model)
    assert_same(weights(model), before)
    assert described(model) == description
    assert_same(arrays(model(x)), y)


def test_folded_is_compiled_and_evaluates_alike():
    x, y = batch(12, 4), batch(12, 1, seed=1)
    i = keras.Input((4,))
    model = keras.Model(i, norm(name="out")(layers.Dense(1)(norm()(i))))
    model.compile("sgd", {"out": "mse"}, metrics=["mae"])
    model.fit(x, y, verbose=0)
    folded = kbn.fold_batch_norm(model)
    assert [type(layer) for layer in folded.layers[1:]] == [layers.Dense]
    ours, theirs = (
        one.evaluate(x, y, verbose=0, return_dict=True) for one in (folded, model)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert_close([folded.predict(x, verbose=0)], [model.predict(x, verbose=0)])


def test_folded_can_be_saved_and_loaded(tmp_path):
    model, x = made("sequential")
    folded = kbn.fold_batch_norm(model)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.saving.load_model(tmp_path / "folded.keras")
    assert len(loaded.layers) == len(model.layers) - 2
    assert_close(arrays(loaded(x)), arrays(folded(x)), 1e-6)


def test_scales_are_computed_in_float64():
    # mean * scale and beta cancel: in float32 the shift would lose three digits.
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1), norm(epsilon=1e-7)])
    model.layers[0].set_weights([np.ones((1, 1)), np.zeros(1)])
    gamma, beta, mean, variance = (
        np.array([value], "float32") for value in (3.1, 3.1e4, 1e4 + 0.5, 1.0)
    )
    model.layers[1].set_weights([gamma, beta, mean, variance])
    folded = kbn.fold_batch_norm(model)
    exact = np.float64(beta) - np.float64(mean) * np.float64(gamma) / np.sqrt(
        np.float64(variance) + 1e-7
    )
    np.testing.assert_array_equal(arrays(folded.layers[0].bias)[0], np.float32(exact))


def random_graph(seed):
    """A functional model of random layers, batch norms among them."""
    rng = np.random.default_rng(seed)

    def pick(*options):
        return options[rng.integers(len(options))]

    def layer(x):
        """A layer on x, or an operation: what may stand around a batch norm."""
        rank, bias = len(x.shape), bool(rng.integers(2))
        conv, separable = (
            (L.Conv1D, L.SeparableConv1D)
            if rank == 3
            else (L.Conv2D, L.SeparableConv2D)
        )
        depthwise = L.DepthwiseConv1D if rank == 3 else L.DepthwiseConv2D
        act, pad = pick(None, None, None, "relu"), pick("same", "valid")
        size = pick(1, 2, 3)
        small = min(x.shape[1:-1]) < 4
        pad = "same" if small else pad
        options = dict(use_bias=bias, activation=act, padding=pad)
        norms = [norm, kbn.BatchNorm]
        return pick(
            *[pick(*norms)(axis=pick(-1, -1, -1, rank - 1, 1))] * 5,
            conv(4, size, **options),
            conv(4, size, groups=2, **options),
            depthwise(size, **options),
            separable(4, size, **options),
            L.Dense(4, act, use_bias=bias),
            L.Dropout(0.5),
            L.ReLU(),
            L.Activation("linear"),
        )(x)

    shape = pick((8, 4), (8, 8, 4))
    x = keras.Input(shape)
    values = [x]
    for _ in range(rng.integers(4, 12)):
        # Mostly a chain, with branches and sums.
        value = values[-1] if rng.random() < 0.7 else pick(*values)
        same = [one for one in values if one.shape == value.shape and one is not value]
        if same and rng.random() < 0.15:
            values.append(layers.Add()([value, pick(*same)]))
        elif rng.random() < 0.15:
            inner = keras.Input(value.shape[1:])
            block = keras.Model(inner, layer(layer(inner)))
            values.append(block(value))
            if block.output.shape == value.shape and rng.random() < 0.3:
                values.append(block(values[-1]))
        else:
            values.append(layer(value))
    outputs = [values[-1]]
    if rng.random() < 0.3:
        outputs.append(pick(*values[1:]))
    return randomized(keras.Model(x, outputs), seed), batch(2, *shape, seed=seed)


# Every shape is compiled anew on JAX.
ENDS = [0, 5, 20] if BACKEND == "jax" else [0, 5, 20, 40]


@pytest.mark.parametrize("seeds", [range(*pair) for pair in pairwise(ENDS)])
def test_random_graphs_give_what_they_gave(seeds):
    folds = []
    for seed in seeds:
        model, x = random_graph(seed)
        folds += folded_like(model, x, 2e-5).folding
    assert sum(fold.into is not None for fold in folds) > 2
    assert sum(fold.into is None for fold in folds) > 2


@pytest.mark.long
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a minute of compiling on JAX")
@pytest.mark.parametrize(
    ("name", "folded", "left"), [("MobileNetV3Small", 34, 0), ("ResNet50V2", 32, 17)]
)
def test_applications_fold(name, folded, left):
    make = getattr(keras.applications, name)
    model = randomized(
        make(weights=None, input_shape=(32, 32, 3), classifier_activation=None)
    )
    folding = kbn.fold_batch_norm(model).folding
    assert (len(folding.folded), len(folding.left)) == (folded, left)
    assert folding.difference < 1e-3
