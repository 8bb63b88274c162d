"""Population statistics for what is validated, and for what a training leaves."""

import logging
from typing import Any

import keras
import numpy as np
from keras import ops

from kbn.surgery.statistics import Update

# Logged, not warned: under `python -W error` a warning would end the training.
_log = logging.getLogger(__name__)


class UpdateBatchNormStats(keras.callbacks.Callback):
    """Calls `kbn.update_bn_stats` before each validation and when training ends.

    The moving averages that training keeps lag behind the weights: with momentum m
    they remember about 1 / (1 - m) steps. So a short or fast training is validated, and
    left, with statistics of weights that are no more. With this callback they are those
    of `data` under the weights as they are.

    Training itself goes on as if it were not there: it never reads the moving
    statistics, and everything else is put back. The weights are the same, bit for bit,
    but for those statistics. Give it `data` of its own: a `tf.data.Dataset` that is
    also trained on and shuffles would shuffle otherwise.

    Put it before callbacks that save the model, or look at it, when training ends, and
    after those that put other weights into it:
    `EarlyStopping(restore_best_weights=True)`, and `SwapEMAWeights`, which validates
    averages of them. Where the weights change between an update and the first batch of
    its validation, a warning of the logger says so, once in a training.

    Args:
        data: As for `kbn.update_bn_stats`: arrays, a data set, a `PyDataset`, ...; some
            thousands of samples of what the model is trained on are plenty.
        steps: How many batches to read each time. None: all.
        exact: As for `kbn.update_bn_stats`.
        restore: Whether to put the moving averages of the training back after each
            validation. False: they go on from the population's, and what is saved at
            the end of an epoch is what was validated. At the end of training the
            population's stay in either case.
        batch_size: Of arrays.
        verbose: 1 shows a progress bar each time, 0 nothing.

    Raises:
        ValueError: `data` is an iterator, and `steps` is None: it could be read once.
            While training: what `kbn.update_bn_stats` raises.

    Example:
        >>> import keras, kbn, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), kbn.BatchNorm()])
        >>> model.compile("sgd", "mse")
        >>> x = np.float32([[1], [2], [3], [6]])
        >>> update = kbn.callbacks.UpdateBatchNormStats(x)
        >>> history = model.fit(x, x, callbacks=[update], verbose=0)
        >>> np.ravel(model.layers[0].get_weights()[2:])
        array([3. , 3.5], dtype=float32)
    """

    def __init__(
        self,
        data: Any,
        steps: int | None = None,
        exact: bool = False,
        *,
        restore: bool = False,
        batch_size: int = 32,
        verbose: Any = 0,
    ) -> None:
        super().__init__()
        self._settings = data, steps, exact
        self._options = {"batch_size": batch_size, "verbose": verbose}
        self._restore = restore
        self._update: Update | None = None
        self._averages: list[tuple[Any, Any]] = []
        self._updated: list[float] | None = None  # the weights, while to be compared
        self._is_told = False
        Update(None, *self._settings, **self._options).require_again()

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin anew, whatever became of an earlier training."""
        self._update = Update(self.model, *self._settings, **self._options)
        self._averages = []
        self._updated, self._is_told = None, False

    def on_test_begin(self, logs: Any = None) -> None:
        """Before validation; an `evaluate` outside of `fit` is left alone."""
        if self._update is not None:
            before = self._update()
            self._averages = before if self._restore else []
            self._updated = None if self._is_told else self._weights()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """At the first batch: whether another callback has swapped the weights."""
        if self._updated is None:
            return
        if not np.array_equal(self._updated, self._weights(), equal_nan=True):
            self._is_told = True
            _log.warning(
                "UpdateBatchNormStats found the statistics of other weights than those "
                "that are validated: a callback after it has swapped them, as "
                "SwapEMAWeights does. Put UpdateBatchNormStats behind that one."
            )
        self._updated = None

    def on_test_end(self, logs: Any = None) -> None:
        """Put the averages back, if they are wanted."""
        for variable, value in self._averages:
            variable.assign(value)
        self._averages = []

    def on_train_end(self, logs: Any = None) -> None:
        """The weights as they are left: EarlyStopping may have put others there."""
        if self._update is not None:
            self._update()
        self._update = None

    def _weights(self) -> list[float]:
        """A number of each trainable weight, by which to tell it from another."""
        sums = [ops.sum(ops.abs(v)) for v in self.model.trainable_variables]
        return [float(ops.convert_to_numpy(x)) for x in sums]
