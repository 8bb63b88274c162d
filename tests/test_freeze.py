"""Frozen batch norms: what still moves, what is saved, what need not be compiled."""

import keras
import numpy as np
import pytest

import kbn
from tests import oracle
from tests.cases import MODES
from tests.models_with_batch_norm import (
    FEATURES,
    LAYERS,
    SITUATIONS,
    Situation,
    data,
    gammas,
    norms,
    statistics,
    values,
)
from tests.running import Runner

BACKEND = keras.backend.backend()
both_layers = pytest.mark.parametrize("layer", LAYERS)
both_ways = pytest.mark.parametrize("train_affine", [False, True])


def compiled(model):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), "mse")
    return model


def fit(model):
    x, y = data(16)  # no short batch: XLA takes seconds for each shape
    model.fit(x, y, batch_size=8, verbose=0)


def changed(before, after):
    return [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


def moves(model, step=fit):
    """Which statistics and which gammas a `fit` changes."""
    before = statistics(model), gammas(model)
    step(model)
    return changed(before[0], statistics(model)), changed(before[1], gammas(model))


def train_once(model):
    """A step of SGD without `fit`: nothing to trace."""
    model.compile(keras.optimizers.SGD(0.01, clipnorm=1.0), "mse", run_eagerly=True)
    model.train_on_batch(*data(8))


@both_ways
@pytest.mark.parametrize(("kind", "layer"), [("nested", "Keras"), ("held", "kbn")])
def test_frozen_statistics_stay_until_unfrozen(kind, layer, train_affine):
    model = compiled(Situation(kind, layer).model())
    fit(model)  # traced, and the optimizer built, before the freeze
    before = values(model.weights)
    trainable = [w.path for w in model.trainable_weights]
    assert kbn.freeze_batch_norm(model, train_affine) is model
    assert not any(changed(before, values(model.weights)))
    kernels = [w for w in model.trainable_weights if w.name == "kernel"]
    before = values(kernels)
    still, trained = moves(model)
    assert not any(still)
    assert set(trained) == {train_affine}
    assert all(changed(before, values(kernels)))
    assert kbn.unfreeze_batch_norm(model) is model
    assert [w.path for w in model.trainable_weights] == trainable
    still, trained = moves(model)
    assert all(still)
    assert all(trained)


@both_ways
@pytest.mark.parametrize(
    "situation",
    # A model of the user's own has its own config, which knows nothing of its layers.
    [x for x in SITUATIONS if x.kind not in ("held", "images")],
    ids=str,
)
def test_frozen_model_is_the_same_after_saving_and_loading(
    situation, train_affine, tmp_path
):
    model = kbn.freeze_batch_norm(situation.model(), train_affine)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    names = [
        [w.path.split("/")[-2:] for w in x.trainable_weights] for x in (model, loaded)
    ]
    assert names[0] == names[1]
    assert not any(changed(values(model.weights), values(loaded.weights)))
    still, trained = moves(loaded, train_once)
    assert not any(still)
    assert set(trained) == {train_affine}
    still, trained = moves(kbn.unfreeze_batch_norm(loaded), train_once)
    assert all(still)
    assert all(trained)


@pytest.mark.parametrize(
    "turns",
    [(False, True), (True, False), (True, True), (False, False)],
    ids=lambda turns: " then ".join("affine" if turn else "all" for turn in turns),
)
@both_layers
def test_last_freeze_decides(turns, layer):
    model = Situation("nested", layer).model()
    for turn in turns:
        kbn.freeze_batch_norm(model, turn)
        still, trained = moves(model, train_once)
        assert not any(still)
        assert set(trained) == {turn}


@pytest.mark.parametrize("kind", ["sequential", "branches", "shared", "nested", "held"])
def test_layers_of_keras_become_ours_where_they_are(kind):
    model = Situation(kind, "Keras").model()
    before = norms(model)
    configs = [layer.get_config() for layer in before]
    kbn.freeze_batch_norm(model, train_affine=True)
    assert list(map(id, norms(model))) == list(map(id, before))
    for layer, config in zip(before, configs, strict=True):
        assert type(layer) is kbn.BatchNorm
        assert layer.get_config() == {**config, "freeze_statistics": True}
    kbn.unfreeze_batch_norm(model)
    assert [layer.get_config() for layer in before] == configs


def test_renorm_of_keras_becomes_ours():
    clipping = {"rmin": 0.5, "rmax": 2.0, "dmax": 1.0}
    layer = keras.layers.BatchNormalization(renorm=True, renorm_clipping=clipping)
    model = compiled(keras.Sequential([keras.Input((FEATURES,)), layer]))
    kbn.freeze_batch_norm(model, train_affine=True)
    before = values(layer.non_trainable_weights)
    fit(model)
    assert not any(changed(before, values(layer.non_trainable_weights)))
    kbn.unfreeze_batch_norm(model)
    twin = kbn.BatchNorm.from_config(layer.get_config())
    twin.build((None, FEATURES))
    twin.set_weights(layer.get_weights())
    x, _ = data(16)
    for one in (layer, twin):
        one(x, training=True)
    for ours, expected in zip(layer.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)


@both_layers
def test_part_that_is_frozen_stays_frozen(layer):
    model = Situation("nested", layer).model()
    inner = model.get_layer("inner")
    inside, outside = norms(inner)[0], norms(model)[-1]
    assert inside is not outside
    inner.trainable = False
    kbn.freeze_batch_norm(model, train_affine=True)
    assert (inside.trainable, outside.trainable) == (False, True)
    kbn.unfreeze_batch_norm(model)
    assert (inside.trainable, outside.trainable) == (False, True)
    # Keras lets statistics move in a frozen part whose batch norm is not.
    inside.trainable = True
    kbn.freeze_batch_norm(model)
    assert (inside.trainable, outside.trainable) == (False, False)


@both_ways
def test_freeze_between_two_epochs_of_a_fit(train_affine):
    model = compiled(Situation("nested", "Keras").model())
    seen = {}

    class Freeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kbn.freeze_batch_norm(model, train_affine)
            seen[epoch] = statistics(model), gammas(model)

    x, y = data(16)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[Freeze()])
    assert not all(map(np.array_equal, seen[0][0], seen[1][0]))
    assert all(map(np.array_equal, seen[1][0], seen[2][0]))
    assert all(map(np.array_equal, seen[1][1], seen[2][1])) is not train_affine


