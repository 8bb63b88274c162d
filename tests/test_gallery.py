"""docs/sick_networks.md says what the example says, but for the numbers."""

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sick_networks.md"
NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?(?!\w)")


class Section(NamedTuple):
    rule: str  # as its picture has it
    alert: str
    alt: str
    code: str


def code(text):
    """The Python blocks."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def sections():
    """Of the page: those with a picture."""
    found = []
    for part in PAGE.read_text().split("\n## ")[1:]:
        pictures = re.findall(r"!\[([^]]*)\]\(gallery/(\w+)\.png\)", part)
        quoted = re.findall(r"^> (.*)$", part, re.MULTILINE)
        if pictures:
            ((alt, rule),) = pictures
            found.append(Section(rule, " ".join(quoted), alt, *code(part)))
    return found


SECTIONS = sections()


def without_numbers(text):
    return NUMBER.sub("#", text)


def is_followed(remedy, block):
    """Whether code does what an alert says, with its number."""
    if remedy.kind == "insert":
        return remedy.words.endswith(f"{block.partition(' = ')[2].strip()}.")
    if remedy.kind == "replace":
        return "kbn.BatchNorm(warmup=True)" in remedy.words and "warmup=True" in block
    if remedy.kind == "data":
        return "drop or fill" in remedy.words and "nan_to_num(" in block
    before_comment = block.partition("#")[0]
    return re.search(rf"\W{re.escape(str(remedy.new))}\W", before_comment) is not None


@pytest.fixture
def illnesses(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    module = importlib.import_module("illnesses")
    return {illness.rule: illness for illness in module.ILLNESSES}, module.train


def test_page_shows_six_illnesses():
    assert len({section.rule for section in SECTIONS}) == 6
    assert PAGE.read_text().count("\n# ") + PAGE.read_text().startswith("# ") == 1


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.rule)
def test_alert_on_the_page_is_what_the_monitor_says(section, illnesses, tmp_path):
    known, train = illnesses
    illness = known[section.rule]
    sick = train(illness.sick, tmp_path / "sick")
    alert = sick.named(section.rule)
    assert without_numbers(section.alert) == without_numbers(str(alert))
    assert is_followed(alert.remedy, section.code)
    cured = train(illness.cured, tmp_path / "cured")
    assert cured.others() == "none"
    assert cured.accuracy > sick.accuracy + 0.1
    # And so in a sentence of the page.
    words = f"{sick.accuracy:.0%} right before, {cured.accuracy:.0%} after"
    assert without_numbers(words) in without_numbers(PAGE.read_text())


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.rule)
def test_picture_is_small_and_told_in_words(section):
    picture = PAGE.parent / "gallery" / f"{section.rule}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 120_000
    assert len(section.alt) > 60
    assert section.code.count("\n") <= 2


def test_every_picture_is_shown():
    files = {path.stem for path in (PAGE.parent / "gallery").iterdir()}
    assert files == {section.rule for section in SECTIONS}
