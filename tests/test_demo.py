"""The `kbn` command: what the demo prints, draws and logs, and what it refuses."""

import contextlib
import io
import math
import re
import runpy
import shutil
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import kbn
import kbn_command as command
from kbn_command import demo, picture, show

if keras.backend.backend() != "tensorflow":
    pytest.skip("the demo's extras are not installed there", allow_module_level=True)

EPOCHS = 2
STEPS = EPOCHS * demo.STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """One demo of two epochs: its directory, its output, its curves."""
    out = tmp_path_factory.mktemp("demo") / "new" / "out"
    curves = {}
    train = demo.train

    def recorded(digits, batch_norm, *args, **kwargs):
        curves[batch_norm] = train(digits, batch_norm, *args, **kwargs)
        return curves[batch_norm]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "train", recorded)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            arguments = ["--out", str(out), "--epochs", str(EPOCHS), "--seed", "3"]
            assert command.main(["demo", *arguments]) == 0
    return SimpleNamespace(
        out=out, output=output.getvalue(), without=curves[False], with_=curves[True]
    )


def read(directory):
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(
        str(directory), size_guidance={event_accumulator.TENSORS: 0}
    )
    events.Reload()
    return events


def scalars(events, tag):
    return {e.step: e.tensor_proto.float_val[0] for e in events.Tensors(tag)}


def test_table_shows_what_the_runs_reached(shown):
    def row(title):
        line = next(line for line in shown.output.splitlines() if title in line)
        return [cell.strip() for cell in line.split("│")[2:4]]

    runs = (shown.without, shown.with_)
    assert row("training accuracy") == [f"{r.train_accuracy[-1]:.1%}" for r in runs]
    assert row("test accuracy") == [f"{r.test_accuracy[-1]:.1%}" for r in runs]
    steps = [str(r.steps_to(0.95) or "not reached") for r in runs]
    assert row("steps to 95% test accuracy") == steps
    shifts = [np.median(r.shift) for r in runs]
    assert row("covariate shift") == [f"{x:.2g} std" for x in shifts]
    assert shifts[1] < shifts[0] / 5


@pytest.mark.parametrize(
    ("shift", "said"),
    [([0.2, 0.1, 0.3], "0.2 std"), ([0.5, 0.0, 0.0], "none: it is dead")],
)
def test_shift_of_a_dead_network_is_none(shift, said):
    curves = demo.Curves([0], [1.0], [1.0], [0.1], [0.1], shift=shift)
    (_, cells) = show.build_table({"run": curves}, 2.0).columns
    assert [*cells.cells][-1] == said


@pytest.mark.parametrize("run", show.RUNS)
def test_curves_agree_with_what_keras_measured(shown, run):
    curves = shown.with_ if show.RUNS[run] else shown.without
    events = read(shown.out / "logs" / run)
    for tag, values in (
        ("Epoch/val_accuracy", curves.test_accuracy),
        ("Epoch/val_loss", curves.test_loss),
    ):
        measured = scalars(events, tag)
        ours = dict(zip(curves.steps, values, strict=True))
        epochs = [demo.STEPS_PER_EPOCH * n for n in range(1, EPOCHS + 1)]
        assert list(measured) == epochs
        # Keras averages over batches in float32.
        np.testing.assert_allclose(
            [ours[step] for step in epochs], list(measured.values()), rtol=1e-5
        )


def test_runs_differ_in_batch_norm_only(shown):
    np.testing.assert_array_equal(shown.with_.quantiles[0], shown.without.quantiles[0])
    assert shown.with_.steps == shown.without.steps
    assert shown.with_.steps[-1] == STEPS


def test_batch_norm_trains_where_the_plain_network_fails(shown):
    assert shown.with_.steps_to(0.95) is not None
    assert shown.without.steps_to(0.95) is None


def test_steps_to_is_the_first_look_that_reaches_it():
    curves = demo.Curves(steps=[0, 7, 14, 21], test_accuracy=[0.1, 0.95, 0.9, 0.99])
    assert curves.steps_to(0.95) == 7
    assert curves.steps_to(0.999) is None


def test_output_and_report_tell_the_default_learning_rate(shown):
    assert f"SGD, learning rate {demo.LEARNING_RATE:g}" in shown.output
    page = (shown.out / show.REPORT).read_text(encoding="utf-8")
    assert page.count(f"<td>learning rate</td><td>{demo.LEARNING_RATE:g}</td>") == 2


