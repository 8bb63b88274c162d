"""kbn.callbacks.log.run_log: what the HParams tab compares runs by."""

import keras
import numpy as np
import pytest
import watched_models
from keras import layers
from tensorboard.plugins.hparams import metadata

from kbn.callbacks.log.run_log import (
    COLUMNS,
    hyperparameter_values,
    hyperparameters,
    trial_of,
)
from kbn.callbacks.watch.description import describe
from kbn.callbacks.watch.inventory import Inventory


def record(model, **fit):
    return {**describe(model, Inventory(model)), "fit": fit}


def test_what_is_known_of_a_model():
    model, *_ = watched_models.kbn_layers(optimizer=keras.optimizers.Adam(0.3))
    assert hyperparameters(record(model, epochs=4, steps=None)) == {
        "batch_norm": "kbn.BatchNormalization",
        "parameters": model.count_params(),
        "optimizer": "Adam",
        "learning_rate": 0.3,
        "epochs": 4,
        "precision": "float32",
    }


@pytest.mark.parametrize("norm", [layers.BatchNormalization, layers.LayerNormalization])
def test_batch_norm_is_known_by_what_it_is(norm):
    model = keras.Sequential([layers.Input((3,)), norm()])
    inner = keras.optimizers.SGD(0.1)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), "mse")
    known = hyperparameters(record(model))
    is_batch_norm = norm is layers.BatchNormalization
    kind = "keras.BatchNormalization" if is_batch_norm else "none"
    assert known["batch_norm"] == kind
    assert (known["optimizer"], known["learning_rate"]) == ("SGD", 0.1)


def test_values_are_read_by_the_plugin():
    known = {"batch_norm": "none", "learning_rate": 0.1, "optimizer": "SGD"}
    metrics = ["Epoch/loss", "Epoch/val_loss"]
    config, start = hyperparameter_values(known | {"dropout": 0.2}, metrics, "mine")
    experiment = metadata.parse_experiment_plugin_data(
        config.metadata.plugin_data.content
    )
    # Of all runs, TensorBoard shows the columns that one of them names.
    columns = {info.name for info in experiment.hparam_infos}
    assert columns == {"dropout", *COLUMNS} > known.keys()
    # TensorBoard ticks the first five by their letters: what one compares first.
    assert {"batch_norm", "learning_rate", "optimizer"} <= {*sorted(COLUMNS)[:5]}
    assert [info.name.tag for info in experiment.metric_infos] == metrics
    session = metadata.parse_session_start_info_plugin_data(
        start.metadata.plugin_data.content
    )
    assert session.group_name == "mine"
    assert session.hparams["dropout"].number_value == 0.2
    assert session.hparams["batch_norm"].string_value == "none"
    assert session.hparams["optimizer"].string_value == "SGD"
    np.testing.assert_equal(session.hparams["learning_rate"].number_value, 0.1)


def test_what_the_user_and_the_first_batch_add():
    model, *_ = watched_models.kbn_layers()
    known = record(model, batch_size=8, seed=3) | {"hparams": {"dropout": 0.2}}
    found = hyperparameters(known)
    assert (found["batch_size"], found["seed"], found["dropout"]) == (8, 3, 0.2)


def test_each_directory_is_a_trial_of_its_own(tmp_path):
    names = [trial_of(tmp_path / part / "run") for part in "ab"]
    assert len({*names}) == 2
    assert all(name.startswith("run-") for name in names)
    assert names[0] == trial_of(tmp_path / "a" / "run")
