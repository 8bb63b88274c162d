"""kbn.callbacks.report: one report of a run, in text, HTML, Markdown and JSON."""

import dataclasses
import gzip
import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import Report, TrainingMonitor
from kbn.callbacks.alerts.alert import Alert
from kbn.callbacks.log.logged import LoggedRun
from kbn.callbacks.log.reader import read_run
from kbn.callbacks.log.records import alerts_value, run_value
from kbn.callbacks.log.writer import EventWriter
from kbn.callbacks.report import charts, comparison, health, story
from kbn.callbacks.report.configuration import duration
from kbn.callbacks.report.course import SHARES, Course, columns, quantiles_of
from kbn.callbacks.report.text import sparkline
from kbn.callbacks.report.tree import Charts, Curves, Line, Section, Table, printable
from kbn.callbacks.signals import registry
from kbn.callbacks.signals.record import Record
from kbn.callbacks.signals.statistics import histograms, summarize

NAN, INF = math.nan, math.inf
# Of layers, runs, metrics: whatever Keras or a file system lets through.
ODD = {
    "plain": "hidden",
    "markup": "<script>alert(1)</script>&amp;\"'`",
    "table": "a|b\\*c_d_[e](f)",
    "lines": "one\ntwo\r\x00\x1b[31m",
    "wide": "слой_层_🙂_é",
    "long": "x" * 300,
}


def layer(name, kind="Dense", **more):
    weights = [{"path": f"net/{name}/kernel", "shape": [4, 4], "trainable": True}]
    return {"name": name, "type": f"keras.{kind}", "weights": weights, **more}


def record(names, norm=None):
    layers = [layer(name, activation="relu") for name in names]
    if norm:
        settings = {"momentum": 0.9, "epsilon": 1e-3, "axis": [1], "is_frozen": False}
        layers.append(layer(norm, "BatchNormalization", batch_norm=settings))
    return {
        "model": {"name": "net", "type": "keras.Sequential", "parameters": 1234},
        "layers": layers,
        "optimizers": [{"type": "keras.SGD", "learning_rate": 0.5, "settings": {}}],
        "fit": {"epochs": 3, "steps": 10},
        "versions": {"kbn": "0"},
        "options": {"rules": ["dead_relu"], "log_freq": "epoch", "watch": ["weights"]},
    }


def dead(where, level="warning", **more):
    words = "It is dead. Lower the rate."
    return Alert("dead_relu", level, where, 3, 1, 0.75, 0.5, words, **more)


def write(directory, names=("first", "second"), ill=(), norm=None, values=None):
    """A run of five looks, with these alerts at the third."""
    log = EventWriter(directory)
    log.open()
    log.write_values(0, [run_value(record(names, norm))])
    for step in range(1, 6):
        scalars = {"epoch": float(step), "Epoch/loss": 1.0 / step}
        scalars |= {"Epoch/val_loss": 2.0 / step, "Epoch/accuracy": step / 6}
        summaries = {}
        for i, name in enumerate(names):
            sick = i == len(names) - 1 and step >= 3
            scalars[f"health/dead_units/{name}"] = 0.9 if sick else 0.05
            scalars[f"update_ratio/net/{name}/kernel"] = 1e-3
            scalars[f"weight_drift/net/{name}/kernel"] = 0.1 * step
            shown = summarize(np.linspace(-step, step, 50), 50)
            summaries[f"weights/net/{name}/kernel"] = shown
            summaries[f"activations/{name}"] = shown
        if norm:
            scalars[f"batch_norm_gap/{norm}/mean"] = 0.1
        if values is not None:
            scalars = {tag: values[step % len(values)] for tag in scalars}
        log.write(step, scalars, summaries)
    if ill:
        log.write_values(3, [alerts_value(ill)])
    return directory


def rows(report):
    return {row.layer: row for row in report.runs[0].health.rows}


def grades(row):
    return [cell.severity for cell in row.cells]


