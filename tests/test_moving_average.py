"""What enters the moving statistics."""

import keras
import numpy as np
import pytest
from keras import ops

import kbn
from kbn import moving_average
from tests.running import array


def tensor(*values):
    return ops.convert_to_tensor(values, "float32")


def test_update_moves_only_what_enters():
    variable = keras.Variable([1.0, 2.0, 3.0])
    enters = ops.convert_to_tensor([True, False, False])
    moving_average.update(variable, tensor(11, np.nan, np.inf), 0.9, 0.1, enters)
    np.testing.assert_allclose(array(variable.value), [2.0, 2.0, 3.0], rtol=1e-6)


def test_nothing_enters_without_elements_or_finite_statistics():
    mean = tensor(0, np.nan, 0, 0, 5)
    variance = tensor(1, np.nan, np.inf, 1, 0)
    count = tensor(8, 8, 8, 0, 1)
    entry = moving_average.entry(mean, variance, count, 5, unbiased=False)
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [1, 0, 0, 0, 1])
    entry = moving_average.entry(mean, variance, count, 5, unbiased=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("count", "unbiased", "enters"),
    [(0, False, 0), (1, False, 1), (1, True, 0), (2, True, 1)],
)
def test_count_may_be_one_number_for_all_channels(count, unbiased, enters):
    entry = moving_average.entry(tensor(1, 2), tensor(3, 4), count, 2, unbiased)
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [enters] * 2)
    bessel = count / (count - 1) if unbiased and count > 1 else 1
    if enters:
        np.testing.assert_allclose(array(entry.tracked), [3 * bessel, 4 * bessel])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_statistics_that_are_not_finite_show_in_the_variance(value):
    x = np.random.default_rng(0).normal(size=(8, 2)).astype("f4")
    x[3:7, 1] = value
    layer = kbn.BatchNorm(momentum=0.0)
    layer(x, training=True)
    mean, variance = layer.moving_mean, layer.moving_variance
    np.testing.assert_allclose(array(mean.value), [x[:, 0].mean(), 0], rtol=1e-5)
    np.testing.assert_allclose(array(variance.value), [x[:, 0].var(), 1], rtol=1e-5)


def test_groups_count_by_their_elements():
    entry = moving_average.entry(
        tensor(1, 5, 2, 0), tensor(4, 1, 8, 0), tensor(6, 2, 2, 0), 2, unbiased=True
    )
    np.testing.assert_allclose(array(entry.mean), [1.25, 5])
    np.testing.assert_allclose(array(entry.biased), [5, 1])
    np.testing.assert_allclose(array(entry.tracked), [5 * 8 / 6, 2], rtol=1e-6)
    np.testing.assert_array_equal(array(entry.count), [8, 2])
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [True, True])
