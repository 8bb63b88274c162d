"""Alerts: raised on entry, once, resolved when it is over; and what follows."""

import dataclasses
import json
import logging
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbn.callbacks import rules
from kbn.callbacks.alerts import action
from kbn.callbacks.alerts.alert import LEVELS, Alert, rank
from kbn.callbacks.alerts.follow import Follower, alerts_of
from kbn.callbacks.signals.remedy import Remedy
from kbn.callbacks.signals.view import Memory

LAYERS = [
    {
        "name": name,
        "type": "keras.Dense",
        "activation": "relu",
        "weights": [{"path": f"net/{name}/kernel", "shape": [8, 8]}],
    }
    for name in ("b", "a", "c")  # forward order is not that of the alphabet
]
RECORD = {"model": {"name": "net"}, "layers": LAYERS}
DEAD = "health/dead_units/"


class Level(rules.Rule):
    """The value says how ill: 1 a warning, 2 critical; by place."""

    reads = ("level/",)
    patience = 2

    def readings(self, view):
        """Of each place."""
        for where, value in view.under("level/").items():
            limit, level = (1.5, "critical") if value > 1.5 else (0.5, "warning")
            yield rules.Reading(where, value, limit, level)


def follow(*values, rule=None):
    """(step, what happened) of values by place, a look a step."""
    follower = Follower([rule or Level()])
    follower.record(RECORD)
    told = []
    for step, places in enumerate(values, start=1):
        for alert in follower.look(step, {f"level/{k}": v for k, v in places.items()}):
            told.append((step, alert.where, alert.level, alert.ending))
    assert not follower.failures
    return told, follower


# --- on entry, once, and the end of it ---


def test_alert_is_raised_after_patience_and_once():
    told, follower = follow({"a": 1}, {"a": 0}, *[{"a": 1}] * 5)
    assert told == [(4, "a", "warning", "")]
    assert [alert.step for alert in follower.open] == [4]


def test_alert_is_resolved_after_as_many_good_looks_and_raised_again():
    ill, good = {"a": 1}, {"a": 0}
    told, follower = follow(ill, ill, good, ill, good, good, ill, ill)
    assert told == [
        (2, "a", "warning", ""),
        (6, "a", "warning", "resolved at step 6"),
        (8, "a", "warning", ""),
    ]
    assert [alert.resolved_step for alert in follower.alerts] == [6, None]
    assert [alert.step for alert in follower.open] == [8]


def test_layers_with_one_illness_are_one_alert():
    every = {"a": 1, "b": 1, "c": 1}
    told, follower = follow(every, every)
    assert told == [(2, "b", "warning", "")]
    (alert,) = follower.alerts
    assert alert.others == 2
    assert "level in b and 2 more at step 2" in str(alert)


def test_layers_that_fall_ill_later_join_and_the_last_to_recover_ends_it():
    values = [{"a": 1, "b": 0}] * 2 + [{"a": 1, "b": 1}] * 2 + [{"a": 0, "b": 1}] * 3
    told, _ = follow(*values, {"a": 0, "b": 0}, {"a": 0, "b": 0})
    assert told == [
        (2, "a", "warning", ""),
        (9, "a", "warning", "resolved at step 9"),
    ]


def test_graver_alert_takes_over():
    told, follower = follow(*[{"a": 1}] * 3, *[{"a": 2}] * 3, *[{"a": 1}] * 3)
    assert told == [
        (2, "a", "warning", ""),
        (5, "a", "warning", "replaced at step 5"),
        (5, "a", "critical", ""),
    ]
    assert [alert.is_superseded for alert in follower.alerts] == [True, False]


def test_grave_alert_comes_alone():
    told, _ = follow(*[{"a": 2}] * 3)
    assert told == [(2, "a", "critical", "")]


def test_layer_that_is_not_measured_is_neither_ill_nor_good():
    told, _ = follow({"a": 1}, {"c": 0}, {"a": math.nan}, {"a": 1}, {"c": 0}, {"c": 0})
    assert told == [(4, "a", "warning", "")]


