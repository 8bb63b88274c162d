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
SURGERY |= {"freeze_batch_norm", "unfreeze_batch_norm"}
SURGERY |= {"from_torch_batch_norm", "to_torch_batch_norm"}
PUBLIC = {"BatchNorm", "BatchNormalization", "__version__", "callbacks", "capture"}
PUBLIC |= SURGERY
COMMAND = {"kbn.__main__", "kbn_command"}
NAMES = ["defaults", "demo", "picture", "report", "show"]
COMMAND |= {f"kbn_command.{name}" for name in NAMES}

# What each module of kbn, and each room of callbacks, imports: other modules and rooms,
# and packages that are not Python's own. A new one needs a row.
IMPORTS = {
    "kbn": (
        "callbacks layer surgery.convert surgery.fold surgery.freeze "
        "surgery.statistics surgery.torch_batch_norm",
        "",
    ),
    "arguments": ("", "keras"),
    "layer": (
        "arguments folding kernels kernels.arithmetic moving_average renorm",
        "keras",
    ),
    "folding": ("arguments kernels", "keras"),
    "moving_average": ("arguments kernels kernels.arithmetic", "keras"),
    "renorm": ("arguments kernels.arithmetic", "keras"),
    "kernels": (
        "kernels.reference kernels.tensorflow kernels.torch kernels.jax",
        "keras",
    ),
    "kernels.arithmetic": ("", "keras numpy"),
    "kernels.reference": ("kernels.arithmetic", "keras"),
    "kernels.tensorflow": (
        "kernels.arithmetic kernels.reference kernels.tensorflow_formula "
        "kernels.tensorflow_fused private.tensorflow",
        "tensorflow",
    ),
    "kernels.tensorflow_formula": ("kernels.arithmetic", "tensorflow"),
    "kernels.tensorflow_fused": ("kernels.arithmetic", "tensorflow"),
    "kernels.torch": ("kernels.arithmetic kernels.reference private.torch", "torch"),
    "kernels.jax": ("kernels.arithmetic", "jax"),
    "private": ("", ""),
    "private.keras": ("private", "keras tensorflow"),
    "private.jax": ("", ""),
    "private.tensorflow": ("", "tensorflow"),
    "private.torch": ("", "torch"),
    "surgery": ("", ""),
    "surgery.absorb": ("private.keras surgery.affine surgery.graph", "keras numpy"),
    "surgery.affine": ("arguments surgery.graph", "keras numpy"),
    "surgery.compiling": ("private.keras surgery.graph surgery.remaking", "keras"),
    "surgery.convert": (
        "surgery.compiling surgery.copying surgery.exchange surgery.graph "
        "surgery.remaking",
        "",
    ),
    "surgery.copying": (
        "private.keras surgery.exchange surgery.graph surgery.remaking",
        "keras",
    ),
    "surgery.exchange": ("layer private.keras surgery.graph", "keras"),
    "surgery.fold": (
        "private.keras surgery.compiling surgery.copying surgery.graph surgery.plan",
        "keras numpy",
    ),
    "surgery.graph": ("private.keras", "keras"),
    "surgery.plan": (
        "surgery.absorb surgery.affine surgery.exchange surgery.graph surgery.wiring",
        "keras",
    ),
    "surgery.remaking": ("private.keras surgery.graph", "keras"),
    "surgery.wiring": ("surgery.graph", "keras"),
    "surgery.batches": ("", "keras numpy"),
    "surgery.forward": ("surgery.graph", "jax keras tensorflow torch"),
    "surgery.freeze": (
        "layer surgery.exchange surgery.forward surgery.graph",
        "keras numpy",
    ),
    "surgery.population": ("moving_average surgery.freeze", "keras numpy"),
    "surgery.statistics": (
        "arguments folding kernels kernels.arithmetic layer surgery.batches "
        "surgery.forward surgery.freeze surgery.graph surgery.population",
        "keras numpy",
    ),
    "surgery.torch_batch_norm": (
        "layer private.keras private.torch surgery.freeze",
        "keras numpy torch",
    ),
    "__main__": ("kbn_command", ""),
    # Without Keras, but for what `kbn demo` runs.
    "kbn_command": ("kbn_command.defaults kbn_command.report kbn_command.show", ""),
    "kbn_command.defaults": ("", ""),
    "kbn_command.report": ("", ""),
    "kbn_command.show": ("kbn kbn_command.demo kbn_command.picture", "keras rich"),
    "kbn_command.demo": ("kbn kbn_command.defaults", "keras numpy sklearn"),
    "kbn_command.picture": ("kbn_command.demo", "matplotlib numpy"),
    "callbacks": (
        "callbacks.alerts callbacks.diagnostics callbacks.log callbacks.model "
        "callbacks.report callbacks.step private.jax private.keras "
        "surgery.statistics",
        "keras numpy",
    ),
    "callbacks.model": ("private.keras", "keras numpy tensorflow"),
    "callbacks.step": (
        "callbacks.diagnostics callbacks.model private.keras private.tensorflow",
        "keras numpy tensorflow",
    ),
    "callbacks.diagnostics": ("", "numpy tensorflow"),
    "callbacks.log": (
        "callbacks.alerts callbacks.diagnostics",
        "google numpy tensorboard",
    ),
    "callbacks.alerts": ("", "numpy"),
    "callbacks.report": (
        "callbacks.alerts callbacks.diagnostics callbacks.log",
        "numpy",
    ),
    # They import callbacks.report, by its name, without kbn.
    "kbn_light": ("", ""),
    "kbn_tensorboard": ("", "kbn_light tensorboard werkzeug"),
}
ROOMS = ("model", "step", "diagnostics", "log", "alerts", "report")
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


