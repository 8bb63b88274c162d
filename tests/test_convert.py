"""convert_batch_norm: another batch norm in the model, and nothing else different."""

import keras
import numpy as np
import pytest
from keras import layers

import kbn
from tests.cases import BACKEND
from tests.defects import is_reached
from tests.surgical_models import MAKERS, Block, Net, batch, made, norm

Theirs, Ours = keras.layers.BatchNormalization, kbn.BatchNorm
# 16 bits: Keras' layer rounds the inputs to them before it takes their statistics.
COARSE = {"mixed_precision": 2e-2, "narrow_weights": 4e-3}
# A step is traced or run op by op: JAX compiles each op.
TRAINED = sorted(MAKERS.keys() - COARSE.keys())
if BACKEND == "jax":
    TRAINED = ["all_arguments", "nested", "partly_frozen", "subclassed"]
SUBCLASSED = {"subclassed", "subclassed_of_dictionaries"}  # in place only
COPIED = [name for name in MAKERS if name not in SUBCLASSED]
# What Keras saves and cannot load, converted or not.
UNLOADABLE = {
    "functions_of_the_users",  # their code is in no file
    "nested",  # a model that is shared by models
    "partly_frozen",
    "shared_between_levels",
    "subclassed_of_dictionaries",  # its constructor does not take its config
}


def arrays(values):
    return [
        np.array(keras.ops.convert_to_numpy(value), "float64")
        for value in keras.tree.flatten(values)
    ]


