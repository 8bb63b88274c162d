"""kbn.callbacks.signals.statistics: one definition, in NumPy and in a graph."""

import functools

import keras
import numpy as np
import pytest

from kbn.callbacks.signals import statistics
from kbn.callbacks.signals.statistics import BINS

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
needs_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="needs TensorFlow")

RANDOM = np.random.default_rng(0)
CASES = {
    "normal": RANDOM.normal(3, 2, size=(40, 8)).astype("float32"),
    "one-value": np.full((5, 3), 0.7, "float32"),
    "zeros": np.zeros((4, 2), "float32"),
    "one-element": np.array(2.5, "float32"),
    "empty": np.zeros((0, 3), "float32"),
    "all-nan": np.full((3, 2), np.nan, "float32"),
    "some-non-finite": np.array([1, np.nan, np.inf, -np.inf, 3, -2, 8], "float32"),
    "large-mean": (1e6 + RANDOM.normal(size=(500,))).astype("float32"),
    "squares-overflow": np.array([1e25, -3e25, 2e24], "float32"),
    "squares-underflow": np.array([1e-25, -3e-25, 2e-24], "float32"),
    "pieces": RANDOM.normal(3, 2, size=(20000,)).astype("float32"),
    "float16": RANDOM.normal(size=(60,)).astype("float16"),
    "float64": RANDOM.normal(size=(60,)),
    "integers": RANDOM.integers(-5, 900, size=(30, 2)),
}
cases = pytest.mark.parametrize("array", CASES.values(), ids=CASES.keys())


def from_numpy(array, sample_size=65536):
    return statistics.summarize(array, sample_size)


def from_tensorflow(array, sample_size=65536, jit_compile=False):
    """None where the tensor has to be read whole."""
    import tensorflow as tf

    moments, sample = tf.function(
        lambda x: (statistics.moments_of(x), statistics.sample_of(x, sample_size)),
        jit_compile=jit_compile,
    )(tf.constant(array))
    moments = moments.numpy()
    if not statistics.are_safe(array.size, moments):
        return None
    return statistics.from_moments(array.size, moments, sample.numpy())


def from_jax(array, sample_size=65536):
    import jax

    pieces, sample = jax.jit(
        lambda x: (
            statistics.moments_in_pieces(x),
            statistics.sample_of(x, sample_size),
        )
    )(array)
    return statistics.from_moments(array.size, *map(np.asarray, (pieces, sample)))


IN_GRAPH = {
    "tensorflow": {
        "graph": from_tensorflow,
        "xla": functools.partial(from_tensorflow, jit_compile=True),
    },
    "jax": {"jit": from_jax},
}.get(keras.backend.backend(), {})
in_graph = pytest.mark.parametrize("read", IN_GRAPH.values(), ids=IN_GRAPH)


def assert_is_of(summary, array):
    """Against float64 NumPy, on the finite elements only."""
    wide = np.asarray(array, "float64").reshape(-1)
    finite = wide[np.isfinite(wide)]
    assert summary.count == finite.size
    assert summary.non_finite == wide.size - finite.size
    if not finite.size:
        assert np.isnan([summary.minimum, summary.maximum, summary.mean]).all()
        return
    assert summary.minimum == finite.min()
    assert summary.maximum == finite.max()
    scale = np.abs(finite).max()
    # float32 sums: a few roundings of the largest element, which is what the moments
    # are rounded to anyway
    np.testing.assert_allclose(summary.mean, finite.mean(), rtol=0, atol=2e-6 * scale)
    deviation = np.abs(finite - finite.mean()).max()
    np.testing.assert_allclose(
        summary.std, finite.std(), rtol=1e-5, atol=1e-6 * deviation + 1e-9 * scale
    )


@cases
def test_summarize_equals_numpy(array):
    assert_is_of(from_numpy(array), array)


def test_summaries_together_are_those_of_each_alone():
    arrays = {**CASES, "large": RANDOM.normal(3, 2, size=(300, 100)).astype("f4")}
    arrays |= {
        f"{name}-again": array[::-1] for name, array in arrays.items() if array.ndim
    }
    arrays["large-nan"] = np.full(20_000, np.nan, "float32")
    for sample_size in (65536, 64):
        together = statistics.summarize_all(arrays, sample_size)
        assert [*together] == [*arrays]
        for name, array in arrays.items():
            assert_is_of(together[name], array)
            alone = from_numpy(array, sample_size)
            np.testing.assert_array_equal(together[name].bins, alone.bins)


WHOLE = {"all-nan", "some-non-finite", "squares-overflow", "squares-underflow"}


