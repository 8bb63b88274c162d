"""Draws README's first picture: a sick network beside its cure, as reports show them.

python docs/picture.py: needs kbn[test], and Chromium.
"""

import shutil
import tempfile
from pathlib import Path

from _extensions.sample_report import sick_and_cured
from playwright import sync_api

import kbn
from kbn.callbacks.report.page import embedded, part_of_a_page
from kbn.callbacks.report.story import live_story

OUT = Path(__file__).with_name("verdict.png")
EPOCHS = 8


def main() -> None:
    """Train twice, the second time as the first alert says."""
    with tempfile.TemporaryDirectory() as logs:
        runs = kbn.callbacks.Report.read(*sick_and_cured(logs, EPOCHS)).runs
    halves = [part_of_a_page(live_story(run)) for run in runs]
    columns = "".join(f'<div style="flex:1">{half}</div>' for half in halves)
    page = embedded(f'<div style="display:flex;gap:28px;padding:12px">{columns}</div>')
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        shown = browser.new_page(viewport={"width": 1440, "height": 400})
        shown.set_content(page.replace('class="kbn"', 'class="kbn" id="all"', 1))
        shown.locator("#all").screenshot(path=OUT)
        browser.close()
    print(f"Wrote {OUT}")


if __name__ == "__main__":
    main()