def by_name(optimizer):
    """Its variables; a path also tells where it was built. Names may come twice."""
    named = {}
    for variable in optimizer.variables:
        again = variable.name in named
        named[f"{variable.name} again" if again else variable.name] = variable
    return named


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.optimizers.AdamW(0.02, global_clipnorm=1.0),
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9)),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
        keras.optimizers.RMSprop(use_ema=True),
    ],
    ids=lambda x: type(x).__name__,
)
def test_optimizer_keeps_its_state_for_what_still_trains(optimizer):
    config = keras.optimizers.serialize(optimizer)
    model = Situation("nested", "Keras").model()
    model.compile(keras.optimizers.deserialize(config), "mse", run_eagerly=True)
    fit(model)
    old = model.optimizer
    before = by_name(old)
    kbn.freeze_batch_norm(model)
    assert model.optimizer is not old
    after = by_name(model.optimizer)
    dropped = before.keys() - after.keys()
    assert dropped
    assert not [x for x in dropped if "gamma" not in x and "beta" not in x]
    for path, variable in after.items():
        np.testing.assert_array_equal(*values([variable, before[path]]))
    assert int(keras.ops.convert_to_numpy(model.optimizer.iterations)) == 2
    expected = keras.optimizers.serialize(model.optimizer)
    assert expected == keras.optimizers.serialize(old)
    fit(model)


@pytest.mark.parametrize("change", [{"train_affine": True}, None], ids=["flag", "same"])
def test_optimizer_stays_where_the_weights_do(change):
    model = Situation("nested", "kbn").model()
    train_once(model)
    optimizer = model.optimizer
    if change is None:
        kbn.unfreeze_batch_norm(model)
    else:
        kbn.freeze_batch_norm(model, **change)
    assert model.optimizer is optimizer


class Stubborn(keras.optimizers.SGD):
    def get_config(self):
        raise NotImplementedError("no config of mine")


def test_optimizer_that_cannot_be_made_anew_is_said():
    model = Situation("nested", "kbn").model()
    model.compile(Stubborn(), "mse", run_eagerly=True)
    fit(model)
    with pytest.warns(
        UserWarning, match=r"no config of mine\). Compile the model again"
    ):
        kbn.freeze_batch_norm(model)
    assert not any(moves(model, train_once)[0])


class Derived(keras.layers.BatchNormalization):
    pass


class DerivedFromOurs(kbn.BatchNorm):
    pass


def test_derived_batch_norm_is_frozen_but_not_replaced():
    model = compiled(keras.Sequential([keras.Input((FEATURES,)), Derived(name="mine")]))
    model.add(keras.layers.BatchNormalization())
    model.add(keras.layers.Dense(1))
    before = [layer.get_config() for layer in norms(model)]
    with pytest.raises(ValueError, match=r"^Derived 'mine' is a subclass of keras\."):
        kbn.freeze_batch_norm(model, train_affine=True)
    assert [layer.get_config() for layer in norms(model)] == before
    assert [type(x) for x in norms(model)] == [Derived, LAYERS["Keras"]]
    kbn.freeze_batch_norm(model)
    assert not any(moves(model, train_once)[0])