def test_entries_of_one_step_are_one_look():
    follower = Follower([Level()])
    for value, told in [(1, 0), (1, 0), (0, 0)]:
        assert len(follower.look(7, {"level/a": value})) == told
    assert len(follower.look(8, {"level/a": 1})) == 1


def test_short_training_is_told_of_at_its_end():
    patient = rules.DeadRelu(patience=3)
    for looks, share, told in [(1, 0.9, 0), (2, 0.9, 1), (2, 0.1, 0), (3, 0.9, 0)]:
        follower = Follower([patient])
        for step in range(looks):
            follower.look(step, {DEAD + "a": share})
        at_end = follower.end()
        assert len(at_end) == told
        assert follower.end() == []
        assert len(follower.alerts) == told or looks == 3
    follower = Follower([patient])
    for step, share in enumerate((0.1, 0.9, 0.9)):
        follower.look(step, {DEAD + "a": share})
    assert follower.end() == []


def test_ends_of_epochs_are_no_looks_of_a_rule_that_measures_nothing_there():
    follower = Follower([rules.UpdateRatioHigh()])
    for step in (20, 30):
        follower.look(step, {"update_ratio/net/a/kernel": 0.5, "loss/train": 2.0})
        follower.look(step + 5, {"Epoch/loss": 2.0, "epoch": 1})
    (alert,) = follower.end()
    assert alert.rule == "update_ratio_high"


def test_alert_of_the_end_stays_open_in_another_fit():
    follower = Follower([rules.DeadRelu()])
    follower.look(1, {DEAD + "a": 0.9})
    follower.look(2, {DEAD + "a": 0.9})
    (alert,) = follower.end()
    assert follower.look(3, {DEAD + "a": 0.9}) == []
    assert follower.open == [alert]
    for step in (4, 22):
        assert follower.look(step, {DEAD + "a": 0.0}) == []
    (over,) = follower.look(23, {DEAD + "a": 0.0})
    assert (over.step, over.resolved_step) == (2, 23)


@pytest.mark.parametrize("every", [1, 3, 5, 20, 43])
def test_patience_counts_steps_and_takes_two_looks(every):
    follower = Follower([rules.DeadRelu(patience=20)])
    told = []
    for step in range(1, 200, every):
        told += follower.look(step, {DEAD + "a": 0.9 if step <= 100 else 0.0})
    raised, over = told
    assert 20 <= raised.step < 20 + every + (every > 20)
    assert over.resolved_step >= 101 + 19


def test_state_that_only_epochs_show_is_ended_only_by_an_epoch():
    follower = Follower()
    told = []
    for epoch in range(1, 6):
        for step in (epoch * 30 - 20, epoch * 30 - 10):
            told += follower.look(step, {"loss/train": 1.0, "epoch": epoch})
        broken = {"Epoch/val_loss": math.nan if epoch < 4 else 1.0}
        end = {"Epoch/loss": 1.0, "epoch": epoch, **broken}
        told += follower.look(epoch * 30, end)
    assert [(x.rule, x.step, x.resolved_step) for x in told] == [
        ("non_finite", 30, None),
        ("non_finite", 30, 120),
    ]


def test_what_was_good_at_the_last_look_is_over_at_the_end():
    follower = Follower([rules.DeadRelu()])
    for step in (10, 50, 90):
        follower.look(step, {DEAD + "a": 0.9})
    follower.look(95, {DEAD + "a": 0.0})
    (over,) = follower.end()
    assert (over.step, over.resolved_step) == (50, 95)
    assert follower.end() == []


def test_end_of_nothing_is_nothing():
    assert Follower().end() == []
    assert alerts_of([]) == []


class Fails(rules.Rule):
    """Fails at the second look."""

    reads = ("level/",)
    keeps = {"level/": 1}  # noqa: RUF012

    def readings(self, view):
        """Nothing, then an error."""
        if view.past("level/a"):
            raise KeyError("second")
        return []


