"""`kbn explain`, and the page that has every diagnosis by the name that is printed."""

import re

import pytest

import kbn_command as command
from kbn.callbacks import rules
from kbn.callbacks.alerts import explanation
from kbn.callbacks.signals.default import DEFAULT, HEIRS
from tests.pages import PAGES

# {what is asked for: whose explanation it gets}.
ASKED = {
    "dead_relu": "dead_relu",
    "DeadRelu": "dead_relu",
    "update_ratio_low": "learning_rate_too_low",
    "UpdateRatioLow": "learning_rate_too_low",
}
UNKNOWN = {
    "dead_relus": "'dead_relus'; did you mean dead_relu?",
    "BN_STATS_COOL": "'BN_STATS_COOL'; did you mean bn_stats_cold",
    "nonsense": "'nonsense'; kbn explain lists all",
}


@pytest.mark.parametrize("rule", DEFAULT, ids=lambda rule: rule.name)
def test_every_diagnosis_is_explained(rule, capsys):
    assert command.main(["explain", rule.name]) == 0
    shown = capsys.readouterr().out
    title, meaning, *_ = shown.split("\n\n")
    assert title == f"{rule.name}: {rule.title}"
    assert meaning == type(rule).__doc__.partition("\n\n")[0]
    words = " ".join(shown.split())
    assert re.search(r" What to try: [A-Z].*\. An alert says it", words)
    assert repr(rule) in words
    assert max(map(len, shown.splitlines())) <= 88


@pytest.mark.parametrize("asked", ASKED)
def test_class_and_former_name_lead_to_the_rule(asked, capsys):
    assert command.main(["explain", asked]) == 0
    shown = capsys.readouterr().out
    assert f"{ASKED[asked]}: " in shown
    assert (f"{asked} is told as {ASKED[asked]} now." in shown) is ("atio" in asked)


def test_every_heir_is_found():
    found = {name: type(explanation.find(name)).__name__ for name in HEIRS}
    assert found == HEIRS


@pytest.mark.parametrize("asked", UNKNOWN)
def test_unknown_one_is_status_2_and_names_the_near_ones(asked, capsys):
    assert command.main(["explain", asked]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"kbn explain: there is no diagnosis {UNKNOWN[asked]}" in shown.err


def test_without_a_name_all_are_listed(capsys):
    assert command.main(["explain"]) == 0
    listed = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert listed == {rule.name: rule.title for rule in DEFAULT}


def test_symptoms_lead_to_every_diagnosis():
    leads = re.findall(r"\[`(\w+)`\]\(api/rules\.md#(\w+)\)", PAGES["docs/symptoms.md"])
    assert all(name == anchor for name, anchor in leads)
    assert {name for name, _ in leads} == {rule.name for rule in DEFAULT}


def test_page_has_each_rule_under_the_name_of_its_diagnosis():
    block = r"^### (\w+)\n\n```{eval-rst}\n.. autoclass:: kbn.callbacks.rules.(\w+)$"
    shown = re.findall(block, PAGES["docs/api/rules.md"], re.MULTILINE)
    assert len(shown) == len(DEFAULT)
    assert {name: getattr(rules, rule).name for name, rule in shown} == {
        rule.name: rule.name for rule in DEFAULT
    }
