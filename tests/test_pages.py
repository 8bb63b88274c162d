"""What the pages show works: code runs, links lead somewhere, commands exist."""

import ast
import importlib.util
import re
import shlex
import sys
import types

import keras
import pytest

from kbn_command import build_parser
from tests import stand_in_wandb
from tests.pages import PAGES, ROOT, anchors, code, commands, links, section

BACKEND = keras.backend.backend()
needs_sources = pytest.mark.skipif(
    not (ROOT / "callbacks").is_dir(), reason="the sources are not here"
)
WITH_CODE = [page for page in PAGES if code(page)]
HOMES = {"mlflow", "wandb"}  # the packages that `on_look` feeds in the examples
NOT_HERE = {
    ("docs/signals.md", "jax"): "there are no activations",
    ("docs/signals.md", "torch"): "there are no activations",
    ("docs/monitor.md", "jax"): "capture has no activations of a training step there",
}


def imported(page):
    """Packages that the code of a page imports."""
    for node in ast.walk(ast.parse("\n".join(block for _, block in code(page)))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_pages_with_code_are_found():
    assert {"README.md", "docs/monitor.md", "docs/surgery.md"} < {*WITH_CODE}
    assert len(code("docs/monitor.md")) >= 7


@pytest.fixture
def told(monkeypatch):
    """{package: [scalars]} of what the homes of the numbers are told."""
    calls = {"mlflow": [], "wandb": []}

    def log_metrics(scalars, step):
        assert all(isinstance(value, float) for value in scalars.values())
        calls["mlflow"].append(scalars)

    mlflow = types.SimpleNamespace(log_metrics=log_metrics)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", stand_in_wandb)
    monkeypatch.setattr(
        stand_in_wandb.Run, "log", lambda self, x: calls["wandb"].append(x)
    )
    return calls


@pytest.fixture
def _no_download(monkeypatch):
    def small():
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    monkeypatch.setattr(keras.applications, "ResNet50", small)


@pytest.mark.usefixtures("_no_download")
@pytest.mark.parametrize("page", [page for page in WITH_CODE if "package" not in page])
def test_code_runs_in_the_order_of_the_page(page, told, tmp_path, monkeypatch):
    missing = [
        name
        for name in dict.fromkeys(imported(page))
        if name not in HOMES and importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    if (page, BACKEND) in NOT_HERE:
        pytest.skip(NOT_HERE[page, BACKEND])
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for line, block in code(page):
        # With the page's own lines in a traceback.
        exec(compile("\n" * (line - 1) + block, page, "exec"), namespace)
    used = [name for name in HOMES if re.search(rf"^import {name}$", PAGES[page], re.M)]
    assert all(told[name] for name in used)


@pytest.mark.parametrize("page", [page for page in PAGES if links(page)])
def test_links_lead_somewhere(page):
    here = (ROOT / page).parent
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = here / target if target else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@needs_sources
def test_page_with_a_report_leads_to_where_the_build_writes_it():
    built = (ROOT / "docs" / "_extensions" / "sample_report.py").read_text()
    (place,) = re.findall(r'^PLACE = "(.*)"', built, re.MULTILINE)
    page = PAGES["docs/sample.md"]
    assert re.findall('(?:href|src)="(.*?)"', page) == [place, place]


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = {*re.findall(r"^([\w-]+):", makefile, re.MULTILINE)}
    named = {
        x for line in commands(page) for x in line.split()[1:] if line[:5] == "make "
    }
    named |= {
        x for text in re.findall(r"`make ([^`]+)`", PAGES[page]) for x in text.split()
    }
    assert {x for x in named if "=" not in x} <= targets


@pytest.mark.parametrize("page", PAGES)
def test_kbn_commands_are_understood(page):
    lines = [line for line in commands(page) if line.startswith("kbn ")]
    for line in [
        *lines,
        *re.findall(r"`(kbn (?:demo|explain|report) [^`]*)`", PAGES[page]),
    ]:
        build_parser().parse_args(shlex.split(line)[1:])


def test_readme_is_a_front_page():
    assert len(PAGES["README.md"].splitlines()) <= 125


def test_examples_page_has_every_example():
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    beside = {
        "claims.py",
        "command.py",
        "gallery.py",
        "illnesses.py",
        "lag.py",
    }  # which the scripts import
    table = re.findall(r"^\| \[`(\w+\.py)`\]", PAGES["docs/examples.md"], re.MULTILINE)
    assert sorted(table) == sorted(files - beside)


@needs_sources
def test_house_is_as_the_page_draws_it():
    (tree,) = re.findall(r"^```\n(kbn/ .*?)^```$", PAGES["docs/house.md"], re.M | re.S)
    drawn, room = {}, ""
    for line in tree.splitlines():
        names = re.match(r" *((?:[\w.]+(?:\.py|/) )*)", line)[1].split()
        if line.startswith(" "):
            drawn[room] |= {*names}
        else:
            (room,) = names
            drawn[room] = set()
    rooms = {"kbn/", "callbacks/", "kbn_command/", "examples/", "benchmarks/", "tests/"}
    assert drawn.keys() == rooms
    for room in ("kbn/", "callbacks/"):
        there = [path for path in (ROOT / room).iterdir() if path.name[:2] != "__"]
        there += [ROOT / room / "__main__.py"] if room == "kbn/" else []
        folders = {f"{path.name}/" for path in there if path.is_dir()}
        files = {path.name for path in there if path.suffix == ".py"}
        assert drawn[room] == (folders | files) - {"callbacks/"}


@needs_sources
def test_rows_of_where_things_go_name_files_that_exist():
    rows = section("CONTRIBUTING.md", "## Where things go").splitlines()
    named = re.findall(r"`([\w/]+(?:\.py|\.md|/))`", "\n".join(rows))
    assert len(named) > 15
    at = (ROOT, ROOT / "callbacks" / "signals", ROOT / "benchmarks", ROOT / "kbn")
    assert [x for x in named if not any((place / x).exists() for place in at)] == []
