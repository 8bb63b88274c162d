"""kbn.callbacks.watch: what there is to see in a model, and calls that are noted."""

import contextlib

import keras
import numpy as np
import pytest
import watched_models
from keras import layers

import kbn
from kbn.callbacks.watch.calls import CallLog, seeing
from kbn.callbacks.watch.inventory import Contents, Inventory, Selection
from kbn.callbacks.watch.layers import unique_names
from kbn.private import keras as private

BACKEND = keras.backend.backend()
needs_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="needs TensorFlow"
)


def names(model, select=None):
    return set(Selection(Inventory(model), select).layers)


def test_operations_that_are_no_layers():
    model, *_ = watched_models.residual()
    assert {"relu", "relu_1", "add", "add_1", "block0"} <= names(model)


def test_layers_inside_layers():
    model, *_ = watched_models.recurrent()
    assert {"both", "forward_simple_rnn", "every", "each", "lstm_cell"} <= names(model)
    # Both directions have a simple_rnn_cell, which the path tells apart.
    cells = {name for name in names(model) if name.endswith("simple_rnn_cell")}
    assert len(cells) == 2
    assert all("/" in name for name in cells)


def test_layers_of_a_subclassed_model_in_lists_and_born_in_build():
    model, x, _ = watched_models.subclassed()
    assert names(model) == {"dense", "lazy", "head"}
    model(x)
    assert names(model) == {"dense", "lazy", "born_late", "head"}


@pytest.mark.skipif(BACKEND == "torch", reason="torch modules hide attributes")
def test_layers_without_keras_private_list(monkeypatch):
    model, *_ = watched_models.residual()
    expected = names(model)
    nested, *_ = watched_models.nested_and_shared()
    monkeypatch.setattr(private, "direct_layers", lambda parent: None)
    assert names(model) == expected
    assert names(nested) == {"encoder", "inner", "join", "head"}
    built, x, _ = watched_models.subclassed()
    built(x)
    assert {"lazy", "born_late", "head"} <= names(built)


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("^h", {"hidden", "head"}),
        ("norm|relu", {"norm", "relu"}),
        (lambda layer: isinstance(layer, layers.ReLU), {"relu"}),
        (lambda layer: False, set()),
    ],
    ids=["regex", "alternatives", "function", "none"],
)
def test_selected_layers(select, expected):
    model, *_ = watched_models.sequential()
    assert names(model, select) == expected


def test_weights_are_named_by_path():
    model, *_ = watched_models.sequential()
    named = Inventory(model).weights
    assert [weight.path for weight in model.weights] == list(named)
    selected = Selection(Inventory(model), "norm").weights
    assert {path.split("/")[-1] for path in selected} == {
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
    }


def test_weights_with_the_same_path_are_told_apart():
    twins = [layers.Dense(2, name="twin") for _ in range(2)]
    for layer in twins:
        layer.build((None, 2))

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.twins = twins

        def call(self, x):
            return twins[1](twins[0](x))

    model = Model()
    model(np.ones((1, 2)))
    named = Inventory(model).weights
    assert len(named) == len(model.weights) == 4
    assert set(Inventory(model).layers) == {"twin", "twin_1"}


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (layers.BatchNormalization, "gamma beta moving_mean moving_variance"),
        (kbn.BatchNorm, "gamma beta moving_mean moving_variance"),
        (lambda: kbn.BatchNorm(scale=False), "beta moving_mean moving_variance"),
    ],
    ids=["keras", "kbn", "no-gamma"],
)
def test_batch_norms_of_any_make(make, parts):
    model = keras.Sequential([layers.Input((3,)), make(), layers.LayerNormalization()])
    ((_, norm),) = Inventory(model).batch_norms.items()
    found = norm.parts
    assert list(found) == parts.split()
    assert all(found[part] is getattr(model.layers[0], part) for part in found)


def test_optimizers_of_a_gan():
    model, *_ = watched_models.gan()
    found = Inventory(model).optimizers
    assert list(found) == ["optimizer", "g_optimizer", "d_optimizer"]
    assert found["d_optimizer"] is model.d_optimizer


def test_unique_names():
    pairs = [("a", 1), ("b", 2), ("a", 3), ("a_1", 4), ("a", 5)]
    assert unique_names(pairs) == {"a": 1, "b": 2, "a_1": 3, "a_1_1": 4, "a_2": 5}


@needs_tensorflow
def test_seeing_overrides_the_instances_and_restores_them():
    model, x, _ = watched_models.sequential()
    own = model.layers[2].call
    object.__setattr__(model.layers[2], "call", own)  # another tool's override
    before = [dict(vars(layer)) for layer in [*model.layers, model.optimizer]]
    seen = CallLog(lambda: None)  # outside of any graph
    watching = seeing(
        Inventory(model).layers,
        Inventory(model).optimizers,
        lambda: Inventory(model).weights,
        lambda: seen,
    )
    with contextlib.suppress(KeyboardInterrupt), watching:
        assert "call" in vars(model.layers[0])
        outputs = model(x)
        raise KeyboardInterrupt
    after = [vars(layer) for layer in [*model.layers, model.optimizer]]
    for old, new in zip(before, after, strict=True):
        assert "call" not in new or new["call"] is old["call"]
        assert set(new) == set(old)
    assert model.layers[2].call is own
    tensor, name = seen.activations["head"]
    assert name == "head"
    np.testing.assert_array_equal(tensor, outputs)


# --- taken anew only when the model has changed ---


def frozen(model):
    model.get_layer("hidden").trainable = False


def grown(model):
    model.add(layers.Dense(3, name="more"))


def compiled_again(model):
    model.compile(keras.optimizers.Adam(), "mse")


def trained(model):
    x, y = watched_models.sequential()[1:]
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("change", [frozen, grown, compiled_again, trained])
def test_an_inventory_is_taken_anew_when_the_model_has_changed(change):
    model, x, y = watched_models.sequential(run_eagerly=BACKEND == "tensorflow")
    model.fit(x, y, verbose=0)
    contents = Contents()
    before = contents.of(model)
    assert contents.of(model) is before
    change(model)
    after = contents.of(model)
    assert (after is before) == (change is trained)
    assert [*after.layers] == [*Inventory(model).layers]
