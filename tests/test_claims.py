"""What README claims is what was measured."""

import re

from tests.defects import DEFECTS, SHARED
from tests.pages import PAGES, ROOT, section

CLAIMS = " ".join(section("README.md", "## What is measured").split())
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()


def column(command, heading, rows=None):
    """The leading numbers of a column of the first table that a benchmark printed."""
    output = RESULTS.partition(f"\n`{command}`\n\n")[2]
    lines = re.search(r"(?:^\|.*\n)+", output, re.MULTILINE)[0].splitlines()
    place = [x.strip() for x in lines[0].split("|")].index(heading)
    cells = [line.split("|")[place].strip(" *") for line in lines[2:]]
    return [float(cell.split()[0]) for cell in cells][:rows]


def span(values, digits=1):
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def test_defects_are_counted():
    kept = {1: "one", 7: "seven"}[len(SHARED)]
    assert f"{len(DEFECTS)} defects of Keras" in CLAIMS
    assert f"does not have {len(DEFECTS) - len(SHARED)} of them" in CLAIMS
    assert f"the other {kept}" in CLAIMS


def test_speed_is_that_of_the_results():
    here = column("python benchmarks/layer_speed.py", "training: Keras / kbn")
    torch = column(
        "KERAS_BACKEND=torch python benchmarks/layer_speed.py", "training: Keras / kbn"
    )
    assert len(here) == len(torch) == 5
    assert f"{span(here)} times as fast as Keras' own on TensorFlow" in CLAIMS
    assert f"{span(torch)} times on torch" in CLAIMS
    text = " ".join((ROOT / "benchmarks" / "remarks.md").read_text().split())
    ratios = re.search(
        r"five large shapes ([\d., ]+) and ([\d.]+) times", text
    ).groups()
    onednn = [float(x) for x in re.findall(r"[\d.]*\d", " ".join(ratios))]
    assert f"{span(onednn)} times where TensorFlow turns oneDNN on" in CLAIMS


def test_cost_of_a_look_is_that_of_the_results():
    steps = column("python benchmarks/monitor_cost.py", "in steps")
    assert f"[{span(steps)} training steps]" in CLAIMS


def test_verdicts_are_those_of_the_table():
    rows = re.findall(
        r"\| (yes|not shown|the reverse) \|$", PAGES["docs/evidence.md"], re.M
    )
    counts = {verdict: rows.count(verdict) for verdict in set(rows)}
    assert f"Of {len(rows)} claims" in CLAIMS
    assert f"{counts['yes']} held" in CLAIMS
    assert counts == {"yes": counts["yes"], "not shown": 1, "the reverse": 1}
