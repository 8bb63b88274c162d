"""Every example runs, from a directory of its own, and shows what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the examples' extras are not installed", allow_module_level=True)

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def check_quickstart(output, directory):
    accuracy = re.search(r"^Test accuracy: (.*)%$", output, re.MULTILINE)[1]
    assert 90 < float(accuracy) <= 100
    assert output.endswith("Now run: tensorboard --logdir logs\n")
    assert list((directory / "logs").glob("events.out.tfevents.*"))


# One check an example; an example without one fails.
CHECKS = {"quickstart": check_quickstart}


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
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
