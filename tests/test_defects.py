"""kbn has no defect of Keras' batch normalization but those it shares for a reason.

`benchmarks/defects.py` prints the same findings as a table, beside Keras'.
"""

import os
import re

import keras
import pytest

import kbn
from tests.defects import BACKEND, DEFECTS, HERE, LOOKED_AT, SHARED, measure
from tests.pages import PAGES

MENDED = [defect for defect in HERE if not defect.shared]
KEPT = [defect for defect in HERE if defect.shared]
assert MENDED, "no defect is probed on this backend"
assert KEPT, "no shared defect is probed on this backend"


def check(defect, probe, cls, expected):
    finding = measure(probe, cls)
    # A probe that crashes has not seen the defect that is shared.
    if finding.defective != expected or (expected and finding.exception):
        message = f"{defect.id}, {defect.what}: {finding.seen}"
        raise AssertionError(message) from finding.exception


def test_table_has_every_defect_once():
    assert [defect.number for defect in DEFECTS] == list(range(1, 33))
    assert set(SHARED) == {13, *range(19, 25)}


def test_page_names_every_defect():
    section = PAGES["docs/differences.md"].partition("\n## ")[2]
    named = {int(number) for number in re.findall(r"\bD(\d+)", section)}
    for first, last in re.findall(r"D(\d+) to D(\d+)\)", section):
        named |= set(range(int(first), int(last)))
    assert named >= set(range(1, 33))
    shared = section.split("What kbn shares")[1]
    assert {int(n) for n in re.findall(r"\bD?(\d\d)\b", shared)} >= set(SHARED)


def test_page_names_the_version_in_which_a_defect_is_gone():
    page = PAGES["docs/differences.md"].lower()
    named = re.findall(r"\bd(\d+) is gone since (\w+ \d+\.\d+)", page)
    gone = [(str(x.number), x.gone) for x in DEFECTS if x.gone]
    assert named == gone


@pytest.mark.parametrize("defect", MENDED, ids=lambda defect: defect.id)
def test_defect_is_mended(defect):
    check(defect, defect.probe, kbn.BatchNorm, False)


@pytest.mark.parametrize("defect", KEPT, ids=lambda defect: defect.id)
def test_shared_defect_is_there_and_its_remedy_holds(defect):
    check(defect, defect.probe, kbn.BatchNorm, True)
    check(defect, defect.shared.probe, kbn.BatchNorm, False)


@pytest.mark.skipif(
    keras.__version__ in LOOKED_AT and "KBN_KERAS_DEFECTS" not in os.environ,
    reason="known of this Keras; KBN_KERAS_DEFECTS=1 looks again",
)
@pytest.mark.parametrize(
    "defect", [d for d in HERE if BACKEND in d.backends], ids=lambda defect: defect.id
)
def test_probe_finds_the_defect_in_keras(defect):
    # A probe that finds nothing there says nothing about kbn. In another version the
    # defect may be mended: then `gone` of the table and the page are to say so.
    found = measure(defect.probe, keras.layers.BatchNormalization).defective
    assert found == defect.is_in_keras
