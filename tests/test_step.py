"""kbn.callbacks.step: what a look costs, in traces, nodes, tags and bytes."""

import logging

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the other backends have no twin", allow_module_level=True)

import tensorflow as tf

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log.history import POINT, History
from kbn.callbacks.step import host
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


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_monitors_share_one_trace(count, tmp_path):
    # Issue 11, item 10: three monitors took 89 s where one took 26.
    wishes = [
        {"log_freq": 2},
        {"log_freq": 3, "layers": "head"},
        {"watch": ("gradients",), "log_freq": lambda step: step % 3 != 0},
        {"watch": ("activations", "quantiles"), "sample_size": 9},
        {"log_freq": 1, "watch": ("batch_norm",)},
    ][:count]
    model = counted()
    monitors = [TrainingMonitor(tmp_path / str(i), **w) for i, w in enumerate(wishes)]
    model.fit(batches(), epochs=4, verbose=0, shuffle=False, callbacks=monitors)
    traces = 2 if count < 5 else 1  # Keras' own is for steps that nobody looks at
    assert model.traces <= traces
    model.fit(batches(), epochs=4, verbose=0, shuffle=False, callbacks=monitors)
    assert model.traces <= traces


def test_monitors_of_one_wish_and_many_schedules_share_one_trace(tmp_path):
    model = counted()
    for number in range(3):  # new ones for each fit
        monitors = [
            TrainingMonitor(tmp_path / f"{number}-{freq}", log_freq=freq)
            for freq in (1, 2, 3, "epoch")
        ]
        model.fit(batches(), epochs=2, verbose=0, shuffle=False, callbacks=monitors)
    assert model.traces == 1  # somebody looks at each step: Keras' own is not asked


def test_a_trace_is_kept_for_each_kind_of_batch(tmp_path):
    model = counted()
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    for length in (3, 4, 5, 3, 4, 5, 3):
        model.fit(batches(length), verbose=0, shuffle=False, callbacks=[monitor])
    assert model.traces == 3


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


def test_the_trace_holds_no_statistics(tmp_path, monkeypatch):
    # Most of the first look was the trace of the statistics of each tensor.
    nodes = {}
    real = tf.function

    def function(python_function, **options):
        made = real(python_function, **options)
        nodes.setdefault(python_function.__name__, made)
        return made

    monkeypatch.setattr(tf, "function", function)
    model, x, y = watched_models.residual()
    model.fit(x, y, callbacks=[TrainingMonitor(tmp_path, log_freq=2)], **FIT)

    def graph_of(name):
        (concrete,) = nodes[name]._list_all_concrete_functions()
        graph = concrete.graph.as_graph_def()
        return [*graph.node, *(n for f in graph.library.function for n in f.node_def)]

    twin = graph_of("unpack_and_trace")
    own = graph_of("multi_step_on_iterator")
    assert not [node for node in twin if "Bincount" in node.op]
    given = len(read_log(tmp_path))
    assert len(twin) < len(own) + 8 * given


@pytest.mark.parametrize("kind", ["sequential", "kbn_layers", "two_outputs", "gan"])
@pytest.mark.parametrize("where", ["device", "large"])
def test_what_is_reduced_in_the_step_is_what_numpy_reduces(
    kind, where, tmp_path, monkeypatch
):
    def log(name):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, x, y = watched_models.KINDS[kind]()
        monitor = TrainingMonitor(tmp_path / name, log_freq=2, sample_size=32)
        model.fit(x, y, callbacks=[monitor], **FIT)
        return read_log(tmp_path / name)

    expected = log("host")
    if where == "device":
        monkeypatch.setattr(host, "is_host_only", lambda: False)
    else:
        monkeypatch.setattr(host, "LARGEST", 20)
    found = log("inside")
    assert found.keys() == expected.keys()
    for tag, looks in expected.items():
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


def test_no_variable_has_two_tags(tmp_path):
    model, x, y = watched_models.kbn_layers(run_eagerly=True)
    monitor = TrainingMonitor(tmp_path)
    model.fit(x, y, callbacks=[monitor], **FIT)
    log = read_log(tmp_path)
    states = [t for t in log if t.startswith("weights/")]
    states += [t for t in log if t.startswith("batch_norm/") and "/batch_" not in t]
    assert len(states) == len(model.weights)


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
