"""kbn.callbacks.log.layout: the charts of the Custom Scalars tab."""

import re

import pytest
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from kbn.callbacks.log.layout import EVERY_LAYER, Layout, charts
from kbn.callbacks.signals.registry import REGISTRY, over_layers

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
        "Health": ["dead units: relu, healthy 0 to 0.2"],
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
    assert layout.grown(["learning_rate/adam"]) is not None
    assert layout.grown(["learning_rate/sgd"]) is None  # a chart that is there
    shown = read(layout.grown(["health/non_finite/activations/relu"]))
    assert [*shown["Health"]] == [
        "dead units: relu, healthy 0 to 0.2",
        "NaN and Inf: activations/relu",
    ]
    assert "Training" in shown
    two = ["health/dead_units/relu_1", "layers/worst/health/dead_units"]
    shown = read(layout.grown(two))
    assert next(iter(shown["Health"])) == "dead units, healthy 0 to 0.2"
    assert [*shown][-1] == EVERY_LAYER


def test_layouts_of_two_runs_have_equal_charts():
    # TensorBoard merges by equality, and draws what is equal once, with both runs.
    plain, normed = Layout(), Layout()
    both = [*FIRST, "Epoch/loss"]
    one, two = read(plain.grown(both)), read(normed.grown([*both[::-1], "Epoch/auc"]))
    for title, category in one.items():
        for name, chart in category.items():
            assert two[title][name] == chart


DRAWN = [tag for tag, one in REGISTRY.items() if one.chart is not None]
OF_LAYERS = [tag for tag in DRAWN if REGISTRY[tag].is_of_layers]


def drawn_in(tag, tags):
    """(category, title) of the charts that draw a tag in a run with these tags."""
    return [
        (category, title)
        for category, titles in charts(tags).items()
        for title, expressions in titles.items()
        if any(re.match(one, tag) for one in expressions)
    ]


@pytest.mark.parametrize("pattern", DRAWN)
def test_every_scalar_is_in_one_chart(pattern):
    tag = re.sub("<[a-z]+>", "a/b", pattern)
    (place,) = drawn_in(tag, [tag])
    one = REGISTRY[pattern]
    name = ": a/b" if one.is_of_layers else ""
    guide = f", {one.guide.title()}" if one.guide else ""
    assert place == (one.chart.category, f"{one.chart.title}{name}{guide}")


@pytest.mark.parametrize("pattern", OF_LAYERS)
def test_of_many_layers_the_worst_and_the_median_are_drawn(pattern):
    one = REGISTRY[pattern]
    layers = [one.tag_of(name) for name in ("a", "a/b")]
    summaries = over_layers(one)
    assert summaries == [f"layers/{x}/{one.name}" for x in ("worst", "median")]
    tags = [*layers, *summaries]
    title = drawn_in(summaries[0], tags)[0][1]
    for tag in summaries:
        assert drawn_in(tag, tags) == [(one.chart.category, title)]
    for tag in layers:
        assert drawn_in(tag, tags) == [(EVERY_LAYER, title)]


def test_every_layer_is_the_last_category_and_closed():
    one = REGISTRY["health/dead_units/<layer>"]
    tags = [one.tag_of("a"), one.tag_of("b"), *over_layers(one)]
    layout = layout_pb2.Layout()
    value = Layout().grown([*tags, "quantiles/weights/a/p50"])
    layout.ParseFromString(tensor_util.make_ndarray(value.tensor).item())
    assert [(x.title, x.closed) for x in layout.category] == [
        ("Health", False),
        ("Weights, 5 to 95 %", False),
        (EVERY_LAYER, True),
    ]


def test_a_run_of_one_layer_does_not_draw_all_layers_of_another():
    # TensorBoard draws the charts of each run with the data of all of them.
    tags = ["health/dead_units/a"]
    assert not drawn_in("health/dead_units/ab", tags)
    assert not drawn_in("health/dead_units/b/a", tags)


@pytest.mark.parametrize("tag", ["Epoch/loss", "Epoch/val_loss", "Epoch/val_auc"])
def test_the_loss_and_the_metrics_are_in_charts_of_their_own(tag):
    everything = ["Epoch/loss", "Epoch/val_loss", "Epoch/val_auc"]
    expected = "loss" if tag.endswith("loss") else "metrics"
    assert drawn_in(tag, everything) == [("Training", expected)]