# --- what it tells ---

VERDICTS = {
    "healthy": ((), "healthy", "Healthy at the end of 5 steps, 5 epochs."),
    "warning": (
        [dead("second")],
        "warning",
        "Unhealthy since epoch 1: dead_relu in second.",
    ),
    "critical-first": (
        [
            dead("first", others=2),
            dataclasses.replace(dead("second", "critical"), rule="non_finite"),
        ],
        "critical",
        "Critical since epoch 1: non_finite in second. 1 more open.",
    ),
    "info": (
        [dead("first", "info")],
        "info",
        "Healthy at the end of 5 steps, 5 epochs; to note: dead_relu in first.",
    ),
    "resolved": (
        [dead("first", resolved_step=4)],
        "healthy",
        "Healthy at the end of 5 steps, 5 epochs; 1 alert was over by then.",
    ),
    "superseded": (
        [dead("first", resolved_step=4, is_superseded=True)],
        "healthy",
        "Healthy at the end of 5 steps, 5 epochs.",
    ),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_verdict_says_what_is_wrong_and_since_when(tmp_path, case):
    ill, level, verdict = VERDICTS[case]
    report = Report.read(write(tmp_path, ill=ill))
    assert (report.level, report.verdict) == (level, verdict)
    assert report.open_alerts == [x for x in report.runs[0].open if x.is_open]
    assert str(report).startswith(f"# {tmp_path.name}\n")


@pytest.mark.parametrize("ill", [[], [dead("second")]])
def test_verdict_says_that_a_training_has_not_ended(tmp_path, ill):
    write(tmp_path, ill=ill)
    log = EventWriter(tmp_path)
    log.open()
    log.write_values(5, [run_value(record(["first"]) | {"is_running": True})])
    log.write(5, {"epoch": 5.0}, {})
    assert Report.read(tmp_path).verdict.endswith("The training has not ended.")
    assert ill or "Healthy so far, after 5 steps" in Report.read(tmp_path).verdict


# The losses of five epochs, and what guessing gives.
AT_GUESSING = {
    "training alone": ({"loss": [1.1, 1.02, 1.01, 1.0, 1.0]}, 1.0),
    "validation": ({"loss": [1, 1, 1, 1, 0.95], "val_loss": [1, 1, 1.1, 1, 1]}, 1.0),
    "behind a penalty": ({"loss": [1.0] * 5, "val_loss": [1.0] * 5}, 0.8),
}
BELOW = {
    "training alone": ({"loss": [1.1, 1.02, 1.01, 1.0, 0.9]}, 1.0),
    "validation, once": ({"loss": [1] * 5, "val_loss": [1, 1, 0.9, 1, 1]}, 1.0),
    "one epoch": ({"loss": [1.2]}, 1.0),
    "a loss without a guess": ({"loss": [1.2] * 5}, None),
}


def write_losses(directory, losses, guess):
    log = EventWriter(directory)
    log.open()
    log.write_values(0, [run_value(record(["first"]))])
    for i in range(len(losses["loss"])):
        scalars = {f"Epoch/{name}": float(x[i]) for name, x in losses.items()}
        known = {} if guess is None else {"loss/guess": guess, "loss/penalty": 0.1}
        log.write(i + 1, {"epoch": i + 1.0, **scalars, **known}, {})
    return Report.read(directory)


@pytest.mark.parametrize("case", AT_GUESSING)
def test_a_run_at_guessing_is_not_called_healthy(tmp_path, case):
    losses, guess = AT_GUESSING[case]
    report = write_losses(tmp_path, losses, guess - 0.1)
    assert report.level == "unknown"
    assert report.verdict.startswith("Nothing is learned yet after 5 steps, 5 epochs")
    assert "train for longer" in report.verdict
    assert not report.runs[0].is_healthy


@pytest.mark.parametrize("case", BELOW)
def test_a_run_below_guessing_is(tmp_path, case):
    losses, guess = BELOW[case]
    report = write_losses(tmp_path, losses, guess and guess - 0.1)
    assert report.verdict.startswith("Healthy at the end of")


def test_a_run_without_rules_is_not_called_healthy(tmp_path):
    log = EventWriter(tmp_path)
    log.open()
    known = record(["first"]) | {"options": {"rules": []}}
    log.write_values(0, [run_value(known)])
    log.write(1, {"loss/train": 1.0}, {})
    report = Report.read(tmp_path)
    assert report.level == "unknown"
    assert report.verdict == "No rules were applied to 1 step."


def test_sick_layer_is_sick_from_its_step_on_and_its_alert_is_on_its_row(tmp_path):
    report = Report.read(write(tmp_path, ill=[dead("second")]))
    assert grades(rows(report)["first"]) == [health.HEALTHY] * 5
    assert grades(rows(report)["second"]) == [health.HEALTHY] * 2 + [health.BEYOND] * 3
    assert rows(report)["second"].cells[-1].why == "dead units 0.9, healthy 0 to 0.2"
    assert (rows(report)["first"].level, rows(report)["second"].level) == (-1, 1)
    assert report.runs[0].health.steps.tolist() == [1, 2, 3, 4, 5]


def test_alerts_of_a_weight_and_of_the_model_have_their_rows(tmp_path):
    ill = [dead("net/first/kernel"), dataclasses.replace(dead("net"), rule="overfit")]
    found = rows(Report.read(write(tmp_path, ill=ill)))
    assert [*found] == [health.WHOLE, "first", "second"]
    assert [x.rule for x in found[health.WHOLE].alerts] == ["overfit"]
    assert [x.rule for x in found["first"].alerts] == ["dead_relu"]


def test_layers_are_in_forward_order_with_the_worst_of_their_weights(tmp_path):
    names = ["z", "a", "m"]
    report = Report.read(write(tmp_path, names))
    assert [x.name for x in report.runs[0].layers] == names
    assert report.runs[0].layers[0].measures["drift"].course.last == pytest.approx(0.5)


GRADES = {
    "health/dead_units/<layer>": ([0.1, 0.4, 0.99, NAN], [0, 1, 2, 3]),
    "update_ratio/<path>": ([1e-3, 1e-6, 0.05, 1.0, INF], [0, 2, 1, 2, 3]),
    "gradient_rms/<path>": ([1.0, 1e-6, 0.0], [0, 1, 2]),
    "health/non_finite/<tag>": ([0.0, 3.0], [0, 3]),
}


@pytest.mark.parametrize("tag", GRADES)
def test_grades_follow_the_guide_values(tag):
    values, expected = GRADES[tag]
    found = health.severities(registry.REGISTRY[tag], np.array(values))
    assert found.tolist() == expected


def test_every_measure_of_a_layer_is_a_diagnostic():
    assert health.MEASURES
    assert health.MEASURES.keys() <= registry.REGISTRY.keys()


PLACES = {
    "hidden#1": ("health/dead_units/<layer>", "hidden"),
    "net/hidden/kernel": ("update_ratio/<path>", "hidden"),
    "weights/net/hidden/kernel": ("health/non_finite/<tag>", "hidden"),
    "activations/hidden": ("health/non_finite/<tag>", "hidden"),
    "inputs/x": ("health/non_finite/<tag>", None),
    "net/other/kernel": ("update_ratio/<path>", "net/other"),
}


@pytest.mark.parametrize("where", PLACES)
def test_names_in_tags_lead_to_layers(where):
    tag, expected = PLACES[where]
    known = Record(record(["hidden"]))
    assert health.layer_of(where, known, registry.REGISTRY[tag]) == expected


# --- courses and bands ---


def test_a_thinned_course_keeps_its_ends_and_every_spike():
    values = np.zeros(5000)
    values[[17, 2500, 4000]] = 9.0, -9.0, NAN
    course = Course(np.arange(5000), values).thinned(100)
    assert len(course.steps) <= 151
    assert (course.steps[0], course.steps[-1]) == (0, 4999)
    assert (course.minimum, course.maximum, course.non_finite) == (-9.0, 9.0, 1)
    assert (np.diff(course.steps) > 0).all()


@pytest.mark.parametrize("values", [[], [NAN], [INF, -INF], [1.0]])
def test_courses_of_nothing_have_no_extremes(values):
    course = Course(np.arange(len(values)), np.array(values, float))
    expected = [1.0] * 2 if values == [1.0] else [NAN] * 2
    np.testing.assert_equal([course.minimum, course.maximum], expected)
    assert len(course.thinned(10).steps) == len(values)
    assert isinstance(sparkline(course), str)


def test_columns_hold_equally_many_looks():
    assert columns([], 60).tolist() == []
    assert columns([3, 1, 3, 2], 60).tolist() == [1, 2, 3]
    assert columns(range(0, 1000, 5), 4).tolist() == [0, 250, 500, 750]


def test_quantiles_of_a_histogram_are_those_of_the_values():
    values = np.random.default_rng(0).normal(size=20000)
    found = quantiles_of(histograms([summarize(values, 65536)])[0])
    width = (values.max() - values.min()) / 30
    np.testing.assert_allclose(found, np.quantile(values, SHARES), atol=width)


EMPTY = {
    "nothing": np.zeros((30, 3)),
    "not-finite": np.full((30, 3), NAN),
    "no-rows": np.zeros((0, 3)),
}


@pytest.mark.parametrize("case", EMPTY)
def test_quantiles_of_nothing_are_nan(case):
    np.testing.assert_equal(quantiles_of(EMPTY[case]), np.full(5, NAN))


def test_quantiles_of_one_value_are_it():
    (rows_,) = histograms([summarize(np.full(9, 3.0), 9)])
    np.testing.assert_array_equal(quantiles_of(rows_), np.full(5, 3.0))


def test_bands_are_of_the_sick_layer_and_the_ends(tmp_path):
    names = [f"layer_{i}" for i in range(12)]
    report = Report.read(write(tmp_path, names, ill=[dead("layer_5")]))
    drawn = dict.fromkeys(band.layer for band in report.runs[0].bands)
    assert [*drawn] == ["layer_0", "layer_1", "layer_5", "layer_11"]
    tags = [band.tag for band in report.runs[0].bands if band.layer == "layer_5"]
    assert tags == ["weights/net/layer_5/kernel", "activations/layer_5"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (200, "3 min 20 s"),
        (7260, "2 h 1 min"),
        (-1, "of unknown length"),
        (NAN, "of unknown length"),
    ],
)
def test_duration_in_words(seconds, words):
    assert duration(seconds) == words