def weights(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def assert_same(ours, theirs):
    """Bit for bit."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def assert_close(ours, theirs, tolerance=2e-5):
    """Within `tolerance` of the largest number."""
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        size = max(1, np.abs(other).max(initial=0))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * size)


def norms(model, kind):
    return [layer for layer in model._flatten_layers() if type(layer) is kind]


def described(model):
    """All that is not a number in it: names, paths, flags, dtypes, configs."""
    return [
        (
            layer.name,
            layer.path,
            layer.trainable,
            layer.dtype_policy.name,
            [(v.path, v.trainable) for v in layer.weights],
            layer.get_config() if type(layer) in (Theirs, Ours) else type(layer),
        )
        for layer in model._flatten_layers()
    ]


def train(model, x, steps=2):
    """Some steps of SGD with momentum on a fixed target."""
    keras.utils.set_random_seed(1)
    target = [0 * np.asarray(y, "float32") + 0.5 for y in arrays(model(x))]
    if isinstance(structure := model(x), dict):
        target = dict(zip(sorted(structure), target, strict=True))
    else:
        target = target[0]
    if not model.compiled:
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", run_eagerly=True)
    for _ in range(steps):
        model.train_on_batch(x, target)


@pytest.mark.parametrize("name", COPIED)
def test_converted_is_the_same_model_with_our_layer(name):
    model, x = made(name)
    before, described_before = weights(model), described(model)
    count = len(norms(model, Theirs))
    converted = kbn.convert_batch_norm(model)
    assert type(converted) is type(model)
    assert len(norms(converted, Ours)) == count > 0
    assert not norms(converted, Theirs)
    tolerance = COARSE.get(name, 2e-5)
    assert_close(arrays(converted(x)), arrays(model(x)), tolerance)
    if name == "narrow_weights":
        assert {v.dtype for v in converted.weights} == {"float32"}
        assert_close(arrays(converted.weights), arrays(model.weights), 0)
    else:
        assert described(converted) == described_before
        assert_same(weights(converted), before)
    assert not {*map(id, model.variables)} & {*map(id, converted.variables)}
    if name not in COARSE:
        keras.utils.set_random_seed(3)
        theirs = arrays(model(x, training=True))
        keras.utils.set_random_seed(3)
        assert_close(arrays(converted(x, training=True)), theirs)
        assert_close(arrays(converted.variables), arrays(model.variables))
    assert len(norms(model, Theirs)) == count
    assert described(model) == described_before


@pytest.mark.parametrize("name", COPIED)
def test_converted_back_is_the_original(name):
    model, x = made(name)
    back = kbn.convert_batch_norm(kbn.convert_batch_norm(model), back=True)
    assert not norms(back, Ours)
    assert described(back) == described(model)
    assert_same(weights(back), weights(model))
    assert_same(arrays(back(x)), arrays(model(x)))


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"narrow_weights"}))
def test_converted_in_place_keeps_its_optimizer(name):
    model, x = made(name)
    twin, _ = made(name)
    trained = name in TRAINED
    if trained:
        train(model, x, steps=1)
        train(twin, x, steps=1)
    identities = [id(v) for v in model.variables]
    state = arrays(model.optimizer.variables) if trained else []
    assert kbn.convert_batch_norm(model, in_place=True) is model
    assert norms(model, Ours)
    assert not norms(model, Theirs)
    assert [id(v) for v in model.variables] == identities
    assert_close(arrays(model(x)), arrays(twin(x)), COARSE.get(name, 2e-4))
    if trained:
        assert_same(arrays(model.optimizer.variables), state)
        train(model, x, steps=1)
        train(twin, x, steps=1)
        assert_close(arrays(model.variables), arrays(twin.variables), 2e-4)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - UNLOADABLE))
def test_converted_can_be_saved_and_loaded(name, tmp_path):
    model, x = made(name)
    converted = kbn.convert_batch_norm(model, in_place=name in SUBCLASSED)
    converted.save(tmp_path / "model.keras")
    kinds = [type(one) for one in model._flatten_layers()]
    customs = {one.__name__: one for one in kinds if one.__module__.startswith("tests")}
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects=customs)
    assert_close(arrays(loaded(x)), arrays(converted(x)), COARSE.get(name, 2e-5))
    if "subclass" not in name and "custom" not in name and "by_config" not in name:
        assert not norms(loaded, Theirs)


# Arguments of ours that Keras' layer lacks, and what names them.
BEYOND = {
    "axes": (dict(axis=[1, 2]), "axis=[1, 2]"),
    "cumulative": (dict(momentum=None), "momentum=None"),
    "unbiased": (dict(unbiased=True), "unbiased=True"),
    "groups": (dict(virtual_batch_size=2), "virtual_batch_size=2"),
    "two": (dict(unbiased=True, momentum=None), "unbiased=True and no momentum=None"),
}
if BACKEND != "tensorflow":
    BEYOND["replicas"] = (dict(synchronized=True), "TensorFlow backend")


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("in_place", [False, True])
def test_back_refuses_by_name_what_keras_lacks(name, in_place):
    arguments, said = BEYOND[name]
    x = keras.Input((3, 4))
    inner = keras.Sequential([kbn.BatchNorm(name="odd", **arguments)])
    model = keras.Model(x, inner(kbn.BatchNorm(name="plain")(x)))
    before = described(model)
    with pytest.raises(ValueError, match="Layer 'odd' cannot become Keras") as error:
        kbn.convert_batch_norm(model, back=True, in_place=in_place)
    assert said in str(error.value)
    assert described(model) == before
    assert len(norms(model, Ours)) == 2


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"renorm": True}], ids=str)
def test_back_drops_the_warmup_and_says_so(
    arguments, in_place, trained, caplog, tmp_path
):
    def build(norm, **own):
        parts = [layers.Dense(3), norm(name="warm", **arguments, **own), layers.ReLU()]
        return keras.Sequential([keras.Input((4,)), *parts])

    model, x = build(Ours, warmup=True), batch(8, 4)
    if trained:
        train(model, x)
        state = arrays(model.optimizer.variables)
    before, outputs = weights(model), arrays(model(x))
    back = kbn.convert_batch_norm(model, back=True, in_place=in_place)
    assert "'warm' loses warmup=True" in caplog.text
    assert "momentum=0.99" in caplog.text
    assert (back is model) == in_place
    assert type(back.get_layer("warm")) is Theirs
    assert_close(arrays(back(x)), outputs)
    assert not hasattr(back.get_layer("warm"), "num_batches_tracked")
    kept = [value for value in before if value.dtype.kind == "f"]
    assert_same(weights(back), kept)
    back.save_weights(tmp_path / "back.weights.h5")
    theirs = build(Theirs)
    theirs.load_weights(tmp_path / "back.weights.h5")
    assert_close(arrays(theirs(x)), outputs)
    if trained:
        assert_same(arrays(back.optimizer.variables), state)
        train(back, x, steps=1)
    again = build(Ours, warmup=True)
    again.load_weights(tmp_path / "back.weights.h5")
    assert_close(arrays(again(x)), outputs)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        # From 3.16 on Keras refuses it itself.
        *([({"momentum": 1.5}, r"momentum=1.5")] * (not is_reached("keras 3.16"))),
        ({"epsilon": 0.0}, r"epsilon=0.0"),
        ({"renorm_momentum": 2.0}, r"renorm_momentum=2.0"),
    ],
    ids=lambda value: str(value),
)
def test_what_ours_refuses_is_refused_by_name(arguments, said):
    model = keras.Sequential(
        [keras.Input((3,)), norm(name="good"), norm(name="bad", **arguments)]
    )
    for in_place in (False, True):
        with pytest.raises(ValueError, match=f"'bad' cannot become kbn.*{said}"):
            kbn.convert_batch_norm(model, in_place=in_place)
    assert len(norms(model, Theirs)) == 2


class NoConfig(keras.Model):
    """It was given what no config holds."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def call(self, inputs, training=None):
        for part in self.parts:
            inputs = part(inputs, training=training)
        return inputs


class Lies(NoConfig):
    """Its config makes another model."""

    def get_config(self):
        return {"parts": 1}

    @classmethod
    def from_config(cls, config):
        return cls([layers.Dropout(0.5)] * config["parts"])


@pytest.mark.parametrize("kind", [NoConfig, Lies])
@pytest.mark.parametrize("place", ["alone", "functional", "sequential", "subclassed"])
def test_without_config_only_in_place(kind, place):
    part = kind([layers.Dropout(0.5), norm()])
    x = keras.Input((3,))
    model = {
        "alone": lambda: part,
        "functional": lambda: keras.Model(x, norm()(part(x))),
        "sequential": lambda: keras.Sequential([layers.Dense(3), part]),
        "subclassed": lambda: NoConfig([layers.Dropout(0.5), part]),
    }[place]()
    model(batch(4, 3))
    count, before = len(norms(model, Theirs)), weights(model)
    named = "no_config|no_config_1|lies"
    with pytest.raises(ValueError, match=f"'({named})'.*in_place=True") as error:
        kbn.convert_batch_norm(model)
    assert "cannot be copied" in str(error.value)
    assert len(norms(model, Theirs)) == count
    assert kbn.convert_batch_norm(model, in_place=True) is model
    assert len(norms(model, Ours)) == count
    assert_same(weights(model), before)
    model(batch(4, 3), training=True)


def test_shared_by_a_graph_and_a_config_is_refused():
    one = norm(name="held")
    block = NoConfig([one])
    type(block).get_config, kept = lambda self: {"parts": []}, NoConfig.get_config
    try:
        x = keras.Input((3,))
        with pytest.raises(ValueError, match=r"'no_config'.*cannot be copied"):
            kbn.convert_batch_norm(keras.Model(x, block(one(x))))
    finally:
        NoConfig.get_config = kept


class MyNorm(keras.layers.BatchNormalization):
    """A user's own."""


def test_subclasses_of_the_layer_stay_and_are_named(caplog):
    model = keras.Sequential([keras.Input((3,)), MyNorm(name="mine"), norm()])
    converted = kbn.convert_batch_norm(model)
    assert [type(layer) for layer in converted.layers] == [MyNorm, Ours]
    (record,) = caplog.records
    assert record.name.startswith("kbn.surgery")
    assert "'mine' is left as it is: MyNorm" in record.getMessage()


# https://github.com/tensorflow/tensorflow/issues/40548
@pytest.mark.parametrize(
    "function",
    ["convert", "fold", "freeze", "unfreeze", "update_bn_stats"],
)
def test_model_of_keras_2_is_told_from_one_of_keras_3(function):
    base = type("Model", (), {"__module__": "tf_keras.src.engine.training"})
    model = type("MyModel", (base,), {"__module__": "__main__"})()
    call = getattr(kbn, function if "_" in function else f"{function}_batch_norm")
    data = [batch(4, 3)] if function == "update_bn_stats" else []
    with pytest.raises(ValueError, match=r"Keras 3, .*MyModel is one of tf_keras"):
        call(model, *data)


class Odd(keras.regularizers.Regularizer):
    """Keras' base class has no config."""

    def __call__(self, x):
        return 0.0 * keras.ops.sum(x)


def test_what_has_no_config_is_named_and_not_the_layer_that_holds_it():
    regularized = layers.Dense(3, kernel_regularizer=Odd(), name="dense")
    model = keras.Sequential([keras.Input((3,)), regularized, norm()])
    with pytest.raises(
        ValueError, match=r"'dense' \(Dense\).*its Odd has no get_config"
    ):
        kbn.convert_batch_norm(model)
    assert norms(kbn.convert_batch_norm(model, in_place=True), Ours)


def loss_of_the_user(y, prediction):
    return keras.ops.mean(keras.ops.abs(y - prediction), -1)


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A user's own."""

    def __call__(self, step):
        return 0.1 / (1 + keras.ops.cast(step, "float32"))

    def get_config(self):
        return {}


# On JAX a second fit fails: Keras gives two variables one buffer.
EMA = BACKEND != "jax"
COMPILED = {
    "momentum": lambda: dict(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse"
    ),
    "functions": lambda: dict(
        optimizer="adam",
        loss=loss_of_the_user,
        metrics=["mae", lambda y, p: keras.ops.mean(y - p)],
        run_eagerly=True,
    ),
    "schedule": lambda: dict(
        optimizer=keras.optimizers.AdamW(Schedule(), clipnorm=1.0, use_ema=EMA),
        loss=keras.losses.Huber(0.5),
        metrics=[keras.metrics.RootMeanSquaredError()],
        weighted_metrics=["mse"],
        steps_per_execution=1 if BACKEND == "torch" else 2,
    ),
    "loss scale": lambda: dict(
        optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
        loss={"head": "mse"},
        loss_weights={"head": 2.0},
        jit_compile=False,
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compile_settings_and_optimizer_state_come_along(name, caplog):
    x, y = batch(8, 4), batch(8, 3, seed=1)
    i = keras.Input((4,))
    model = keras.Model(i, layers.Dense(3, name="head")(norm()(i)))
    model.compile(**COMPILED[name]())
    model.fit(x, y, epochs=2, batch_size=4, verbose=0)
    state = arrays(model.optimizer.variables)
    converted = kbn.convert_batch_norm(model)
    assert not caplog.records
    assert type(converted.optimizer) is type(model.optimizer)
    assert converted.optimizer is not model.optimizer
    assert converted.optimizer.get_config() == model.optimizer.get_config()
    assert_same(arrays(converted.optimizer.variables), state)
    for setting in ("run_eagerly", "jit_compile", "steps_per_execution"):
        assert getattr(converted, setting) == getattr(model, setting)
    # From the same state the same way on.
    for one in (model, converted):
        history = one.fit(x, y, epochs=2, batch_size=4, shuffle=False, verbose=0)
        assert set(history.history) == set(model.history.history)
    assert_close(arrays(converted.weights), arrays(model.weights), 1e-3)
    assert_close(
        arrays(converted.optimizer.variables), arrays(model.optimizer.variables), 1e-2
    )


def test_optimizer_of_other_variables_starts_anew_and_says_so(caplog):
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    optimizer.build(other.trainable_variables)
    model = keras.Sequential([keras.Input((4,)), norm(), layers.Dense(3)])
    model.compile(optimizer, "mse")
    converted = kbn.convert_batch_norm(model)
    assert "starts anew" in caplog.text
    converted.fit(batch(4, 4), batch(4, 3), verbose=0)


def test_optimizer_follows_what_it_was_built_for():
    # Frozen after it was built: its slots are still those of all weights.
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), norm()])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.fit(batch(8, 4), batch(8, 4), verbose=0)
    model.layers[0].trainable = False
    converted = kbn.convert_batch_norm(model)
    assert_same(
        arrays(converted.optimizer.variables), arrays(model.optimizer.variables)
    )


