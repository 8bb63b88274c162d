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


# What takes up a batch norm behind it: {name: (layer, shape of its inputs, axis)}.
L = layers
# Keras 3.14 forgets this argument in a config, so a copy has another shape.
KEEPS = "output_padding" in L.Conv2DTranspose(1, 1).get_config()
PADDED = {"output_padding": 1} if KEEPS else {}
AFTER = {
    "Dense": (lambda b: L.Dense(5, use_bias=b), (4,), -1),
    "Dense rank 4": (lambda b: L.Dense(5, use_bias=b), (3, 2, 4), 3),
    "Conv1D same": (lambda b: L.Conv1D(5, 3, padding="same", use_bias=b), (7, 4), -1),
    "Conv1D causal": (
        lambda b: L.Conv1D(5, 3, padding="causal", dilation_rate=2, use_bias=b),
        (7, 4),
        2,
    ),
    "Conv2D strides": (lambda b: L.Conv2D(6, 3, 2, use_bias=b), (9, 8, 4), -1),
    "Conv2D dilation": (
        lambda b: L.Conv2D(6, (3, 2), dilation_rate=2, padding="same", use_bias=b),
        (9, 8, 4),
        -1,
    ),
    "Conv2D groups": (lambda b: L.Conv2D(6, 3, groups=2, use_bias=b), (8, 8, 4), 3),
    "Conv3D": (lambda b: L.Conv3D(3, 2, use_bias=b), (4, 4, 4, 2), -1),
    "Conv1DTranspose": (
        lambda b: L.Conv1DTranspose(5, 3, 2, padding="same", use_bias=b),
        (6, 4),
        -1,
    ),
    "Conv2DTranspose": (
        lambda b: L.Conv2DTranspose(5, 3, 2, use_bias=b, **PADDED),
        (5, 6, 4),
        -1,
    ),
    "Conv3DTranspose": (lambda b: L.Conv3DTranspose(3, 2, use_bias=b), (3, 3, 3, 2), 4),
    "DepthwiseConv1D": (
        lambda b: L.DepthwiseConv1D(3, depth_multiplier=2, use_bias=b),
        (7, 4),
        -1,
    ),
    "DepthwiseConv2D": (
        lambda b: L.DepthwiseConv2D(
            3, 2, padding="same", depth_multiplier=3, use_bias=b
        ),
        (8, 8, 4),
        -1,
    ),
    "SeparableConv1D": (
        lambda b: L.SeparableConv1D(5, 3, depth_multiplier=2, use_bias=b),
        (7, 4),
        -1,
    ),
    "SeparableConv2D": (
        lambda b: L.SeparableConv2D(5, 3, padding="same", use_bias=b),
        (8, 8, 4),
        -1,
    ),
}
FIRST = {
    "Conv1D": (lambda b, **k: L.Conv1D(6, 3, use_bias=b, **k), (4, 7)),
    "Conv2D": (lambda b, **k: L.Conv2D(8, 3, use_bias=b, **k), (4, 8, 8)),
    "Conv2D groups": (
        lambda b, **k: L.Conv2D(8, 3, groups=2, use_bias=b, **k),
        (4, 8, 8),
    ),
    "Conv3D": (lambda b, **k: L.Conv3D(4, 2, use_bias=b, **k), (2, 4, 4, 4)),
    "Conv2DTranspose": (
        lambda b, **k: L.Conv2DTranspose(5, 3, use_bias=b, **k),
        (4, 5, 6),
    ),
    "DepthwiseConv2D": (
        lambda b, **k: L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=b, **k),
        (4, 8, 8),
    ),
    "SeparableConv2D": (
        lambda b, **k: L.SeparableConv2D(5, 3, use_bias=b, **k),
        (4, 8, 8),
    ),
}


def _first(make):
    return lambda b: make(b, data_format="channels_first")


