"""What is said of batch norm, as numbers: the networks that why_batch_norm.py compares.

A `Claim` is measured in a `Lab`: all networks of one seed, with or without batch norm,
from the same starting weights and on the same batches.
"""

import functools
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn

RATES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # learning rates of plain SGD
SCALES = (0.01, 0.1, 1.0, 10.0)  # of the starting weights


class Claim(NamedTuple):
    """`measure` takes a Lab and returns a number; `better` says which numbers are."""

    said: str
    measured: str
    unit: str
    better: str
    measure: Callable


CLAIMS = (
    Claim(
        "trains faster",
        "steps to 95 % test accuracy at learning rate 0.1",
        "steps",
        "lower",
        lambda lab: lab.train(rate=0.1).steps_to(0.95),
    ),
    Claim(
        "trains faster at its best rate",
        "the same, each at its own best of the learning rates 0.1 to 5",
        "steps",
        "lower",
        lambda lab: min(lab.train(rate=rate).steps_to(0.95) for rate in RATES),
    ),
    Claim(
        "allows higher learning rates",
        "highest of the learning rates 0.1 to 5 that ends at 95 % test accuracy",
        "learning rate",
        "higher",
        lambda lab: max(
            (r for r in RATES if lab.train(rate=r).accuracy[-1] >= 0.95), default=0
        ),
    ),
    Claim(
        "starts from any weights",
        "lowest final test accuracy, starting weights times 0.01, 0.1, 1 and 10",
        "%",
        "higher",
        lambda lab: 100 * min(lab.train(scale=s).accuracy[-1] for s in SCALES),
    ),
    Claim(
        "regularizes",
        "test accuracy when the training loss falls to 0.02, 300 training digits",
        "%",
        "higher",
        lambda lab: 100 * lab.train(digits=300).accuracy_at_loss(0.02),
    ),
    Claim(
        "generalizes better",
        "final test accuracy, each at its own best of the learning rates 0.1 to 5",
        "%",
        "higher",
        lambda lab: 100 * max(lab.train(rate=r).accuracy[-1] for r in RATES),
    ),
    Claim(
        "keeps distributions stable",
        "how far the mean input of a second-layer ReLU moves in training",
        "standard deviations",
        "lower",
        lambda lab: lab.train(hidden=2).drift(),
    ),
    Claim(
        "lessens covariate shift",
        "how far the inputs of second-layer ReLUs move in an epoch: activation_shift",
        "standard deviations",
        "lower",
        lambda lab: lab.shift(),
    ),
    Claim(
        "keeps sigmoids unsaturated",
        "sigmoids below 0.05 or above 0.95, starting weights times 10",
        "% of the sigmoids",
        "lower",
        lambda lab: 100 * lab.train(function="sigmoid", scale=10).saturated(),
    ),
    Claim(
        "trains deep sigmoid networks",
        "final test accuracy of 5 hidden layers of sigmoids",
        "%",
        "higher",
        lambda lab: 100 * lab.train(function="sigmoid", hidden=5).accuracy[-1],
    ),
    Claim(
        "stops vanishing gradients",
        "first over last layer's gradient, 10 hidden layers of sigmoids, untrained",
        "powers of ten",
        "near 0",
        lambda lab: np.log10(lab.first_over_last(function="sigmoid")),
    ),
    Claim(
        "stops exploding gradients",
        "first layer's gradient, 10 hidden layers of ReLUs, weights times 3 over as is",
        "powers of ten",
        "near 0",
        lambda lab: np.log10(lab.gradients(scale=3)[0] / lab.gradients()[0]),
    ),
    Claim(
        "evens out gradients of ReLUs",
        "first over last layer's gradient, 10 hidden layers of ReLUs, untrained",
        "powers of ten",
        "near 0",
        lambda lab: np.log10(lab.first_over_last()),
    ),
    Claim(
        "can be undone by gamma and beta",
        "error of batch norm trained to return its input; without: no gamma, beta",
        "powers of ten",
        "lower",
        lambda lab: np.log10(lab.identity_error()),
    ),
)

TRAINING_DIGITS, TEST_DIGITS, BATCH_SIZE = 1344, 453, 32  # 42 batches an epoch
LOOK = 6  # steps between two looks


@functools.cache
def build(inputs, batch_norm, hidden, function):
    """Compile a network; with a view of its last activation's input, output, logits."""
    network = keras.Sequential([keras.Input((inputs,))])
    for _ in range(hidden):
        network.add(keras.layers.Dense(128))
        if batch_norm:
            network.add(kbn.BatchNorm(momentum=0.9))
        network.add(keras.layers.Activation(function))
    network.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(), loss, steps_per_execution=LOOK)
    last = network.layers[-2]
    return network, keras.Model(
        network.inputs, [last.input, last.output, network.outputs[0]]
    )


def start(network, function, scale, seed):
    """Starting weights: normal, of He's deviation before ReLUs, else of LeCun's."""
    keras.utils.set_random_seed(seed)
    gain = 2 if function == "relu" else 1
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            inputs, outputs = layer.kernel.shape
            deviation = scale * (gain / inputs) ** 0.5
            kernel = np.random.normal(0, deviation, (inputs, outputs))
            layer.set_weights([kernel, np.zeros(outputs)])
        elif isinstance(layer, kbn.BatchNorm):
            ones, zeros = np.ones(128), np.zeros(128)
            layer.set_weights([ones, zeros, zeros, ones])


