"""Small data for the zoo: scikit-learn's digits, and data made from a seed."""

import functools
from typing import NamedTuple

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_wine,
    make_classification,
    make_moons,
)

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


# --- for ordinary mistakes ---


def _split(x, y, seed, share=0.75):
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = np.asarray(x, "float32")[order], np.asarray(y)[order]
    rows = int(share * len(x))
    return Data(x[:rows], y[:rows], x[rows:], y[rows:])


def _table(load, seed):
    """A table of scikit-learn's, its features as they are."""
    found = load()
    return _split(found.data, found.target, seed)


def _standard(data):
    mean, std = data.x.mean(axis=0), data.x.std(axis=0)
    return data._replace(x=(data.x - mean) / std, x_val=(data.x_val - mean) / std)


def breast_cancer(seed):
    """Two classes, 30 features, standardized."""
    return _standard(_table(load_breast_cancer, seed))


def wine(seed):
    """Three classes, 13 features, standardized, 133 rows."""
    return _standard(_table(load_wine, seed))


def diabetes(seed):
    """Regression: 10 features, targets of mean 0 and deviation 1."""
    data = _standard(_table(load_diabetes, seed))
    mean, std = data.y.mean(), data.y.std()
    y, y_val = ((y - mean) / std for y in (data.y, data.y_val))
    return data._replace(y=y.astype("float32"), y_val=y_val.astype("float32"))


def moons(seed):
    """Two classes in a plane, which no line divides."""
    return _split(*make_moons(1200, noise=0.15, random_state=seed), seed)


def made_classes(seed):
    """Four classes, 20 features."""
    x, y = make_classification(
        1600, 20, n_informative=8, n_classes=4, random_state=seed, class_sep=1.5
    )
    return _standard(_split(x, y, seed))


def large_images(seed):
    """The digits as images of 16 x 16 x 1."""
    data = images(seed)
    x, x_val = (
        np.kron(x, np.ones((1, 2, 2, 1), "float32")) for x in (data.x, data.x_val)
    )
    return data._replace(x=x, x_val=x_val)


def long_sequences(seed):
    """`sequences` of 28 steps."""
    return sequences(seed, steps=28)


def first_rows(data, seed, rows):
    """Few examples to train on."""
    return data._replace(x=data.x[:rows], y=data.y[:rows])


def times(data, seed, scale):
    """Inputs times a number."""
    return data._replace(x=data.x * scale, x_val=data.x_val * scale)


def raw(data, seed):
    """The features of its table as they are, from 1e-3 to 4e3."""
    load = {30: load_breast_cancer, 13: load_wine}[data.x.shape[1]]
    return _table(load, seed)


def constant_column(data, seed):
    """The last feature is 1e6 in every row."""
    x, x_val = data.x.copy(), data.x_val.copy()
    x[:, -1] = x_val[:, -1] = 1e6
    return data._replace(x=x, x_val=x_val)


def shuffled_labels(data, seed):
    """The labels of other rows."""
    return data._replace(y=np.random.default_rng(seed).permutation(data.y))


def nan_input(data, seed):
    """One number of one example is NaN."""
    x = data.x.copy()
    x[(11 + seed) % len(x)].reshape(-1)[-3] = np.nan
    return data._replace(x=x)


def nan_target(data, seed):
    """The target of one example is NaN."""
    y = data.y.copy()
    y[(11 + seed) % len(y)] = np.nan
    return data._replace(y=y)


def sorted_by_label(data, seed):
    """One class after the other."""
    order = np.argsort(data.y, kind="stable")
    return data._replace(x=data.x[order], y=data.y[order])


def rare(data, seed, share=0.02):
    """Of the second class only so many; validation has both alike."""
    ones, zeros = np.flatnonzero(data.y == 1), np.flatnonzero(data.y == 0)
    few = max(2, round(share * len(zeros) / (1 - share)))
    kept = np.sort(np.concatenate([zeros, ones[:few]]))
    return data._replace(x=data.x[kept], y=data.y[kept])


def targets_of(data, seed, scale, mean=0.0):
    """Targets of this deviation, around this mean."""
    y, y_val = (y * scale + mean for y in (data.y, data.y_val))
    return data._replace(y=y, y_val=y_val)


def validation_times(data, seed, scale):
    """Validation inputs of another unit than the training inputs."""
    return data._replace(x_val=data.x_val * scale)


def unlabelled(seed):
    """`large_images` without labels."""
    data = large_images(seed)
    return data._replace(y=np.zeros(len(data.x)), y_val=np.zeros(len(data.x_val)))
