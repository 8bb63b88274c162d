"""kbn.callbacks.signals.guide: which of the layers is the worst."""

import math

import pytest

from kbn.callbacks.signals.guide import Guide
from kbn.callbacks.signals.overview import highest_of, lowest_of, median, worst

UPPER = Guide(healthy=(None, 1))
FROM_0 = Guide(healthy=(0, 0.2), sick=(None, 0.5))
LOWER = Guide(healthy=(32, None), sick=(16, None))
RATIO = Guide(healthy=(1e-4, 1e-2))
AROUND_0 = Guide(healthy=(-1, 1), sick=(-10, 10))
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("guide", "values", "expected"),
    [
        (UPPER, [-5, 0.5, 0.7], 2),
        (FROM_0, [0, 0.05, 0.03], 1),  # not the 0, though it is a limit
        (LOWER, [64, 8, 1e6], 1),
        (RATIO, [1e-3, 2e-5, 3e-2], 1),  # a factor of 50 below, of 30 above
        (RATIO, [1e-3, 5e-5, 3e-2], 2),
        (RATIO, [1e3, 0, 1e-3], 1),  # nothing moves: no ratio is as far
        (AROUND_0, [0.5, -0.9, 0.8], 1),
        (AROUND_0, [20, -30, 0], 1),
        (FROM_0, [0.9, NAN, INF], 1),
        (LOWER, [INF, 1, 2], 0),
        (RATIO, [0, -INF, 1], 1),
        (FROM_0, [0.1, 0.1, 0.1], 0),  # the first of equals
    ],
)
def test_the_worst_is_by_the_guide_values(guide, values, expected):
    named = {f"layer{i}": value for i, value in enumerate(values)}
    assert guide.worst(named) == f"layer{expected}"
    found = worst(named, guide)
    assert found == values[expected] or math.isnan(values[expected])


@pytest.mark.parametrize(
    ("guide", "direction"),
    [
        (UPPER, "The highest is the worst."),
        (FROM_0, "The highest is the worst."),
        (LOWER, "The lowest is the worst."),
        (RATIO, "The worst is the farthest from 0.001, by ratio."),
        (AROUND_0, "The worst is the farthest from 0."),
    ],
)
def test_the_description_says_which_is_the_worst(guide, direction):
    assert guide.direction() == direction


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, True), (0.2, True), (0.21, False), (NAN, False), (INF, False), (-1, False)],
)
def test_what_is_not_finite_is_not_healthy(value, expected):
    assert FROM_0.is_healthy(value) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3, 1, 2], 2), ([4, 1, 2, 3], 2.5), ([NAN, 1, 3], 2), ([-INF, INF, 5], 5)],
)
def test_the_median_is_of_what_is_a_number(values, expected):
    assert median(dict(enumerate(values))) == expected


def test_the_median_of_nan_only_is_nan():
    assert math.isnan(median({"a": NAN, "b": NAN}))


@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [([3, 1, 2], 1, 0), ([3, NAN, INF], 1, 1), ([2, 2], 0, 0)],
)
def test_extremes_show_what_is_not_a_number(values, lowest, highest):
    named = dict(enumerate(values))
    assert (lowest_of(named), highest_of(named)) == (lowest, highest)