def test_runs_that_diverge_are_shown_as_they_are(tmp_path, capsys):
    arguments = ["--epochs", "1", "--learning-rate", "1e9", "--out", str(tmp_path)]
    assert command.main(["demo", *arguments]) == 0
    output = capsys.readouterr().out
    assert "SGD, learning rate 1e+09" in output
    assert "Neither network reaches 95%: they end at " in output
    page = (tmp_path / show.REPORT).read_text(encoding="utf-8")
    assert page.count("Critical since epoch 1: the learning rate is too high") >= 2
    assert page.count("learning rate</td><td>1e+09</td>") == 2
    assert (tmp_path / show.PICTURE).stat().st_size > 20_000


def curves(accuracies, losses=(), steps=7):
    """Of a run with a look every seven steps."""
    n = len(accuracies)
    losses = [*(losses or np.linspace(2.3, 0.1, n))]
    # Weights are lost with the loss.
    scale = np.where(np.isfinite(losses), 1, np.nan)
    return demo.Curves(
        steps=[steps * i for i in range(n)],
        train_loss=losses,
        test_loss=losses,
        train_accuracy=accuracies,
        test_accuracy=accuracies,
        quantiles=[x * np.linspace(-0.1, 0.1, 5) for x in scale],
    )


ENDS = "98.0% with batch norm, 9{}.0% without."
VERDICTS = {
    "with": (
        [0.1, 0.1, 0.1],
        [0.1, 0.96, 0.98],
        "Only the network with batch norm reaches 95%: 98.0% with batch norm, 10.0% "
        "without.",
    ),
    "without": (
        [0.1, 0.96, 0.97],
        [0.1, 0.4, 0.3],
        "Only the network without batch norm reaches 95%: 30.0% with batch norm, 97.0% "
        "without.",
    ),
    "sooner": (
        [0.1, 0.5, 0.97],
        [0.1, 0.96, 0.98],
        "Both networks reach 95%, sooner with batch norm: after 7 steps instead of 14. "
        f"They end at {ENDS.format(7)}",
    ),
    "later": (
        [0.1, 0.96, 0.99],
        [0.1, 0.5, 0.98],
        "Both networks reach 95%, later with batch norm: after 14 steps instead of 7. "
        f"They end at {ENDS.format(9)}",
    ),
    "alike": (
        [0.1, 0.96, 0.99],
        [0.1, 0.97, 0.98],
        f"Both networks reach 95% after 7 steps; they end at {ENDS.format(9)}",
    ),
    "neither": (
        [0.1, 0.2, 0.3],
        [0.1, 0.1, 0.2],
        "Neither network reaches 95%: they end at 20.0% with batch norm, 30.0% "
        "without.",
    ),
}


@pytest.mark.parametrize(
    ("without", "with_", "says"), VERDICTS.values(), ids=VERDICTS.keys()
)
def test_verdict_follows_from_the_numbers(without, with_, says):
    assert demo.verdict(curves(without), curves(with_)) == says


LOST = (2.3, math.nan, math.nan)


