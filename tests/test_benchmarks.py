"""Every benchmark runs at its smallest size, and pages show what RESULTS.md has."""

import importlib
import re
import sys
from pathlib import Path

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the benchmarks run themselves there", allow_module_level=True)

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks"
# What each prints when it is run with these arguments; one without a row fails.
RUNS = [
    ("accelerator", ["--quick"], r"\| 6 x 5 x 4 x 3 \| XLA \| \d"),
    ("accuracy", ["--quick"], r"\| eager \| up to a million \| 1e\+06 \| \d"),
    ("check_zoo", ["--quick"], r"1 healthy networks, 0 with a line .* 1 named by"),
    ("cures", ["--quick", "--processes", "1"], r"1 mistakes: 1 of 1 .* 0 are worse"),
    ("bn_statistics", ["--quick"], r"\| 24 \| \d+\.\d+ \| \d+\.\d+ \| [-+]"),
    ("layer_memory", ["--quick"], r"\| channels \| mixed_bfloat16 \| .*\*\*0\.[34]\d"),
    ("layer_speed", ["--quick"], r"\| 6 x 5 x 4 x 3 \| \d"),
    ("layer_speed", ["--quick", "unknown"], r"unknown batch; .*\n\n.*shape"),
    ("layer_speed", ["--quick", "eager"], r"\| 10 x 7 \| \d"),
    ("long_sums", ["--quick"], r"\| 16 \| \d\.\de-\d\d \("),
    (
        "layer_speed",
        ["--quick", "xla"],
        r"float32, XLA; .*\n\n.*\n.*\n\| 6 x 5 x 4 x 3",
    ),
    (
        "learning_rates",
        ["--seeds", "1", "--epochs", "1", "--rates", "1"],
        r"\| 1 \| \d.*%",
    ),
    ("model_step", ["--quick"], r"\| MLP of 2 layers \| 4 x 8 \| \d"),
    ("monitor_cost", ["--quick"], r"\| MLP, 6 layers \| \d+\.\d \|"),
    ("monitor_cost", ["free", "--quick"], r"\| \d+\.\d{3} \| \d\.\d{3} \|"),
    ("surgery", ["--quick"], r"\| CNN of 3 convolutions \| 8 x 8 x 8 x 3 \| 3 to 0 \|"),
    ("zoo", ["--quick", "--processes", "1"], r"\d healthy trainings, 0 with a false"),
    (
        "zoo_random",
        ["--quick", "--processes", "1"],
        r"0 at guessing, and called healthy",
    ),
]
# Modules of the benchmarks, and what is run by other tests.
OTHERS = {"reporting", "results", "steps", "timing"}
OTHERS |= {"defects"}  # its probes: test_defects.py
OTHERS |= {
    "zoo_data",
    "zoo_mistakes",
    "zoo_networks",
    "zoo_others",
    "zoo_rows",
    "zoo_steps",
}


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def test_every_benchmark_is_run():
    scripts = {path.stem for path in HERE.glob("*.py")}
    assert scripts - OTHERS == {name for name, *_ in RUNS}


SHORT = {"accuracy", "layer_speed", "monitor_cost"}
ROWS = [
    pytest.param(
        *row,
        id=" ".join([row[0], *row[1]]),
        marks=[] if row[0] in SHORT and row[1] == ["--quick"] else pytest.mark.long,
    )
    for row in RUNS
]


@pytest.mark.parametrize(("name", "arguments", "shows"), ROWS)
def test_benchmark_runs(name, arguments, shows, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    assert not importlib.import_module(name).main()
    assert re.search(shows, capsys.readouterr().out)


def test_ratio_of_two_lists_is_that_of_their_rounds():
    timing = importlib.import_module("timing")
    ratio = timing.ratio([2, 40, 6], [1, 10, 2])
    assert ratio == (3, 2, 4)
    assert str(ratio) == "3.00 (2.00 to 4.00)"
    sure = timing.ratio(range(100, 200), [100] * 100)
    assert 1 < sure.low < sure.median == 1.495 < sure.high < 1.99


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        ({"at_most": 3}, "yes"),
        ({"at_most": 2.5}, "within noise: b"),
        ({"at_most": 1.5}, "no: b"),
        ({"at_least": 0.5}, "yes"),
        ({"at_least": 1.5}, "within noise: a"),
        ({"at_least": 2.5}, "no: a"),
    ],
)
def test_limit_is_judged_by_the_median_and_its_interval(limit, verdict):
    timing = importlib.import_module("timing")
    ratios = {"a": timing.Ratio(1, 0.5, 2), "b": timing.Ratio(3, 2, 4)}
    assert timing.judge(ratios, **limit) == verdict


def test_pages_show_the_tables_of_results():
    results = importlib.import_module("results")
    measured = results.RESULTS.read_text()
    texts = [path.read_text() for path in results.PAGES]
    assert sum(text.count("<!-- RESULTS: ") for text in texts) >= 7
    assert [results.quoted(text, measured) for text in texts] == texts


def test_table_that_results_lacks_is_refused():
    quoted = importlib.import_module("results").quoted
    text = "<!-- RESULTS: python a.py -->\nold\n<!-- end -->"
    section = "\n## What?\n\n`python a.py`\n\nof a\n\n| 1 |\n\n`python b.py`\n\n| 2 |\n"
    shown = text.replace("old", "of a\n\n| 1 |")
    assert quoted(text, section) == shown
    with pytest.raises(ValueError, match=r"no output of `python a\.py`"):
        quoted(text, "## What?")
