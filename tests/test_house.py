"""The house of the design: who may import whom, and what `import kbn` gives."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kbn

ROOT = Path(__file__).parents[1]
SURGERY = {"convert_batch_norm", "fold_batch_norm", "update_bn_stats"}
SURGERY |= {"insert_batch_norm", "freeze_batch_norm", "unfreeze_batch_norm"}
SURGERY |= {"from_torch_batch_norm", "to_torch_batch_norm"}
PUBLIC = {"BatchNorm", "BatchNormalization", "__version__", "callbacks", "capture"}
PUBLIC |= SURGERY | {"check"}
NAMES = ["defaults", "demo", "explain", "picture", "report", "show"]
COMMAND = {"kbn.__main__", "kbn_command", *(f"kbn_command.{name}" for name in NAMES)}

# Each imports what stands below it, never what stands above or beside it.
LAYERS = [
    "__main__",
    "kbn_command",
    "kbn",
    "callbacks",
    "callbacks.report callbacks.watch",
    "callbacks.log",
    "callbacks.alerts",
    "callbacks.signals",
    "surgery",
    "layer",
    "folding moving_average renorm",
    "kernels",
    "arguments momentum private",
]
LEVELS = {room: i for i, line in enumerate(LAYERS) for room in line.split()}
# A log is read, judged and shown without Keras.
WITHOUT_KERAS = {"callbacks.alerts", "callbacks.log", "callbacks.report"}
# Only a backend's own module may need the backend when it is imported.
BACKENDS = {"tensorflow", "torch", "jax"}


def module_files():
    """{module: file}; each of these may be a link, which rglob does not follow."""
    files = {"kbn_light": ROOT / "kbn_light.py"}
    for name in ("kbn", "kbn/callbacks", "kbn_command", "kbn_tensorboard"):
        for path in sorted((ROOT / name).rglob("*.py")):
            if path.is_relative_to(ROOT / "kbn/callbacks/report/plugin"):
                continue  # it is kbn_tensorboard
            parts = path.relative_to(ROOT).with_suffix("").parts
            files[".".join(part for part in parts if part != "__init__")] = path
    return files


MODULES = module_files()
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def imports(path, module=""):
    """Absolute names of all imports of a file, those inside functions too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = node.module or ""
            if node.level:
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                # `from kbn import demo` is an import of kbn.demo.
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def is_of_the_house(name):
    return name.split(".")[0] in ("kbn", "kbn_command")


def room(name):
    """The longest name in LAYERS that a module's begins with."""
    parts = name.removeprefix("kbn.").split(".")
    whole = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next(part for part in whole if part in LEVELS)


def test_every_module_is_found():
    assert {"kbn", "kbn.layer", "kbn.kernels.tensorflow"} <= MODULES.keys()
    assert {"kbn.callbacks", "kbn.callbacks.monitor"} <= MODULES.keys()
    assert len(MODULES) == len({path.resolve() for path in MODULES.values()})
    writer = "kbn.callbacks.log.writer"
    assert "kbn.callbacks.signals.registry" in set(imports(MODULES[writer], writer))


def test_imports_go_in_one_direction():
    pairs = {
        (room(module), room(name))
        for module, path in MODULES.items()
        for name in imports(path, module)
        if is_of_the_house(module) and is_of_the_house(name)
    }
    upward = {(a, b) for a, b in pairs if a != b and LEVELS[a] >= LEVELS[b]}
    assert not upward
    assert {name for pair in pairs for name in pair} == LEVELS.keys()


def test_logs_are_read_without_keras():
    for module, path in MODULES.items():
        found = {name.split(".")[0] for name in imports(path, module)}
        if not is_of_the_house(module):  # it is loaded by TensorBoard, without kbn
            assert not found & {"kbn", "keras", *BACKENDS}, module
        elif room(module) in WITHOUT_KERAS:
            assert not found & {"keras", *BACKENDS}, module


# Of `kbn.private`, NamedTuple and notebooks; `_prepared` is of our layer.
NOT_PRIVATE = {"_replace", "_repr_html_", "_prepared"}