class OwnCompile(keras.Model):
    """Its compile takes more."""

    def compile(self, extra, **kwargs):
        super().compile(**kwargs)
        self.extra = extra


def test_a_compile_of_the_users_is_left_to_them(caplog):
    x = keras.Input((4,))
    model = OwnCompile(x, norm()(x))
    model.compile(3, optimizer="sgd", loss="mse")
    converted = kbn.convert_batch_norm(model)
    assert "not compiled: its compile() is its own" in caplog.text
    assert not converted.compiled
    assert type(converted) is OwnCompile
    assert kbn.convert_batch_norm(model, in_place=True).compiled


def test_dtype_policies_are_those_of_when_the_model_was_made():
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = keras.Input((4,))
    model = keras.Model(x, Block(5)(layers.Dense(4)(x)))
    keras.config.set_dtype_policy("float32")
    assert described(kbn.convert_batch_norm(model)) == described(model)


def test_weights_of_16_bits_are_not_made_anew_under_an_optimizer():
    model = keras.Sequential([keras.Input((4,)), norm(name="half", dtype="float16")])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"'half' cannot be converted in place.*16"):
        kbn.convert_batch_norm(model, in_place=True)
    assert norms(model, Theirs)
    model.compile("sgd", "mse")
    kbn.convert_batch_norm(model, in_place=True)
    assert {v.dtype for v in model.weights} == {"float32"}


