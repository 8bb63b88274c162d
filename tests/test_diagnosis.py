"""Symptoms that follow from one cause are one alert, with one remedy."""

import dataclasses
import json

import pytest

from kbn.callbacks import Remedy, rules
from kbn.callbacks.alerts import diagnosis
from kbn.callbacks.alerts.alert import LEVELS, Alert
from kbn.callbacks.alerts.diagnosis import Symptom
from kbn.callbacks.alerts.follow import Follower
from kbn.callbacks.signals.default import DEFAULT
from kbn.callbacks.signals.remedy import together


def symptom(rule, level="warning", began=8):
    return Symptom(Alert(rule, level, "x", began, 1, 2.0, 1.0, "Ill."), began)


def causes(*symptoms, first=1):
    """{cause: what it explains}, by names."""
    found = diagnosis.explained([*symptoms], lambda one: one.began == first)
    return {cause: {x.alert.rule for x in effects} for cause, effects in found.items()}


# {name of the case: the causes that are told > what they explain}
FAMILIES = {
    "a rate too high": (
        "learning_rate_too_high > weight_explosion weight_drift dead_relu saturated "
        "unchanged_weight loss_spike not_learning exploding_gradient non_finite"
    ),
    "a rate too low": "learning_rate_too_low > not_learning",
    "a NaN in the data": (
        "non_finite_data > non_finite learning_rate_too_high output_mismatch dead_relu"
    ),
    "an output of the wrong kind": (
        "output_mismatch > not_learning dead_relu learning_rate_too_high overfit"
    ),
    "units dead from the start": (
        "dead_relu:from_start > learning_rate_too_low not_learning vanishing_gradient"
    ),
    "units that die": "learning_rate_too_high > dead_relu not_learning",
    "units on their flat ends, at a first look that is late": (
        "saturated > vanishing_gradient not_learning unchanged_weight"
    ),
    "a start that explodes": (
        "exploding_gradient:from_start > learning_rate_too_high non_finite"
    ),
    "small batches": "bn_small_batch > bn_train_eval_gap bn_collapsed unchanged_weight",
    "young statistics": "bn_stats_cold > bn_train_eval_gap overfit",
    "young statistics beside dead units": "bn_stats_cold dead_relu >",
    "sorted data": "not_shuffled > class_imbalance dead_relu",
    "two facts": "output_mismatch input_scale >",
}


def ill(names):
    """Symptoms; `rule:info` is a note, `:from_start` and `:before` began earlier."""
    found = []
    for name in names.split():
        rule, _, kind = name.partition(":")
        began = {"from_start": 1, "before": 2}.get(kind, 8)
        found.append(symptom(rule, "info" if kind == "info" else "warning", began))
    return found


@pytest.mark.parametrize("case", FAMILIES)
def test_one_cause_explains_what_follows_from_it(case):
    told, _, effects = FAMILIES[case].partition(">")
    some = [*ill(told), *ill(effects)]
    for order in (some, some[::-1]):
        found = causes(*order)
        assert {*found} == {x.alert.rule for x in ill(told)}
        explained = [x for effects in found.values() for x in effects]
        assert sorted([*found, *explained]) == sorted(x.alert.rule for x in some)


def test_every_rule_has_a_place_and_every_place_a_rule():
    named = {rule for stage in diagnosis.STAGES for rule in stage}
    assert named == {rule.name for rule in DEFAULT}
    assert diagnosis.ONLY.keys() <= named


def test_a_note_explains_no_warning():
    found = causes(symptom("input_scale", "info"), symptom("dead_relu"))
    assert found == {"input_scale": set(), "dead_relu": set()}
    found = causes(symptom("input_scale", "info"), symptom("overfit", "info"))
    assert found == {"input_scale": {"overfit"}}


def test_a_rule_of_ones_own_explains_nothing_and_is_not_explained():
    found = causes(symptom("mine"), symptom("non_finite_data"), symptom("dead_relu"))
    assert found == {"non_finite_data": {"dead_relu"}, "mine": set()}


# {rules that are ill beside the suspicion: the causes that are told}
SUSPECTED = {
    "": "",
    "overfit bn_stats_cold": "bn_stats_cold",
    "weight_drift:info": "weight_drift",
    "dead_relu": "learning_rate_too_high",
    "weight_drift overfit": "learning_rate_too_high overfit",
    "dead_relu:from_start": "dead_relu",
    "saturated:before": "saturated",
    "weight_drift:before": "learning_rate_too_high",
    "input_scale dead_relu": "input_scale",
    "learning_rate_too_high": "learning_rate_too_high",
    "learning_rate_too_high dead_relu overfit": "learning_rate_too_high",
}


@pytest.mark.parametrize("names", SUSPECTED)
def test_a_suspicion_is_told_with_the_harm_that_follows_it(names):
    suspicion = symptom("learning_rate_too_high", began=4)._replace(is_suspicion=True)
    some = [suspicion, *ill(names)]
    for order in (some, some[::-1]):
        found = causes(*order)
        assert {*found} == {*SUSPECTED[names].split()}
        assert "learning_rate_too_high" not in set().union(*found.values())


