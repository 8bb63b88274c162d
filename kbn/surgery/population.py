"""Moments of a whole population, merged batch by batch in float64."""

from typing import Any

import numpy as np
from keras import ops

from kbn import moving_average
from kbn.surgery.freeze import Layer, Variable

# Of the deviation or variance of a channel. What rounding alone moves from one pass to
# the next is about 1e-7 in the first layers, and grows on the way through a deep model.
TOLERANCE = 1e-5


class Population:
    """Count, mean and sum of squared distances of each channel; (C,), float64."""

    def __init__(self, layer: Layer) -> None:
        channels = int(np.prod(layer.moving_mean.shape))
        self.count, self.mean, self.scatter, self.batches = np.zeros((4, channels))
        self.unbiased = getattr(layer, "unbiased", False)
        self.epsilon = layer.epsilon
        self.skipped = np.zeros(channels, bool)

    def add(self, count: Any, mean: Any, offset: Any, variance: Any) -> None:
        """Merge the moments of a batch, or of its G virtual batches; (G * C,).

        The mean is `mean + offset`: a float32 has too few digits of a large one to
        tell how far the batches are from each other.
        Chan, Golub & LeVeque (1979), "Updating formulae and a pairwise algorithm".
        """
        shape = -1, len(self.mean)
        mean = np.reshape(np.float64(mean) + np.float64(offset), shape)
        variance = np.reshape(np.float64(variance), shape)
        count = np.broadcast_to(np.float64(count), mean.size).reshape(shape)
        finite = np.isfinite(mean) & np.isfinite(variance)
        self.skipped |= (~finite & (count > 0)).any(axis=0)
        count = np.where(finite, count, 0)
        self.batches += count.any(axis=0)
        for n, m, v in zip(count, mean, variance, strict=True):
            enters = n > 0
            total = self.count + n
            share = n / np.where(enters, total, 1)
            distance = np.where(enters, m, 0) - np.where(enters, self.mean, 0)
            self.scatter += np.where(
                enters, v * n + distance**2 * self.count * share, 0
            )
            self.mean += distance * share
            self.count = total

    def enters(self) -> Any:
        """Which channels have statistics."""
        return self.count > (1 if self.unbiased else 0)

    def variance(self, unbiased: bool = True) -> Any:
        """With Bessel's correction where the layer has it."""
        freedom = self.count - (self.unbiased and unbiased)
        return self.scatter / np.maximum(freedom, 1)

    def variables(self, layer: Layer) -> list[Variable]:
        """The variables of the layer that hold these statistics."""
        names = "moving_mean", "moving_variance", "moving_stddev", "num_batches_tracked"
        return [v for x in names if (v := getattr(layer, x, None)) is not None]

    def assign(self, layer: Layer) -> None:
        """Give the layer these statistics, for the channels that have any."""
        variance = self.variance()
        values = {
            "moving_mean": self.mean,
            "moving_variance": variance,
            "moving_stddev": np.sqrt(variance + self.epsilon),
            "num_batches_tracked": self.batches,
        }
        if getattr(layer, "warmup", False):
            values["num_batches_tracked"] = np.full(
                len(self.mean), moving_average.full(layer.momentum)
            )
        for variable in self.variables(layer):
            old = np.ravel(ops.convert_to_numpy(ops.cast(variable, "float32")))
            new = np.where(self.enters(), values[variable.name], old)
            variable.assign(new.reshape(variable.shape))

    def is_near(self, other: "Population") -> bool:
        """Whether only rounding lies between the two."""
        room = self.variance(False) + self.epsilon
        moved = np.abs(self.mean - other.mean) / np.sqrt(room)
        scaled = np.abs(self.variance(False) - other.variance(False)) / room
        return bool(np.all(moved <= TOLERANCE) and np.all(scaled <= TOLERANCE))
