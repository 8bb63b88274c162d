"""What one tensor looks like: counts, moments and a histogram, in a few numbers.

The same definition twice: `summarize` for NumPy arrays, `tensor_row` for TensorFlow
tensors inside a graph, where a summary is a row of float64 so that a whole look is
one matrix and one read-back.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np

# TensorBoard draws 30 bins. Ours are finer, so that quantiles can be read from them
# (within 1/960 of the range) and the bins of several replicas can be merged.
TENSORBOARD_BINS = 30
BINS = 32 * TENSORBOARD_BINS
FRACTIONS = np.linspace(0, 1, TENSORBOARD_BINS + 1)
GRID = (np.arange(200) + 0.5) / 200  # shares at which distributions are compared
EDGES = np.arange(1, BINS + 1) / BINS  # upper ends of the bins
PIECE = 8192  # elements that are reduced at once, beside others

Array: TypeAlias = np.ndarray[Any, Any]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Summary:
    """count, minimum, maximum, mean, std: of all finite elements; bins: of a sample.

    std = sqrt(mean((x - mean)^2)). `bins`: (960,), counts of equally wide bins from
    `minimum` to `maximum`. With no finite element the moments are NaN.
    """

    count: int
    non_finite: int
    minimum: float
    maximum: float
    mean: float
    std: float
    bins: Array

    @property
    def norm(self) -> float:
        """sqrt(sum(x^2)): NaN as soon as one element is not finite."""
        if self.non_finite:
            return math.nan
        if not self.count:
            return 0.0
        return math.sqrt(self.count) * math.hypot(self.mean, self.std)

    def histogram(self) -> Array:
        """(30, 3) rows of left edge, right edge, count; counts sum to `count`.

        float32 where it tells the edges apart, else float64. A single value is 30 bins
        of no width, the last of them full, and nothing finite is all zeros: both as
        TensorBoard's own summaries have it.
        """
        if not self.count:
            return np.zeros((TENSORBOARD_BINS, 3), np.float32)
        low, high = self.minimum, self.maximum
        with np.errstate(over="ignore"):  # of a range that float64 cannot hold
            edges = low * (1 - FRACTIONS) + high * FRACTIONS
        edges[-1] = high
        rows = np.empty((TENSORBOARD_BINS, 3), self._histogram_dtype())
        rows[:, 0], rows[:, 1], rows[:, 2] = edges[:-1], edges[1:], 0
        if low == high:
            rows[-1, 2] = self.count
        elif self.bins.any():
            sampled = self.bins.reshape(TENSORBOARD_BINS, -1).sum(axis=1)
            rows[:, 2] = sampled * (self.count / sampled.sum())
        return rows

    def _histogram_dtype(self) -> Any:
        """float32 where its rounding is far below the width of a bin, and in range."""
        largest = max(abs(self.minimum), abs(self.maximum))
        width = (self.maximum - self.minimum) / TENSORBOARD_BINS
        is_one_value = not width and float(np.float32(largest)) == largest
        is_wide = width > 1e3 * 2.0**-24 * largest and width > 1e-35
        is_float32 = largest < 1e38 and (is_one_value or is_wide)
        return np.float32 if is_float32 else np.float64

    @cached_property
    def grid(self) -> Array:
        """(200,): the quantiles at 0.25 %, 0.75 %, ... 99.75 %; NaN of nothing finite.

        Within a bin of what `quantiles` gives; kept, to compare distributions often.
        """
        if not self.count or not self.bins.any():
            return np.full(GRID.size, math.nan)
        share = np.cumsum(self.bins) / self.bins.sum()
        edges = self.minimum + (self.maximum - self.minimum) * EDGES
        return np.interp(GRID, share, edges)

    def quantiles(self, shares: Sequence[float]) -> Array:
        """Values below which each share of the finite elements lies.

        Exact within a bin; NaN where nothing is finite.
        """
        if not self.count or not self.bins.any():
            return np.full(len(shares), math.nan)
        counts = np.concatenate([[0.0], np.cumsum(self.bins)])
        edges = np.linspace(self.minimum, self.maximum, BINS + 1)
        wanted = np.multiply(shares, counts[-1])
        # The middle of empty bins, as the median of -1 and 1 is 0: from either end.
        upper = np.interp(wanted, counts, edges)
        lower = np.interp(-wanted, -counts[::-1], edges[::-1])
        return (lower + upper) / 2


def summarize(array: Array, sample_size: int) -> Summary:
    """The summary of an array of numbers of any shape and dtype."""
    return summarize_all({"": array}, sample_size)[""]


def summarize_all(arrays: Mapping[Key, Array], sample_size: int) -> dict[Key, Summary]:
    """The summary of each array; those of one size and dtype are reduced together.

    Moments are reduced in float32 where that is safe, else in float64, and a piece at a
    time, so that what is computed of a piece stays in the processor's cache.
    """
    found: dict[Key, Summary] = {}
    small: dict[tuple[int, Any], list[Key]] = {}
    flat = {tag: _flat(array) for tag, array in arrays.items()}
    for tag, x in flat.items():
        if 0 < x.size <= min(PIECE, sample_size):
            small.setdefault((x.size, x.dtype), []).append(tag)
        else:
            channels = arrays[tag].shape[-1] if arrays[tag].ndim else 1
            stride = sampling_stride(x.size, channels, sample_size)
            found[tag] = _summary_of(x, x[::stride])
    for (size, _), tags in small.items():
        at_once = max(1, 32 * PIECE // size)
        for first in range(0, len(tags), at_once):
            some = tags[first : first + at_once]
            rows = np.stack([flat[tag] for tag in some])
            found |= zip(some, _summaries_of(rows), strict=True)
    return {tag: found[tag] for tag in arrays}


def _flat(array: Array) -> Array:
    """(n,): float32 of narrow floating types, else float64."""
    flat = np.asarray(array).reshape(-1)
    is_narrow = flat.dtype.itemsize < 8 and flat.dtype.kind not in "iub"
    return flat.astype(np.float32 if is_narrow else np.float64, copy=False)


def _moments(rows: Array) -> tuple[Array, Array, Array, Array]:
    """Of each row: minimum, maximum, mean, mean((x - mean)^2); the last two float64."""
    size = rows.shape[1]
    rounded = np.add.reduce(rows, axis=1) / rows.dtype.type(size)
    rest = rows - rounded[:, None]
    # What rounding took from the mean: 0.03 at 1e6, which the spread would notice.
    lost = np.add.reduce(rest, axis=1).astype(np.float64) / size
    square = np.add.reduce(np.multiply(rest, rest, out=rest), axis=1) / size
    spread = np.maximum(square.astype(np.float64) - np.square(lost), 0)
    low, high = (f.reduce(rows, axis=1) for f in (np.minimum, np.maximum))
    return low, high, rounded.astype(np.float64) + lost, spread


def _is_safe(mean: Any, spread: Any) -> Any:
    """mean(x^2) is not finite if an element is not, tiny if squares underflow."""
    power = np.square(mean) + spread  # mean(x^2)
    return (power > 1e-30) & (power < 1e30)


def _summaries_of(rows: Array) -> list[Summary]:
    """Of each row, all of which enters its histogram."""
    with np.errstate(all="ignore"):  # what is not finite is seen to below
        low, high, mean, spread = _moments(rows)
        width = np.where(high > low, high - low, 1)
        position = (rows - low[:, None]) * (BINS / width)[:, None]
        safe = _is_safe(mean, spread)
    position[~safe] = 0
    index = np.minimum(position.astype(np.intp), BINS - 1)
    index += np.arange(len(rows))[:, None] * BINS
    bins = np.bincount(index.reshape(-1), minlength=len(rows) * BINS)
    parts = zip(low, high, mean, np.sqrt(spread), bins.reshape(-1, BINS), strict=True)
    return [
        Summary(row.size, 0, float(low), float(high), float(mean), float(std), counts)
        if is_safe
        else _careful_summary(row, row)
        for row, is_safe, (low, high, mean, std, counts) in zip(
            rows, safe, parts, strict=True
        )
    ]


def _summary_of(x: Array, sample: Array) -> Summary:
    """Of a large array, piece by piece."""
    whole = x.size // PIECE * PIECE
    pieces = x[:whole].reshape(-1, PIECE)
    blocks = [pieces[i : i + 32] for i in range(0, len(pieces), 32)]
    blocks += [x[whole:][None]] if whole < x.size else []
    if not blocks:
        return _careful_summary(x, sample)
    with np.errstate(all="ignore"):
        low, high, means, spreads = (
            np.concatenate(part) for part in zip(*map(_moments, blocks), strict=True)
        )
        share = np.repeat([b.shape[1] / x.size for b in blocks], [*map(len, blocks)])
        mean = float(share @ means)
        spread = float(share @ (spreads + np.square(means - mean)))
        if not _is_safe(mean, spread):
            return _careful_summary(x, sample)
    lowest, highest = low.min(), high.max()
    bins = _bins(sample, lowest, highest)
    std = math.sqrt(spread)
    return Summary(x.size, 0, float(lowest), float(highest), mean, std, bins)


def _careful_summary(x: Array, sample: Array) -> Summary:
    """In float64, of the finite elements: it takes five times as long."""
    finite = x[np.isfinite(x)].astype(np.float64)
    non_finite = x.size - finite.size
    if not finite.size:
        nan = math.nan
        return Summary(0, non_finite, nan, nan, nan, nan, np.zeros(BINS))
    low, high, mean = finite.min(), finite.max(), finite.mean()
    std = math.sqrt(np.mean(np.square(finite - mean)))
    bins = _bins(sample[np.isfinite(sample)].astype(np.float64), low, high)
    moments = float(low), float(high), float(mean), std
    return Summary(finite.size, non_finite, *moments, bins)


def _bins(sample: Array, low: Any, high: Any) -> Array:
    position = sample - low
    position *= BINS / (high - low or 1.0)
    bins = np.bincount(position.astype(np.intp), minlength=BINS)
    bins[BINS - 1] += bins[BINS:].sum()  # the maximum itself
    return bins[:BINS]


def sampling_stride(size: int, channels: int, sample_size: int) -> int:
    """Smallest stride that leaves at most `sample_size` and meets every channel.

    A stride that shares a factor with the channel count reads the same few channels
    for ever: of 64 channels, every 64th element is channel 0 only.
    """
    stride = max(1, -(-size // sample_size))
    while math.gcd(stride, channels) > 1:
        stride += 1
    return stride


def tensor_row(tensor: Any, sample_size: int) -> Any:
    """A TensorFlow tensor's summary as float64: (6 + 960,), read by `from_row`.

    Works in eager mode, in graphs with unknown sizes and under XLA. Moments are
    reduced in float32 where that is safe, else in float64.
    """
    import tensorflow as tf

    narrow = tensor.dtype in {tf.float16, tf.bfloat16, tf.float32}
    flat = tf.reshape(tf.cast(tensor, tf.float32 if narrow else tf.float64), [-1])
    return _traced_row()(flat, _tensor_stride(tensor, sample_size))


@functools.cache
def _traced_row() -> Any:
    """`_row` as one function that many tensors call: 50 copies of it trace slowly."""
    import tensorflow as tf

    # Not inlined, so that Grappler has it to optimize once as well.
    kept = {"_noinline": True}
    return tf.function(_row, reduce_retracing=True, experimental_attributes=kept)


def _row(x: Any, stride: Any) -> Any:
    """x: (n,) float32 or float64; every `stride`th element enters the histogram."""
    import tensorflow as tf

    size = tf.size(x, tf.int64)

    def plain() -> list[Any]:
        rounded = tf.reduce_mean(x)
        rest = x - rounded  # the one temporary as large as x
        # What rounding took from the mean: 0.03 at 1e6, which std would notice.
        lost, square, low, high = (
            tf.cast(moment, tf.float64)
            for moment in (
                tf.reduce_mean(rest),
                _mean_square(rest),
                tf.reduce_min(x),
                tf.reduce_max(x),
            )
        )
        std = tf.sqrt(tf.maximum(square - tf.square(lost), 0))
        return [size, low, high, tf.cast(rounded, tf.float64) + lost, std]

    def careful() -> list[Any]:
        nan = tf.constant(math.nan, tf.float64)
        finite = tf.math.is_finite(x)
        count = tf.math.count_nonzero(finite, dtype=tf.int64)
        number = tf.cast(count, tf.float64)
        y = tf.where(finite, tf.cast(x, tf.float64), 0)
        mean = tf.reduce_sum(y) / number  # 0 / 0 is NaN: nothing finite
        std = tf.sqrt(tf.reduce_sum(tf.where(finite, y - mean, 0) ** 2) / number)
        low = tf.reduce_min(tf.where(finite, y, math.inf))
        high = tf.reduce_max(tf.where(finite, y, -math.inf))
        return [count, *(tf.where(count > 0, e, nan) for e in (low, high)), mean, std]

    # One cheap number says whether float32 can do it: not finite if an element is not
    # or if squares overflow, tiny if they underflow. The careful way takes 5x as long.
    power = _mean_square(x)
    safe = tf.logical_and(power > 1e-30, power < 1e30)
    count, low, high, mean, std = tf.cond(safe, plain, careful)

    sample = tf.cast(x[::stride], tf.float64)
    width = tf.where(high > low, high - low, 1)
    position = tf.clip_by_value((sample - low) / width * BINS, 0, BINS - 1)
    # Out of range, BINS, is where DenseBincount drops what is not finite.
    index = tf.where(tf.math.is_finite(sample), tf.cast(position, tf.int32), BINS)
    # Integer weights: float32 counts stop being exact at 2^24.
    bins = tf.raw_ops.DenseBincount(
        input=index, size=BINS, weights=tf.zeros([0], tf.int32)
    )
    head = [tf.cast(count, tf.float64), tf.cast(size - count, tf.float64)]
    return tf.concat([[*head, low, high, mean, std], tf.cast(bins, tf.float64)], 0)


def _mean_square(x: Any) -> Any:
    """mean(x^2), without a copy of x: NaN of no elements."""
    import tensorflow as tf

    return 2 * tf.nn.l2_loss(x) / tf.cast(tf.size(x), x.dtype)


def _tensor_stride(tensor: Any, sample_size: int) -> Any:
    """`sampling_stride` for a tensor whose size may be known only in the graph."""
    import tensorflow as tf

    channels = (tensor.shape[-1] if tensor.shape.rank else 1) or 1
    known = tensor.shape.num_elements()
    if known is not None:
        stride = sampling_stride(known, channels, sample_size)
        return tf.constant(stride, tf.int64)
    stride = tf.maximum((tf.size(tensor, tf.int64) - 1) // sample_size + 1, 1)
    # steps[r]: how far from r to the next number without a common factor
    coprime = np.flatnonzero(np.gcd(np.arange(2 * channels), channels) == 1)
    residues = np.arange(channels)
    steps = coprime[np.searchsorted(coprime, residues)] - residues
    return stride + tf.gather(tf.constant(steps, tf.int64), stride % channels)


def from_row(row: Array) -> Summary:
    """The summary that `tensor_row` packed."""
    count, non_finite, low, high, mean, std = row[:6].tolist()
    return Summary(int(count), int(non_finite), low, high, mean, std, row[6:])


def merge(parts: Sequence[Summary]) -> Summary:
    """One summary of what several replicas hold; bins are exact within a bin."""
    full = [part for part in parts if part.count]
    non_finite = sum(part.non_finite for part in parts)
    if len(full) < 2:
        one = full[0] if full else parts[0]
        return replace(one, non_finite=non_finite)
    counts = np.array([part.count for part in full])
    means = np.array([part.mean for part in full])
    mean = float(np.average(means, weights=counts))
    spread = np.square([part.std for part in full]) + np.square(means - mean)
    low = min(part.minimum for part in full)
    high = max(part.maximum for part in full)
    bins = np.zeros(BINS)
    for part in full:
        edges = np.linspace(part.minimum, part.maximum, BINS + 1)
        position = ((edges[:-1] + edges[1:]) / 2 - low) / (high - low or 1.0) * BINS
        np.add.at(bins, np.minimum(position.astype(np.int64), BINS - 1), part.bins)
    std = math.sqrt(np.average(spread, weights=counts))
    return Summary(int(counts.sum()), non_finite, low, high, mean, std, bins)
