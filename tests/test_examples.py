"""Every example runs, from a directory of its own, and shows what it promises."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import BACKEND

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# The others need the monitor or scikit-learn, which only TensorFlow's environment has.
EVERY_BACKEND = {"from_pytorch"}


def check_quickstart(output, directory):
    accuracy = re.search(r"^Test accuracy: (.*)%$", output, re.MULTILINE)[1]
    assert 90 < float(accuracy) <= 100
    assert output.endswith("Now run: tensorboard --logdir logs\n")
    assert list((directory / "logs").glob("events.out.tfevents.*"))


def check_from_pytorch(output, directory):
    if importlib.util.find_spec("torch") is None:
        assert output == (
            "Skipped: this example needs PyTorch beside Keras. Run: pip install torch\n"
        )
        return
    _, *rows = output.splitlines()
    assert [row[:24].strip() for row in rows] == [
        "the losses of the steps",
        "running mean",
        "running variance",
        "eval(), training=False",
        "train(), training=True",
    ]
    for row in rows:
        largest, difference = map(float, row[24:].split())
        # 20 steps of float32, each rounded to half of 1.2e-7.
        assert difference < 20 * 1.2e-7 * largest


# One check an example; an example without one fails.
CHECKS = {
    "from_pytorch": check_from_pytorch,
    "quickstart": check_quickstart,
}


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
    if BACKEND != "tensorflow" and example.stem not in EVERY_BACKEND:
        pytest.skip("its extras are not installed there")
    run = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    CHECKS[example.stem](run.stdout, tmp_path)


def test_readme_shows_the_quickstart():
    code = (ROOT / "examples" / "quickstart.py").read_text().partition("\n\n")[2]
    assert f"```python\n{code}```\n" in (ROOT / "README.md").read_text()


def test_readme_links_to_files_that_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