# --- in time ---


class Staged(rules.Rule):
    """As ill as its tag says: 1 warning, 2 critical."""

    def __init__(self, name):
        self.name, self.reads = name, (f"ill/{name}",)

    def readings(self, view):
        """Of the model."""
        value = view[self.reads[0]]
        yield rules.Reading("", value, 0.0, LEVELS[int(max(value, 1))])

    def remedy(self, reading, view):
        """Told by name."""
        return Remedy("fit", self.name, new=1, words=f"Mend {self.name}.")


def follow(*looks):
    names = ("learning_rate_too_high", "dead_relu", "non_finite")
    follower = Follower([Staged(name) for name in names])
    told = []
    for step, values in enumerate(looks, start=2):
        scalars = {
            f"ill/{name}": float(x) for name, x in zip(names, values, strict=True)
        }
        for alert in follower.look(step, scalars):
            told.append((step, alert.rule, alert.level, alert.ending))
    assert not follower.failures
    return told, follower


def test_a_cause_that_is_known_later_takes_over():
    told, follower = follow((0, 1, 0), (1, 1, 0))
    assert told == [
        (2, "dead_relu", "warning", ""),
        (3, "dead_relu", "warning", "replaced at step 3"),
        (3, "learning_rate_too_high", "warning", ""),
    ]
    (alert,) = follower.open
    assert alert.symptoms == ("dead_relu",)
    assert str(alert.remedy) == "Mend learning_rate_too_high."
    assert str(alert).endswith("Mend learning_rate_too_high. It explains dead_relu.")


def test_a_symptom_that_comes_later_is_not_told_and_ends_with_its_cause():
    told, follower = follow((1, 0, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0))
    assert told == [
        (2, "learning_rate_too_high", "warning", ""),
        (5, "learning_rate_too_high", "warning", "resolved at step 5"),
    ]
    assert follower.open == []


def test_a_symptom_that_outlives_its_cause_is_told():
    told, _ = follow((1, 1, 0), (0, 1, 0), (0, 0, 0))
    assert told == [
        (2, "learning_rate_too_high", "warning", ""),
        (3, "learning_rate_too_high", "warning", "resolved at step 3"),
        (3, "dead_relu", "warning", ""),
        (4, "dead_relu", "warning", "resolved at step 4"),
    ]


def test_a_critical_symptom_makes_its_cause_critical():
    told, follower = follow((1, 0, 0), (1, 0, 2))
    assert told == [
        (2, "learning_rate_too_high", "warning", ""),
        (3, "learning_rate_too_high", "warning", "replaced at step 3"),
        (3, "learning_rate_too_high", "critical", ""),
    ]
    assert [x.step for x in follower.open] == [3]


class Suspecting(Staged):
    """As `Staged`; it suspects what another tag says."""

    def __init__(self, name):
        super().__init__(name)
        self.reads = (*self.reads, "suspected")

    def readings(self, view):
        """Good once it is over."""
        yield rules.Reading("", view[self.reads[0]], 0.0)

    def suspicions(self, view):
        """Of the model."""
        yield rules.Reading("", view["suspected"], 0.0)


def test_a_suspicion_is_told_when_its_effect_comes_and_ends_with_it():
    follower = Follower([Suspecting("learning_rate_too_high"), Staged("dead_relu")])
    told = []
    for step, (high, dead) in enumerate([(1, 0), (0, 0), (0, 1), (0, 0)], start=2):
        scalars = {"suspected": 1.0, "ill/learning_rate_too_high": float(high)}
        for alert in follower.look(step, scalars | {"ill/dead_relu": float(dead)}):
            told.append((step, alert.step, alert.rule, alert.symptoms, alert.ending))
    name = "learning_rate_too_high"
    assert told == [
        (2, 2, name, (), ""),
        (3, 2, name, (), "resolved at step 3"),
        (4, 4, name, ("dead_relu",), ""),
        (5, 4, name, ("dead_relu",), "resolved at step 5"),
    ]
    assert not follower.failures


# --- remedies ---


def test_a_remedy_survives_json():
    remedy = Remedy("data", "scale_targets", ("y",), new=(2.5, 0.5), words="Scale.")
    alert = dataclasses.replace(
        symptom("target_scale").alert, remedy=remedy, symptoms=("not_learning",)
    )
    again = Alert.from_dict(json.loads(json.dumps(alert.to_dict())))
    assert again == alert
    assert str(again.remedy) == "Scale."


def test_remedies_of_one_kind_are_one_at_all_their_places():
    found = together([Remedy("layer", "rate", (x,), 0.9, 0.5) for x in "abc"])
    assert found == Remedy("layer", "rate", ("a", "b", "c"), 0.9, 0.5)
    assert together([]) is None
