"""kbn.callbacks.watch: what a look costs, in traces, nodes, tags and bytes."""

import logging

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the other backends have no probe yet", allow_module_level=True)

import tensorflow as tf

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log.history import POINT, History
from kbn.callbacks.watch import reduction
from kbn.callbacks.watch import tensorflow as watch_tensorflow
from kbn.callbacks.watch.pruned import PrunedStep
from tests import watched_models
from tests.event_files import read_log, steps
from tests.watched_models import BATCH, ROWS

FIT = {"batch_size": BATCH, "verbose": 0}


class Counted(keras.Model):
    """Counts how often its step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


def counted(width=6, **options):
    x = inputs = keras.Input((None, width))
    x = keras.layers.Dense(8, use_bias=False, name="hidden")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("tanh", name="tanh")(x)
    model = Counted(inputs, keras.layers.Dense(2, name="head")(x))
    model.compile("sgd", "mse", **options)
    return model


def batches(length=3, width=6):
    x = np.random.default_rng(length).normal(size=(ROWS, length, width))
    return tf.data.Dataset.from_tensor_slices((x, np.ones((ROWS, length, 2)))).batch(
        BATCH, drop_remainder=True
    )


@pytest.mark.parametrize("log_freq", ["epoch", 1, 3])
@pytest.mark.parametrize("before", ["new", "traced before"])
def test_watching_traces_the_step_no_more_often(log_freq, before, tmp_path):
    # What the Python of a step leaves in the model is that of an unwatched training.
    counts = []
    for monitors in ([], [TrainingMonitor(tmp_path, log_freq=log_freq)]):
        model = counted()
        if before == "traced before":
            model.fit(batches(), verbose=0, shuffle=False)
        for length in (3, 4, 3, 5):
            fit = {"epochs": 2, "verbose": 0, "shuffle": False}
            model.fit(batches(length), callbacks=monitors, **fit)
        counts.append(model.traces)
    assert counts[1] == counts[0]


def test_a_second_monitor_is_refused(tmp_path):
    model, x, y = watched_models.sequential()
    both = [TrainingMonitor(tmp_path / name) for name in ("one", "other")]
    with pytest.raises(ValueError, match="Two TrainingMonitors are given to one fit"):
        model.fit(x, y, callbacks=both, **FIT)
    model.fit(x, y, callbacks=both[:1], **FIT)
    model.fit(x, y, callbacks=both[1:], **FIT)
    assert "activations/head" in read_log(tmp_path / "other")
    watched_models.assert_unwatched(model)


@pytest.mark.long
def test_no_warning_of_retracing_names_our_functions(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    for width in range(5, 13):
        model = counted(width)
        monitor = TrainingMonitor(tmp_path / str(width), log_freq=1)
        model.fit(
            batches(3, width), epochs=2, verbose=0, shuffle=False, callbacks=[monitor]
        )
    said = [r.getMessage() for r in caplog.records if "retracing" in r.getMessage()]
    assert said == []


def test_a_probe_is_the_step_without_what_it_changes(tmp_path, monkeypatch):
    made = []
    real = PrunedStep.__init__

    def noted(self, graph, *others):
        real(self, graph, *others)
        made.append((self._definition, graph.as_graph_def()))

    monkeypatch.setattr(PrunedStep, "__init__", noted)
    model, x, y = watched_models.residual()
    monitor = TrainingMonitor(tmp_path, watch=("gradients", "activations"))
    model.fit(x, y, callbacks=[monitor], **FIT)
    # Keras 3.16 makes its function anew once a model is built.
    assert len(made) == 1 or keras.__version__ >= "3.16"
    *_, (probe, step) = made
    writes = [
        node.op for node in probe.node if "Assign" in node.op or "Apply" in node.op
    ]
    assert writes == []
    assert len(probe.node) < 0.7 * len(step.node)


@pytest.mark.parametrize("kind", ["sequential", "kbn_layers", "two_outputs", "gan"])
def test_what_is_reduced_in_the_step_is_what_numpy_reduces(kind, tmp_path, monkeypatch):
    def log(name):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, x, y = watched_models.KINDS[kind]()
        monitor = TrainingMonitor(tmp_path / name, log_freq=2, sample_size=32)
        model.fit(x, y, callbacks=[monitor], **FIT)
        return read_log(tmp_path / name)

    expected = log("host")
    monkeypatch.setattr(reduction, "SMALL", 20)
    monkeypatch.setattr(watch_tensorflow, "MANY", 0)  # so a thread reads it
    found = log("inside")
    assert found.keys() == expected.keys()
    for tag, looks in expected.items():
        if tag.startswith(("speed/", "memory/")):
            continue  # of the machine
        assert steps(found, tag) == [step for step, _ in looks]
        for (_, value), (_, other) in zip(found[tag], looks, strict=True):
            if np.ndim(value):  # on an edge, a count may fall on either side
                scale = np.abs(other[:, :2]).max()
                np.testing.assert_allclose(
                    value[:, :2], other[:, :2], rtol=1e-4, atol=1e-6 * scale
                )
                assert np.isclose(value[:, 2].sum(), other[:, 2].sum(), rtol=1e-5)
            else:
                np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-6)


def test_a_look_writes_few_bytes_for_each_tag(tmp_path):
    model, x, y = watched_models.residual(run_eagerly=True)
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    sizes = []

    class Size(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            (path,) = tmp_path.iterdir()
            sizes.append(path.stat().st_size)

    model.fit(x, y, callbacks=[monitor, Size()], **FIT)
    log = read_log(tmp_path)
    tensors = [tag for tag, looks in log.items() if np.ndim(looks[0][1])]
    # 30 rows of three float32 are 360 bytes; the metadata came with the first look.
    assert sizes[-1] - sizes[-2] < 480 * len(tensors) + 100 * (len(log) - len(tensors))
    assert not [tag for tag in log if tag.startswith("quantiles")]


@pytest.mark.parametrize("tags", [1, 7, 300])
def test_history_is_bounded_in_bytes(tags):
    history = History(size_bytes=300 * POINT * 4)
    for step in range(2000):
        history.add(step, {f"tag{i}": float(step) for i in range(tags)})
        assert history.size_bytes <= 300 * POINT * 4
    for seen, values in history.by_tag().values():
        assert seen[-1] == values[-1] == 1999
        assert seen == [*range(seen[0], 2000)]
        assert len(seen) >= 0.8 * (1200 // tags)
    assert history.values("tag0", last=2) == [1998.0, 1999.0]


class Alternating(keras.Model):
    """Another layer at every step, as with a random depth."""

    def __init__(self):
        super().__init__()
        self.turns = [keras.layers.Dense(2, name=f"turn{i}") for i in range(2)]
        self.count = 0

    def build(self, shape):
        for layer in self.turns:
            layer.build(shape)

    def call(self, x, training=False):
        if training:
            self.count += 1
        return self.turns[self.count % 2](x)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
def test_an_eager_look_shows_the_layers_of_its_own_step(tmp_path):
    model = Alternating()
    model.build((None, 6))
    model.compile("sgd", "mse", run_eagerly=True)
    x, y = np.ones((6 * BATCH, 6)), np.ones((6 * BATCH, 2))
    model.fit(x, y, callbacks=[TrainingMonitor(tmp_path, log_freq=1)], **FIT)
    log = read_log(tmp_path)
    assert steps(log, "activations/turn1") == [1, 3, 5]
    assert steps(log, "activations/turn0") == [2, 4, 6]
    for number, wanted in enumerate([[2, 4, 6], [1, 3, 5]]):
        assert steps(log, f"gradients/alternating/turn{number}/kernel") == wanted
