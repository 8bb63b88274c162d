"""What mypy and Pyright see of an installed kbn, in a user's file."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

USER = Path(__file__).with_name("typed_user.py")
CHECKERS = {
    "mypy": ("mypy", "--strict"),
    # Pyright with a node of its own, so that nothing is downloaded at its first start.
    "pyright": ("basedpyright", "--level", "error"),
}
# As in Pyright, where its fork differs; and mypy's --strict on unused ignores.
PYRIGHT = {
    "typeCheckingMode": "standard",
    "enableTypeIgnoreComments": True,
    "reportUnnecessaryTypeIgnoreComment": "error",
}
# Appended to a file without any: the one that must be found.
MISTAKES = {
    "monitor": 'kbn.callbacks.TrainingMonitor(log_freq="epoch", sample_size="all")',
    "rule": 'kbn.callbacks.rules.VanishingGradient(ratio="low")',
    "capture": "kbn.capture(layer, layers=3)",
    "surgery": 'kbn.update_bn_stats(layer, [], steps="all")',
    "layer": 'kbn.BatchNorm(momentum="high")',
}


def check(checker, file):
    """Lines of `file` in which the checker finds an error; all that it printed."""
    module, *options = CHECKERS[checker]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    program = (
        [sys.executable, "-m", module]
        if checker == "mypy"
        else [str(Path(sys.executable).with_name(module))]
    )
    (file.parent / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    options += [] if checker == "mypy" else ["--pythonpath", sys.executable]
    run = subprocess.run(
        [*program, *options, file.name], cwd=file.parent, capture_output=True, text=True
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = re.findall(rf"{file.name}:(\d+)[:\d]*:? (?:- )?error", run.stdout)
    assert bool(found) == bool(run.returncode), run.stdout + run.stderr
    return [int(line) for line in found], run.stdout


@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_of_a_user_are_found_and_nothing_else(checker, tmp_path):
    file = tmp_path / "user.py"
    right = USER.read_text().splitlines()
    file.write_text("\n".join([*right, "", *MISTAKES.values()]) + "\n")
    lines, said = check(checker, file)
    assert lines == [len(right) + 2 + i for i in range(len(MISTAKES))], said
