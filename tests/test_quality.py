"""The report's section on model quality, and the page that it follows."""

import dataclasses
import re

import numpy as np
import pytest

from kbn.callbacks.alerts.alert import Alert
from kbn.callbacks.report import quality
from kbn.callbacks.report.course import Course
from kbn.callbacks.report.quality import STATEMENTS, ticked
from kbn.callbacks.signals.default import DEFAULT
from kbn.callbacks.signals.record import Record
from kbn.callbacks.signals.registry import REGISTRY
from tests.pages import PAGES, ROOT


def courses(*tags):
    return {tag: Course(np.array([1]), np.array([0.5])) for tag in tags}


def alert(rule, **more):
    known = {"rule": rule, "level": "warning", "where": "dense", "step": 1, "epoch": 1}
    return Alert(**known, value=1.0, limit=0.5, message="It is ill.", **more)


def shown(words, *given):
    (found,) = [x for x in ticked(*given) if x.words == words]
    return found.level, found.shown


def test_what_is_measured_and_fine_is_ticked():
    given = courses("activation_shift/relu"), Record(), []
    assert shown("covariate shift is seen", *given) == ("healthy", "activation_shift/")


def test_what_is_not_measured_says_what_is_missing():
    given = courses("loss/train"), Record(), []
    words = "it does not overfit"
    assert shown(words, *given) == ("unknown", "without Epoch/val_loss")
    words = "the run can be made again"
    assert shown(words, *given) == ("unknown", "without hparams, versions, commit")


@pytest.mark.parametrize("is_symptom", [False, True])
def test_an_open_alert_speaks_against_it(is_symptom):
    found = alert("dead_relu")
    if is_symptom:
        found = alert("not_learning", symptoms=("dead_relu",))
    given = courses("zeros/activations/dense"), Record()
    level, words = shown("most units are active", *given, [found])
    assert (level, words) == ("warning", f"{found.rule} in dense")
    over = dataclasses.replace(found, resolved_step=2)
    assert shown("most units are active", *given, [over])[0] == "healthy"


def test_of_nothing_nothing_is_said():
    assert ticked({}, Record(), []) == []


def test_statements_name_rules_and_tags_that_there_are():
    names = {rule.name for rule in DEFAULT}
    assert {name for one in STATEMENTS for name in one.rules} <= names
    for tag in (tag for one in STATEMENTS for tag in one.reads):
        assert any(known.startswith(tag.rstrip("/")) for known in REGISTRY)


def test_the_page_names_tests_rules_and_tags_that_there_are():
    page = PAGES["docs/model_quality.md"]
    tests = {*re.findall(r"`(tests/\w+\.py)`", page)}
    assert len(tests) > 8
    missing = {path for path in tests if not (ROOT / path).exists()}
    assert missing <= {"tests/test_check.py"}
    names = {rule.name for rule in DEFAULT}
    assert {*re.findall(r"rules\.md#(\w+)", page)} <= names
    tags = re.findall(r"`(\w+/[\w<>/]+)`", page)
    assert {tag for tag in tags if not tag.startswith("kbn")} <= {*REGISTRY}
    assert quality.__doc__.startswith("What Google's guidelines")
