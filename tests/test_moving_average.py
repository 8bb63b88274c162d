"""What enters the moving statistics."""

import keras
import numpy as np
from keras import ops

from kbn import moving_average


def test_update_moves_only_what_enters():
    variable = keras.Variable([1.0, 2.0, 3.0])
    value = ops.convert_to_tensor([11.0, np.nan, np.inf], "float32")
    enters = ops.convert_to_tensor([True, False, False])
    moving_average.update(variable, value, 0.9, enters)
    np.testing.assert_allclose(np.asarray(variable.numpy()), [2.0, 2.0, 3.0], rtol=1e-6)


def test_may_enter_needs_elements_and_finite_statistics():
    def tensor(*values):
        return ops.convert_to_tensor(values, "float32")

    enters = moving_average.may_enter(
        tensor(0, np.nan, np.inf, 0, 0, 5),
        tensor(1, 1, 1, np.nan, 1, 0),
        tensor(8, 8, 8, 8, 0, 1),
    )
    expected = [True, False, False, False, False, True]
    assert ops.convert_to_numpy(enters).tolist() == expected
