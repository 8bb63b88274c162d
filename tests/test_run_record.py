"""kbn.callbacks.log.records: what a reader needs to know without the model."""

import functools
import json

import keras
import numpy as np
import pytest
import watched_models
from event_files import read_records
from keras import layers
from tensorboard.backend.event_processing import event_file_loader

import kbn
from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log.records import run_in, run_value
from kbn.callbacks.watch.description import describe
from kbn.callbacks.watch.inventory import Inventory

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def network(**options):
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(4, name="hidden"),
            kbn.BatchNorm(momentum=0.9, epsilon=1e-4, name="norm"),
            layers.Activation("gelu", name="gelu"),
            layers.Dense(2, activation="softmax", name="head"),
        ],
        name="network",
    )
    usual = {"optimizer": keras.optimizers.Adam(3e-4), "loss": "mse"}
    model.compile(**usual | {"run_eagerly": ON_TENSORFLOW} | options)
    return model


def data(rows=16):
    x = np.random.default_rng(0).normal(size=(rows, 6)).astype("float32")
    return x, x[:, :2]


def train(model, log_dir, fits=1, **options):
    monitor = TrainingMonitor(log_dir, **options)
    for _ in range(fits):
        model.fit(*data(), epochs=2, batch_size=8, verbose=0, callbacks=[monitor])
    return read_records(log_dir)


def test_record_of_a_network(tmp_path):
    model = network()
    (record,) = train(model, tmp_path, layers="^h", sample_size=99)
    assert record["format"] == 1
    assert record["model"] == {
        "name": "network",
        "type": "keras.Sequential",
        "parameters": model.count_params(),
        "loss": "mse",
        "dtype_policy": "float32",
        "weights": [],
    }
    assert [layer["name"] for layer in record["layers"]] == [
        "hidden",
        "norm",
        "gelu",
        "head",
    ]
    hidden, norm, *_ = record["layers"]
    assert [x["activation"] for x in record["layers"]] == [
        "linear",
        None,
        "gelu",
        "softmax",
    ]
    assert [x["is_output"] for x in record["layers"]] == [False, False, False, True]
    assert norm["batch_norm"] == {
        "momentum": 0.9,
        "warmup": False,
        "epsilon": 1e-4,
        "axis": [-1],
        "is_frozen": False,
        "is_fresh": None,  # not watched
    }
    assert "batch_norm" not in hidden
    assert hidden["path"] == "network/hidden"
    assert hidden["type"] == "keras.Dense"
    assert hidden["weights"][0] == {
        "path": "network/hidden/kernel",
        "shape": [6, 4],
        "dtype": "float32",
        "trainable": True,
    }
    (optimizer,) = record["optimizers"]
    assert (optimizer["type"], optimizer["name"]) == ("keras.Adam", "optimizer")
    assert optimizer["settings"]["learning_rate"] == 3e-4
    assert optimizer["settings"]["beta_1"] == 0.9
    assert optimizer["loss_scaling"] is None
    assert record["fit"]["epochs"] == 2
    assert record["versions"]["keras"] == keras.__version__
    assert record["versions"]["kbn"] == kbn.__version__
    assert record["versions"]["backend"] == keras.backend.backend()
    assert record["options"].pop("rules")[0] == "non_finite_data"
    assert record["options"] == {
        "log_freq": "auto",
        "watch": ["weights", "gradients", "activations", "batch_norm"],
        "layers": "^h",
        "sample_size": 99,
        "signals": [],
    }


def is_wide(layer):
    return layer.name == "hidden"


def test_a_function_is_named_without_its_address(tmp_path):
    # With it, equal runs would differ.
    select = functools.partial(is_wide)
    (record,) = train(
        network(), tmp_path, layers=select, log_freq=lambda step: step == 2
    )
    assert record["options"]["log_freq"] == "<lambda>"
    assert record["options"]["layers"] == "partial"


def test_every_file_begins_with_a_record(tmp_path):
    records = train(network(), tmp_path, fits=3, log_freq=np.int64(1), layers=is_wide)
    assert len(records) == 3
    assert [x["options"]["log_freq"] for x in records] == [1, 1, 1]
    assert records[0]["options"]["layers"] == "is_wide"
    path = min(tmp_path.iterdir())
    version, record, *_ = event_file_loader.EventFileLoader(str(path)).Load()
    assert version.file_version
    assert run_in(record.summary.value[0])["step"] == record.step == 1


def frozen(model):
    model.get_layer("hidden").trainable = False


def frozen_statistics(model):
    kbn.freeze_batch_norm(model, train_affine=True)


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="Keras on JAX has to be compiled again: it would train the wrong variables",
)
@pytest.mark.parametrize("change", [frozen, frozen_statistics])
def test_a_model_that_changes_in_a_fit_is_described_again(change, tmp_path):
    model = network()
    changes = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: change(model) if epoch == 1 else None
    )
    monitor = TrainingMonitor(tmp_path, log_freq="epoch")
    model.fit(*data(), epochs=3, batch_size=8, verbose=0, callbacks=[changes, monitor])
    before, after = read_records(tmp_path)
    assert (before["step"], after["step"]) == (1, 3)
    assert before["layers"] != after["layers"]


def test_what_stays_is_not_described_again(tmp_path):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 1e-3 / (1 + epoch))
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    network().fit(*data(), epochs=4, verbose=0, callbacks=[schedule, monitor])
    assert len(read_records(tmp_path)) == 1


def test_layers_of_a_subclassed_model_are_in_the_order_of_their_calls(tmp_path):
    class Backwards(keras.Model):
        def __init__(self):
            super().__init__()
            self.last = layers.Dense(2, name="last")
            self.middle = [layers.Dense(3, name="middle")]
            self.first = layers.Dense(4, name="first")

        def call(self, x):
            return self.last(self.middle[0](self.first(x)))

    model = Backwards()
    model.compile("sgd", "mse")
    (record,) = train(model, tmp_path)
    order = [layer["name"] for layer in record["layers"]]
    assert order == ["first", "middle", "last"]
    assert [x["name"] for x in record["layers"] if x["is_output"]] == ["last"]


@pytest.mark.parametrize("kind", sorted(watched_models.KINDS))
def test_every_kind_of_model_has_a_record(kind):
    model, *_ = watched_models.KINDS[kind]()
    described = describe(model, Inventory(model))
    (read,) = [run_in(run_value(described))]
    assert read.pop("format") == 1
    assert read == json.loads(json.dumps(described, allow_nan=False))
    owners = [read["model"], *read["layers"]]
    weights = [weight["path"] for owner in owners for weight in owner["weights"]]
    assert sorted(weights) == sorted(Inventory(model).weights)


@pytest.mark.parametrize(
    ("optimizer", "inner", "scaling"),
    [
        (lambda: keras.optimizers.SGD(0.1), "keras.SGD", None),
        (
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
            "keras.SGD",
            "keras.LossScaleOptimizer",
        ),
        (
            lambda: keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(0.1, 10)
            ),
            "keras.Adam",
            None,
        ),
    ],
)
def test_optimizers_are_described(optimizer, inner, scaling):
    model = network(optimizer=optimizer())
    (found,) = describe(model, Inventory(model))["optimizers"]
    assert (found["type"], found["loss_scaling"]) == (inner, scaling)
    assert found["learning_rate"] == 0.1
