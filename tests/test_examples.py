"""Every example runs, from a directory of its own, and shows what it promises."""

import importlib
import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.cases import BACKEND
from tests.defects import DEFECTS
from tests.pages import PAGES

ROOT = Path(__file__).parents[1]
# What the scripts import is beside them.
BESIDE = {"claims", "command", "gallery", "illnesses", "lag"}
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.py") if path.stem not in BESIDE
)
# The others need the monitor or scikit-learn, which only TensorFlow's environment has.
EVERY_BACKEND = {"from_pytorch"}


def check_quickstart(output, directory):
    assert output.endswith(
        "Healthy at the end of 430 steps, 10 epochs.\n"
        "Now run: tensorboard --logdir logs\n"
    )
    assert len(list((directory / "logs").glob("*/events.out.tfevents.*"))) == 1


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


def check_gradient_penalty(output, directory):
    error, size = zip(
        *re.findall(r"off by (\S+) of (\S+)$", output, re.MULTILINE), strict=True
    )
    theirs, ours = map(float, error)
    (d32,) = (defect for defect in DEFECTS if defect.number == 32)
    assert (theirs > 1e-3 * float(size[0])) == d32.is_in_keras
    assert ours < 1e-8 * float(size[1])


def check_distributed(output, directory):
    table, _, verdicts = output.partition("\n\n")
    assert verdicts.count("Healthy at the end of 20 steps") == 2
    heading, *rows = table.splitlines()
    assert heading.split()[-2:] == ["worker", "1"]
    names = [row[:17].strip() for row in rows]
    assert names[:1] == ["loss"]
    assert {"gamma", "beta", "moving mean", "moving variance"} < set(names)
    for row in rows:
        size, first, second = map(float, row[17:].split())
        assert first == second  # what the workers share is the same to the last bit
        # 20 steps of float32; a bias before batch norm has no gradient but rounding.
        assert first < 20 * 1.2e-7 * max(size, 1.0)


def check_weight_distributions(output, directory):
    start = {}
    for run in ("without batch norm", "with batch norm"):
        assert f"{run}: test accuracy " in output
        logs = directory / "weight-distributions" / "logs" / run.replace(" ", "_")
        assert list(logs.glob("events.out.tfevents.*"))
        part = output.partition(f"{run}: ")[2]
        start[run] = re.findall(r"root mean square (\S+) to", part)[:2]
    (weights, entering), (same_weights, normalized) = start.values()
    assert weights == same_weights
    assert normalized == "1.00" != entering
    check_figure(directory / "weight-distributions" / "weight_distributions.png")


def check_why_batch_norm(output, directory):
    output, _, lag = output.partition("\nValidation accuracy")
    table = [line.split(" | ") for line in output.splitlines() if line[:2] == "| "]
    heading, *rows = table
    assert heading[-1] == "here |"
    verdicts = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    assert set(verdicts.values()) <= {"yes", "not shown", "the reverse"}
    # They need no training, or hardly any, and two seeds are enough.
    for said in ("stops vanishing gradients", "can be undone by gamma and beta"):
        assert verdicts[said] == "yes"
    assert verdicts["evens out gradients of ReLUs"] == "the reverse"
    page = PAGES["docs/evidence.md"]
    assert [row[:2] for row in rows if " | ".join(row[:2]) not in page] == []
    check_figure(directory / "why-batch-norm" / "why_batch_norm.png")
    # Two epochs of two seeds, and the lag shows already.
    first = {
        average: float(re.search(rf"^\| {average}.*? \| (\S+)", lag, re.MULTILINE)[1])
        for average in ("momentum=0.99", "warmup=True")
    }
    assert first["warmup=True"] > first["momentum=0.99"] + 0.1
    check_figure(directory / "why-batch-norm" / "validation_lag.png")


def check_fine_tuning(output, directory):
    table = [line.split(" | ") for line in output.splitlines() if line[:2] == "| "]
    heading, baseline, *rows = table
    assert heading[-1] == "here |"
    assert baseline[0] == "| train all"
    assert [row[0].removeprefix("| ") for row in rows] == [
        "freeze statistics",
        "freeze all",
        "recompute after",
        "recompute, freeze",
    ]
    for row in rows:
        mean, low, high = map(float, re.findall(r"[-+][\d.]+|nan", row[2]))
        assert low <= mean <= high
        verdict = "better" if low > 0 else "worse" if high < 0 else "not shown"
        assert row[-1] == f"{verdict} |"
    accuracies = [float(row[1].split(" ± ")[0]) for row in (baseline, *rows)]
    assert min(accuracies) > 40  # guessing: 20


def check_figure(path):
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000


def check_convert_resnet(output, directory):
    for which in ("Keras", "kbn"):
        assert f"{which}: 53 of 53 batch norms folded.\n" in output
        loss = re.search(
            rf"^{which}: training step .* loss (\S+)$", output, re.MULTILINE
        )
        assert np.isfinite(float(loss[1]))
    said = r"outputs (?:that )?differ by (\S+)$"
    differences = re.findall(said, output, re.MULTILINE)
    assert len(differences) == 3
    assert max(map(float, differences)) < 1e-4
    assert (directory / "resnet50-folded" / "saved_model.pb").exists()


