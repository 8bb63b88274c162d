"""Whatever Keras' layer survives, ours survives, with the same numbers."""

import functools

import keras
import numpy as np
import pytest

import kbn
from tests import transformations

ROWS = [
    pytest.param(row, id=row.name, marks=[pytest.mark.long] * row.is_long)
    for row in transformations.rows()
]


# Some of torch's own transformations script their parts.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("row", ROWS)
def test_transformation_works_where_keras_works(row):
    verdict = transformations.judge(row, kbn.BatchNorm)
    theirs_works, ours_works = verdict.survives
    if not theirs_works:
        pytest.skip(f"Keras' layer: {verdict.theirs!r}; ours: {ours_works}")
    if row.exempt:
        assert not ours_works, f"{row.name} works now: it needs no exemption"
        pytest.xfail(row.exempt)
    if not ours_works:
        raise AssertionError(f"only ours fails: {row.name}") from verdict.ours
    warm = transformations.tried(row, functools.partial(kbn.BatchNorm, warmup=True))
    if isinstance(warm, Exception):
        raise AssertionError(f"only warmup=True fails: {row.name}") from warm
    # Statistics that have moved are others, and a state has a counter more.
    assert all(np.isfinite(x).all() for x in keras.tree.flatten(warm))
    keras.tree.assert_same_structure(verdict.theirs, verdict.ours)
    for ours, theirs in zip(
        keras.tree.flatten(verdict.ours),
        keras.tree.flatten(verdict.theirs),
        strict=True,
    ):
        largest = np.max(np.abs(theirs), initial=1e-30)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=row.within * largest)


def test_table_has_rows():
    assert len(ROWS) > 20
