"""What a user of the layer meets: arguments, weights, config, files, errors."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import ops
from keras.layers import BatchNormalization as KerasBatchNorm

import kbn
from tests import oracle, running
from tests.cases import BACKEND, REFUSED
from tests.running import array

needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")


def data(*shape, mean=0.0, dtype="float32"):
    return (np.random.default_rng(0).normal(size=shape) + mean).astype(dtype)


def build_model(batch_norm):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3),
            batch_norm(renorm=True, name="first"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
            batch_norm(scale=False, name="second"),
        ]
    )


def disturb(model):
    """Weights that no initializer would give."""
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 2, w.shape) for w in model.get_weights()])
    return model


def test_signature_begins_with_that_of_keras():
    ours = list(inspect.signature(kbn.BatchNorm.__init__).parameters.values())
    theirs = list(inspect.signature(KerasBatchNorm.__init__).parameters.values())
    assert len(theirs) == 19  # self, the 17 arguments, **kwargs
    own = [p.name for p in ours if p.kind is p.KEYWORD_ONLY]
    assert own == ["unbiased", "warmup", "virtual_batch_size", "freeze_statistics"]
    assert [(p.name, p.default, p.kind) for p in ours if p.name not in own] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


CONFIGS = [
    {},
    {"axis": 1, "momentum": 0.5, "epsilon": 1e-5, "center": False, "scale": False},
    {"renorm": True},
    {
        "renorm": True,
        "renorm_clipping": {"rmax": 3.0, "rmin": 0.3},
        "renorm_momentum": 0.7,
    },
    {"gamma_initializer": keras.initializers.RandomUniform(0.5, 1, seed=1)},
    {"beta_regularizer": "l2", "gamma_constraint": "non_neg", "dtype": "mixed_float16"},
    {"name": "mine", "trainable": False, "moving_variance_initializer": "zeros"},
]


@pytest.mark.parametrize("arguments", CONFIGS, ids=lambda a: "-".join(a) or "default")
def test_config_is_that_of_keras_both_ways(arguments):
    ours, theirs = (cls(**arguments) for cls in (kbn.BatchNorm, KerasBatchNorm))
    expected = theirs.get_config()
    if "name" not in arguments:
        expected["name"] = ours.name
    assert ours.get_config() == expected
    assert kbn.BatchNorm.from_config(expected).get_config() == expected
    assert KerasBatchNorm.from_config(ours.get_config()).get_config() == expected


@pytest.mark.parametrize(
    ("arguments", "shape", "message"), REFUSED, ids=lambda v: str(v)[:40]
)
def test_what_cannot_be_is_refused(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        kbn.BatchNorm(**arguments).build(shape)


MISFITS = [(4,), (3, 7), (3, 4, 2), (3, 4, 5, 1), (4, 3), (0,), (3, 1, 4)]


def test_other_arguments_are_those_of_keras():
    layer = kbn.BatchNorm(name="a", dtype="float32", trainable=False, autocast=True)
    assert layer.name == "a"
    kbn.BatchNorm(activity_regularizer="l2")
    with pytest.raises(ValueError, match=r"Unrecognized keyword arguments.*colour"):
        kbn.BatchNorm(colour="blue")


@pytest.mark.parametrize("mask", MISFITS)
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_mask_that_does_not_fit_is_refused_in_training(mask, axis):
    shape = f"mask of shape {mask} for inputs of shape (3, 4, 5)"
    with pytest.raises(ValueError, match=re.escape(shape)):
        kbn.BatchNorm(axis=axis)(
            data(3, 4, 5), training=True, mask=ops.ones(mask, "bool")
        )


@pytest.mark.parametrize("mask", [*MISFITS, (3,), (3, 4), (3, 1, 5)])
@pytest.mark.parametrize("frozen", [False, True], ids=["inference", "frozen"])
def test_mask_is_ignored_where_no_batch_is_measured(mask, frozen):
    x, layer = data(3, 4, 5), kbn.BatchNorm()
    layer.trainable = not frozen
    y = layer(x, training=frozen, mask=ops.zeros(mask, "bool"))
    np.testing.assert_array_equal(array(y), array(layer(x, training=False)))


def test_mask_of_numbers_says_present_where_it_is_not_zero():
    x, numbers = data(4, 3), ops.convert_to_tensor([0.0, 0.5, -1.0, 2.0])
    told = [kbn.BatchNorm(), kbn.BatchNorm()]
    for layer, mask in zip(told, [numbers, ops.not_equal(numbers, 0)], strict=True):
        layer(x, training=True, mask=mask)
    for one, other in zip(*(layer.get_weights() for layer in told), strict=True):
        np.testing.assert_array_equal(one, other)


def test_inputs_of_another_rank_are_refused():
    layer = kbn.BatchNorm()
    layer(data(2, 3))
    with pytest.raises(ValueError, match=r"expected ndim=2, found ndim=3"):
        layer(data(2, 3, 3))


def test_axis_is_refused_when_shapes_are_inferred():
    with pytest.raises(ValueError, match=r"axis=3.*-2 to 1"):
        kbn.BatchNorm(axis=3).compute_output_shape((None, 4))


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_bfloat16", "float32"])
def test_weights_are_float32_at_least(policy):
    layer = kbn.BatchNorm(dtype=policy, renorm=True)
    y = layer(data(4, 3), training=True)
    assert {w.dtype for w in layer.weights} == {"float32"}
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float64", "float16"])
def test_any_inputs_are_normalized_in_the_layers_dtype(dtype):
    x = (data(64, 3) * 3 > 0).astype(dtype)
    layer = kbn.BatchNorm()
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    exact = oracle.normalize(x, 1.0, 0.0, -1, 1e-3, np.ones(x.shape))
    np.testing.assert_allclose(array(y), exact.y, rtol=1e-5, atol=1e-5)


def test_frozen_layer_neither_uses_nor_moves_the_batch():
    layer = kbn.BatchNorm()
    x = data(8, 3, mean=5.0)
    layer(x, training=True)
    moved = [array(w.value) for w in layer.weights]
    layer.trainable = False
    np.testing.assert_array_equal(
        array(layer(x, training=True)), array(layer(x, training=False))
    )
    for weight, value in zip(layer.weights, moved, strict=True):
        np.testing.assert_array_equal(array(weight.value), value)
    layer.trainable = True
    assert np.abs(array(layer(x, training=True)).mean()) < 1e-6


@pytest.mark.parametrize(
    ("training", "updates"), [(True, 1), (1, 1), (False, 0), (0, 0), (None, 0)]
)
def test_training_is_any_truth(training, updates):
    layer = kbn.BatchNorm(momentum=0.0)
    layer(data(8, 3, mean=5.0), training=training)
    assert (array(layer.moving_mean.value) > 1).all() == bool(updates)


def test_mask_goes_on_to_the_next_layer():
    mask = np.arange(4)[None] < np.array([[2], [4], [1]])
    x = keras.layers.Masking()(data(3, 4, 5) * mask[..., None])
    y = kbn.BatchNorm()(x, training=True)
    np.testing.assert_array_equal(np.asarray(y._keras_mask), mask)


def test_regularizers_and_constraints_are_applied():
    layer = kbn.BatchNorm(gamma_regularizer=keras.regularizers.L2(0.5))
    layer.build((None, 4))
    assert array(layer.losses[0]) == pytest.approx(2.0)
    layer = kbn.BatchNorm(beta_constraint="non_neg", gamma_constraint="non_neg")
    layer.build((None, 4))
    assert isinstance(layer.beta.constraint, keras.constraints.NonNeg)
    assert isinstance(layer.gamma.constraint, keras.constraints.NonNeg)


def test_unknown_sizes_keep_their_place():
    inputs = keras.Input((None, None, 3))
    outputs = kbn.BatchNorm()(inputs)
    assert outputs.shape == (None, None, None, 3)
    model = keras.Model(inputs, outputs)
    assert model(data(2, 5, 4, 3), training=True).shape == (2, 5, 4, 3)


@pytest.mark.parametrize(
    ("writer", "reader"),
    [(kbn.BatchNorm, KerasBatchNorm), (KerasBatchNorm, kbn.BatchNorm)],
    ids=["kbn-to-keras", "keras-to-kbn"],
)
def test_weights_file_of_either_class_loads_into_the_other(writer, reader, tmp_path):
    path = tmp_path / "model.weights.h5"
    written, read = disturb(build_model(writer)), build_model(reader)
    written.save_weights(path)
    read.load_weights(path)
    x = data(5, 6, 6, 2)
    for a, b in zip(written.get_weights(), read.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(array(written(x)), array(read(x)), rtol=1e-4, atol=1e-5)


def test_keras_file_round_trips_without_custom_objects(tmp_path):
    model = disturb(build_model(kbn.BatchNorm))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("first")) is kbn.BatchNorm
    for name in ("first", "second"):
        config = model.get_layer(name).get_config()
        assert loaded.get_layer(name).get_config() == config
    x = data(5, 6, 6, 2)
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


@needs_tensorflow
@pytest.mark.parametrize("channels", ["last", "first"])
def test_saved_model_serves_the_same(channels, tmp_path):
    import tensorflow as tf

    axis = -1 if channels == "last" else 1
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3),
            kbn.BatchNorm(axis=axis),
            keras.layers.Flatten(),
            kbn.BatchNorm(),
        ]
    )
    disturb(model)
    x = data(5, 6, 6, 2)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    served = exported.serve(x)
    np.testing.assert_allclose(array(served), array(model(x)), rtol=1e-5, atol=1e-6)
    tf.saved_model.save(model, tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")
    served = saved.signatures["serving_default"](tf.constant(x))
    (served,) = served.values()
    np.testing.assert_allclose(array(served), array(model(x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("renorm", [False, True])
def test_counter_is_the_last_weight_and_exists_only_where_it_is_read(renorm):
    names = []
    for average in ({}, {"momentum": None}, {"warmup": True}):
        layer = kbn.BatchNorm(renorm=renorm, **average)
        layer.build((None, 3))
        names.append([w.name for w in layer.weights])
    assert names[1] == names[2] == [*names[0], "num_batches_tracked"]


WARM = [{}, {"momentum": 0.9}, {"momentum": 0.0}, {"renorm": True}, {"scale": False}]


@pytest.mark.parametrize("arguments", [*WARM, {"axis": [1, 2]}], ids=str)
def test_warmup_survives_saving_and_goes_on(arguments, tmp_path):
    x = data(8, 6, 3, mean=4.0)
    model = keras.Sequential(
        [keras.Input((6, 3)), kbn.BatchNorm(warmup=True, **arguments)]
    )
    for _ in range(3):
        model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one(x + 1, training=True)
    counter = array(loaded.layers[0].num_batches_tracked.value)
    np.testing.assert_array_equal(counter, np.full(counter.shape, 4))
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("arguments", WARM, ids=str)
@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_file_of_keras_loads_as_warmed_up(arguments, suffix, tmp_path):
    def build(cls, **own):
        return keras.Sequential(
            [keras.Input((3,)), cls(name="norm", **arguments, **own)]
        )

    theirs, path = disturb(build(KerasBatchNorm)), tmp_path / f"model{suffix}"
    ours = build(kbn.BatchNorm, warmup=True)
    (theirs.save_weights if suffix == ".weights.h5" else theirs.save)(path)
    ours.load_weights(path)
    *loaded, counter = ours.get_weights()
    for one, other in zip(loaded, theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # From now on the average moves as Keras' does.
    momentum = arguments.get("momentum", 0.99)
    assert (10 / (counter + 9) <= 1 - momentum + 1e-12).all()
    assert (10 / (counter + 8) > 1 - momentum).all() or momentum == 0
    x = data(8, 3, mean=2.0)
    for model in (ours, theirs):
        model(x, training=True)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=False):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_file_of_keras_is_refused_by_the_average_over_all_batches(tmp_path):
    theirs = keras.Sequential([keras.Input((3,)), KerasBatchNorm(name="norm")])
    theirs.save_weights(tmp_path / "model.weights.h5")
    cumulative = kbn.BatchNorm(momentum=None, name="norm")
    ours = keras.Sequential([keras.Input((3,)), cumulative])
    with pytest.raises(ValueError, match=r"'norm' averages.*no num_batches_tracked"):
        ours.load_weights(tmp_path / "model.weights.h5")


@pytest.mark.parametrize("average", [{"warmup": True}, {"momentum": None}], ids=str)
def test_weights_without_the_counter_are_refused_with_the_remedy(average):
    layer = kbn.BatchNorm(name="norm", **average)
    layer.build((None, 3))
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"4 arrays.*'norm'.*5 weights.*np\.full"):
        layer.set_weights([np.ones(3)] * 4)
    with pytest.raises(ValueError, match="length 3"):  # Keras' own
        layer.set_weights([np.ones(3)] * 3)
    for value, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    layer.set_weights([np.ones(3)] * 5)
    assert layer.get_weights()[4].dtype.kind == "i"


def test_frozen_warmup_does_not_count():
    layer = kbn.BatchNorm(warmup=True, freeze_statistics=True)
    layer(data(8, 3, mean=4.0), training=True)
    layer.trainable, layer.freeze_statistics = False, False
    layer(data(8, 3, mean=4.0), training=True)
    layer.trainable = True
    layer(data(8, 3, mean=4.0), training=False)
    np.testing.assert_array_equal(layer.get_weights()[4], [0, 0, 0])
    np.testing.assert_array_equal(layer.get_weights()[2], [0, 0, 0])


@pytest.mark.parametrize(
    "arguments",
    [{}, {"renorm": True}, {"momentum": None}, {"warmup": True, "axis": [0, 1]}],
    ids=str,
)
def test_running_stats_can_be_reset(arguments):
    layer = kbn.BatchNorm(**arguments)
    layer.build((8, 3))
    fresh = [array(w.value) for w in layer.weights]
    layer(data(8, 3, mean=4.0), training=True)
    assert any(
        (array(w.value) != f).any() for w, f in zip(layer.weights, fresh, strict=True)
    )
    layer.reset_running_stats()
    for weight, value in zip(layer.weights, fresh, strict=True):
        np.testing.assert_array_equal(array(weight.value), value)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("training", [True, False])
@needs_tensorflow
def test_training_may_be_a_tensor(training, graph):  # D30
    import tensorflow as tf

    layer, plain = kbn.BatchNorm(momentum=0.0), kbn.BatchNorm(momentum=0.0)
    x, dy = tf.constant(data(8, 3, mean=5.0)), tf.constant(data(8, 3))

    def step(x, training):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return y, tape.gradient(y, x, dy)

    layer.build(x.shape)
    step = tf.function(step) if graph else step
    y, dx = step(x, tf.constant(training))
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = plain(x, training=training)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(dx, tape.gradient(expected, x, dy), atol=1e-5)
    for ours, theirs in zip(layer.weights, plain.weights, strict=True):
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-6)


def test_keras_2_config_loads_with_one_message():  # D30
    config = {"axis": [3], "momentum": 0.9, "fused": True, "adjustment": None}
    with pytest.warns(UserWarning, match="ignores fused=True") as messages:
        layer = kbn.BatchNorm.from_config({**config, "virtual_batch_size": 4})
    assert len(messages) == 1
    assert (layer.axis, layer.virtual_batch_size) == (3, 4)
    silent = kbn.BatchNorm.from_config({"fused": None, "adjustment": None})
    assert silent.axis == -1


def test_remat_scope_leaves_the_layer_to_update_once():  # D20
    with keras.RematScope(mode="full"):
        layer = kbn.BatchNorm(momentum=0.9)
    x = data(8, 3, mean=1.0)
    running.Runner(layer, "eager", True, x.shape)(x, x)
    np.testing.assert_allclose(
        array(layer.moving_mean.value), 0.1 * x.mean(0), rtol=1e-5
    )