def names_used(path):
    """Attributes of others than `self`, and all that a file imports by name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            own = own or ast.unparse(node.value) == "super()"
            found |= set() if own else {node.attr}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            found |= {x.value for x in node.args[1:2] if isinstance(x, ast.Constant)}
        elif isinstance(node, ast.ImportFrom):
            found |= set((node.module or "").split("."))
            found |= {alias.name for alias in node.names}
    return found


def test_private_names_of_the_frameworks_are_in_one_place():
    for module, path in MODULES.items():
        found = set() if module.startswith("kbn.private") else names_used(path)
        private = {x for x in found if x.startswith("_") and not x.startswith("__")}
        assert private <= NOT_PRIVATE, module
        assert not {"src", "python"} & found, module  # keras.src, tensorflow.python


def test_no_two_modules_import_each_other():
    graph = {
        module: {name for name in imports(path, module) if is_of_the_house(name)}
        for module, path in MODULES.items()
    }
    # The command uses the public names, which lie in the package above it.
    for module in COMMAND:
        graph[module].discard("kbn")
    while leaves := [module for module, below in graph.items() if not below]:
        for leaf in leaves:
            del graph[leaf]
        graph = {module: below - set(leaves) for module, below in graph.items()}
    assert not graph


@pytest.mark.parametrize(
    "path",
    [*(MODULES[module] for module in sorted(COMMAND)), *EXAMPLES],
    ids=lambda path: path.stem,
)
def test_command_and_examples_use_public_names_only(path):
    allowed = {"kbn"} | (COMMAND if path not in EXAMPLES else set())
    assert {name for name in imports(path) if is_of_the_house(name)} <= allowed
    attributes = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "kbn"
    }
    assert attributes <= PUBLIC


def imported_at_once(path):
    """Packages that a file imports outside of functions, so on every backend."""
    left, top = [ast.parse(path.read_text())], set()
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            top |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            top.add((node.module or "").split(".")[0])
        elif not isinstance(node, ast.FunctionDef):
            left += ast.iter_child_nodes(node)
    return top


def test_backend_is_imported_by_its_own_modules_only():
    found = {
        module.removeprefix("kbn."): needed
        for module, path in MODULES.items()
        if module not in COMMAND and (needed := imported_at_once(path) & BACKENDS)
    }
    watch = ("batches", "pruned", "tensorflow", "traced_step")
    names = [f"kernels.tensorflow{part}" for part in ("", "_formula", "_fused")]
    names += [f"callbacks.watch.{part}" for part in watch]
    owners = {name: {"tensorflow"} for name in names}
    owners["callbacks.watch.jitted"] = {"jax"}
    for backend in ("jax", "torch"):
        owners[f"callbacks.watch.{backend}"] = {backend}
    for backend in ("tensorflow", "torch", "jax"):
        owners[f"kernels.{backend}"] = {backend}
    for backend in ("tensorflow", "torch"):
        owners[f"private.{backend}"] = {backend}
    assert found == owners


FRESH = """
import importlib.util, json, sys
import keras
before = set(sys.modules)
import kbn
added = sorted(set(sys.modules) - before)
kbn.capture
captured = sorted(set(sys.modules) - before)
model = keras.saving.load_model(sys.argv[1])
json.dump({
    "added": added,
    "captured": captured,
    "layer": type(model.layers[-1]) is kbn.BatchNorm is kbn.BatchNormalization,
    "output": keras.ops.convert_to_numpy(model(keras.ops.ones((2, 3)))).tolist(),
    "monitor": importlib.util.find_spec("tensorboard")
    and kbn.callbacks.TrainingMonitor.__module__,
    "version": kbn.__version__,
    "public": dir(kbn),
}, sys.stdout)
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What a new process sees after `import kbn`, and a model that it loads."""
    file = tmp_path_factory.mktemp("fresh") / "model.keras"
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), kbn.BatchNorm(momentum=0.5)]
    )
    model(np.arange(12, dtype="float32").reshape(4, 3), training=True)
    model.save(file)
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(file)],
        cwd=file.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return {**json.loads(run.stdout), "model": model}


def test_import_adds_nothing_that_is_heavy(fresh):
    heavy = {"tensorboard", "matplotlib", "sklearn", "rich", "wandb", *BACKENDS}
    assert not heavy & {name.split(".")[0] for name in fresh["added"]}
    assert "kbn.layer" in fresh["added"]
    # Surgery too is imported at its first use.
    assert not {"kbn.callbacks", "kbn.surgery"} & set(fresh["added"])
    # A capture needs no TensorBoard.
    assert "kbn.callbacks.capture" in fresh["captured"]
    of_logs = {"kbn.callbacks.monitor", "kbn.callbacks.log.writer"}
    assert not of_logs & set(fresh["captured"])


def test_public_names_resolve_after_plain_import(fresh):
    assert fresh["version"] == kbn.__version__
    assert set(fresh["public"]) == PUBLIC
    if fresh["monitor"] is None:
        pytest.skip("TensorBoard is not installed: no kbn.callbacks")
    assert fresh["monitor"] == "kbn.callbacks.monitor"


def test_load_model_needs_nothing_but_import_kbn(fresh):
    assert fresh["layer"]
    np.testing.assert_array_equal(
        np.float32(fresh["output"]),
        keras.ops.convert_to_numpy(fresh["model"](keras.ops.ones((2, 3)))),
    )


def run_checkout(directory, code):
    """Run code beside a checkout that is not installed."""
    # -S: without site, an editable install is not there.
    installed = [path for path in sys.path if path.endswith("site-packages")]
    paths = [str(directory), *installed]
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_checkout_without_its_link_says_so(tmp_path):
    shutil.copytree(ROOT / "kbn", tmp_path / "kbn", ignore=lambda *_: ["callbacks"])
    # What git writes in the place of a link where it may not make one.
    (tmp_path / "kbn" / "callbacks").write_text("../callbacks")
    run = run_checkout(tmp_path, "import kbn; kbn.BatchNorm(); kbn.callbacks")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    init = tmp_path / "kbn" / "__init__.py"
    assert last.startswith(f"ImportError: kbn.callbacks is not beside {init}, ")
    assert "git config core.symlinks true" in last


def test_plain_import_of_callbacks_is_refused():
    run = run_checkout(ROOT / "kbn", "import callbacks")
    assert run.stderr.endswith("every class: import kbn.callbacks.\n")


def test_dir_shows_what_is_public_and_nothing_else():
    assert set(dir(kbn)) == PUBLIC
    assert kbn.layer  # imported, but not for users
    callbacks = {"Alert", "TrainingAlert", "TrainingMonitor", "UpdateBatchNormStats"}
    assert set(dir(kbn.callbacks)) == callbacks | {"Remedy", "Report", "rules", "sinks"}
    assert all(getattr(kbn.callbacks, name) for name in dir(kbn.callbacks))
    rules = [name for name in dir(kbn.callbacks.rules) if name[0] != "_"]
    others = ["Reading", "Rule", "View", "default_rules"]
    assert len(rules) == len(kbn.callbacks.rules.default_rules()) + len(others)
    assert all(
        getattr(kbn.callbacks.rules, name).__module__.startswith(
            "kbn.callbacks.signals"
        )
        for name in rules
    )
