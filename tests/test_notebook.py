"""What a notebook shows: a cell that is drawn anew while `fit` runs, and the report."""

import os
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from kbn.callbacks import TrainingMonitor

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def fit(monitor, verbose=2):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model.fit(x, x[:, :2], 8, 3, verbose=verbose, callbacks=[monitor])
    return model.get_weights()


class Display:
    """Stands for IPython.display: notes what it is given."""

    def __init__(self):
        self.first, self.updates = [], []

    def HTML(self, text):
        return text

    def display(self, shown, *, display_id):
        assert display_id is True
        self.first.append(shown)
        return types.SimpleNamespace(update=self.updates.append)


@pytest.fixture
def display(monkeypatch):
    """A notebook's kernel, as far as a program can see it."""
    found = Display()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", found)
    return found


def test_a_fit_has_one_output_that_ends_with_its_verdict(display, tmp_path):
    monitor = TrainingMonitor(tmp_path)
    fit(monitor)
    (first,) = display.first
    assert "The training has not ended." in first
    assert "Healthy at the end of 12 steps, 3 epochs." in display.updates[-1]
    assert "<figcaption>loss" in display.updates[-1]
    fit(monitor)
    assert len(display.first) == 2


def test_a_silent_fit_and_one_outside_of_a_notebook_show_nothing(display, tmp_path):
    fit(TrainingMonitor(tmp_path / "a"), verbose=0)
    sys.modules["IPython"].get_ipython = lambda: object()  # in a terminal
    fit(TrainingMonitor(tmp_path / "b"))
    assert display.first == []


def test_a_display_that_is_broken_is_said_once_and_changes_nothing(
    display, tmp_path, caplog
):
    keras.utils.set_random_seed(0)
    plain = fit(TrainingMonitor(tmp_path / "a"), verbose=0)

    def broken(*arguments, **options):
        raise ConnectionError("no kernel")

    display.display = broken
    keras.utils.set_random_seed(0)
    found = fit(TrainingMonitor(tmp_path / "b"))
    assert sum("could not draw a cell" in x for x in caplog.messages) == 1
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_notebook_of_the_docs_runs(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="not installed there")
    pytest.importorskip("sklearn", reason="not installed there")
    nbformat = pytest.importorskip("nbformat")
    # The kernel finds the kbn that is tested.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    book = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=None, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    nbformat.write(book, tmp_path / "notebook.ipynb")
    shown = [
        [x.data["text/html"] for x in cell.outputs if "text/html" in x.get("data", {})]
        for cell in book.cells
        if cell.cell_type == "code"
    ]
    _, (sick,), (alert,), (cured,), (report,) = shown
    assert "Not learning since epoch 1: the learning rate is too high." in sick
    assert "Lower Adam&#x27;s learning rate from 1 to about" in alert
    for text in (cured, report):
        assert "Healthy at the end of" in text