def short(name):
    """The row of a module: its name, in callbacks that of its room."""
    name = name.removeprefix("kbn.")
    if not name.startswith("callbacks"):
        return name
    room = name.split(".")[1:2]
    return ".".join(["callbacks", *room]) if room and room[0] in ROOMS else "callbacks"


def test_every_module_is_found():
    assert {"kbn", "kbn.layer", "kbn.kernels.tensorflow"} <= MODULES.keys()
    assert {"kbn.callbacks", "kbn.callbacks.monitor"} <= MODULES.keys()
    assert len(MODULES) == len({path.resolve() for path in MODULES.values()})
    writer = "kbn.callbacks.log.writer"
    assert "kbn.callbacks.signals.registry" in set(imports(MODULES[writer], writer))


@pytest.mark.parametrize("row", IMPORTS)
def test_imports_go_in_one_direction(row):
    inside, outside = (set(names.split()) for names in IMPORTS[row])
    found = {
        name
        for module, path in MODULES.items()
        if short(module) == row
        for name in imports(path, module)
    }
    near = {short(name) for name in found if is_of_the_house(name)}
    assert near - {row} == inside
    foreign = {name.split(".")[0] for name in found if not is_of_the_house(name)}
    assert foreign - sys.stdlib_module_names == outside


def test_every_row_is_of_a_module():
    assert {short(module) for module in MODULES} == IMPORTS.keys()


# Of `kbn.private`, and of NamedTuple; `_prepared` is of our layer.
NOT_PRIVATE = {"_replace", "_prepared"}


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if not name.startswith("kbn.private")],
)
def test_private_names_of_the_frameworks_are_in_one_place(module):
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            own = own or ast.unparse(node.value) == "super()"
            found |= set() if own else {node.attr}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            found |= {x.value for x in node.args[1:2] if isinstance(x, ast.Constant)}
        elif isinstance(node, ast.ImportFrom):
            found |= set((node.module or "").split("."))
            found |= {alias.name for alias in node.names}
    private = {x for x in found if x.startswith("_") and not x.startswith("__")}
    assert private <= NOT_PRIVATE
    assert not {"src", "python"} & found  # keras.src, tensorflow.python


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


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COMMAND))
def test_backend_is_imported_by_its_own_modules_only(module):
    # Outside of functions, where `import` runs it on every backend.
    left, top = [ast.parse(MODULES[module].read_text())], set()
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            top |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            top.add((node.module or "").split(".")[0])
        elif not isinstance(node, ast.FunctionDef):
            left += ast.iter_child_nodes(node)
    owners = {
        "kbn.kernels.tensorflow": {"tensorflow"},
        "kbn.callbacks.watch.batches": {"tensorflow"},
        "kbn.callbacks.watch.evaluation": {"tensorflow"},
        "kbn.callbacks.watch.host": {"tensorflow"},
        "kbn.callbacks.watch.pruned": {"tensorflow"},
        "kbn.callbacks.watch.tensorflow": {"tensorflow"},
        "kbn.kernels.tensorflow_formula": {"tensorflow"},
        "kbn.kernels.tensorflow_fused": {"tensorflow"},
        "kbn.kernels.torch": {"torch"},
        "kbn.kernels.jax": {"jax"},
        "kbn.private.tensorflow": {"tensorflow"},
        "kbn.private.torch": {"torch"},
    }
    assert top & BACKENDS == owners.get(module, set())


FRESH = """
import importlib.util, json, sys
import keras
before = set(sys.modules)
import kbn
added = sorted(set(sys.modules) - before)
model = keras.saving.load_model(sys.argv[1])
json.dump({
    "added": added,
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
    heavy = {"tensorboard", "matplotlib", "sklearn", "rich", *BACKENDS}
    assert not heavy & {name.split(".")[0] for name in fresh["added"]}
    assert "kbn.layer" in fresh["added"]
    # Surgery too is imported at its first use.
    assert not {"kbn.callbacks", "kbn.surgery"} & set(fresh["added"])


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
    assert set(dir(kbn.callbacks)) == callbacks | {"Report", "rules"}
    assert all(getattr(kbn.callbacks, name) for name in dir(kbn.callbacks))
    rules = [name for name in dir(kbn.callbacks.rules) if name[0] != "_"]
    assert len(rules) == 22 + len(["Reading", "Rule", "View", "default_rules"])
    assert all(
        getattr(kbn.callbacks.rules, name).__module__.startswith("kbn.callbacks.alerts")
        for name in rules
    )


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'kbn' has no attribute 'BatchNorn'"):
        kbn.BatchNorn  # noqa: B018
