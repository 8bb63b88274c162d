"""kbn.callbacks.signals.registry: adding a signal touches nothing else."""

import contextlib
import dataclasses
import inspect
import math

import keras
import numpy as np
import pytest
import watched_models
from event_files import read_log, steps, values
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.log.layout import Layout
from kbn.callbacks.signals import registry, subjects
from kbn.callbacks.signals.registry import REGISTRY, Chart, Guide, Signal

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@contextlib.contextmanager
def registered(new):
    """With one more signal for a while."""
    registry.add(new)
    try:
        yield
    finally:
        del REGISTRY[new.tag]
        registry._by_subject.clear()


def largest(x, output):
    """A row of an array or, in the step, of a tensor."""
    if isinstance(x, np.ndarray):
        return np.array([np.abs(x).max()], np.float64)
    return keras.ops.max(keras.ops.abs(x))[None]


# One for each thing that a signal can be computed of: what it says must be true.
MADE_UP = {
    "row-of-a-tensor": Signal(
        "made_up/<layer>",
        of=subjects.Output,
        where=lambda output: output.layer == "hidden",
        row=largest,
        given=lambda output: (output.rows["made_up/<layer>"],),
        value=lambda rows: rows.max(),
    ),
    "of-a-summary": Signal(
        "made_up/<path>",
        of=subjects.Gradient,
        given=lambda gradient: (gradient.summary,),
        value=lambda summary: summary.maximum,
    ),
    "of-the-batch": Signal(
        "made_up/<layer>",
        of=subjects.NormInput,
        given=lambda norm: (norm.batch,),
        value=lambda batch: batch.elements,
    ),
    "of-a-weight": Signal(
        "made_up/<path>",
        of=subjects.Weight,
        given=lambda weight: weight.summary and (weight.summary,),
        value=lambda summary: summary.std,
    ),
    "of-a-norm-weight": Signal(
        "made_up/<layer>",
        of=subjects.NormWeight,
        where=lambda weight: weight.part == "gamma",
        given=lambda weight: (weight.summary,),
        value=lambda summary: summary.mean,
    ),
    "of-the-loss": Signal(
        "made_up/loss",
        of=subjects.Loss,
        given=lambda loss: None if loss.trained is None else (loss.trained,),
        value=math.sqrt,
    ),
    "of-an-optimizer": Signal(
        "made_up/<optimizer>",
        of=subjects.Optimizer,
        given=lambda optimizer: (optimizer.learning_rate,),
        value=lambda rate: 2 * rate,
    ),
    "of-the-whole-look": Signal(
        "made_up/tensors",
        of=subjects.Whole,
        given=lambda whole: (whole.subjects,),
        value=len,
    ),
    "of-a-histogram": Signal(
        "made_up/<tag>",
        of=subjects.Histogram,
        given=lambda shown: (shown.summary,),
        value=lambda summary: summary.count,
    ),
}
NEEDS_A_STEP = {"row-of-a-tensor", "of-a-summary", "of-the-batch", "of-the-loss"}


# Large tensors are reduced in the step.
@pytest.mark.parametrize(
    ("where", "kind"), [("large", "row-of-a-tensor"), *(("small", x) for x in MADE_UP)]
)
def test_a_made_up_signal_is_everywhere(kind, where, tmp_path, monkeypatch):
    if where == "large":
        if keras.backend.backend() == "torch":
            pytest.skip("tensors are read in NumPy")
        from kbn.callbacks.watch import reduction

        monkeypatch.setattr(reduction, "SMALL", 4)
    made_up = dataclasses.replace(
        MADE_UP[kind],
        description="A sentence about it.\n\n    And another.",
        unit="apples",
        guide=Guide(healthy=(None, 3), sick=(None, 5)),
        chart=Chart("Made up", "apples"),
        source="nobody",
    )
    eagerly = ON_TENSORFLOW and kind not in NEEDS_A_STEP
    model, x, y = watched_models.sequential(run_eagerly=eagerly)
    monitor = TrainingMonitor(tmp_path)
    with registered(made_up):
        model.fit(x, y, epochs=2, verbose=0, callbacks=[monitor])
        text = made_up.text()
        assert f"| `{made_up.tag}` | scalar | A sentence about it. | below 3 |" in (
            registry.table()
        )
        log = read_log(tmp_path)
        tags = [tag for tag in log if tag.startswith("made_up/")]
        assert tags
        layout = Layout().grown(log)
        summaries = [tag for tag in log if tag.endswith("/made_up")]
        told = [registry.describe(tag) for tag in summaries]
    assert all(map(math.isfinite, values(read_log(tmp_path), tags[0])))
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.SummaryMetadata(tags[0]).summary_description == text
    assert text == (
        "A sentence about it.\n\nAnd another.\n\nUnit: apples.\n\n"
        "Guide: below 3 is healthy; above 5 is not.\n\nSource: nobody."
    )
    shown = layout_pb2.Layout.FromString(layout.tensor.string_val[0])
    drawn = {
        (category.title, chart.title): [*chart.multiline.tag]
        for category in shown.category
        for chart in category.chart
        if "apples" in chart.title
    }
    guided = "apples, healthy below 3"
    if len(tags) > 1:
        assert summaries == ["layers/worst/made_up", "layers/median/made_up"]
        assert drawn == {
            ("Made up", guided): [f"^{tag}$" for tag in summaries],
            ("Every layer", guided): [made_up.chart_regex],
        }
        at: dict[int, list[float]] = {}  # not every look has them all
        for tag in tags:
            for step, value in zip(*monitor.history[tag], strict=True):
                at.setdefault(step, []).append(value)
        at = {step: found for step, found in at.items() if len(found) > 1}
        worst, median = ([*map(reduce, at.values())] for reduce in (max, np.median))
        assert monitor.history["layers/worst/made_up"] == ([*at], worst)
        assert monitor.history["layers/median/made_up"] == ([*at], median)
        assert all(f"`{made_up.tag}`: {text}" in one for one in told)
        assert "The highest is the worst." in told[0]
    else:
        assert not summaries
        lone = f": {made_up.name_in(tags[0])}" if made_up.is_of_layers else ""
        assert drawn.keys() == {("Made up", f"apples{lone}, healthy below 3")}
    assert monitor.history[tags[0]][0] == steps(read_log(tmp_path), tags[0])