def test_rule_that_fails_is_left_out_and_said():
    follower = Follower([Fails(), Level()])
    for step in range(3):
        follower.look(step, {"level/a": 1})
    assert [alert.rule for alert in follower.alerts] == ["level"]
    assert repr(follower.failures) == "{'fails': KeyError('second')}"
    with pytest.raises(KeyError, match="second"):
        alerts_of([(1, {"level/a": 1}), (2, {"level/a": 1})], [Fails()])


def test_weights_that_are_nan_silence_all_but_non_finite():
    follower = Follower()
    follower.record(RECORD)
    broken = {"health/non_finite/weights/net/a/kernel": 64, "epoch": 1}
    for step in range(1, 5):
        follower.look(step, {DEAD + "a": 1.0, **broken})
    assert [alert.rule for alert in follower.alerts] == ["non_finite"]


def test_a_finite_epoch_is_no_sign_of_health_where_looks_see_more():
    # A network of ReLUs whose weights are NaN may report a finite loss.
    look = {"health/non_finite/weights/net/a/kernel": 64, "loss/train": 2.3, "epoch": 1}
    follower = Follower()
    follower.record(RECORD)
    follower.look(29, look)
    follower.look(56, {"Epoch/loss": 2.3, "epoch": 1})
    follower.look(56, look)
    (alert,) = follower.alerts
    assert alert.is_open
    follower.look(57, {"loss/train": 2.2, "epoch": 2})
    assert not follower.open


def test_tag_has_one_value_a_step_as_in_an_event_file():
    follower = Follower([rules.UnchangedWeight()])
    tag = "distance_from_init/net/a/kernel"
    for step in range(1, 5):  # each entry twice, as at the end of a training
        for _ in range(2):
            follower.look(step, {tag: 0.1 * step, "epoch": 3})
    assert follower.end() == []
    follower.look(5, {tag: 0.5, "epoch": 4})
    assert follower._last.epoch == 4
    follower.look(5, {"Epoch/loss": 1.0, "epoch": 4})
    assert (follower._last.epoch, "epoch" in follower._last) == (4, False)


# --- what is kept of the past ---


def test_memory_keeps_what_rules_ask_for():
    memory = Memory({"loss": 3, "ratio/": 1, "other/": 0})
    for step in range(1, 6):
        scalars = {"loss": step, "ratio/a": step, "other/a": step, "unread": step}
        view = memory.view(step, scalars, follow()[1]._record)
        assert view.under("ratio/") == {"a": step}
        assert view.under("other/") == {"a": step}
        memory.keep(view)
        memory.keep(view)  # the same step again
    assert view.past("loss") == [3, 4, 5]
    assert view.past("loss", last=2) == [4, 5]
    assert view.past("ratio/a") == [5]
    assert view.past("other/a") == view.past("unread") == []
    assert (view.first("loss"), view.largest("loss")) == (1, 5)
    assert not view.is_first("ratio/")


def test_values_are_rounded_as_an_event_file_has_them():
    seen = []

    class Sees(rules.Rule):
        reads = ("x",)

        def readings(self, view):
            seen.append(view["x"])
            return []

    follower = Follower([Sees()])
    for step, x in enumerate((0.1, 1e300, math.nan)):
        follower.look(step, {"x": x})
    assert seen[:2] == [0.10000000149011612, math.inf]
    assert math.isnan(seen[2])


# --- properties of all rules together ---

