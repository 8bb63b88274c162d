"""`kbn report`: what it prints and writes, and its exit status."""

import os
import subprocess
import sys

import pytest
from test_report import check_page, dead, strict, write

import kbn_command as command
from kbn.callbacks.alerts.alert import Alert

NAN_ALERT = Alert("non_finite", "critical", "first", 3, 1, 9.0, 0.0, "It is NaN.")
STATUS = {  # by --fail-on: critical, which is the default, warning, never
    "healthy": ((), (0, 0, 0)),
    "note": ([dead("first", "info")], (0, 0, 0)),
    "warning": ([dead("first")], (0, 1, 0)),
    "critical": ([NAN_ALERT], (1, 1, 0)),
    "resolved": ([dead("first", "critical", resolved_step=4)], (0, 0, 0)),
}
# What the run of `write` gives: loss 0.2, val_loss 0.4 and accuracy 0.83 at the end.
REQUIRED = {
    "accuracy>=0.8": (0, ""),
    "val_loss<0.5": (0, ""),
    " loss <= 2e-1 ": (0, ""),
    "accuracy>0.9": (1, "kbn report: --require 'accuracy>0.9': in log it is 0.833333"),
    "val_loss<=-inf": (1, "in log it is 0.4"),
    "val_acuracy>=0.9": (
        2,
        "log has logged no 'val_acuracy'; its metrics: accuracy, loss, val_loss",
    ),
}


@pytest.mark.parametrize("case", STATUS)
def test_status_says_whether_an_alert_is_open(tmp_path, case, capsys):
    ill, statuses = STATUS[case]
    write(tmp_path, ill=ill)
    for level, status in zip(("critical", "warning", "never"), statuses, strict=True):
        arguments = ["report", str(tmp_path), "--fail-on", level]
        assert command.main(arguments) == status
    capsys.readouterr()
    assert command.main(["report", str(tmp_path)]) == statuses[0]
    shown = capsys.readouterr()
    assert shown.out.startswith(f"# {tmp_path.name}\n")
    assert shown.err == ""


@pytest.mark.parametrize("required", REQUIRED)
def test_what_is_required_is_held_against_the_last_epoch(tmp_path, required, capsys):
    status, message = REQUIRED[required]
    log = write(tmp_path / "log")
    assert command.main(["report", str(log), "--require", required]) == status
    shown = capsys.readouterr()
    assert "Healthy at the end of 5 steps" in shown.out
    assert message in shown.err
    assert bool(shown.err) is bool(status)


def test_every_run_is_to_meet_all_that_is_required(tmp_path, capsys):
    write(tmp_path / "good")
    write(tmp_path / "broken", values=[float("nan")])
    tests = ["--require", "loss<1", "--require", "val_loss<1", "--fail-on", "never"]
    assert command.main(["report", str(tmp_path / "good"), *tests]) == 0
    assert command.main(["report", str(tmp_path), *tests]) == 1
    assert capsys.readouterr().err.count("in broken it is nan") == 2


def test_one_bad_run_of_two_is_enough(tmp_path, capsys):
    good, bad = write(tmp_path / "good"), write(tmp_path / "bad", ill=[NAN_ALERT])
    assert command.main(["report", str(good), str(bad)]) == 1
    assert "2 runs compared" in capsys.readouterr().out
    assert command.main(["report", str(tmp_path)]) == 1


def test_a_directory_without_a_log_is_status_2(tmp_path, capsys):
    two = tmp_path / "two"
    assert command.main(["report", str(write(tmp_path / "one")), str(two)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    expected = f"kbn report: There is no log of TrainingMonitor's in '{two}'"
    assert shown.err.startswith(expected)


@pytest.mark.parametrize("suffix", [".html", ".json", ".md", ".txt"])
def test_out_is_written_by_its_suffix(tmp_path, suffix, capsys):
    write(tmp_path / "log")
    out = tmp_path / f"report{suffix}"
    assert command.main(["report", str(tmp_path / "log"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    assert "Healthy at the end of 5 steps" in text
    if suffix == ".html":
        check_page(text)
    if suffix == ".json":
        strict(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", "report.pdf'): expected a name that ends in .html, .md, .json"),
        ("missing/x.md", "missing/x.md: No such file or directory\n"),
    ],
)
def test_out_that_cannot_be_written_is_status_2(tmp_path, name, message, capsys):
    write(tmp_path / "log")
    arguments = ["report", str(tmp_path / "log"), "--out", str(tmp_path / name)]
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DIR"),
        ([""], "argument DIR: '' is not a path"),
        (["logs", "--out", ""], "argument --out: '' is not a path"),
        (["logs", "--out"], "argument --out: expected one argument"),
        (["logs", "--fail-on", "info"], "argument --fail-on: invalid choice: 'info'"),
        (["logs", "--require", "loss"], "'loss' is not a test such as"),
        (["logs", "--require", "loss==1"], "'loss==1' is not a test such as"),
        (["logs", "--require", "loss<few"], "'loss<few' is not a test such as"),
        (["logs", "--require", "loss<nan"], "'loss<nan' is not a test such as"),
        (["logs", "--require", "<1"], "'<1' is not a test such as"),
        (["logs", "--speed"], "unrecognized arguments: --speed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nonsense_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["report", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("out", [None, "mine.html", "mine.md"])
def test_open_shows_a_page_in_a_browser(tmp_path, out, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    write(tmp_path / "log")
    more = [] if out is None else ["--out", str(tmp_path / out)]
    assert command.main(["report", str(tmp_path / "log"), "--open", *more]) == 0
    page = tmp_path / (out if out == "mine.html" else "report.html")
    assert shown == [page.as_uri()]
    check_page(page.read_text(encoding="utf-8"))
    assert str(page) in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_a_console_of_any_encoding_is_printed_to(tmp_path, encoding):
    write(tmp_path, ill=[dead("first")])
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    run = [sys.executable, "-m", "kbn", "report", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode(encoding).startswith(f"# {tmp_path.name}")


def test_a_reader_that_closes_the_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    run = [sys.executable, "-m", "kbn", "explain", "dead_relu"]
    done = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
