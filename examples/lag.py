"""How long validation lags behind training, by how the statistics are averaged.

The same convolutional networks, whose training never reads the moving statistics: from
a seed all have the same weights at every step, and differ in validation alone.
"""

from typing import NamedTuple

import keras
import numpy as np
from sklearn.model_selection import train_test_split

import kbn

# What the layer is given, and the colour of its curve.
AVERAGES = {
    "momentum=0.99 (Keras' default)": ({}, "#D55E00"),
    "momentum=0.9": ({"momentum": 0.9}, "#999999"),
    "warmup=True": ({"warmup": True}, "#0072B2"),
}
BATCH_SIZE, TEST_DIGITS = 32, 421


class Setting(NamedTuple):
    """So many digits to train on, so many epochs, and those that the table shows."""

    digits: int
    epochs: int
    shown: tuple[int, ...]

    @property
    def steps(self):
        """Of an epoch."""
        return -(-self.digits // BATCH_SIZE)


SETTINGS = (Setting(1376, 8, (1, 2, 3, 4, 6, 8)), Setting(60, 24, (2, 4, 8, 16, 24)))


def build(pixels, average):
    """Two blocks of convolution, batch norm, ReLU; compiled with Adam."""
    side = round(pixels**0.5)
    layers = [keras.Input((pixels,)), keras.layers.Reshape((side, side, 1))]
    for filters in (16, 32):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same"),
            kbn.BatchNorm(**average),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    network = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    network.optimizer.build(network.trainable_variables)
    return network


def curves(x, y, seeds, quick=False):
    """{(setting, average): validation accuracies, (seeds, epochs)}."""
    found = {}
    for average, (arguments, _) in AVERAGES.items():
        network = build(x.shape[1], arguments)
        untrained = [np.array(v) for v in network.optimizer.variables]
        for setting in SETTINGS:
            rows = [train(network, untrained, setting, x, y, s, quick) for s in seeds]
            found[setting, average] = np.array(rows)
    return found


def train(network, untrained, setting, x, y, seed, quick):
    """Validation accuracy after each epoch, from the starting weights of the seed."""
    x, x_test, y, y_test = train_test_split(
        x, y, test_size=TEST_DIGITS, stratify=y, random_state=seed
    )
    keras.utils.set_random_seed(seed)
    network.set_weights(keras.models.clone_model(network).get_weights())
    for variable, value in zip(network.optimizer.variables, untrained, strict=True):
        variable.assign(value)
    history = network.fit(
        x[: setting.digits],
        y[: setting.digits],
        BATCH_SIZE,
        2 if quick else setting.epochs,
        verbose=0,
        validation_data=(x_test, y_test),
        validation_batch_size=TEST_DIGITS,
    )
    return history.history["val_accuracy"]


def table(found):
    """The means over the seeds, as Markdown: a table for each setting."""
    lines = []
    for setting in SETTINGS:
        lines += [
            f"\nValidation accuracy after epoch, {setting.steps} steps an epoch:\n",
            f"| statistics | {' | '.join(map(str, setting.shown))} |",
            "|---" * (len(setting.shown) + 1) + "|",
        ]
        for average in AVERAGES:
            means = found[setting, average].mean(axis=0)
            cells = [
                f"{means[e - 1]:.3f}" if e <= len(means) else "" for e in setting.shown
            ]
            lines.append(f"| {average} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found, axes):
    """A panel for each setting: the means over the seeds, and the range."""
    for setting, panel in zip(SETTINGS, axes, strict=True):
        for average, (_, colour) in AVERAGES.items():
            values = found[setting, average]
            epochs = np.arange(1, values.shape[1] + 1)
            panel.plot(epochs, values.mean(axis=0), color=colour, label=average)
            low, high = values.min(axis=0), values.max(axis=0)
            panel.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(f"{setting.steps} steps an epoch, {setting.digits} digits")
        panel.set_xlabel("epoch")
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("validation accuracy")
    axes[0].legend(loc="lower right")