AFTER |= {
    f"{name} channels first": (_first(make), shape, 1)
    for name, (make, shape) in FIRST.items()
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", AFTER)
def test_layers_take_up_the_batch_norm_behind_them(name, bias):
    make, shape, axis = AFTER[name]
    kind = NORMS["Keras" if bias else "kbn"]
    x = keras.Input(shape)
    y = layers.ReLU()(kind(axis=axis, name="norm")(make(bias)(x)))
    model = randomized(keras.Model(x, y))
    folded = folded_like(model, batch(3, *shape))
    (fold,) = folded.folding
    assert fold == ("norm", model.layers[1].name, "")
    kinds = [type(layer) for layer in folded.layers[1:]]
    assert kinds == [type(model.layers[1]), layers.ReLU]


# What takes up a batch norm before it.
BEFORE = {
    "Dense": (lambda b: L.Dense(5, use_bias=b), (4,), -1),
    "Dense rank 3": (lambda b: L.Dense(5, "relu", use_bias=b), (3, 4), 2),
    "Conv1D": (lambda b: L.Conv1D(5, 3, dilation_rate=2, use_bias=b), (9, 4), -1),
    "Conv2D": (lambda b: L.Conv2D(6, (3, 2), 2, "valid", use_bias=b), (9, 8, 4), -1),
    "Conv2D groups": (lambda b: L.Conv2D(6, 3, groups=2, use_bias=b), (8, 8, 4), 3),
    "Conv2D of one": (
        lambda b: L.Conv2D(6, 1, 2, padding="same", activation="relu", use_bias=b),
        (7, 8, 4),
        -1,
    ),
    "Conv1D causal of one": (
        lambda b: L.Conv1D(6, 1, padding="causal", use_bias=b),
        (7, 4),
        -1,
    ),
    "Conv3D": (lambda b: L.Conv3D(3, 2, use_bias=b), (4, 4, 4, 2), -1),
    "DepthwiseConv1D": (
        lambda b: L.DepthwiseConv1D(3, depth_multiplier=2, use_bias=b),
        (7, 4),
        -1,
    ),
    "DepthwiseConv2D": (
        lambda b: L.DepthwiseConv2D(3, 2, depth_multiplier=3, use_bias=b),
        (8, 8, 4),
        -1,
    ),
    "SeparableConv1D": (
        lambda b: L.SeparableConv1D(5, 3, depth_multiplier=2, use_bias=b),
        (7, 4),
        -1,
    ),
    "SeparableConv2D": (lambda b: L.SeparableConv2D(5, 3, use_bias=b), (8, 8, 4), -1),
}
BEFORE |= {
    f"{name} channels first": (_first(make), shape, 1)
    for name, (make, shape) in FIRST.items()
    if "Transpose" not in name
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", BEFORE)
def test_layers_take_up_the_batch_norm_before_them(name, bias):
    make, shape, axis = BEFORE[name]
    kind = NORMS["kbn" if bias else "Keras"]
    model = keras.Sequential(
        [keras.Input(shape), kind(axis=axis, name="norm"), make(bias)]
    )
    folded = folded_like(randomized(model), batch(3, *shape))
    assert [fold.into for fold in folded.folding] == [model.layers[1].name]
    assert len(folded.layers) == 1


POOLS = {
    1: (L.GlobalAveragePooling1D, (6, 4), (4, 6)),
    2: (L.GlobalAveragePooling2D, (5, 6, 4), (4, 5, 6)),
    3: (L.GlobalAveragePooling3D, (2, 3, 5, 4), (4, 2, 3, 5)),
}


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("rank", POOLS)
def test_dense_takes_up_a_batch_norm_before_global_average_pooling(
    rank, first, keepdims
):
    pool, *shapes = POOLS[rank]
    order = "channels_first" if first else "channels_last"
    model = keras.Sequential(
        [
            keras.Input(shapes[first]),
            norm(axis=1 if first else -1, name="norm"),
            pool(keepdims=keepdims, data_format=order),
            layers.Dropout(0.5),
            *([layers.Flatten()] if keepdims and first else []),
            layers.Dense(5, "relu", name="dense"),
        ]
    )
    model = randomized(model)
    if keepdims and first:  # Flatten is in between
        assert (
            "'flatten' (Flatten)" in kbn.fold_batch_norm(model).folding.left[0].reason
        )
        return
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


# Where folding is not exact: (inputs, model of them, what the reason says).
def _stays(*shape, **inputs):
    def register(build):
        STAYS[build.__name__.strip("_")] = (shape, inputs, build)
        return build

    return register


STAYS = {}


@_stays(4)
def _activation_between(x):
    return norm()(layers.ReLU()(layers.Dense(3)(x))), r"'re_lu' \(ReLU\) before it"


@_stays(4)
def _activation_in_the_layer(x):
    return norm()(layers.Dense(3, "tanh")(x)), "'dense'.*has an activation"


@_stays(4)
def _read_elsewhere(x):
    y = layers.Dense(3)(x)
    return layers.Add()([norm()(y), y]), "'dense'.*read elsewhere"


@_stays(4)
def _read_by_an_operation(x):
    y = layers.Dense(3)(x)
    return norm()(y) + keras.ops.sum(y, -1, keepdims=True), "read elsewhere"


@_stays(4)
def _an_output_itself(x):
    y = layers.Dense(3)(x)
    return [norm()(y), y], "'dense'.*read elsewhere"


@_stays(4)
def _layer_called_twice(x):
    dense = layers.Dense(4)
    return norm()(dense(dense(x))), "'dense'.*is called 2 times"


@_stays(4)
def _batch_norm_called_twice(x):
    shared = norm()
    y = shared(layers.Dense(3)(x))
    return y + shared(layers.Dense(3)(x)), "it is called 2 times"


@_stays(4)
def _in_training_always(x):
    return norm()(layers.Dense(3)(x), training=True), "called with training=True"


@_stays(4)
def _model_in_training_always(x):
    block = keras.Sequential([keras.Input((4,)), layers.Dense(3), norm()])
    return block(x, training=True), "called with training=True"


@_stays(4)
def _model_in_a_model_in_training(x):
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4), norm()])
    i = keras.Input((4,))
    outer = keras.Model(i, block(i))
    return outer(x, training=True), "called with training=True"