@pytest.mark.parametrize("without", [(), LOST], ids=["learns", "diverges"])
@pytest.mark.parametrize("with_", [(), LOST], ids=["learns", "diverges"])
def test_picture_shows_whatever_happens(without, with_, tmp_path):
    pair = curves([0.1, 0.5, 0.9], without), curves([0.1, 0.5, 0.9], with_)
    picture.draw_picture(*pair, 2.0, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 20_000


@pytest.mark.parametrize("run", show.RUNS)
def test_logs_hold_histograms_of_every_step_that_is_due(shown, run):
    events = read(shown.out / "logs" / run)
    for tag in (
        "weights/digits/hidden/kernel",
        "gradients/digits/hidden/kernel",
        "activations/relu",
    ):
        steps = [event.step for event in events.Tensors(tag)]
        assert steps == [s for s in range(1, STEPS + 1) if demo.is_logged(s)]


def test_demo_ends_with_a_report_of_both_runs(shown):
    assert f"Picture:      {shown.out / show.PICTURE}\n" in shown.output
    page = shown.out / show.REPORT
    assert f"Report:       {page}\n" in shown.output
    text = page.read_text(encoding="utf-8")
    assert "2 runs compared" in text
    for run in show.RUNS:
        assert f"{run}</summary>" in text
    # One story: the network without batch norm is told its cure, and the other is well.
    told = shown.output.partition("\nwith_batch_norm: ")[2].partition("\n")[0]
    assert told.startswith("healthy, val_accuracy 9")
    assert "without_batch_norm: " in told
    assert told.endswith("since epoch 1: the learning rate is too high.")
    line = re.search(r"^TensorBoard:  (.*)$", shown.output, re.MULTILINE)[1]
    assert line.endswith(f"--logdir {shown.out / 'logs'}")
    assert "tensorboard" in line


def test_second_demo_replaces_its_own_files_only(shown, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(shown.out, out)
    foreign = [out / "notes.txt", out / "logs" / "with_batch_norm" / "notes.txt"]
    for file in foreign:
        file.write_text("mine")
    assert show.claim(out)
    assert [file.read_text() for file in foreign] == ["mine", "mine"]
    assert not list(out.rglob("events*"))
    assert not (out / show.PICTURE).exists()
    assert not (out / show.REPORT).exists()


def test_logs_of_somebody_else_are_refused(tmp_path, capsys):
    logs = tmp_path / "logs" / "with_batch_norm"
    logs.mkdir(parents=True)
    (logs / "events.out.tfevents.1").write_text("mine")
    assert command.main(["demo", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"kbn demo: {logs} is there, but not from a demo: choose another --out\n"
    )
    assert (logs / "events.out.tfevents.1").read_text() == "mine"


def test_out_that_is_a_file_is_refused(tmp_path, capsys):
    out = tmp_path / "file"
    out.write_text("mine")
    assert command.main(["demo", "--out", str(out)]) == 2
    expected = f"kbn demo: {out} is not a directory: choose another --out\n"
    assert capsys.readouterr().err == expected


def test_out_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "below"
    assert command.main(["demo", "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"kbn demo: cannot write to {out} (Not a directory): choose another --out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--epochs", "0"], "--epochs: '0' is not a whole number from 1"),
        (["demo", "--epochs", "two"], "--epochs: 'two' is not a whole number from 1"),
        (["demo", "--epochs", "-3"], "--epochs: '-3' is not a whole number from 1"),
        (["demo", "--learning-rate", "0"], "'0' is not a finite number above 0"),
        (["demo", "--learning-rate", "-2"], "'-2' is not a finite number above 0"),
        (["demo", "--learning-rate", "nan"], "'nan' is not a finite number above 0"),
        (["demo", "--learning-rate", "inf"], "'inf' is not a finite number above 0"),
        (["demo", "--learning-rate", ""], "'' is not a finite number above 0"),
        (["demo", "--learning-rate"], "--learning-rate: expected one argument"),
        (["demo", "--out", ""], "--out: '' is not a path"),
        (["demo", "--seed", "-1"], "--seed: '-1' is not a whole number from 0"),
        (["demo", "--seed", str(2**32)], "is not a whole number from 0 to 2^32-1"),
        (["demo", "--speed", "1"], "unrecognized arguments: --speed 1"),
        (["dmeo"], "invalid choice: 'dmeo'"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_exit_with_2_and_say_why(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        command.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "name"), [("sklearn", "scikit-learn"), ("matplotlib", "Matplotlib")]
)
def test_missing_extra_names_the_remedy(module, name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "out"
    assert command.main(["demo", "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"kbn demo: {name} is not installed: run pip install 'keras-kbn[demo]'\n"
    )
    assert not out.exists()


def test_interrupt_exits_with_130_and_keeps_the_logs(tmp_path, monkeypatch, capsys):
    look = demo.Observer.look

    def interrupted(self):
        if self.step == 28:
            raise KeyboardInterrupt
        look(self)

    monkeypatch.setattr(demo.Observer, "look", interrupted)
    assert command.main(["demo", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == (
        f"kbn demo: interrupted; what was logged is in {tmp_path / 'logs'}\n"
    )
    events = read(tmp_path / "logs" / "without_batch_norm").Tensors("activations/relu")
    assert [event.step for event in events] == [1, 2, 4, 8, 21]


def test_no_command_prints_help(capsys):
    assert command.main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_version_of_the_module_run_as_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kbn", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("kbn", run_name="__main__")
    assert capsys.readouterr().out == f"kbn {kbn.__version__}\n"


# `import kbn` imports Keras, which takes seconds.
@pytest.mark.parametrize("arguments", [["--help"], ["report", "nowhere"]])
def test_help_and_report_start_without_keras(arguments, tmp_path):
    code = (
        "import sys, kbn_command\n"
        "try:\n"
        "    status = kbn_command.main(sys.argv[1:])\n"
        "except SystemExit as end:\n"
        "    status = end.code\n"
        "print(status, {'keras', 'tensorflow'} & {*sys.modules})\n"
        "import kbn; kbn.BatchNorm; print(kbn.callbacks.Report.__module__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    status = 2 if arguments[0] == "report" else 0
    whole = "kbn.callbacks.report.report"
    assert run.stdout.endswith(f"{status} set()\n{whole}\n")
    assert ("There is no log" in run.stderr) == (status == 2)