def test_without_guide_values_the_highest_is_the_worst(tmp_path):
    made_up = dataclasses.replace(
        MADE_UP["of-a-weight"],
        description="A sentence.",
        chart=Chart("Made up", "apples"),
    )
    model, x, y = watched_models.sequential(run_eagerly=ON_TENSORFLOW)
    with registered(made_up):
        model.fit(x, y, verbose=0, callbacks=[TrainingMonitor(tmp_path)])
        log = read_log(tmp_path)
        category, *_ = Layout().grown(log).tensor.string_val
        layout = layout_pb2.Layout.FromString(category)
    each = [values(log, tag) for tag in log if tag.startswith("made_up/")]
    assert len(each) > 1
    assert values(log, "layers/worst/made_up") == np.max(each, axis=0).tolist()
    (chart,) = next(one.chart for one in layout.category if one.title == "Made up")
    assert [*chart.multiline.tag] == [
        "^layers/worst/made_up$",
        "^layers/median/made_up$",
    ]


def test_a_signal_that_raises_loses_only_its_own(tmp_path, caplog):
    broken = dataclasses.replace(MADE_UP["of-a-weight"], value=lambda summary: 1 / 0)
    model, x, y = watched_models.sequential(run_eagerly=ON_TENSORFLOW)
    with registered(broken):
        model.fit(x, y, verbose=0, callbacks=[TrainingMonitor(tmp_path)])
    log = read_log(tmp_path)
    assert not any(tag.startswith("made_up") for tag in log)
    assert any(tag.startswith("update_ratio") for tag in log)
    assert "ZeroDivisionError" in caplog.text


def test_a_tag_has_one_signal():
    taken = dataclasses.replace(MADE_UP["of-a-weight"], tag="update_ratio/<path>")
    with pytest.raises(ValueError, match="signal 'update_ratio/<path>' already"):
        registry.add(taken)


@pytest.mark.parametrize("tag", REGISTRY)
def test_a_signal_says_what_it_is(tag):
    one = REGISTRY[tag]
    first, *_ = inspect.cleandoc(one.description).split("\n\n")
    assert first.endswith("."), first
    assert registry.find(one.tag_of("a/b")) is one
    if one.guide is not None:
        low, high = one.guide.healthy
        sick_low, sick_high = one.guide.sick
        if None not in (low, sick_low):
            assert sick_low <= low
        if None not in (high, sick_high):
            assert sick_high >= high
    has_no_chart = one.is_histogram or one.watch == "quantiles" or tag == "epoch"
    has_no_chart |= one.of is subjects.Layers  # they have the chart of what they are of
    assert (one.chart is None) == has_no_chart


def test_no_two_signals_share_the_tags_of_their_worst_layer():
    summaries = [tag for one in REGISTRY.values() for tag in registry.over_layers(one)]
    assert len(summaries) == len({*summaries}) > 0
    assert {registry.find(tag).of for tag in summaries} == {subjects.Layers}


@pytest.mark.parametrize(
    ("guide", "text"),
    [
        (Guide((0, 0.2), (None, 0.5)), "0 to 0.2 is healthy; above 0.5 is not."),
        (Guide((None, 1)), "below 1 is healthy."),
        (Guide((2, None), (1, None)), "above 2 is healthy; below 1 is not."),
        (
            Guide((1e-4, 1e-2), (1e-5, 0.1)),
            "0.0001 to 0.01 is healthy; below 1e-05 and above 0.1 is not.",
        ),
    ],
)
def test_guides_are_written_from_their_numbers(guide, text):
    assert guide.sentence() == f"Guide: {text}"
