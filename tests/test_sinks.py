"""Homes for what a monitor logs: scalars, histograms, alerts and the report."""

import copy
import inspect
import re
import sys

import keras
import numpy as np
import pytest

from kbn.callbacks import Alert, TrainingMonitor, sinks
from kbn.callbacks.watch import probe
from tests import stand_in_wandb


class Kept(sinks.Sink):
    def __init__(self):
        self.looks, self.alerts, self.reports = [], [], []

    def look(self, step, scalars, histograms):
        self.looks.append((step, scalars, histograms))

    def alert(self, alert):
        self.alerts.append(alert)

    def end(self, report):
        self.reports.append(report())


class Broken(sinks.Sink):
    def look(self, step, scalars, histograms):
        raise ConnectionError("the server is away")

    alert = end = look


def fit(directory, sink):
    """Train at a learning rate that is too high; the monitor, model and alerts."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(1, "tanh")])
    model.compile(keras.optimizers.SGD(30.0), "mse")
    x = np.random.default_rng(0).normal(size=(80, 4))
    raised = []
    monitor = TrainingMonitor(directory, on_look=sink, on_alert=raised.append)
    model.fit(x, x[:, :1], 8, epochs=2, verbose=0, callbacks=[monitor])
    assert {"info"} < {"info", *(alert.level for alert in raised)}
    return monitor, model, raised


def test_sink_is_told_what_is_logged_and_raised_and_how_it_ended(tmp_path):
    sink = Kept()
    monitor, model, raised = fit(tmp_path, sink)
    losses = [(s, x["loss/train"]) for s, x, _ in sink.looks if "loss/train" in x]
    assert losses == [*zip(*monitor.history["loss/train"], strict=True)]
    assert sink.alerts == raised
    assert sink.reports == [monitor.report()]
    *_, (_, _, last) = sink.looks
    for weight in model.weights:
        wanted, edges = np.histogram(keras.ops.convert_to_numpy(weight), 30)
        counts, found = last[f"weights/{weight.path}"]
        rounding = 1e-6 * np.abs(edges).max()  # of the edges next to 0
        np.testing.assert_allclose(found, edges, rtol=1e-5, atol=rounding)
        assert np.abs(np.cumsum(counts - wanted)).max() <= 1  # one lies on an edge
        assert counts.sum() == wanted.sum()


def test_what_a_sink_raises_is_said_once_and_training_goes_on(tmp_path, caplog):
    monitor, _, _ = fit(tmp_path, Broken())
    assert monitor.history["Epoch/loss"][0] == [10, 20]
    assert len([x for x in caplog.messages if "on_look raises" in x]) == 1


def test_of_several_processes_one_hands_on(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.backend(), "is_first_process", lambda: False)
    sink = Kept()
    fit(tmp_path, sink)
    assert not sink.looks + sink.alerts + sink.reports


def test_weights_and_biases_gets_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", stand_in_wandb)
    run = stand_in_wandb.init()
    monitor, _, raised = fit(tmp_path, sinks.WeightsAndBiases(run))
    *rows, last = run.rows
    losses = [(x["kbn/step"], x["Epoch/loss"]) for x in rows if "Epoch/loss" in x]
    assert losses == [*zip(*monitor.history["Epoch/loss"], strict=True)]
    drawn = rows[0]["gradients/sequential/dense/kernel"]
    assert (drawn.counts.sum(), drawn.edges.shape) == (32, (31,))
    tags = {re.sub("/.*", "/*", tag) for row in rows for tag in row} - {"kbn/*"}
    assert run.axes == {"kbn/step": None, **dict.fromkeys(tags, "kbn/step")}
    sent = [(x.title, str(x)) for x in raised if x.level != "info"]
    assert [(title, text) for title, text, _ in run.alerts] == sent
    assert last["kbn/report"].html == monitor.report().to_html()


def test_weights_and_biases_is_not_alerted_to_notes_and_has_short_titles(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", stand_in_wandb)
    run = stand_in_wandb.init()
    sink = sinks.WeightsAndBiases(run)
    for level in ("info", "warning", "critical"):
        sink.alert(Alert("x" * 70, level, "a", 1, 1, 0.7, 0.5, "Bad."))
    assert [(len(title), level) for title, _, level in run.alerts] == [
        (63, "WARN"),
        (63, "ERROR"),
    ]
    assert copy.deepcopy(sink) is sink  # a tuner's copies have one run
    with pytest.raises(ValueError, match=r"run=None.*what wandb.init returned"):
        sinks.WeightsAndBiases(None)


def test_stand_in_takes_what_the_package_takes():
    wandb = pytest.importorskip("wandb")
    for name in ("Run.define_metric", "Run.log", "Run.alert", "Histogram", "Html"):
        ours, theirs = (
            [*inspect.signature(eval(name, vars(x))).parameters]
            for x in (stand_in_wandb, wandb)
        )
        assert ours == theirs[: len(ours)]