def test_trained_functions_are_traced_anew_after_a_conversion_in_place():
    model = keras.Sequential([keras.Input((4,)), norm(), layers.Dense(1)])
    model.compile("sgd", "mse")
    x = batch(8, 4)
    x[0] = np.nan  # poisons Keras' statistics for ever (D8), and not ours
    model.predict(x, verbose=0)
    kbn.convert_batch_norm(model, in_place=True)
    model.layers[1].trainable = False
    model.fit(x, np.zeros((8, 1)), verbose=0)
    assert np.isfinite(arrays(model.layers[0].moving_mean)[0]).all()


def test_optional_inputs_stay_optional():
    x = keras.Input((4,), name="x")
    z = keras.Input((4,), name="z", optional=True)

    class Sum(layers.Layer):
        def call(self, x, z=None):
            return x if z is None else x + z

        def compute_output_shape(self, x_shape, z_shape=None):
            return x_shape

    model = keras.Model([x, z], norm()(Sum()(x, z)))
    converted = kbn.convert_batch_norm(model)
    given = [keras.ops.convert_to_tensor(batch(3, 4)), None]
    assert_close(arrays(converted(given)), arrays(model(given)))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strings need TensorFlow")
def test_vocabularies_come_along():
    words = layers.StringLookup(output_mode="one_hot")
    words.adapt(["a", "b", "c", "b"])
    x = keras.Input((1,), dtype="string")
    model = keras.Model(x, norm()(words(x)))
    converted = kbn.convert_batch_norm(model)
    text = keras.ops.convert_to_tensor([["b"], ["x"]])
    assert_close(arrays(converted(text)), arrays(model(text)))


def test_unbuilt_models_are_converted_unbuilt():
    for model in (
        keras.Sequential([layers.Dense(3), norm()]),
        Net(),
        keras.Sequential([Net(), norm()]),
    ):
        count = len(norms(model, Theirs))
        ways = [True] if isinstance(model, Net) else [False, True]
        for in_place in ways:
            converted = kbn.convert_batch_norm(model, in_place=in_place)
            assert len(norms(converted, Ours)) >= count > 0
            assert not norms(converted, Theirs)
            converted(batch(6, 3), training=True)
            (one, *_) = norms(converted, Ours)
            assert one.built
            assert one.path == one.gamma.path.removesuffix("/gamma")


def test_unbuilt_layer_is_built_as_ours_is():
    # In 16 bits the weights tell whose build it was.
    model = keras.Sequential([norm(dtype="float16")])
    model = kbn.convert_batch_norm(model, in_place=True)
    model(batch(4, 3).astype("float16"))
    assert {v.dtype for v in model.weights} == {"float32"}
    assert model.layers[0].get_build_config() == {"input_shape": (4, 3)}