# --- how it is shown ---

WAYS = (".html", ".md", ".json", ".txt")


class Checker(html.parser.HTMLParser):
    """Collects tags, and that each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.met, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.met.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input"):  # which have no end
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.met.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def check_page(page):
    """That it is closed, loads nothing and runs nothing."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    names = {tag for tag, _ in checker.met}
    assert not {"script", "link", "img", "iframe", "object"} & names
    loading = {"src", "onload", "onclick"}
    assert not [a for _, a in checker.met if loading & a.keys()]
    links = [a["href"] for _, a in checker.met if "href" in a]
    places = {f"#{a['id']}" for _, a in checker.met if "id" in a}
    assert {*links} <= places
    assert "url(" not in page
    assert "@import" not in page
    return checker


def strict(text):
    """JSON as the standard has it."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_shown_letter_by_letter(tmp_path, name):
    odd = ODD[name]
    run = read_run(write(tmp_path / "log", [odd, "last"], [dead(odd)], norm=f"n{odd}"))
    run.name = odd
    report = Report([run])
    page = report.to_html()
    checker = check_page(page)
    assert printable(odd) in "".join(checker.text)
    known = strict(report.to_json())
    assert known["runs"][0]["name"] == odd
    assert known["runs"][0]["health"]["rows"][0]["layer"] == odd
    for shown in (str(report), report.to_markdown()):
        assert all(line.isprintable() for line in shown.split("\n"))
    outside = "".join(report.to_markdown().split("```")[::2])
    assert "<script>" not in outside
    for way in WAYS:
        assert report.save(tmp_path / f"report{way}").stat().st_size > 500


def test_tables_of_markdown_keep_their_columns(tmp_path):
    names = [ODD["table"], ODD["lines"]]
    over = dead(names[0], resolved_step=4)
    text = Report.read(write(tmp_path, names, [over])).to_markdown()
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 3
    for table in tables:
        bare = table.replace("\\\\", "").replace("\\|", "")
        assert len({line.count("|") for line in bare.splitlines()}) == 1


VALUES = {
    "nan": [NAN],
    "inf": [INF, -INF],
    "mixed": [1.0, NAN],
    "huge": [3e38, -3e38],
    "tiny": [1e-45, 0.0],
    "constant": [1.0],
}


@pytest.mark.parametrize("case", VALUES)
def test_numbers_of_any_kind_are_shown(tmp_path, case):
    report = Report.read(write(tmp_path, norm="norm", values=VALUES[case]))
    drawn = [x for _, x in check_page(report.to_html()).met]
    places = ("points", "x", "y", "width", "height", "cx", "cy", "x1", "y1")
    numbers = " ".join(x[place] for x in drawn for place in places if place in x)
    assert numbers
    assert not {"nan", "inf"} & {*numbers.replace(",", " ").replace("-", "").split()}
    known = strict(report.to_json())
    finite = all(map(math.isfinite, VALUES[case]))
    assert (known["not_finite"] == 0) is finite
    assert isinstance(str(report), str)
    assert isinstance(report.to_markdown(), str)


def test_what_is_not_finite_is_null_in_json_and_counted(tmp_path):
    log = EventWriter(tmp_path)
    log.open()
    for step, value in enumerate([1.0, NAN, INF], start=1):
        log.write(step, {"Epoch/loss": value}, {})
    known = strict(Report.read(tmp_path).to_json())
    (metric,) = known["runs"][0]["metrics"]
    assert metric["training"]["values"] == [1.0, None, None]
    assert (metric["training"]["not_finite"], known["not_finite"]) == (2, 2)


def test_a_report_of_nothing_is_one():
    for report in (Report([]), Report([LoggedRun("none", Path("none"))])):
        assert report.level == "unknown"
        assert report.verdict == "Nothing is logged of a training here."
        assert report.verdict in str(report)
        assert report.verdict in report.to_markdown()
        assert report.verdict in "".join(check_page(report.to_html()).text)
        assert strict(report.to_json())["verdict"] == report.verdict


def test_a_notebook_shows_the_same_as_a_part_of_its_page(tmp_path):
    report = Report.read(write(tmp_path, ill=[dead("second")]))
    part, whole = check_page(report._repr_html_()), check_page(report.to_html())
    assert part.met[0] == ("div", {"class": "kbn"})
    assert not {"html", "body", "iframe"} & {tag for tag, _ in part.met}
    assert part.text[1:] == whole.text[-len(part.text[1:]) - 1 : -1]
    # Its style is for nothing else in the notebook.
    (style,) = [text for text in part.text if "{" in text]
    outside = re.sub(r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}", "", style)
    assert all(
        "kbn" in x or ".page" in x or x.startswith("@media")
        for x in outside.split("\n")
        if x
    )


def test_the_alert_says_what_to_try_everywhere(tmp_path):
    report = Report.read(write(tmp_path, ill=[dead("second")]))
    for text in (str(report), report.to_markdown(), report.to_html()):
        assert "Lower the rate." in " ".join(text.split())
        assert "0.75, above the limit 0.5" in " ".join(text.split())


def test_a_section_that_is_added_to_the_story_is_in_every_format(tmp_path, monkeypatch):
    def added(run, colour):
        line = Line("mine", run.metrics[0].training, colour)
        table = Table(["metric", "last"], [["mine", "0.2"]])
        chart = Charts([Curves("my chart", [line])], "My words.", table)
        return Section("My section", [chart], "mine", {"last": 0.2})

    monkeypatch.setattr(story, "RUN", (*story.RUN, added))
    report = Report.read(write(tmp_path))
    page = report.to_html()
    check_page(page)
    assert "<figcaption>my chart</figcaption>" in page
    assert "## My section\n\n| metric | last |" in str(report)
    assert "## My section\n\n| metric | last |" in report.to_markdown()
    assert strict(report.to_json())["runs"][0]["mine"] == {"last": 0.2}


def test_problems_of_reading_are_told(tmp_path):
    (file,) = write(tmp_path).glob("*.kbn")
    file.write_bytes(file.read_bytes()[:-3])
    report = Report.read(tmp_path)
    for text in (str(report), report.to_html()):
        assert "ends in the middle of a record" in " ".join(text.split())


# --- several runs ---


def test_runs_are_named_by_their_directories_and_compared(tmp_path):
    write(tmp_path / "a" / "x", norm="norm")
    write(tmp_path / "b" / "x", ["first"], ill=[dead("first")])
    report = Report.read(tmp_path / "a" / "x", tmp_path / "b")
    assert [run.name for run in report.runs] == ["x", "b/x"]
    assert report.verdict == (
        "x: healthy, val_loss 0.4 at best. "
        "b/x: unhealthy since epoch 1: dead_relu in first."
    )
    assert report.level == "warning"
    known = dict(comparison.differences(report.runs))
    assert known["batch norm"] == ["1 keras.BatchNormalization", "none"]
    assert "optimizer" not in known
    page = report.to_html()
    check_page(page)
    for colour in (comparison.WITH[0], comparison.WITHOUT[0]):
        assert colour in page


def test_runs_of_one_name_are_told_apart(tmp_path):
    places = [write(tmp_path / part / "x") for part in "ab"]
    assert [run.name for run in Report.read(*places).runs] == [*map(str, places)]


def test_a_run_has_one_colour_by_its_batch_norm(tmp_path):
    norms = ["norm", None, "norm", None, None, None, None, "norm"]
    places = [write(tmp_path / str(i), norm=norm) for i, norm in enumerate(norms)]
    report = Report.read(*places)
    found = comparison.colours(report.runs)
    for colour, norm in zip(found, norms, strict=True):
        assert colour in (comparison.WITH if norm else comparison.WITHOUT)
    assert len({*found}) == len(found)


def test_many_runs_are_a_table_the_sickest_first_that_links_to_their_pages(tmp_path):
    for i in range(12):
        ill = [dead("second")] if i == 11 else []
        write(tmp_path / f"run_{i:02}", ill=ill)
    report = Report.read(tmp_path)
    assert report.verdict == (
        "11 of 12 runs are healthy. The best is run_00, val_loss 0.4. "
        "Most often in the others: dead_relu (1)."
    )
    page = report.save(tmp_path / "all.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    links = [a["href"] for tag, a in checker.met if tag == "a"]
    pages = [x for x in links if not x.startswith("#")]
    assert pages[0] == "all-runs/011-run_11.html"
    assert sorted(pages) == [f"all-runs/{i:03}-run_{i:02}.html" for i in range(12)]
    for link in pages:
        check_page((tmp_path / link).read_text(encoding="utf-8"))
    assert '<details class="run"' not in page
    assert page.count('class="key"') < 12 * 7  # charts are of the best few
    # Where there is one page only, those that matter most are on it.
    whole = report.to_html()
    assert whole.count('<details class="run"') == 8
    assert "4 more runs, the healthiest, are in the table only" in whole
    assert "Open alerts, and what to try" in whole.partition("run_11</summary>")[2]


def test_an_outlier_does_not_flatten_the_others():
    steps, fine = np.arange(9), np.linspace(2.0, 1.0, 9)
    axes = charts.axes_of([fine] * 5 + [fine * 1e6], [steps], by=6)
    assert (axes.y, axes.is_log) == ((1.0, 2.0), False)
    assert charts.axes_of([fine, fine * 1e6], [steps], by=2).is_log


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0945, 1.0, [0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.67, 0.03, [-0.6, -0.4, -0.2, 0.0]),
        (1, 630, [200, 400, 600]),
        (-1.7e308, 1.7e308, [-1e308, 0, 1e308]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert charts.ticks(low, high, 5) == pytest.approx(expected)


# --- an old log, a live one, and without a framework ---

OLD = Path(__file__).parent / "data" / "log_of_0_1_0.kbn.gz"  # as 0.1.0 wrote it


def test_a_log_of_0_1_0_is_read_with_its_alerts(tmp_path):
    file = tmp_path / "events.out.tfevents.1.2.host.3.kbn"
    file.write_bytes(gzip.decompress(OLD.read_bytes()))
    report = Report.read(tmp_path)
    (run,) = report.runs
    assert run.problems == []
    assert run.configuration["versions"]["kbn"] == "0.1.0"
    assert [(x.rule, x.where, x.step) for x in run.open] == [
        ("bn_collapsed", "norm", 6),
        ("bn_moment_gap", "norm", 8),
        ("bn_stats_cold", "norm", 2),
        ("bn_small_batch", "norm", 6),
    ]
    assert [metric.name for metric in run.metrics[:2]] == ["loss", "mae"]
    assert {row.layer for row in run.health.rows} == {"hidden", "norm", "head"}
    assert run.batch_norms[0].settings["momentum"] == 0.99
    check_page(report.to_html())
    assert strict(report.to_json())["not_finite"] == 0
    assert report.verdict.startswith("Unhealthy since epoch 2: bn_collapsed in norm.")


def train(directory, **options):
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            kbn.BatchNorm(name="norm"),
            keras.layers.Dense(2, name="head"),
        ],
        name="net",
    )
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    monitor = TrainingMonitor(directory, log_freq=1, on_alert=lambda alert: None)
    for _ in range(2):
        model.fit(x * np.nan, x[:, :2], 8, 2, verbose=0, callbacks=[monitor])
    return monitor


def test_live_report_equals_the_one_read_back(tmp_path):
    monitor = train(tmp_path / "logs")
    live = monitor.report()
    assert live == Report.read(tmp_path / "logs")
    assert live.runs[0].alerts == monitor.alerts
    assert monitor.alerts
    assert live != Report([])
    assert live.runs[0].name == "logs"
    assert live.level == "critical"


def test_report_before_any_fit_is_empty(tmp_path):
    monitor = TrainingMonitor(tmp_path / "logs")
    assert monitor.report().verdict == "Nothing is logged of a training here."


WITHOUT = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {"keras", "tensorflow", "jax", "torch"}:
            raise ImportError(f"{name} is hidden")
hidden = Hidden()
sys.meta_path.insert(0, hidden)
import kbn_light
Report = kbn_light.load("kbn.callbacks.report.report").Report
print(Report.read(sys.argv[1]).verdict)
assert "kbn" not in sys.modules
sys.meta_path.remove(hidden)
import kbn
assert kbn.callbacks.Report is Report
assert kbn_light.load("kbn.layer").BatchNormalization is kbn.BatchNorm
"""


def test_report_needs_neither_keras_nor_a_backend_and_is_no_copy(tmp_path):
    write(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "Healthy at the end of 5 steps, 5 epochs.\n"
