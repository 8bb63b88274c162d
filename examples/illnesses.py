"""Ten illnesses of a small network on scikit-learn's digits, each with its cure.

sick_networks.py trains each pair and shows what the monitor says of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn

BATCH = 64
STEPS = 20  # of an epoch


def unchanged(x):
    """The digits as they are."""
    return x


class Network(NamedTuple):
    """A small network and its training; what is not given is healthy."""

    hidden: int = 2
    activation: str = "relu"
    initializer: Any = "glorot_uniform"
    momentum: float | None = None  # of batch norm before each activation; None: without
    warmup: bool = False  # of batch norm
    inserts: bool = False  # whether kbn.insert_batch_norm is applied to it
    stops: bool = False  # whether a layer lets no gradient through
    optimizer: Callable = lambda: keras.optimizers.Adam(3e-3)
    digits: Callable = unchanged  # from 0 to 1, (N, 64)
    epochs: int = 6
    look_every: int = 7  # steps between two looks of the monitor

    def build(self):
        """The compiled model."""
        model = keras.Sequential([keras.Input((64,))], name="digits")
        for i in range(1, self.hidden + 1):
            kernel = self.initializer
            dense = keras.layers.Dense(32, kernel_initializer=kernel, name=f"dense_{i}")
            model.add(dense)
            if self.momentum is not None:
                average = {"momentum": self.momentum, "warmup": self.warmup}
                model.add(kbn.BatchNorm(**average, name=f"batch_norm_{i}"))
            model.add(keras.layers.Activation(self.activation, name=f"act_{i}"))
            if self.stops and i == 1:
                model.add(keras.layers.Lambda(keras.ops.stop_gradient, name="stop"))
        model.add(keras.layers.Dense(10, activation="softmax", name="classes"))
        if self.inserts:
            model = kbn.insert_batch_norm(model, steps_per_epoch=STEPS)
        loss = "sparse_categorical_crossentropy"
        model.compile(self.optimizer(), loss, metrics=["accuracy"])
        return model


class Illness(NamedTuple):
    """What is wrong, the rule that is to say so, and what it says to try."""

    name: str
    rule: str
    sick: Network
    cure: str
    cured: Network = Network()

    @property
    def title(self):
        """Its name, as a heading."""
        return self.name[0].upper() + self.name[1:]


def adam(rate):
    """The optimizer, made when it is needed: each model has its own."""
    return lambda: keras.optimizers.Adam(rate)


def with_a_nan(x):
    """One pixel of one digit is missing."""
    x = x.copy()
    x[7, 20] = np.nan
    return x


ILLNESSES = (
    Illness(
        "a NaN in the data",
        "non_finite_data",
        Network(digits=with_a_nan, look_every=1),
        "drop or fill those examples",
        Network(digits=lambda x: np.nan_to_num(with_a_nan(x))),
    ),
    Illness(
        "pixels from 0 to 255",
        "input_scale",
        Network(digits=lambda x: 255 * x),
        "Rescaling(1 / 255)",
    ),
    Illness(
        "eight layers of sigmoids",
        "vanishing_gradient",
        Network(hidden=8, activation="sigmoid"),
        "kbn.insert_batch_norm",
        Network(hidden=8, activation="sigmoid", inserts=True),
    ),
    Illness(
        "ReLUs that are dead from the start",
        "dead_relu",
        Network(initializer=keras.initializers.RandomUniform(-0.05, 0)),
        "kbn.insert_batch_norm",
        Network(initializer=keras.initializers.RandomUniform(-0.05, 0), inserts=True),
    ),
    Illness(
        "tanh far out on its flat ends",
        "saturated",
        Network(activation="tanh", initializer=keras.initializers.RandomNormal(0, 3.0)),
        "kbn.insert_batch_norm",
        Network(
            activation="tanh",
            initializer=keras.initializers.RandomNormal(0, 3.0),
            inserts=True,
        ),
    ),
    Illness(
        "weights that are all the same",
        "poor_init",
        Network(initializer=keras.initializers.Constant(0.05)),
        'kernel_initializer="he_normal"',
        Network(initializer="he_normal"),
    ),
    Illness(
        "a learning rate of 0.3",
        "learning_rate_too_high",
        Network(hidden=3, optimizer=adam(0.3)),
        "a learning rate of 0.007",
        Network(hidden=3, optimizer=adam(0.007)),
    ),
    Illness(
        "a learning rate of 1e-7",
        "learning_rate_too_low",
        Network(optimizer=adam(1e-7)),
        "a learning rate of 0.003",
        Network(optimizer=adam(0.003)),
    ),
    Illness(
        "a gradient that is stopped",
        "unchanged_weight",
        Network(stops=True),
        "no stop_gradient",
    ),
    Illness(
        "batch norm that remembers too long",
        "bn_stats_cold",
        Network(hidden=3, momentum=0.999),
        "warmup=True",
        Network(hidden=3, momentum=0.99, warmup=True),
    ),
)


class Outcome(NamedTuple):
    """Of one training."""

    alerts: list
    accuracy: float  # in evaluation mode, on digits that it has not seen

    def named(self, rule):
        """The alert of a rule; None without one."""
        return next((alert for alert in self.alerts if alert.rule == rule), None)

    def others(self):
        """Names of the rules of all alerts above "info", in order."""
        rules = [alert.rule for alert in self.alerts if alert.level != "info"]
        return ", ".join(dict.fromkeys(rules)) or "none"


def train(network, log_dir):
    """Train a network that the monitor watches."""
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x = network.digits((x / 16).astype("float32"))
    x, x_test, y, y_test = train_test_split(
        x, y, train_size=STEPS * BATCH, stratify=y, random_state=0
    )
    monitor = kbn.callbacks.TrainingMonitor(
        log_dir,
        log_freq=lambda step: (step - 1) % network.look_every == 0,
        on_alert=lambda alert: None,  # they are printed below
    )
    model = network.build()
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=network.epochs,
        validation_data=(x_test, y_test),
        callbacks=[monitor],
        verbose=0,
    )
    return Outcome(monitor.alerts, model.evaluate(x_test, y_test, verbose=0)[1])
