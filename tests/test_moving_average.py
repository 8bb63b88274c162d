"""What enters the moving statistics."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import kbn
from kbn import moving_average
from tests import oracle
from tests.running import array


def tensor(*values):
    return ops.convert_to_tensor(values, "float32")


def test_update_moves_only_what_enters():
    variable = keras.Variable([1.0, 2.0, 3.0])
    enters = ops.convert_to_tensor([True, False, False])
    moving_average.update(variable, tensor(11, np.nan, np.inf), 0.9, 0.1, enters)
    np.testing.assert_allclose(array(variable.value), [2.0, 2.0, 3.0], rtol=1e-6)


def test_nothing_enters_without_elements_or_finite_statistics():
    mean = tensor(0, np.nan, 0, 0, 5)
    variance = tensor(1, np.nan, np.inf, 1, 0)
    count = tensor(8, 8, 8, 0, 1)
    entry = moving_average.entry(mean, variance, count, 5, unbiased=False)
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [1, 0, 0, 0, 1])
    entry = moving_average.entry(mean, variance, count, 5, unbiased=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("count", "unbiased", "enters"),
    [(0, False, 0), (1, False, 1), (1, True, 0), (2, True, 1)],
)
def test_count_may_be_one_number_for_all_channels(count, unbiased, enters):
    entry = moving_average.entry(tensor(1, 2), tensor(3, 4), count, 2, unbiased)
    np.testing.assert_array_equal(ops.convert_to_numpy(entry.enters), [enters] * 2)
    bessel = count / (count - 1) if unbiased and count > 1 else 1
    if enters:
        np.testing.assert_allclose(array(entry.tracked), [3 * bessel, 4 * bessel])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_statistics_that_are_not_finite_show_in_the_variance(value):
    x = np.random.default_rng(0).normal(size=(8, 2)).astype("f4")
    x[3:7, 1] = value
    layer = kbn.BatchNorm(momentum=0.0)
    layer(x, training=True)
    mean, variance = layer.moving_mean, layer.moving_variance
    np.testing.assert_allclose(array(mean.value), [x[:, 0].mean(), 0], rtol=1e-5)
    np.testing.assert_allclose(array(variance.value), [x[:, 0].var(), 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("momentum", "batches"), [(0.99, 991), (0.9, 91), (0.999, 9991), (0.5, 11), (0, 1)]
)
def test_full_is_the_first_batch_with_the_share_of_all_later_ones(momentum, batches):
    assert moving_average.full(momentum) == batches


averages = st.one_of(
    st.just({"momentum": None}),
    st.floats(0, 0.999).map(lambda value: {"momentum": value, "warmup": True}),
    st.floats(0, 1).map(lambda value: {"momentum": value}),
)


@given(
    average=averages,
    others=st.fixed_dictionaries(
        {},
        optional={"unbiased": st.booleans(), "virtual_batch_size": st.integers(1, 4)},
    ),
    seed=st.integers(0, 99),
)
def test_statistics_follow_the_recurrence_of_each_channel(average, others, seed):
    rng = np.random.default_rng(seed)
    layer = kbn.BatchNorm(**average, **others)
    state = oracle.State(3, 0, average["momentum"], warmup=layer.warmup)
    for _ in range(rng.integers(1, 9)):
        rows = rng.integers(1, 9)
        # Eighths: their sums are exact in float32.
        x = np.round(8 * rng.normal(rng.normal(), 1, (rows, 3))) / 8
        x[0, rng.random(3) < 0.2] = np.nan
        mask = rng.random((rows, 3)) < rng.choice([0.6, 1.0])
        state.update(pooled(x, mask, layer))
        layer(x.astype("float32"), training=True, mask=ops.convert_to_tensor(mask))
    for name in ("moving_mean", "moving_variance"):
        got, wanted = array(getattr(layer, name).value), getattr(state, name)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    if average["momentum"] is None or layer.warmup:
        np.testing.assert_array_equal(
            array(layer.num_batches_tracked.value), state.batches
        )


def pooled(x, mask, layer):
    """Mean and variance over the virtual batches of each channel, by their elements."""
    size = layer.virtual_batch_size or len(x)
    counts, means, scatters = [], [], []
    for start in range(0, len(x), size):
        part, present = (a[start : start + size] for a in (x, mask))
        counts.append(present.sum(0))
        total = np.where(present, part, 0).sum(0)
        means.append(total / np.maximum(counts[-1], 1))
        distance = np.where(present, part - means[-1], 0)
        scatters.append((distance**2).sum(0))
    counts, means, scatters = map(np.array, (counts, means, scatters))
    count = counts.sum(0)
    freedom = count - (counts > 0).sum(0) * layer.unbiased
    mean = (counts * means).sum(0) / np.maximum(count, 1)
    variance = scatters.sum(0) / np.maximum(freedom, 1)
    none = np.zeros(3)
    return oracle.Normalized(none, mean, variance, freedom, none, none, none)


def test_renorm_statistics_keep_their_own_momentum():
    layers = [kbn.BatchNorm(renorm=True, warmup=warm) for warm in (False, True)]
    for layer in layers:
        for mean in (3.0, 5.0):
            x = np.random.default_rng(0).normal(mean, 2, (8, 3)).astype("float32")
            layer(x, training=True)
    for name in ("renorm_mean", "renorm_stddev"):
        plain, warm = (array(getattr(layer, name).value) for layer in layers)
        np.testing.assert_array_equal(plain, warm)
    assert (array(layers[1].moving_mean.value) > 3).all()


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(
    ("axis", "shape"), [([0, 1], (0, 2)), ([1, 2], (4, 3, 5)), ([1, 3], (4, 3, 5, 2))]
)
def test_renorm_of_several_axes_is_that_of_one(axis, shape, warmup):
    layer = kbn.BatchNorm(axis=axis, renorm=True, warmup=warmup)
    flat = kbn.BatchNorm(renorm=True, warmup=warmup)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    others = [i for i in range(len(shape)) if i not in axis]
    channels = int(np.prod([shape[i] for i in axis]))
    rows = x.transpose([*others, *axis]).reshape(-1 if channels else 1, channels)
    for _ in range(2):
        layer(x, training=True)
        flat(rows, training=True)
    for weight, other in zip(layer.weights, flat.weights, strict=True):
        values = keras.ops.convert_to_numpy(weight).reshape(-1)
        expected = keras.ops.convert_to_numpy(other)
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
