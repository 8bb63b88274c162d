"""kbn.callbacks.log.layout: which layers are the worst, in the Text tab."""

import keras
import numpy as np
import pytest
import watched_models
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log.layout import WORST, WorstLayers

DEAD, STD = "health/dead_units/<layer>", "activation_std/<layer>"


def rows(value):
    """The cells of a table in a text's value, without its head."""
    text = tensor_util.make_ndarray(value.tensor).item().decode()
    _, _, *lines = text.split("\n")
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_table_names_the_layers():
    layers = {
        STD: {"a": 1.0, "b": np.nan, "c": 3.0},
        DEAD: {"a": 0.1, "b|c": 0.75, "c": 0.2},
    }
    value = WorstLayers().seen(20, layers)
    assert value.tag == WORST
    assert value.metadata.plugin_data.plugin_name == "text"
    assert rows(value) == [
        ["health/dead_units", "`b&#124;c`", "**0.75**", "0 to 0.2", "20"],
        ["activation_std", "`b`", "**nan**", "0.1 to 10", "20"],
    ]


def test_one_layer_alone_is_not_the_worst():
    assert WorstLayers().seen(1, {DEAD: {"a": 1.0}}) is None
    assert WorstLayers().seen(1, {}) is None


def test_what_a_snapshot_does_not_show_stays_as_it_was():
    worst = WorstLayers()
    worst.seen(1, {DEAD: {"a": 0.0, "b": 0.1}, STD: {"a": 1.0, "b": 2.0}})
    found = rows(worst.seen(2, {STD: {"a": 1.0, "b": 0.5}}))
    assert [[*row[:2], row[-1]] for row in found] == [
        ["health/dead_units", "`b`", "1"],
        ["activation_std", "`b`", "2"],
    ]


@pytest.mark.parametrize("name", ["sequential", "kbn_layers"])
def test_tensorboard_reads_the_table(name, tmp_path):
    model, x, y = getattr(watched_models, name)()
    monitor = TrainingMonitor(tmp_path, log_freq=2)
    model.fit(x, y, verbose=0, callbacks=[monitor])
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert WORST in events.PluginTagToContent("text")
    last = events.Tensors(WORST)[-1]
    text = tensor_util.make_ndarray(last.tensor_proto).item().decode()
    name, value, *_ = max(
        (
            (tag.partition("/")[2], *values[-1:])
            for tag, (_, values) in monitor.history.items()
            if tag.startswith("weight_growth/")
        ),
        key=lambda one: abs(np.log(one[1]) - np.log(0.9) / 2),
    )
    row = f"| weight_growth | `{name}` | {value:.3g} | 0.3 to 3 |"
    assert row in text, keras.backend.backend()
