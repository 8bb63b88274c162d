"""Alerts of a training under the monitor: said, stopped, raised, logged, kept."""

import logging
import pickle
import re

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from kbn.callbacks import Alert, TrainingAlert, TrainingMonitor, rules
from kbn.callbacks.alerts.follow import alerts_of
from kbn.callbacks.log.layout import ALERTS, alert_list
from kbn.callbacks.log.reader import read_run
from kbn.callbacks.watch.watched_function import WatchedFunction

if keras.backend.backend() != "tensorflow":
    pytest.skip("see test_alerts: the rules need no backend", allow_module_level=True)

ROWS, BATCH = 64, 16
STEPS = ROWS // BATCH


def network(bias=0.0):
    """`bias`: of the hidden ReLUs; -9 and they are dead."""
    keras.utils.set_random_seed(0)
    initial = keras.initializers.Constant(bias)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, "relu", bias_initializer=initial, name="hidden"),
            keras.layers.Dense(1, name="head"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def data(nan_in=None):
    """`nan_in`: the number of the batch that has a NaN, from 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    y = x[:, :1].copy()
    if nan_in is not None:
        x[nan_in * BATCH, 2] = np.nan
    return x, y


def fit(model, arrays, *monitors, epochs=2):
    return model.fit(
        *arrays,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(monitors),
    )


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "kbn")
    return lambda: [x.getMessage() for x in caplog.records if x.name == "kbn"]


# --- on_alert ---


def test_healthy_training_says_nothing(tmp_path, said):
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    fit(network(), data(), monitor)
    assert monitor.alerts == []
    assert said() == []
    assert not any(tag.startswith("Health/") for tag in monitor.history)


def test_log_says_it_once_and_again_at_the_end(tmp_path, said):
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    fit(network(), data(nan_in=1), monitor, epochs=3)
    (alert,) = monitor.alerts
    assert (alert.rule, alert.where, alert.step, alert.epoch) == (
        "non_finite_data",
        "x",
        2,
        1,
    )
    assert said() == [
        "critical: there is NaN or Inf in x, at step 2, epoch 1\n"
        f"  try: {alert.remedy} (kbn explain non_finite_data)",
        "Critical since epoch 1: there is NaN or Inf in x. "
        f"{alert.remedy}\n  more: kbn report {tmp_path}",
    ]


def test_summary_has_what_else_is_open_and_a_path_to_copy(tmp_path, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ill = [rules.DeadRelu(patience=3), Always()]
    fit(network(bias=-9.0), data(), TrainingMonitor("my logs", 1, rules=ill))
    verdict, *rest = said()[-1].splitlines()
    assert verdict.startswith("Unhealthy since epoch 1: units are dead in hidden. ")
    assert rest == [
        "  also open: always in net (info)",
        "  more: kbn report 'my logs'",
    ]
    fit(network(), data(), TrainingMonitor("notes", 1, rules=[Always()]))
    verdict, *rest = said()[-1].splitlines()
    assert verdict.startswith("Nothing is learned yet after 8 steps, 2 epochs: the")
    assert verdict.endswith("train for longer; to note: always in net.")
    assert rest == ["  more: kbn report notes"]


@pytest.mark.parametrize(
    ("batch", "line"),
    [
        pytest.param(BATCH, r"\d/4 .*━.*\n", id="at-an-open-bar"),
        pytest.param(ROWS, r"Epoch 3/4\n", id="before-the-bar"),
    ],
)
def test_alerts_begin_a_line_of_their_own(batch, line, tmp_path, capsys):
    monitor = TrainingMonitor(tmp_path, 1, rules=[Always()], on_alert=print)
    x, y = data()
    network().fit(x, y, batch, epochs=4, callbacks=[monitor])
    (alert,) = monitor.alerts
    before, _, after = capsys.readouterr().out.partition(str(alert))
    assert re.search(rf"{line}\Z", re.sub("\x1b.*?m", "", before))
    assert after.startswith("\n")


def test_monitor_shows_itself_by_its_verdict(tmp_path):
    logs, shown = tmp_path / "<logs>", []
    show = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: shown.append(repr(monitor))
    )
    monitor = TrainingMonitor(logs, 1, rules=[Always()], on_alert=print)
    assert repr(monitor) == f"<TrainingMonitor '{logs}'>"
    fit(network(), data(), monitor, show)
    assert "Healthy so far, after 4 steps, 1 epoch; to note: always" in shown[0]
    verdict = monitor.report().verdict
    assert repr(monitor) == f"<TrainingMonitor '{logs}': {verdict}>"
    page = monitor._repr_html_()
    assert f"/&lt;logs&gt;&#x27;: {verdict}&gt;</div>" in page
    assert page.endswith(monitor.alerts[0]._repr_html_())
    assert repr(pickle.loads(pickle.dumps(monitor))) == f"<TrainingMonitor '{logs}'>"


def test_stop_stops_after_the_step(tmp_path, said):
    monitor = TrainingMonitor(tmp_path, log_freq=1, on_alert="stop")
    history = fit(network(), data(nan_in=1), monitor, epochs=3)
    assert history.epoch == [0]
    assert max(monitor.history["learning_rate"][0]) == 2
    assert "Training stops after step 2, because of non_finite_data" in said()[1]


def test_raise_raises_and_leaves_the_model_unwrapped(tmp_path):
    model = network()
    monitor = TrainingMonitor(tmp_path, log_freq=1, on_alert="raise")
    with pytest.raises(TrainingAlert, match="non_finite_data in x at step 2") as error:
        fit(model, data(nan_in=1), monitor)
    assert error.value.alert == monitor.alerts[0]
    assert not isinstance(model.train_function, WatchedFunction)
    fit(network(), data(), TrainingMonitor(tmp_path))


def test_function_gets_each_alert_and_may_raise(tmp_path, said):
    met = []
    dead = [rules.DeadRelu(patience=3)]
    monitor = TrainingMonitor(tmp_path, log_freq=1, rules=dead, on_alert=met.append)
    fit(network(bias=-9.0), data(), monitor)
    assert [alert.rule for alert in met] == [alert.rule for alert in monitor.alerts]
    assert met[0].rule == "dead_relu"
    assert all(isinstance(alert, Alert) for alert in met)
    (summary,) = said()
    assert summary.startswith("Unhealthy since epoch 1: units are dead in hidden")

    def fail(alert):
        raise KeyError(alert.rule)

    model = network(bias=-9.0)
    monitor = TrainingMonitor(tmp_path / "b", 1, rules=dead, on_alert=fail)
    with pytest.raises(KeyError, match="dead_relu"):
        fit(model, data(), monitor)
    assert not isinstance(model.train_function, WatchedFunction)


# --- rules ---


def test_no_rules_no_alerts(tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq=1, rules=None)
    fit(network(), data(nan_in=1), monitor)
    assert monitor.alerts == []


class Always(rules.Rule):
    """It is so."""

    reads = ("loss/train",)
    patience = 3

    def readings(self, view):
        """The whole model."""
        yield rules.Reading("", 1.0, 0.0, "info")


class Fails(rules.Rule):
    """Divides by zero."""

    reads = ("loss/train",)

    def readings(self, view):
        """None."""
        return [1 / 0]


def test_rule_that_raises_is_left_out_and_the_training_goes_on(tmp_path, caplog):
    monitor = TrainingMonitor(tmp_path, 1, rules=[Fails(), rules.NonFinite()])
    fit(network(), data(nan_in=1), monitor)
    assert [alert.rule for alert in monitor.alerts] == ["non_finite"]
    assert caplog.text.count("leaves out the rule fails: ZeroDivisionError") == 1


# --- several fits ---


def test_second_fit_goes_on_with_the_alert(tmp_path, said):
    model = network(bias=-9.0)
    monitor = TrainingMonitor(tmp_path, log_freq=1, rules=[rules.DeadRelu(patience=3)])
    fit(model, data(), monitor, epochs=1)
    (alert,) = monitor.alerts
    assert alert.step == 3
    fit(model, data(), monitor, epochs=1)
    assert monitor.alerts == [alert]
    assert [line[:4] for line in said()] == ["warn", "Unhe", "Unhe"]
    hidden = model.get_layer("hidden")
    hidden.bias.assign(hidden.bias * 0)
    fit(model, data(), monitor, epochs=1)
    (over,) = monitor.alerts
    assert (over.step, over.resolved_step) == (3, 2 * STEPS + 3)


def test_resumed_training_is_judged_anew(tmp_path):
    model = network(bias=-9.0)
    first = TrainingMonitor(tmp_path, log_freq=1, rules=[rules.DeadRelu(patience=3)])
    fit(model, data(), first, epochs=1)
    second = TrainingMonitor(tmp_path, log_freq=1, rules=[rules.DeadRelu(patience=3)])
    fit(model, data(), second, epochs=1)
    assert [alert.step for alert in first.alerts] == [3]
    assert [alert.step for alert in second.alerts] == [STEPS + 3]


# --- the log ---


def test_log_has_the_alerts_and_gives_them_again(tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    model = network(bias=-9.0)
    fit(model, data(), monitor, epochs=6)
    hidden = model.get_layer("hidden")
    hidden.bias.assign(hidden.bias * 0)
    fit(model, data(), monitor, epochs=6)
    fit(model, data(nan_in=3), monitor)
    run = read_run(tmp_path)
    assert run.alerts == monitor.alerts
    assert {alert.is_open for alert in run.alerts} == {True, False}
    again = alerts_of([run.record, *((x.step, x.scalars) for x in run.entries)])
    assert again == monitor.alerts


def test_text_tab_and_counts(tmp_path):
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    model = network()
    fit(model, data(nan_in=1), monitor, epochs=1)
    accumulator = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    (*_, newest) = accumulator.Tensors(ALERTS)
    text = tensor_util.make_ndarray(newest.tensor_proto).item().decode()
    assert text == alert_list(monitor.alerts)
    assert text.startswith("- **critical: ")
    assert "** in `x`, since step 2, epoch 1. " in text
    assert text.endswith("(`kbn explain non_finite_data`)")
    assert monitor.history["Health/critical"] == ([2, 3, 4], [1.0, 1.0, 1.0])
    assert set(monitor.history["Health/warning"][1]) == {0.0}


def test_markdown_has_the_worst_open_alert_first_and_of_equals_the_newest():
    def alert(step, level, resolved=None):
        return Alert("a", level, "x", step, None, 1.0, 0.0, "M.", 2, resolved)

    alerts = [alert(1, "critical"), alert(2, "critical", 9)]
    alerts += [alert(step, "warning") for step in (3, 4)]
    rows = alert_list(alerts).splitlines()
    assert [row.partition("since step ")[2][0] for row in rows] == ["1", "4", "3", "2"]
    assert rows[0] == "- **critical: a** in `x` and 2 more, since step 1. M. (`a`)"
    assert rows[-1].startswith("- critical: a in `x` and 2 more, since step 2, ")
