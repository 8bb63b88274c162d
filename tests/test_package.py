"""What the package says of itself, and that it declares what it imports."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kbn
from tests.pages import PAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IMPORTED_AS = {"scikit-learn": "sklearn", "protobuf": "google"}
# What a user has or has not; what is skipped without them says so.
OPTIONAL = {"torch", "jax", "wandb"}


def imported(directory):
    """Packages that the files of a directory import, Python's and their own apart."""
    paths = [*(ROOT / directory).glob("**/*.py")]
    assert paths
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    own = {path.stem for path in [*paths, *(ROOT / "benchmarks").glob("*.py")]}
    own |= {path.parent.name for path in paths} | {
        "kbn",
        "kbn_command",
        "kbn_light",
        "tests",
    }
    return found - own - sys.stdlib_module_names - OPTIONAL


def declared(requirements):
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
    return {IMPORTED_AS.get(name, name) for name in names}


@pytest.mark.parametrize(
    ("directory", "extras"),
    [
        ("kbn", ["demo"]),
        ("kbn/callbacks", []),
        ("examples", ["demo"]),
        ("benchmarks", ["demo", "test", "bench"]),
        ("docs", ["docs", "test"]),  # docs/picture.py says so
        ("tests", ["demo", "test"]),
    ],
)
def test_what_is_imported_is_declared(directory, extras):
    if not (ROOT / directory).is_dir():
        pytest.skip("the sources are not here")
    requirements = [*PROJECT["dependencies"], *(x for e in extras for x in EXTRAS[e])]
    assert imported(directory) <= declared(requirements)


@pytest.mark.long
def test_only_what_writes_or_reads_logs_needs_tensorboard():
    # Required by kbn itself: TensorFlow 2.22 does without.
    assert "tensorboard" in declared(PROJECT["dependencies"])
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "import kbn, kbn.callbacks\n"
        "found = [getattr(kbn, name) for name in dir(kbn)]\n"
        "kbn.callbacks.UpdateBatchNormStats, kbn.callbacks.rules\n"
        "try:\n"
        "    kbn.callbacks.TrainingMonitor\n"
        "except ModuleNotFoundError as error:\n"
        "    print(len(found), error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert re.match(r"1\d No module named 'tensorboard", told.stdout)


def test_version_has_a_section_in_the_changelog():
    headings = re.findall(
        r"^## \[(.*)\] - \d{4}-\d\d-\d\d$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    assert headings[0] == kbn.__version__


def test_citation_has_the_version():
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {kbn.__version__}\n" in cited


# {make target: the file with the versions that it installs, and what of them is shown}.
TESTED = {
    "test": ("constraints.txt", ["keras", "tensorflow", "numpy"]),
    "test-oldest": ("constraints-oldest.txt", ["keras", "tensorflow", "numpy"]),
    "test-next": ("constraints-next.txt", ["tensorflow", "numpy"]),
    "test-backends": ("constraints.txt", ["keras", "jax", "numpy"]),
}


@pytest.mark.parametrize("target", TESTED)
def test_table_of_versions_has_those_that_are_installed(target):
    file, names = TESTED[target]
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / file).read_text(), re.M))
    (row,) = re.findall(rf"^\| `make {target}` .*", PAGES["docs/backends.md"], re.M)
    assert {pinned[name] for name in names} <= {*row.replace("|", " ").split()}


def test_long_description_has_the_quickstart_and_no_link_that_breaks():
    text = (ROOT / PROJECT["readme"]).read_text()
    code = (ROOT / "examples" / "quickstart.py").read_text().partition("\n\n")[2]
    assert f"```python\n{code}```\n" in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []


def test_addresses_of_the_project_are_in_one_place():
    assert len({url.split("/")[3] for url in PROJECT["urls"].values()}) == 1
    owner = PROJECT["urls"]["Source"].split("/")[3]
    for text in (*PAGES.values(), (ROOT / "CHANGELOG.md").read_text()):
        assert f"/{owner}/keras-kbn" not in text


def test_ruff_before_a_commit_is_that_of_the_constraints():
    hooks = ROOT / ".pre-commit-config.yaml"
    if not hooks.exists():
        pytest.skip("this is an sdist")
    (version,) = re.findall(r"rev: v(\S+)", hooks.read_text())
    assert f"ruff=={version}\n" in (ROOT / "constraints.txt").read_text()