CALLS = ["b", "a", "a#1", "c"]
OF_WEIGHTS = """
gradient_rms update_ratio distance_from_init weight_std weight_growth weight_drift
weight_spread update_from_init
"""
OF_MODEL = """
epoch loss/train Epoch/loss Epoch/val_loss gradient_norm/global learning_rate loss_scale
skipped_steps loss_gap/train_eval inputs/x/mean inputs/x/std health/non_finite/inputs/x
"""
TAGS = [
    *OF_MODEL.split(),
    *(f"health/non_finite/activations/{call}" for call in CALLS),
    *(f"{kind}/{call}" for kind in ("activation_std", DEAD[:-1]) for call in CALLS),
    *(f"batch_norm_gap/{call}/{x}" for call in CALLS for x in ("mean", "variance")),
    *(f"health/collapsed_channels/{call}" for call in CALLS),
    *(f"batch_norm_elements/{call}" for call in CALLS),
    *(f"batch_norm_start/{name}/{x}" for name in "abc" for x in ("share", "gap")),
    *(f"batch_norm_updates/{name}" for name in "abc"),
    *(f"{kind}/net/{name}/kernel" for kind in OF_WEIGHTS.split() for name in "abc"),
]
NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, 1e-8, 1e4, math.nan, math.inf]),
    st.floats(0, 10, width=32),
)
SETTINGS = {"momentum": 0.99, "epsilon": 1e-3, "is_fresh": True}
NORMS = [{**LAYERS[0], "batch_norm": SETTINGS}, *LAYERS[1:]]
RECORDS = st.sampled_from([{}, RECORD, {**RECORD, "layers": NORMS}])


@st.composite
def trainings(draw):
    """A record, and entries with steps that do not fall."""
    scalars = st.dictionaries(st.sampled_from(TAGS), NUMBERS, max_size=12)
    often = draw(scalars)
    steps = sorted(draw(st.lists(st.integers(0, 900), min_size=1, max_size=12)))
    entries = [(step, {**often, **draw(scalars)}) for step in steps]
    return [draw(RECORDS), *entries]


def said_of(follower, entries):
    """All that is said of entries, in order."""
    told = []
    for entry in entries:
        if isinstance(entry, dict):
            follower.record(entry)
        else:
            told += follower.look(*entry)
    return told


@given(trainings())
def test_same_alerts_in_one_go_and_entry_by_entry(entries):
    follower = Follower()
    told = [*said_of(follower, entries), *follower.end()]
    assert follower.failures == {}
    assert alerts_of(entries) == follower.alerts
    raised = [alert for alert in told if alert.is_open]
    ended = [alert for alert in told if not alert.is_open]
    assert [(x.rule, x.step, x.message) for x in raised] == [
        (x.rule, x.step, x.message) for x in follower.alerts
    ]
    assert len(ended) + len(follower.open) == len(follower.alerts)
    assert sorted(ended, key=str) == sorted(
        (x for x in follower.alerts if not x.is_open), key=str
    )
    for alert in follower.alerts:
        assert Alert.from_dict(json.loads(json.dumps(alert.to_dict()))) == alert
        assert "\n" not in str(alert)
    rules_open = [alert.rule for alert in follower.open]
    assert len(rules_open) == len({*rules_open})


@given(trainings(), st.randoms())
def test_order_of_tags_does_not_matter(entries, random):
    def shuffled(scalars):
        return dict(random.sample([*scalars.items()], len(scalars)))

    known, *looks = entries
    mixed = [known, *((step, shuffled(scalars)) for step, scalars in looks)]
    assert alerts_of(mixed) == alerts_of(entries)


@given(trainings(), st.data())
def test_what_is_still_to_come_does_not_change_what_was_said(entries, data):
    cut = data.draw(st.integers(0, len(entries)))
    early = said_of(Follower(), entries[:cut])
    assert said_of(Follower(), entries)[: len(early)] == early


# --- the alert itself ---

ALERT = Alert(
    *("dead_relu", "warning", "a", 40, 2, 0.75, 0.5, "It is dead. Try x."),
    title="units are dead",
    remedy=Remedy("ask", words="Try x."),
)
CURE = "try: Try x. (kbn explain dead_relu)"


def test_alert_is_one_line():
    assert str(ALERT) == (
        "warning: dead_relu in a at step 40 (epoch 2), 0.75 > 0.5. It is dead. Try x."
    )
    low = Alert("slow", "info", "a", 40, None, 1e-7, 1e-5, "Slow.", others=3)
    assert str(low) == "info: slow in a and 3 more at step 40, 1e-07 < 1e-05. Slow."
    over = Alert("slow", "info", "a", 40, None, 1.0, 0.0, "Slow.", resolved_step=60)
    assert str(over).endswith("1 > 0. Slow. [resolved at step 60]")


