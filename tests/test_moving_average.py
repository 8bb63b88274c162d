"""What enters the moving statistics."""

import keras
import numpy as np
from keras import ops

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
    mean = tensor(0, np.nan, np.inf, 0, 0, 5)
    variance = tensor(1, 1, 1, np.nan, 1, 0)
    count = tensor(8, 8, 8, 8, 0, 1)
    entry = moving_average.entry(mean, variance, count, 6, unbiased=False)
    np.testing.assert_array_equal(array(entry.weight), [8, 0, 0, 0, 0, 1])
    entry = moving_average.entry(mean, variance, count, 6, unbiased=True)
    np.testing.assert_array_equal(array(entry.weight), [8, 0, 0, 0, 0, 0])


def test_groups_count_by_their_elements():
    entry = moving_average.entry(
        tensor(1, 5, 2, 0), tensor(4, 1, 8, 0), tensor(6, 2, 2, 0), 2, unbiased=True
    )
    np.testing.assert_allclose(array(entry.mean), [1.25, 5])
    np.testing.assert_allclose(array(entry.biased), [5, 1])
    np.testing.assert_allclose(array(entry.tracked), [5 * 8 / 6, 2], rtol=1e-6)
    np.testing.assert_array_equal(array(entry.weight), [8, 2])
