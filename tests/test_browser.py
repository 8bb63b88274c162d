"""What a user sees: a logged run in TensorBoard, in a browser, tab by tab."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import browser
import keras
import numpy as np
import pytest

import kbn
from kbn import demo

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.chromium() is None, reason="chromium is not installed"),
]

RUNS = {"with_batch_norm": True, "without_batch_norm": False}
EPOCHS = 2
WATCH = ("weights", "gradients", "activations", "batch_norm", "quantiles")


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    digits = demo.load_digits(0)
    for run, batch_norm in RUNS.items():
        keras.utils.set_random_seed(0)
        demo.build_network(batch_norm, 0.5).fit(
            digits.x_train,
            digits.y_train,
            batch_size=32,
            epochs=EPOCHS,
            validation_data=(digits.x_test, digits.y_test),
            verbose=0,
            callbacks=[kbn.callbacks.TrainingMonitor(directory / run, 14, WATCH)],
        )
    return directory


@pytest.fixture(scope="module")
def address(log_dir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_runs(server, address)
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_for_runs(server, address):
    """Until TensorBoard has read both runs to their end."""
    tags = "/data/plugin/scalars/tags"
    while server.poll() is None:
        try:
            with urllib.request.urlopen(address + tags) as reply:
                text = reply.read().decode()
        except urllib.error.URLError:
            text = ""
        if all(run in text for run in RUNS) and "epoch/val_loss" in text:
            return
        time.sleep(0.25)
    raise AssertionError(f"TensorBoard ended with {server.returncode}")


@pytest.fixture(scope="module")
def page(address, tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile"), height=4000) as page:
        yield page


def show(page, address, tab, *expected):
    """The page's text once it shows all of what is expected."""
    page.open("about:blank")
    page.open(f"{address}/#{tab}")

    def is_shown(text):
        lines = text.splitlines()
        return all(line in lines for line in (*RUNS, *expected))

    text = page.wait_for(is_shown)
    for nothing in ("No data", "No dashboards are active", "No scalar data"):
        assert nothing not in text
    return text


def test_time_series_has_a_card_for_every_histogram(page, address):
    show(page, address, "timeseries", "activations/relu", "activations/batch_norm")
    page.wait_for(lambda text: page.drawn("tb-histogram", "path") >= 7)


def test_scalars_have_their_charts_and_say_what_they_are(page, address):
    groups = ("epoch", "gradient_norm", "health", "loss_gap", "update_ratio")
    show(page, address, "scalars", "batch_norm_gap/batch_norm/mean", *groups)
    page.wait_for(lambda text: page.drawn("vz-line-chart2", "svg path") >= 4)
    page.click("paper-icon-button[icon=info]")
    sentence = "How far the mean that inference uses lies from the looked-at batch's"
    page.wait_for(lambda text: sentence in " ".join(text.split()))


@pytest.mark.parametrize("tab", ["histograms", "distributions"])
def test_histograms_are_drawn(tab, page, address):
    layers = ("hidden", "relu", "logits", "batch_norm")
    tags = [f"activations/{layer}" for layer in layers]
    show(page, address, tab, *tags, "batch_norm", "gradients", "weights")
    chart = {
        "histograms": "vz-histogram-timeseries",
        "distributions": "vz-distribution-chart",
    }[tab]
    page.wait_for(lambda text: page.drawn(chart, "svg path") >= 7)


def test_custom_scalars_are_a_dashboard_without_an_empty_chart(page, address):
    charts = (
        *("Training", "loss", "metrics", "gradient norm, before clipping"),
        *("Health", "dead units", "update ratio of the weights"),
        *("Training beside evaluation", "batch norm's gap, mean"),
        *("Activations, 5 to 95 %", "relu", "Gradients, 5 to 95 %"),
    )
    show(page, address, "custom_scalars", *charts)

    def matches(text):
        return [int(number) for number in re.findall(r"Matches \((\d+)\)", text)]

    # Each chart loads for itself: wait until the last has found its tags.
    text = page.wait_for(lambda text: len(matches(text)) >= 12 and min(matches(text)))
    # Both runs are in one chart, with training and validation.
    assert matches(text)[:2] == [4, 4]
    for never in ("saturated units", "NaN and Inf", "loss scale"):
        assert never not in text.splitlines()


def test_hparams_compare_the_runs(page, address):
    columns = ("batch_norm", "batch_norm_kind", "learning_rate", "optimizer")
    page.open("about:blank")
    page.open(f"{address}/#hparams")

    def has_both(text):
        return "kbn.BatchNormalization" in text and "none" in text.splitlines()

    text = page.wait_for(has_both).splitlines()
    assert {*columns, "epoch/val_accuracy", "SGD", "true", "false"} <= set(text)
    assert "gradient_norm/global" not in text  # a column for each would be hundreds


def test_the_numbers_drawn_are_those_of_the_training(address, log_dir):
    import json

    from event_files import read_log, steps, values

    log = read_log(log_dir / "with_batch_norm")
    for tag in ("update_ratio/digits/hidden/kernel", "epoch/loss"):
        query = f"/data/plugin/scalars/scalars?run=with_batch_norm&tag={tag}"
        with urllib.request.urlopen(address + query) as reply:
            points = json.loads(reply.read())
        assert [point[1] for point in points] == steps(log, tag)
        np.testing.assert_allclose([point[2] for point in points], values(log, tag))
