"""kbn.callbacks.log.layout: the charts of the Custom Scalars tab."""

import re

import pytest
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from kbn.callbacks.diagnostics.registry import REGISTRY
from kbn.callbacks.log.layout import Layout, charts

FIRST = ["learning_rate", "health/dead_units/relu", "quantiles/weights/a/b/kernel/p50"]


def read(value):
    """{category: {chart: its content}} of a layout's value."""
    layout = layout_pb2.Layout()
    layout.ParseFromString(tensor_util.make_ndarray(value.tensor).item())
    return {
        category.title: {chart.title: chart for chart in category.chart}
        for category in layout.category
    }


def test_layout_is_read_by_the_plugin():
    value = Layout().grown(FIRST)
    assert value.tag == "custom_scalars__config__"
    assert value.metadata.plugin_data.plugin_name == "custom_scalars"
    shown = read(value)
    assert {title: [*category] for title, category in shown.items()} == {
        "Training": ["learning rate"],
        "Health": ["dead units, healthy 0 to 0.2"],
        "Weights, 5 to 95 %": ["a/b/kernel"],
    }
    (band,) = shown["Weights, 5 to 95 %"]["a/b/kernel"].margin.series
    tag = "quantiles/weights/a/b/kernel"
    assert (band.lower, band.value, band.upper) == (
        f"{tag}/p05",
        f"{tag}/p50",
        f"{tag}/p95",
    )


def test_layout_grows_with_the_tags_and_only_then():
    layout = Layout()
    assert layout.grown([]) is None
    assert layout.grown(FIRST) is not None
    assert layout.grown(FIRST) is None
    assert layout.grown(["health/dead_units/relu_1"]) is None  # a chart that is there
    shown = read(layout.grown(["health/non_finite/activations/relu"]))
    assert [*shown["Health"]] == ["dead units, healthy 0 to 0.2", "NaN and Inf"]
    assert "Training" in shown


def test_layouts_of_two_runs_have_equal_charts():
    # TensorBoard merges by equality, and draws what is equal once, with both runs.
    plain, normed = Layout(), Layout()
    both = [*FIRST, "epoch/loss"]
    one, two = read(plain.grown(both)), read(normed.grown([*both[::-1], "epoch/auc"]))
    for title, category in one.items():
        for name, chart in category.items():
            assert two[title][name] == chart


EXPRESSIONS = [
    tag for titles in charts().values() for tags in titles.values() for tag in tags
]
DRAWN = [tag for tag, one in REGISTRY.items() if one.chart is not None]


@pytest.mark.parametrize("pattern", DRAWN)
def test_every_scalar_is_in_one_chart(pattern):
    tag = re.sub("<[a-z]+>", "a/b", pattern)
    assert sum(re.match(expression, tag) is not None for expression in EXPRESSIONS) == 1


@pytest.mark.parametrize("tag", ["epoch/loss", "epoch/val_loss", "epoch/val_auc"])
def test_the_loss_and_the_metrics_are_in_charts_of_their_own(tag):
    drawn = {
        title: any(re.match(one, tag) for one in tags)
        for title, tags in charts()["Training"].items()
    }
    assert drawn["loss"] == tag.endswith("loss")
    assert drawn["metrics"] != tag.endswith("loss")