@pytest.mark.parametrize("value", [0.75, math.inf, -math.inf])
def test_alert_goes_through_json(value):
    alert = Alert("x", "info", "a", 1, None, value, 1.0, "m", 2, 9, True)
    text = json.dumps(alert.to_dict(), allow_nan=False)
    assert Alert.from_dict({**json.loads(text), "of a later version": 1}) == alert


def test_levels_are_ordered():
    assert [rank(level) for level in LEVELS] == [0, 1, 2]
    with pytest.raises(ValueError, match="'fatal' is not a level of alerts: info, war"):
        rank("fatal")


# --- what follows from it ---

CRITICAL = Alert("non_finite", "critical", "a", 41, 2, 5.0, 0.0, "NaN. Try x.")
INFO = Alert("overfit", "info", "net", 42, 2, 0.2, 0.1, "It overfits. Stop.")
OVER = Alert("slow", "critical", "a", 40, None, 1.0, 0.0, "Slow.", resolved_step=60)
ALL = [ALERT, OVER, CRITICAL, INFO]


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "kbn")
    return lambda: [(x.levelname, x.getMessage()) for x in caplog.records]


def test_log_says_each_once(logged):
    assert not action.act(ALL, "log")
    assert logged() == [
        ("WARNING", "warning: units are dead in a, at step 40, epoch 2\n  " + CURE),
        ("CRITICAL", action.brief(CRITICAL)),
        ("INFO", action.brief(INFO)),
    ]


def test_brief_is_two_lines_with_how_to_read_more_last():
    assert action.brief(CRITICAL) == (
        "critical: non_finite in a, at step 41, epoch 2\n"
        "  NaN. Try x. (kbn explain non_finite)"
    )
    more = dataclasses.replace(OVER, others=3)
    assert action.brief(more).startswith("critical: slow in a and 3 more, at step 40\n")


def test_stop_stops_for_what_is_critical_and_says_so(logged):
    assert not action.act([ALERT, INFO, OVER], "stop")
    assert action.act(ALL, "stop")
    assert logged()[-1] == (
        "CRITICAL",
        "Training stops after step 41, because of non_finite (on_alert='stop').",
    )


def test_raise_raises_what_is_critical_after_logging_all(logged):
    assert not action.act([ALERT, INFO, OVER], "raise")
    with pytest.raises(
        action.TrainingAlert, match="non_finite in a at step 41"
    ) as error:
        action.act(ALL, "raise")
    assert error.value.alert == CRITICAL
    assert pickle.loads(pickle.dumps(error.value)).alert == CRITICAL
    assert ("INFO", action.brief(INFO)) in logged()


def test_function_is_called_with_each_new_alert(logged):
    met = []
    assert not action.act(ALL, met.append)
    assert met == [ALERT, CRITICAL, INFO]
    assert logged() == []


def test_notebook_shows_an_alert_escaped():
    where = "<script>&"
    odd = Alert("my_rule", "info", where, 4, None, 1.0, 0.0, "a < b.", resolved_step=9)
    shown = odd._repr_html_()
    assert "<b>info: my_rule in &lt;script&gt;&amp;, at step 4</b>" in shown
    assert "<i>resolved at step 9</i><br>a &lt; b. <code>my_rule</code></div>" in shown
    assert "<i>" not in ALERT._repr_html_()


@pytest.mark.parametrize(
    ("found", "levels"),
    [
        ([], []),
        ([INFO], ["WARNING"]),  # by default Python shows no less
        ([INFO, ALERT], ["WARNING"]),
        ([ALERT, CRITICAL], ["CRITICAL"]),
    ],
)
def test_summary_is_said_once_if_alerts_are_open(found, levels, logged):
    action.log_summary("It is so.", found)
    assert logged() == [(level, "It is so.") for level in levels]
