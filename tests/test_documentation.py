"""Every public name has an example that runs, and its place on the API pages."""

import doctest
import importlib.util
import inspect
import re

import keras
import pytest

import kbn
from tests.pages import PAGES

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_MONITOR = importlib.util.find_spec("tensorboard") is not None


def public_objects():
    """{dotted name: object}: all that kbn gives, and what its classes add to Keras'."""
    names = [name for name in dir(kbn) if name[0] != "_"]
    found = {
        f"kbn.{name}": value
        for name, value in ((name, getattr(kbn, name)) for name in names)
        if getattr(value, "__module__", "").startswith("kbn")
    }
    for name in kbn.callbacks.__all__:
        if HAS_MONITOR or name != "TrainingMonitor":
            found[f"kbn.callbacks.{name}"] = getattr(kbn.callbacks, name)
    if HAS_MONITOR:
        found["kbn.capture"] = kbn.capture
    inherited = {*dir(keras.layers.BatchNormalization), *dir(keras.callbacks.Callback)}
    for name, value in [*found.items()]:
        if inspect.isclass(value) and name != "kbn.BatchNormalization":
            found |= {
                f"{name}.{attribute}": member
                for attribute, member in vars(value).items()
                if attribute[0] != "_"
                and attribute not in inherited
                and attribute not in getattr(value, "__dataclass_fields__", ())
            }
    return found


PUBLIC = public_objects()


def test_public_objects_are_found():
    assert PUBLIC["kbn.BatchNorm"] is PUBLIC["kbn.BatchNormalization"]
    assert "kbn.BatchNorm.reset_running_stats" in PUBLIC
    assert not {name for name in PUBLIC if "from_config" in name}
    assert {"kbn.update_bn_stats", "kbn.callbacks.UpdateBatchNormStats"} < PUBLIC.keys()
    assert ("kbn.callbacks.TrainingMonitor.history" in PUBLIC) is HAS_MONITOR


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring_example_runs(name, tmp_path, monkeypatch):
    if "torch_batch_norm" in name and not HAS_TORCH:
        pytest.skip("PyTorch is not installed")
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(PUBLIC[name], name, globs={})
    assert example.examples, "a public name needs an example"
    failures = []
    result = doctest.DocTestRunner().run(example, out=failures.append)
    assert result.failed == 0, "".join(failures)


def test_api_table_has_every_public_name():
    named = re.findall(r"^\| `([\w.]+)", PAGES["docs/api/index.md"], re.MULTILINE)
    assert len(set(named)) == len(named)
    monitor = {
        name for name in named if name.startswith(("kbn.callbacks.Train", "kbn.cap"))
    }
    missing = set() if HAS_MONITOR else monitor
    modules = {"kbn.callbacks", "kbn.__version__"}
    assert set(named) - missing - modules == PUBLIC.keys()


def test_api_pages_show_every_public_name():
    shown = []
    for page in (page for page in PAGES if page.startswith("docs/api/")):
        directives = re.findall(
            r"^\.\. auto\w+:: (\S+)\n(?: +:members: (.*))?", PAGES[page], re.MULTILINE
        )
        for name, members in directives:
            shown += [name, *(f"{name}.{x}" for x in members.split(", ") if members)]
    rules = {f"kbn.callbacks.rules.{name}" for name in dir(kbn.callbacks.rules)}
    public = {name for name in rules if not name.rpartition(".")[2].startswith("_")}
    public |= {f"kbn.callbacks.sinks.{name}" for name in ("Sink", "WeightsAndBiases")}
    missing = {"kbn.capture", "kbn.callbacks.TrainingMonitor"} - PUBLIC.keys()
    # An alias, and modules whose names are shown.
    modules = {"kbn.callbacks.rules", "kbn.callbacks.sinks"}
    public |= PUBLIC.keys() - {"kbn.BatchNormalization", *modules}
    below = ("kbn.callbacks.rules.", "kbn.callbacks.Report", *modules, *missing)
    assert len(shown) == len({*shown})
    assert public <= {*shown}
    assert [x for x in {*shown} - public if not x.startswith(below)] == []
