"""Several channel axes, and virtual batches, against the oracle."""

import keras
import numpy as np
import pytest

import kbn
from tests import oracle, running
from tests.cases import BACKEND, MODES

EPSILON = 1e-3


def normalized_by_groups(x, dy, size, axis, mask=None):
    """The oracle on each group of `size`, and the groups' statistics pooled."""
    y, dx = np.zeros_like(x), np.zeros_like(x)
    parts = []
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        kept = None if mask is None else mask[part]
        out = oracle.normalize(x[part], 1.0, 0.0, axis, EPSILON, dy[part], kept)
        y[part], dx[part] = out.y, out.dx
        parts.append(out)
    count = np.array([part.count for part in parts])
    total = np.maximum(count.sum(0), 1)
    mean = (np.array([part.mean for part in parts]) * count).sum(0) / total
    variance = (np.array([part.variance for part in parts]) * count).sum(0) / total
    return y, dx, mean, variance, total - (count > 0).sum(0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize(
    ("shape", "axis", "size"),
    [
        ((8, 3), -1, 4),
        ((9, 3), -1, 4),  # a tail of one
        ((7, 4, 3), 1, 3),
        ((5, 3, 2, 2), 1, 8),  # one group, shorter than asked for
        ((6, 2, 2, 3), -1, 6),
    ],
)
def test_virtual_batches_are_normalized_each_by_itself(shape, axis, size, masked, mode):
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=shape).astype("f4").astype("f8") for _ in range(2))
    x += 3 * np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1))
    mask = (rng.random(shape) < 0.7) if masked else None
    layer = kbn.BatchNorm(axis=axis, momentum=0.0, virtual_batch_size=size)
    runner = running.Runner(layer, mode, True, shape, x.ndim if masked else None)
    outcome = runner(x, dy, mask)
    y, dx, mean, variance, _ = normalized_by_groups(x, dy, size, axis, mask)
    np.testing.assert_allclose(outcome.y, y, atol=1e-4)
    np.testing.assert_allclose(outcome.dx, dx, atol=1e-4 * np.abs(dx).max())
    np.testing.assert_allclose(running.array(layer.moving_mean.value), mean, rtol=1e-5)
    np.testing.assert_allclose(
        running.array(layer.moving_variance.value), variance, rtol=1e-4, atol=1e-6
    )


def test_virtual_batches_are_for_training_only():
    x = np.random.default_rng(0).normal(size=(9, 3)).astype("f4")
    ghost, plain = kbn.BatchNorm(virtual_batch_size=4), kbn.BatchNorm()
    for layer in (ghost, plain):
        layer.build(x.shape)
    assert [w.path.split("/")[-1] for w in ghost.weights] == [
        w.path.split("/")[-1] for w in plain.weights
    ]
    np.testing.assert_array_equal(
        running.array(ghost(x, training=False)), running.array(plain(x, training=False))
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axes", [[1, 3], [-1, 1], [0, 2], [2, 3], [1, 2, 3]])
def test_several_axes_are_one_of_their_product(axes, mode):
    shape = (4, 3, 5, 2)
    if mode == "unknown-sizes":
        pytest.skip("Runner leaves one axis known only")
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=shape).astype("f4").astype("f8") for _ in range(2))
    layer = kbn.BatchNorm(axis=axes, momentum=0.0)
    layer.build(shape)
    kept = sorted(a % 4 for a in axes)
    expected = tuple(n if i in kept else 1 for i, n in enumerate(shape))
    gamma, beta = rng.normal(size=(2, *expected))
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    outcome = running.Runner(layer, mode, True, shape)(x, dy)

    order = [i for i in range(4) if i not in kept] + kept
    flat = np.transpose(x, order).reshape(-1, gamma.size)
    flat_dy = np.transpose(dy, order).reshape(flat.shape)
    exact = oracle.normalize(flat, gamma.ravel(), beta.ravel(), 1, EPSILON, flat_dy)

    def unfolded(values):
        moved = values.reshape([shape[i] for i in order])
        return np.transpose(moved, np.argsort(order))

    np.testing.assert_allclose(outcome.y, unfolded(exact.y), atol=2e-5)
    np.testing.assert_allclose(outcome.dx, unfolded(exact.dx), atol=1e-4)
    np.testing.assert_allclose(outcome.dgamma.ravel(), exact.dgamma, atol=1e-4)
    mean = running.array(layer.moving_mean.value)
    assert mean.shape == expected
    np.testing.assert_allclose(mean.ravel(), exact.mean, atol=1e-6)


def test_list_of_one_axis_is_that_axis():
    assert kbn.BatchNorm(axis=[3]).axis == 3
    layer = kbn.BatchNorm(axis=(1, 2))
    assert kbn.BatchNorm.from_config(layer.get_config()).axis == [1, 2]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known elsewhere")
def test_virtual_batches_of_unknown_size():
    import tensorflow as tf

    layer = kbn.BatchNorm(momentum=0.0, virtual_batch_size=4)
    layer.build((None, 3))
    step = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec((None, 3), "float32")],
    )
    for rows in (0, 1, 4, 9):
        x = np.random.default_rng(rows).normal(size=(rows, 3)).astype("f4")
        y, *_ = normalized_by_groups(x.astype("f8"), x * 0.0, 4, -1)
        np.testing.assert_allclose(step(x), y, atol=1e-4)


def test_virtual_batch_size_is_in_the_config_only_when_set():
    assert "virtual_batch_size" not in kbn.BatchNorm().get_config()
    layer = kbn.BatchNorm(virtual_batch_size=8, unbiased=True)
    copy = kbn.BatchNorm.from_config(layer.get_config())
    assert (copy.virtual_batch_size, copy.unbiased) == (8, True)
    assert keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    ).unbiased
