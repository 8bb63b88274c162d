"""Population statistics for what is validated, and for what a training leaves."""

from typing import Any

import keras

from kbn.surgery.statistics import Update


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
    after `EarlyStopping(restore_best_weights=True)`.

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
        Update(None, *self._settings, **self._options).require_again()

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin anew, whatever became of an earlier training."""
        self._update = Update(self.model, *self._settings, **self._options)
        self._averages = []

    def on_test_begin(self, logs: Any = None) -> None:
        """Before validation; an `evaluate` outside of `fit` is left alone."""
        if self._update is not None:
            before = self._update()
            self._averages = before if self._restore else []

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
