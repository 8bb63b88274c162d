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
    theirs = transformations.tried(row, keras.layers.BatchNormalization)
    if isinstance(theirs, Exception):
        pytest.skip(f"Keras' layer: {theirs!r}")
    ours = transformations.tried(row, kbn.BatchNorm)
    if isinstance(ours, Exception):
        raise AssertionError(f"only ours fails: {row.name}") from ours
    warm = transformations.tried(row, functools.partial(kbn.BatchNorm, warmup=True))
    if isinstance(warm, Exception):
        raise AssertionError(f"only warmup=True fails: {row.name}") from warm
    # Statistics that have moved are others, and a state has a counter more.
    assert all(np.isfinite(x).all() for x in keras.tree.flatten(warm))
    keras.tree.assert_same_structure(theirs, ours)
    pairs = zip(*map(keras.tree.flatten, (ours, theirs)), strict=True)
    for found, wanted in pairs:
        largest = np.max(np.abs(wanted), initial=1e-30)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=row.within * largest)


def test_table_has_rows():
    assert len(ROWS) > 15
