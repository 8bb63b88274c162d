"""Small data for the zoo: scikit-learn's digits, and data made from a seed."""

import functools
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

TRAINED = 1297  # of the 1797 digits


class Data(NamedTuple):
    """Arrays to train on and to validate with."""

    x: object
    y: object
    x_val: object
    y_val: object


@functools.cache
def _digits():
    found = load_digits()
    return (found.data / 16).astype("float32"), found.target


def digits(seed, scale=1.0, shape=(64,), rows=TRAINED):
    """Rows of 64 pixels from 0 to 1, times `scale`."""
    x, y = _digits()
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = scale * x[order].reshape(-1, *shape), y[order]
    return Data(x[:rows], y[:rows], x[TRAINED:], y[TRAINED:])


def images(seed, **options):
    """The digits as images of 8 x 8 x 1."""
    return digits(seed, shape=(8, 8, 1), **options)


def two_domains(seed, batch=64):
    """Batches of digits and of their negatives, in turn; validation has both."""
    data = digits(seed)
    in_batch = np.arange(len(data.x)) // batch % 2 == 1
    is_negative = in_batch, np.arange(len(data.x_val)) % 2 == 1
    x, x_val = (
        np.where(negative[:, None], 1 - x, x).astype("float32")
        for negative, x in zip(is_negative, (data.x, data.x_val), strict=True)
    )
    return data._replace(x=x, x_val=x_val)


def noisy_labels(seed, rows=120):
    """Few digits, a third of them with a label at random."""
    data = digits(seed, rows=rows)
    rng = np.random.default_rng(seed)
    wrong = rng.random(rows) < 1 / 3
    return data._replace(y=np.where(wrong, rng.integers(0, 10, rows), data.y))


def with_nan(seed, first=0):
    """One pixel of one digit is NaN, in the data from `first` on."""
    data = digits(seed)
    x = data.x.copy()
    x[first + seed % 50, 20] = np.nan
    return data._replace(x=x)


def itself(seed):
    """The target is the input."""
    data = digits(seed)
    return data._replace(y=data.x, y_val=data.x_val)


def masks(seed):
    """Noisy images, and which pixels are bright without the noise."""
    data = images(seed)
    rng = np.random.default_rng(seed)

    def noisy(x):
        return (x + rng.normal(0, 0.15, x.shape)).astype("float32")

    y, y_val = ((x > 0.5).astype("float32") for x in (data.x, data.x_val))
    return Data(noisy(data.x), y, noisy(data.x_val), y_val)


def curve(seed, scale=1.0, rows=1280, outliers=0):
    """Regression: 8 features, y = scale * (sin 2 x_0 + x_1 x_2 + noise).

    `outliers`: how many targets, in the last tenth, are 1000 times as large.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows + 400, 8)).astype("float32")
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(0, 0.1, len(x))
    y = (scale * y).astype("float32")[:, None]
    if outliers:
        y[rows - outliers : rows] *= 1000
    return Data(x[:rows], y[:rows], x[rows:], y[rows:])


def sequences(seed, steps=12):
    """Sequences of 3 numbers; the class: in which half their sum is larger."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1600, steps, 3)).astype("float32")
    half = steps // 2
    y = (x[:, half:].sum((1, 2)) > x[:, :half].sum((1, 2))).astype("int64")
    return Data(x[:1280], y[:1280], x[1280:], y[1280:])


def tokens(seed, length=12, words=40):
    """Sequences of words; the class: whether word 1 or word 2 occurs more often."""
    rng = np.random.default_rng(seed)
    x = rng.integers(3, words, (1600, length))
    y = rng.integers(0, 2, len(x))
    for row, label in zip(x, y, strict=True):
        row[rng.permutation(length)[:3]] = 1 + label
    return Data(x[:1280], y[:1280], x[1280:], y[1280:])


def two_inputs(seed):
    """A digit in two halves."""
    data = digits(seed)
    halves = [{"top": x[:, :32], "bottom": x[:, 32:]} for x in (data.x, data.x_val)]
    return Data(halves[0], data.y, halves[1], data.y_val)
