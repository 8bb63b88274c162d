"""TrainingMonitor's on_look, hparams and to_frame: the numbers, somewhere else."""

import sys

import keras
import numpy as np
import pytest
from event_files import read_records

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log import reader
from kbn.callbacks.log.history import to_frame

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def fit(monitor, rows=20, batch_size=8, epochs=2, **options):
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse", **options)
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype("float32")
    model.fit(x, x[:, :2], batch_size, epochs, verbose=0, callbacks=[monitor])
    return model


def test_on_look_is_told_all_that_is_logged(tmp_path):
    told = []
    monitor = TrainingMonitor(tmp_path, on_look=lambda *args: told.append(args))
    fit(monitor)
    logged = [(x.step, x.scalars) for x in reader.read_run(tmp_path).entries]
    assert len(told) >= 4
    # The log has one value of a tag at a step, the first.
    met = set()
    fresh = []
    for step, scalars in told:
        left = {k: x for k, x in scalars.items() if (k, step) not in met}
        met |= {(k, step) for k in left}
        fresh += [(step, left)] if left else []
    assert [step for step, _ in fresh] == [step for step, _ in logged]
    for (_, ours), (_, theirs) in zip(fresh, logged, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(
            np.float32([*ours.values()]), np.float32([theirs[k] for k in ours])
        )
    assert any("Epoch/loss" in scalars for _, scalars in told)


def test_another_model_is_told_under_its_name(tmp_path):
    told = []
    monitor = TrainingMonitor(tmp_path, on_look=lambda *args: told.append(args))
    fit(monitor)
    first = len(told)
    model = fit(monitor)
    tags = {tag for _, scalars in told[first:] for tag in scalars}
    assert all(tag.startswith(f"{model.name}/") for tag in tags)


def test_hparams_batch_size_seed_and_policy_are_recorded(tmp_path):
    keras.utils.set_random_seed(7)
    hparams = {"dropout": 0.2, "kind": "plain", "wide": True}
    fit(TrainingMonitor(tmp_path, hparams=hparams))
    record = read_records(tmp_path)[-1]
    assert record["hparams"] == hparams
    assert record["fit"]["seed"] == 7
    assert record["model"]["dtype_policy"] == "float32"
    assert record["fit"]["batch_size"] == 8


@pytest.mark.skipif(not ON_TENSORFLOW, reason="its replicas")
def test_batch_size_is_that_of_the_looked_at_batch_over_all_replicas(tmp_path):
    from tests.replicas import two_replicas

    with two_replicas().scope():
        fit(TrainingMonitor(tmp_path), rows=16)
    assert read_records(tmp_path)[-1]["fit"]["batch_size"] == 8


@pytest.mark.parametrize(
    "value",
    [np.float32(0.5), np.float64(0.5), np.int64(3), np.bool_(True), np.str_("a")],
    ids=lambda value: type(value).__name__,
)
def test_hparams_of_numpy_are_those_of_python(value):
    (found,) = TrainingMonitor(hparams={"v": value}).hparams.values()
    assert found == value.item()
    assert type(found) is type(value.item())


def test_runs_that_differ_in_the_seed_are_two_rows(tmp_path):
    from tensorboard.plugins.hparams import metadata

    trials = {}
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        fit(TrainingMonitor(tmp_path / f"seed_{seed}"))
        for trial, known in sessions(tmp_path / f"seed_{seed}", metadata):
            trials[trial] = known
    assert [name.partition("-")[0] for name in trials] == ["seed_1", "seed_2"]
    assert [known["seed"].number_value for known in trials.values()] == [1, 2]


def sessions(directory, metadata):
    from tensorboard.backend.event_processing import event_file_loader

    for file in directory.glob("*.kbn"):
        for event in event_file_loader.EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    content = value.metadata.plugin_data.content
                    found = metadata.parse_session_start_info_plugin_data(content)
                    yield found.group_name, found.hparams


def test_frame_without_pandas_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        to_frame({})


def test_frame_has_a_row_a_step_and_a_column_a_tag():
    pandas = pytest.importorskip("pandas")
    frame = to_frame({"b": ([1, 3], [0.5, 0.25]), "a": ([3], [1.0])})
    assert isinstance(frame, pandas.DataFrame)
    assert [*frame.columns] == ["b", "a"]
    assert (frame.index.name, [*frame.index]) == ("step", [1, 3])
    np.testing.assert_array_equal(frame.to_numpy(), [[0.5, np.nan], [0.25, 1.0]])
