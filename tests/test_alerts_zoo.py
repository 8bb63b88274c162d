"""A dozen networks of the zoo, trained: what the rules say about them.

`make zoo` has all of them, with three seeds each.
"""

import dataclasses
import re
import sys
from pathlib import Path

import keras
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import cures
import zoo
from zoo_mistakes import MISTAKES
from zoo_rows import HEALTHY, NETWORKS, SICK

from kbn.callbacks.alerts.follow import alerts_of
from tests.pages import PAGES

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
NAMES = [
    "dense relu, Adam",
    "dense gelu, AdamW with warm-up and cosine decay",
    "batch norm, SGD 0.5",
    "attention",
    "gradient accumulation",
    "NaN in the data",
    "NaN between looks",
    "sigmoid, eight layers",
    "SGD, rate 2, dead",
    "equal weights",
    "jumping rate",
    "batch norm, momentum 0.999",
    "digits, shuffled labels",
    "digits, sorted and not shuffled",
    "diabetes, targets of 1e5",
    "moons, two classes, 98 to 2",
]


# Each with one thing changed that a program can change back.
CURED = [
    "made classes, Adam at 0.3",
    "wine, weights of 0",
    "digits, SGD at 1e-5",
    "breast cancer, a constant feature of 1e6",
    "digits CNN, batch norm at 0.99",
    "made classes, no softmax",
    "diabetes, targets of 1e5",
    "diabetes, a NaN in a target",
    "digits, sorted and not shuffled",
    "tanh RNN, recurrent gain 4.0",
]
# Healthy ones, and ones that are ill to the end.
AT_ANY_FREQUENCY = [
    "digits, as it should be",
    "digits, Adam at 0.3",
    "digits, Adam at 1e-6",
    "moons, ten sigmoids",
    "digits, relu as output",
    "digits CNN, 60 examples, batch norm at 0.99",
]


@pytest.mark.parametrize("name", CURED)
def test_first_remedy_cures_and_the_verdict_is_healthy_then(name):
    found = cures.cure((name, 0))
    assert found.sick < found.bar
    assert found.works, found
    assert not found.is_worse
    assert found.verdict.startswith("Healthy"), found


@pytest.mark.long
@pytest.mark.parametrize("name", AT_ANY_FREQUENCY)
def test_training_is_judged_alike_at_every_frequency(name, tmp_path):
    (network,) = [one for one in NETWORKS if one.name == name]
    names, remedies = {}, {}
    for log_freq in (1, 5, 20, "auto", "epoch"):
        directory = tmp_path / str(log_freq)
        zoo.train(dataclasses.replace(network, log_freq=log_freq), 0, directory)
        alerts = alerts_of(zoo.entries_of(directory))
        ill = [x for x in alerts if x.is_open and x.level != "info"]
        names[log_freq] = [x.rule for x in ill]
        remedies[log_freq] = [x.remedy.kind for x in ill]
    assert all(one == remedies["auto"] for one in remedies.values()), remedies
    # Every 20 steps, none of those is seen that move the weights most: the rate is
    # blamed for what the weights have become.
    names.pop(20)
    assert all(one == names["auto"] for one in names.values()), names


@pytest.mark.parametrize("name", NAMES)
def test_rules_name_the_illness_and_nothing_else(name, tmp_path):
    found = zoo.judge((name, 1, tmp_path))
    assert zoo.is_right(found), found


def test_page_on_cures_has_every_mistake():
    rows = re.findall(
        r"^\| ([^|]+) \| `(\w+)` \|", PAGES["docs/cures.md"], re.MULTILINE
    )
    assert [name for name, _ in rows] == [*MISTAKES]
    assert {rule for _, rule in rows} <= {rule.name for rule in zoo.DEFAULT}


def test_zoo_is_large_and_has_every_rule():
    assert len(HEALTHY) >= 20
    assert len(SICK) >= 30
    names = [one.name for one in NETWORKS]
    assert len({*names}) == len(names)
    assert all(one.bar is not None for one in HEALTHY if "GAN" not in one.name)
    fitting = [rule for one in SICK for rule in one.rules]
    assert {*fitting} == {rule.name for rule in zoo.DEFAULT}