@_stays(4)
def _dropout_in_training_always(x):
    y = layers.Dropout(0.5)(layers.Dense(3)(x), training=True)
    return norm()(y), r"\(Dropout\) before it cannot"


@_stays(6, 6, 3)
def _other_axis(x):
    return norm(axis=1)(layers.Conv2D(4, 3)(x)), "channels on axis 3.* on 1"


@_stays(3, 4)
def _dense_other_axis(x):
    return norm(axis=1)(layers.Dense(3)(x)), "channels on axis 2.* on 1"


@_stays(3, 4)
def _several_axes(x):
    return kbn.BatchNorm(axis=[1, 2])(layers.Dense(3)(x)), "on axis 2.* on 1, 2"


@_stays(3, 4)
def _einsum(x):
    y = layers.EinsumDense("abc,cd->abd", (3, 5))(x)
    return norm()(y), r"\(EinsumDense\) before it cannot"


@_stays(6, 6, 3)
def _before_a_padded_convolution(x):
    y = layers.Conv2D(4, 3, padding="same")(norm()(x))
    return y, "before it is an input; 'conv2d'.* behind it pads its inputs"


@_stays(6, 3)
def _before_a_causal_convolution(x):
    return layers.Conv1D(4, 2, padding="causal")(norm()(x)), "padding='causal'"


@_stays(6, 6, 3)
def _before_a_transposed_convolution(x):
    y = layers.Conv2DTranspose(4, 3)(norm()(x))
    return y, "sums over a part of its window at the border"


@_stays(6, 6, 3)
def _before_padding(x):
    y = layers.Conv2D(4, 3)(layers.ZeroPadding2D()(norm()(x)))
    return y, r"\(ZeroPadding2D\) behind it cannot"


