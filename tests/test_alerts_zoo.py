"""A dozen networks of the zoo, trained: what the rules say about them.

`make zoo` has all of them, with three seeds each.
"""

import sys
from pathlib import Path

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("most rules read what only TensorFlow shows", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import zoo
from zoo_rows import HEALTHY, NETWORKS, SICK

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
]


@pytest.mark.parametrize("name", NAMES)
def test_rules_name_the_illness_and_nothing_else(name, tmp_path):
    found = zoo.judge((name, 1, tmp_path))
    assert zoo.is_right(found), found


def test_zoo_is_large_and_has_every_rule():
    assert len(HEALTHY) >= 20
    assert len(SICK) >= 30
    names = [one.name for one in NETWORKS]
    assert len({*names}) == len(names)
    assert all(one.bar is not None for one in HEALTHY if "GAN" not in one.name)
    fitting = [rule for one in SICK for rule in one.rules]
    assert {*fitting} == {rule.name for rule in zoo.DEFAULT}
    common = {"non_finite", "exploding_gradient", "vanishing_gradient", "dead_relu"}
    common |= {"update_ratio_high", "saturated", "poor_init"}
    common |= {"bn_stats_cold", "weight_drift", "unchanged_weight", "loss_spike"}
    assert all(fitting.count(rule) >= 2 for rule in common)
