"""What a user sees: a logged run in TensorBoard, in a browser, tab by tab."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import keras
import pytest
from playwright import sync_api
from test_report import dead, write

import kbn
from kbn_command import demo

expect = sync_api.expect
expect.set_options(timeout=60_000)  # a busy machine draws a tab within ten seconds
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

# In the order of the demo: the run that starts first is orange, the second blue.
RUNS = {"without_batch_norm": False, "with_batch_norm": True}
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
        if all(run in text for run in RUNS) and "Epoch/val_loss" in text:
            return
        time.sleep(0.25)
    raise AssertionError(f"TensorBoard ended with {server.returncode}")


@pytest.fixture(scope="module")
def page(address):
    """A page of a browser that draws all of a tab at once."""
    with sync_api.sync_playwright() as playwright:
        # In a container Chromium has no sandbox of its own, and little shared memory.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser.new_page(viewport={"width": 1600, "height": 4000})
        browser.close()


def shown(page, text):
    """Where the page shows a text, alone, or names something by it."""
    named = page.get_by_title(text, exact=True).or_(page.get_by_label(text, exact=True))
    found = page.get_by_text(text, exact=True).or_(named)
    return found.filter(visible=True)


def show(page, address, tab, *expected):
    """Open a tab, once it shows both runs and all of what is expected."""
    page.goto("about:blank")
    page.goto(f"{address}/#{tab}")
    for text in (*RUNS, *expected):
        expect(shown(page, text).first).to_be_visible()
    for nothing in ("No data", "No dashboards are active", "No scalar data"):
        expect(page.get_by_text(nothing).filter(visible=True)).to_have_count(0)


def drawn(page, chart, part):
    """The charts that have a part inside."""
    return page.locator(chart).filter(has=page.locator(part))


def test_the_first_screen_is_the_loss_and_the_metrics(page, address):
    page.goto("about:blank")
    page.goto(address)
    groups = page.get_by_role("button", name=re.compile("(Expand|Collapse) group"))
    expect(groups.first).to_contain_text("Epoch")
    expect(shown(page, "Epoch/loss").first).to_be_visible()
    expect(shown(page, "Health").first).to_be_visible()  # the tab
    for never in ("worst", "median", "highest", "lowest"):
        expect(shown(page, never)).to_have_count(0)


def test_links_in_the_health_tab_stay_in_it(page, address):
    page.goto("about:blank")
    page.goto(f"{address}/#kbn_health")
    outer = page.frame_locator("iframe").first
    inner = outer.frame_locator("iframe")
    section = inner.locator("#drift > details")
    expect(section).not_to_have_attribute("open", "")
    inner.get_by_role("link", name="Drift of the weights").click()
    expect(section).to_have_attribute("open", "")
    expect(inner.get_by_role("heading", name="2 runs compared")).to_be_visible()


def test_a_table_of_many_runs_is_sorted_by_a_click(page, tmp_path):
    for i in range(8):
        ill = [dead("second")] if i == 5 else []
        write(tmp_path / f"run_{i}", ill=ill)
    place = kbn.callbacks.Report.read(tmp_path).save(tmp_path / "report.html")
    page.goto(place.as_uri())
    first = page.locator("table.sort tr:nth-child(2) td").first
    expect(first).to_have_text("run_5")  # the one that is ill
    head = page.locator("table.sort th").first
    head.click()
    expect(first).to_have_text("run_0")
    head.click()
    expect(first).to_have_text("run_7")


def test_scalars_have_their_charts_and_say_what_they_are(page, address):
    groups = ("epoch", "gradient_norm", "health", "loss_gap", "update_ratio")
    show(page, address, "scalars", *groups)
    shown(page, "batch_norm_gap").first.click()  # only the first groups are open
    expect(shown(page, "batch_norm_gap/batch_norm/mean").first).to_be_visible()
    expect(drawn(page, "vz-line-chart2", "svg path").nth(3)).to_be_visible()
    card = page.locator("tf-scalar-card").filter(
        has=page.get_by_text("batch_norm_gap/batch_norm/mean", exact=True)
    )
    card.locator("paper-icon-button[icon=info]").first.click()
    sentence = "How far the mean that inference uses lies from the looked-at batch's"
    expect(page.get_by_text(sentence).first).to_be_visible()


@pytest.mark.parametrize("tab", ["histograms", "distributions"])
def test_histograms_are_drawn(tab, page, address):
    layers = ("hidden", "relu", "logits", "batch_norm")
    tags = [f"activations/{layer}" for layer in layers]
    show(page, address, tab, *tags, "batch_norm", "gradients", "weights")
    chart = {
        "histograms": "vz-histogram-timeseries",
        "distributions": "vz-distribution-chart",
    }[tab]
    expect(drawn(page, chart, "svg path").nth(6)).to_be_visible()


@pytest.mark.long
def test_custom_scalars_are_a_dashboard_without_an_empty_chart(page, address):
    charts = (
        *("Training", "loss", "metrics"),
        "gradient norm, before clipping, healthy 0.3 to 10",
        *("Health", "dead units: relu, healthy 0 to 0.2"),
        "update ratio of the weights, healthy 0.0001 to 0.01",
        *(
            "Training beside evaluation",
            "batch norm's gap, mean: batch_norm, healthy 0 to 0.2",
        ),
        *("Activations, 5 to 95 %", "relu", "Gradients, 5 to 95 %"),
    )
    show(page, address, "custom_scalars", *charts)
    # Each chart loads for itself: wait until the last has found its tags.
    matches = page.get_by_text(re.compile(r"Matches \(\d+\)"))
    expect(matches.nth(11)).to_be_visible()
    expect(page.get_by_text("Matches (0)")).to_have_count(0)
    # Both runs are in one chart, with training and validation.
    for chart in ("loss", "metrics"):
        card = page.locator("tf-custom-scalar-card-chart-container, div").filter(
            has=page.get_by_text(chart, exact=True)
        )
        expect(card.get_by_text("Matches (4)").first).to_be_visible()
    # In the colours of the demo's picture: without batch norm orange, with it blue.
    boxes = page.locator("paper-checkbox").filter(visible=True)
    colours = boxes.evaluate_all(
        "all => all.map(x => getComputedStyle(x)"
        ".getPropertyValue('--paper-checkbox-checked-color').trim())"
    )
    assert colours[-len(RUNS) :] == ["#ff7043", "#0077bb"]
    for never in ("saturated units, healthy 0 to 0.01", "NaN and Inf", "loss scale"):
        expect(shown(page, never)).to_have_count(0)


def test_hparams_compare_the_runs(page, address):
    page.goto("about:blank")
    page.goto(f"{address}/#hparams")
    columns = ("batch_norm", "learning_rate", "optimizer")
    values = ("kbn.BatchNormalization", "none", "SGD")
    for text in (*columns, *values, "Epoch/val_accuracy"):
        expect(shown(page, text).first).to_be_visible()
    # A column for each would be hundreds.
    expect(shown(page, "gradient_norm/global")).to_have_count(0)