@in_graph
@pytest.mark.parametrize("name", [name for name, x in CASES.items() if x.size])
def test_a_tensor_in_a_graph_is_what_numpy_reads(name, read):
    array = CASES[name]
    if read is from_jax and array.dtype.itemsize == 8:  # which it would narrow
        array = array.astype("float32" if array.dtype.kind == "f" else "int32")
    summary = read(array)
    assert (summary is None) == (name in WHOLE and read is not from_jax)
    if summary is None:
        return
    assert_is_of(summary, array)
    # Values on an edge may round to either side of it: compare the counts so far.
    ours, numpys = np.cumsum(summary.bins), np.cumsum(from_numpy(array).bins)
    assert np.abs(ours - numpys).max() <= max(1, array.size // 50)
    assert ours[-1] == numpys[-1] == summary.count


@cases
def test_histogram_is_what_tensorboard_reads(array):
    summary = from_numpy(array)
    rows = statistics.histograms([summary])[0]
    assert rows.shape == (30, 3)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows[:, 2].sum(), summary.count, rtol=1e-6)
    assert (rows[:, 0] <= rows[:, 1]).all()
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, 1])
    if summary.count:
        assert rows[0, 0] == rows.dtype.type(summary.minimum)
        assert rows[-1, 1] == rows.dtype.type(summary.maximum)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-1, 1, "float32"),
        (0, 0, "float32"),
        (1e6, 1e6 + 1e4, "float32"),
        (1e6, 1e6 + 1, "float64"),  # float32 holds 16 values between them
        (-1e30, 1e39, "float64"),  # beyond float32
        (1e-40, 3e-40, "float64"),  # below it
        (0.1, 0.1, "float64"),
    ],
)
def test_histogram_is_narrow_where_that_draws_the_same(low, high, dtype):
    # Issue 11, item 10: 30 rows of float64 for each tensor were 645 kB a look.
    rows = statistics.histograms([from_numpy(np.linspace(low, high, 500))])[0]
    assert rows.dtype == dtype
    centre = (rows[:, 0].astype("float64") + rows[:, 1]) / 2
    step = (high - low) / 30
    expected = low + step * (np.arange(30) + 0.5)
    np.testing.assert_allclose(centre, expected, rtol=0, atol=step / 500)


@needs_tensorflow
def test_histogram_equals_tensorboards_own():
    from tensorboard.plugins.histogram import summary_v2
    from tensorboard.util import tensor_util

    array = RANDOM.normal(size=(4000,)).astype("float32")
    for values in (array, np.full(7, 1.5, "float32"), np.zeros(0, "float32")):
        proto = summary_v2.histogram_pb("tag", values)
        theirs = tensor_util.make_ndarray(proto.value[0].tensor)
        if not values.size:
            theirs = np.zeros((30, 3))  # histogram_pb writes no rows, its op zeros
        rows = statistics.histograms([from_numpy(values)])[0]
        np.testing.assert_allclose(rows[:, :2], theirs[:, :2], rtol=1e-6)
        np.testing.assert_allclose(rows[:, 2], theirs[:, 2], atol=1)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantile_is_right_within_a_bin(share):
    array = RANDOM.normal(size=(5000,))
    width = (array.max() - array.min()) / BINS
    (quantile,) = from_numpy(array).quantiles([share])
    assert abs(quantile - np.quantile(array, share)) <= 1.5 * width


def test_quantile_of_degenerate_arrays():
    assert from_numpy(CASES["one-value"]).quantiles([0.95]) == np.float32(0.7)
    assert np.isnan(from_numpy(CASES["all-nan"]).quantiles([0.5]))


def test_norm_is_that_of_all_elements():
    array = CASES["normal"]
    norm = np.linalg.norm(array.astype("float64"))
    np.testing.assert_allclose(from_numpy(array).norm, norm, rtol=1e-6)  # float32's
    wide = from_numpy(array.astype("float64")).norm
    np.testing.assert_allclose(wide, norm, rtol=1e-12)
    assert np.isnan(from_numpy(CASES["some-non-finite"]).norm)
    assert from_numpy(CASES["empty"]).norm == 0


@pytest.mark.parametrize("channels", [1, 3, 64, 96, 1000])
@pytest.mark.parametrize("size", [10, 64_000, 1_000_001])
def test_sampling_meets_every_channel(size, channels):
    sample_size = 1000
    stride = statistics.sampling_stride(size, channels, sample_size)
    taken = np.arange(0, size, stride)
    assert len(taken) <= sample_size or stride == 1
    assert len(taken) >= min(size, sample_size // 4)
    expected = min(channels, len(taken))
    assert len(np.unique(taken[:channels] % channels)) == expected


def one_dead_channel(rows=4000, channels=64):
    array = np.ones((rows, channels), "float32")
    array[:, 0] = 0
    return array


def test_sampled_histogram_sees_every_channel():
    # A flat stride of 64 would read channel 0 only: share of zeros 1, truth 1 / 64.
    array = one_dead_channel()
    rows = statistics.histograms([from_numpy(array, sample_size=array.size // 64)])[0]
    np.testing.assert_allclose(rows[0, 2] / array.size, 1 / 64, rtol=0.05)


@in_graph
def test_sampled_tensor_sees_every_channel(read):
    array = one_dead_channel()
    sample_size = array.size // 64
    summary = read(array, sample_size)
    assert sample_size / 2 < summary.bins.sum() <= sample_size
    assert summary.count == array.size
    rows = statistics.histograms([summary])[0]
    np.testing.assert_allclose(rows[0, 2] / array.size, 1 / 64, rtol=0.05)


def test_sampling_leaves_the_moments_exact():
    array = RANDOM.normal(size=(999,))
    array[1] = 50  # not in the sample
    assert_is_of(from_numpy(array, sample_size=10), array)


def test_merge_equals_the_summary_of_the_whole():
    parts = [RANDOM.normal(m, s, size=n) for m, s, n in [(0, 1, 900), (4, 0.5, 300)]]
    parts.append(np.array([np.nan, np.inf]))
    merged = statistics.merge([from_numpy(part) for part in parts])
    whole = np.concatenate(parts)
    assert_is_of(merged, whole)
    counts, _ = np.histogram(whole[np.isfinite(whole)], bins=30)
    assert (
        np.abs(statistics.histograms([merged])[0][:, 2] - counts).max()
        <= 0.01 * whole.size
    )


def test_merge_of_nothing_finite():
    merged = statistics.merge([from_numpy(CASES["all-nan"])] * 2)
    assert (merged.count, merged.non_finite) == (0, 12)
    assert not statistics.histograms([merged])[0].any()