def test_layer_derived_from_ours_is_frozen_both_ways():
    model = keras.Sequential([keras.Input((FEATURES,)), DerivedFromOurs()])
    model.add(keras.layers.Dense(1))
    for train_affine in (True, False):
        kbn.freeze_batch_norm(model, train_affine)
        assert not any(moves(model, train_once)[0])


def test_arguments_that_ours_refuses_are_named():
    model = keras.Sequential([keras.Input((FEATURES,)), kbn.BatchNorm()])
    model.add(keras.layers.BatchNormalization(epsilon=0.0, name="bare"))
    message = r"'bare' cannot become .*epsilon=0.0\): epsilon must be a finite number"
    with pytest.raises(ValueError, match=message):
        kbn.freeze_batch_norm(model, train_affine=True)
    assert not norms(model)[0].freeze_statistics
    kbn.freeze_batch_norm(model)


@pytest.mark.parametrize("function", ["freeze_batch_norm", "unfreeze_batch_norm"])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(1)], name="plain"),
         "no batch norm in Sequential 'plain'. It is not built yet: call it on a"),
        (lambda: Situation("nested", "kbn").model().get_layer("inner").layers[0],
         "There is no batch norm in Dense 'dense'.$"),
        (lambda: np.zeros(3), "_batch_norm expects a Keras model or layer, received"),
    ],
    ids=["unbuilt", "without", "array"],
)  # fmt: skip
def test_model_without_batch_norm_is_refused(function, model, message):
    with pytest.raises(ValueError, match=message):
        getattr(kbn, function)(model())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")
@both_ways
def test_freeze_says_which_traced_function_goes_on(train_affine):
    import tensorflow as tf

    class Steps(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = kbn.BatchNorm(momentum=0.0)

        def call(self, x, training=None):
            return self.norm(x, training=training)

        @tf.function
        def train_step(self, x):
            return self(x, training=True)

    model, (x, _) = Steps(), data(8)
    model(x, training=False)
    kbn.unfreeze_batch_norm(kbn.freeze_batch_norm(model, train_affine))  # not traced
    model.train_step(x)
    model.norm.reset_running_stats()
    said = r"^'train_step' of Steps 'steps': a tf\.function that was traced goes on"
    with pytest.warns(UserWarning, match=said):
        kbn.freeze_batch_norm(model, train_affine)
    model.train_step(x)  # as it says
    np.testing.assert_allclose(
        values([model.norm.moving_mean])[0], x.mean(0), rtol=1e-5
    )
    model.norm.reset_running_stats()
    tf.function(type(model).train_step.python_function)(model, x)
    np.testing.assert_array_equal(values([model.norm.moving_mean])[0], np.zeros(6))


def test_batch_norm_by_itself_is_a_model_too():
    layer = keras.layers.BatchNormalization(momentum=0.0)
    assert kbn.freeze_batch_norm(layer, train_affine=True) is layer
    x, _ = data(8)
    layer(x, training=True)
    np.testing.assert_array_equal(layer.get_weights()[2], np.zeros(FEATURES))
    kbn.unfreeze_batch_norm(layer)(x, training=True)
    np.testing.assert_allclose(layer.get_weights()[2], x.mean(0), rtol=1e-5)


# What freeze_statistics is there for; https://github.com/keras-team/keras/pull/9965
def test_keras_forgets_a_trainable_gamma_of_a_frozen_layer(tmp_path):
    layer = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((FEATURES,)), layer])
    layer.trainable = False
    layer.gamma.trainable = layer.beta.trainable = True
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.layers[0].gamma.trainable


ARGUMENTS = [
    {},
    {"axis": 1},
    {"center": False},
    {"scale": False},
    {"renorm": True},
    {"momentum": None},
    {"warmup": True},
    {"unbiased": True, "virtual_batch_size": 2},
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", ARGUMENTS, ids=str)
def test_layer_with_frozen_statistics_is_inference_that_trains(options, mode):
    layer = kbn.BatchNorm(freeze_statistics=True, **options)
    shape = (6, 3, 4, 3)
    runner = Runner(layer, mode, True, shape)
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        if "int" not in weight.dtype:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    before = values(layer.weights)
    x, dy = (rng.normal(1, 2, shape).astype("float32") for _ in range(2))
    ones, zeros = np.ones(3), np.zeros(3)
    expected = oracle.normalize_fixed(
        x,
        *values([layer.moving_mean, layer.moving_variance]),
        ones if layer.gamma is None else values([layer.gamma])[0],
        zeros if layer.beta is None else values([layer.beta])[0],
        layer.axis,
        layer.epsilon,
        dy,
    )
    for _ in range(2):
        ours = runner(x, dy)
        np.testing.assert_allclose(ours.y, expected.y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.dx, expected.dx, rtol=1e-5, atol=1e-5)
        for got, wanted in (
            (ours.dgamma, expected.dgamma),
            (ours.dbeta, expected.dbeta),
        ):
            if got is not None:
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert not any(changed(before, values(layer.weights)))