def check_sick_networks(output, directory):
    assert "critical: vanishing_gradient in digits/dense_1/kernel" in output
    table = [line.split(" | ") for line in output.splitlines() if line[:2] == "| "]
    _, (name, alert, ill, _cure, well, alerts) = table
    assert (name, alert) == ("| eight layers of sigmoids", "vanishing_gradient")
    assert float(well[:-1]) > 70 > 40 > float(ill[:-1])
    assert alerts == "none |"
    out = directory / "sick-networks"
    place = out / "vanishing_gradient"
    for run in ("sick", "cured"):
        assert len(list((place / run).glob("events.out.tfevents.*"))) == 1
    check_figure(place / "picture.png")
    for here, count in ((place, 3), (out, 2)):
        text = (here / "index.html").read_text()
        assert "The cure: kbn.insert_batch_norm." in text
        targets = re.findall(r'(?:src|href)="([^"]+)"', text)
        assert len(targets) == count
        assert [x for x in targets if not (here / x).exists()] == []
    assert "Not learning since epoch 2: the gr" in (place / "sick.html").read_text()
    assert "Healthy at the end of " in (place / "cured.html").read_text()
    shown = directory / "vanishing_gradient.png"
    assert shown.read_bytes() == (place / "picture.png").read_bytes()
    assert "Wrote vanishing_gradient.png\n" in output


ARGUMENTS = {
    "convert_resnet": ["--steps", "2"],
    "fine_tuning": ["--seeds", "2", "--digits", "40"],
    "sick_networks": ["--only", "vanishing", "--gallery", "."],
    "why_batch_norm": ["--quick"],
    "weight_distributions": ["--epochs", "1"],
}
# One check an example; an example without one fails.
CHECKS = {
    "convert_resnet": check_convert_resnet,
    "distributed": check_distributed,
    "fine_tuning": check_fine_tuning,
    "gradient_penalty": check_gradient_penalty,
    "from_pytorch": check_from_pytorch,
    "quickstart": check_quickstart,
    "sick_networks": check_sick_networks,
    "weight_distributions": check_weight_distributions,
    "why_batch_norm": check_why_batch_norm,
}


def test_there_are_examples():
    assert EXAMPLES


# Its workers and it are a process each.
APART = {"distributed"}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example as a command in a directory of its own: exit status and output.

    In this process, and so is what it runs itself of its own file: importing TensorFlow
    takes longer than most of them.
    """

    real = subprocess.run

    def command(line, **options):
        if line[0] != sys.executable:
            return real(line, **options)
        monkeypatch.setattr(sys, "argv", line[1:])
        return runpy.run_path(line[1], run_name="__main__")

    def in_this_process(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        monkeypatch.setattr(subprocess, "run", command)
        status = 0
        try:
            script = str(ROOT / "examples" / f"{name}.py")
            command([sys.executable, script, *arguments])
        except SystemExit as end:
            status = end.code or 0
        return status, "".join(capsys.readouterr())

    return in_this_process


# Each of the others trains for half a minute.
SHORT = {"from_pytorch", "gradient_penalty", "quickstart"} if BACKEND != "jax" else {}
ROWS = [
    pytest.param(path.stem, marks=[] if path.stem in SHORT else pytest.mark.long)
    for path in EXAMPLES
]


@pytest.mark.parametrize("example", ROWS)
def test_example_runs(example, run, tmp_path):
    if BACKEND != "tensorflow" and example not in EVERY_BACKEND:
        pytest.skip("its extras are not installed there")
    arguments = ARGUMENTS.get(example, [])
    if example in APART:
        command = [sys.executable, str(ROOT / "examples" / f"{example}.py"), *arguments]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        output = process.stdout
    else:
        status, output = run(example, *arguments)
        assert status == 0, output
    CHECKS[example](output, tmp_path)


# (example, arguments, what it says); `file` is a file.
NONSENSE = [
    ("fine_tuning", ["--seeds", "1"], "--seeds: '1' is not a whole number from 2"),
    ("why_batch_norm", ["--dataset", "cats"], "invalid choice: 'cats'"),
    ("why_batch_norm", ["--out", "file/below"], "cannot make 'file/below': Not a dir"),
    ("weight_distributions", ["--out", "file"], "--out: 'file' is a file"),
    ("sick_networks", ["--only", "frozen"], "'frozen' is in none of non_finite_data, "),
    ("distributed", ["--workers", "3"], "unrecognized arguments: --workers 3"),
]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="its extras are not installed")
@pytest.mark.parametrize(
    ("example", "arguments", "says"),
    NONSENSE,
    ids=[f"{example} {' '.join(arguments)}" for example, arguments, _ in NONSENSE],
)
def test_nonsense_is_refused_before_anything_is_trained(
    example, arguments, says, run, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(keras.Model, "fit", None)
    found, output = run(example, *arguments)
    assert found == 2
    assert says in output
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
    assert (tmp_path / "file").read_text() == "mine"


def test_no_directory_is_written_to_twice(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    command = importlib.import_module("command")
    parser = command.parser("A script.")
    made = [command.new_directory(parser, tmp_path / "a" / "run") for _ in range(3)]
    assert [path.name for path in made] == ["run", "run-2", "run-3"]