@_stays(4)
def _before_two_layers(x):
    y = norm()(x)
    return layers.Dense(3)(y) + layers.Dense(3)(y), "2 calls read it"


@_stays(4)
def _before_a_layer_and_an_output(x):
    y = norm()(x)
    return [layers.Dense(3)(y), y], "it gives an output"


@_stays(4)
def _regularized_output(x):
    y = layers.Dense(3, activity_regularizer="l2")(x)
    return norm()(y), "'dense'.*regularizer of its output"


@_stays(4)
def _regularized_normal_output(x):
    y = norm(activity_regularizer="l2")(layers.Dense(3)(x))
    return y, "^it has a regularizer of its output"


@_stays(4)
def _another_dtype(x):
    y = layers.Dense(3, dtype="mixed_bfloat16")(x)
    return norm(dtype="float32")(y), "computes in bfloat16, and it in float32"


@_stays(3, 4)
def _a_wrapper(x):
    y = layers.TimeDistributed(layers.Dense(3))(x)
    return norm()(y), r"\(TimeDistributed\) before it cannot"


@_stays(3, 4)
def _in_a_wrapper(x):
    return layers.TimeDistributed(norm())(x), "'time_distributed'.* code of its own"


@_stays(4)
def _a_layer_of_the_users(x):
    return norm()(MyDense(3)(x)), r"\(MyDense\) before it cannot"


@_stays(4)
def _a_batch_norm_of_the_users(x):
    return MyNorm()(layers.Dense(3)(x)), "MyNorm is a class of its own"


@_stays(4)
def _a_subclassed_model_inside(x):
    return Net()(x), r"'net' \(Net\) calls it in code of its own"


@_stays(4)
def _lora(x):
    dense = layers.Dense(3)
    y = norm()(dense(x))
    dense.enable_lora(2)
    return y, "'dense'.*has LoRA weights"


@_stays(16)
def _quantized(x):
    dense = layers.Dense(4)
    y = norm()(dense(x))
    dense.quantize("int8")
    return y, "'dense'.*is quantized"


@_stays(4)
def _not_finite(x):
    normal = norm()
    y = normal(layers.Dense(2)(x))
    normal.moving_variance.assign([np.nan, 1])
    return y, "statistics are not finite"


@_stays(4)
def _called_twice_in_a_model(x):
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="block")
    return norm()(block(block(x))), "'block'.* is called 2 times"


class MyDense(layers.Dense):
    """It may do anything."""


class MyNorm(keras.layers.BatchNormalization):
    """It may do anything."""


@pytest.mark.parametrize("name", STAYS)
def test_what_would_not_be_exact_stays_and_says_why(name):
    shape, inputs, build = STAYS[name]
    x = keras.Input(shape, **inputs)
    y, reason = build(x)
    model = keras.Model(x, y)
    if name not in ("quantized", "not_finite"):
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
    f.__name__.strip("_"): (f, folded, left)
    for f, folded, left in (
        (_chain, 5, 0),
        (_dropout_between, 1, 0),
        (_branches, 2, 0),
        (_in_a_model_called_twice, 1, 0),
        (_behind_a_model, 1, 0),
        (_before_a_model, 1, 0),
        (_alone_in_a_model, 2, 0),
        (_first_and_last_in_models, 2, 0),
        (_deep, 3, 0),
        (_same_tensor_twice, 1, 0),
        (_fixed_inference, 1, 0),
    )
}


@pytest.mark.parametrize("name", CHAINS)
def test_graphs_fold_through_chains_branches_and_models(name):
    build, folded_count, left_count = CHAINS[name]
    x = keras.Input((4,))
    model = randomized(keras.Model(x, build(x)))
    folded = folded_like(model, batch(6, 4))
    assert len(folded.folding.folded) == folded_count
    assert len(folded.folding.left) == left_count


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