class Run(NamedTuple):
    """What was seen of one training; every array has one row a look."""

    loss: np.ndarray  # of the training digits
    accuracy: np.ndarray  # of the test digits
    means: np.ndarray  # of what enters each last activation
    deviations: np.ndarray
    outside: np.ndarray  # share of last activations below 0.05 or above 0.95

    def steps_to(self, accuracy):
        """Until the accuracy is reached; all steps if it never is."""
        reached = np.flatnonzero(self.accuracy >= accuracy)
        return LOOK * (1 + reached[0] if len(reached) else len(self.accuracy))

    def accuracy_at_loss(self, loss):
        """At the first look with so little loss, or at the last."""
        reached = np.flatnonzero(self.loss <= loss)
        return self.accuracy[reached[0] if len(reached) else -1]

    def drift(self):
        """Range of a unit's mean over its mean deviation; the median unit's."""
        way = np.ptp(self.means, axis=0)
        return np.median(way / np.mean(self.deviations, axis=0))

    def saturated(self):
        """Share of saturated activations, mean over the training."""
        return np.mean(self.outside)


class Lab:
    """Measures networks of one seed, all with or all without batch norm."""

    def __init__(self, x, y, batch_norm, seed, epochs):
        self.batch_norm, self.seed, self.epochs = batch_norm, seed, epochs
        self.x, self.x_test, self.y, self.y_test = train_test_split(
            x,
            y,
            train_size=TRAINING_DIGITS,
            test_size=TEST_DIGITS,
            stratify=y,
            random_state=seed,
        )

    @functools.cache  # noqa: B019
    def train(self, rate=0.5, hidden=1, function="relu", scale=1.0, digits=None):
        """Train one network; a smaller number of digits as many steps."""
        x, y = self.x[:digits], self.y[:digits]
        network, view = build(x.shape[1], self.batch_norm, hidden, function)
        start(network, function, scale, self.seed)
        network.optimizer.learning_rate = rate
        looks = []

        def look(*_, **__):
            logits = view.predict_on_batch(x)[2]
            loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(y)), y])
            entering, leaving, logits = view.predict_on_batch(self.x_test)
            right = np.mean(logits.argmax(axis=1) == self.y_test)
            outside = np.mean((leaving < 0.05) | (leaving > 0.95))
            looks.append((loss, right, entering.mean(0), entering.std(0), outside))

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=look)
        epochs = self.epochs * len(self.x) // len(x)
        network.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=[callback])
        return Run(*map(np.stack, zip(*looks, strict=True)))

    def shift(self, rate=0.5):
        """What the monitor says of the last ReLU of two, mean over the epochs."""
        network, _ = build(self.x.shape[1], self.batch_norm, 2, "relu")
        start(network, "relu", 1.0, self.seed)
        network.optimizer.learning_rate = rate
        epoch = len(self.x) // BATCH_SIZE
        with tempfile.TemporaryDirectory() as log_dir:
            monitor = kbn.callbacks.TrainingMonitor(
                log_dir, log_freq=epoch, watch=["activations"], rules=None
            )
            fit = {"epochs": self.epochs, "verbose": 0, "callbacks": [monitor]}
            network.fit(self.x, self.y, BATCH_SIZE, **fit)
        return np.mean(
            monitor.history[f"activation_shift/{network.layers[-2].name}"][1]
        )

    def gradients(self, function="relu", scale=1.0):
        """Norms of the kernels' gradients, first layer to last, before any training."""
        network, _ = build(self.x.shape[1], self.batch_norm, 10, function)
        start(network, function, scale, self.seed)
        kernels = [w.value for w in network.trainable_weights if w.name == "kernel"]
        x, y = self.x[:256], self.y[:256]
        with tf.GradientTape() as tape:
            loss = network.loss(y, network(x, training=True))
        return [float(tf.norm(g)) for g in tape.gradient(loss, kernels)]

    def first_over_last(self, **settings):
        """First of those norms over the last hidden layer's."""
        norms = self.gradients(**settings)
        return norms[0] / norms[-2]

    def identity_error(self):
        """Root mean square, in deviations of the input, after 40 steps of training."""
        x = np.random.default_rng(self.seed).normal(3, 2, (1024, 8)).astype("float32")
        layer = kbn.BatchNorm(center=self.batch_norm, scale=self.batch_norm)
        network = keras.Sequential([layer])
        network.compile(keras.optimizers.SGD(2.0), "mse")
        if self.batch_norm:
            network.fit(x, x, batch_size=1024, epochs=40, verbose=0)
        y = keras.ops.convert_to_numpy(layer(x, training=True))
        return np.sqrt(np.mean((y - x) ** 2)) / x.std()


def load(dataset):
    """Images as rows of numbers from 0 to 1, and their labels."""
    if dataset == "digits":
        x, y = load_digits(return_X_y=True)
        return (x / 16).astype("float32"), y
    try:
        (x, y), _ = keras.datasets.mnist.load_data()
    except Exception as error:  # get_file raises no narrower one
        sys.exit(
            f"MNIST is not here ({error}). Run with --dataset digits: no download."
        )
    return (x.reshape(len(x), -1) / 255).astype("float32"), y
