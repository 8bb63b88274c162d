"""What one tensor looks like: counts, moments and a histogram, in a few numbers.

The same definition again: `summarize` for NumPy arrays; for tensors that are not to
leave a graph `sample_of`, and `moments_of` of TensorFlow or `moments_in_pieces`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np

from .rows import wide_dtype

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
    `minimum` to `maximum`. `zeros`: share of the sample that is exactly 0. With no
    finite element the moments are NaN.
    """

    count: int
    non_finite: int
    minimum: float
    maximum: float
    mean: float
    std: float
    bins: Array
    zeros: float = 0.0

    @property
    def norm(self) -> float:
        """sqrt(sum(x^2)): NaN as soon as one element is not finite."""
        if self.non_finite:
            return math.nan
        if not self.count:
            return 0.0
        return math.sqrt(self.count) * math.hypot(self.mean, self.std)

    @cached_property
    def grid(self) -> Array:
        """(200,): the quantiles at 0.25 %, 0.75 %, ... 99.75 %; NaN of nothing finite.

        Within a bin of what `quantiles` gives; kept, to compare distributions often.
        """
        below = np.cumsum(self.bins)
        if not self.count or not below[-1]:
            return np.full(GRID.size, math.nan)
        edges = self.minimum + (self.maximum - self.minimum) * EDGES
        return np.interp(GRID, below / below[-1], edges)

    def quantiles(self, shares: Sequence[float]) -> Array:
        """Values below which each share of the finite elements lies.

        Exact within a bin; NaN where nothing is finite.
        """
        if not self.count or not self.bins.any():
            return np.full(len(shares), math.nan)
        edges = np.linspace(self.minimum, self.maximum, BINS + 1)
        return quantiles_between(edges, self.bins, shares)


def quantiles_between(edges: Array, counts: Array, shares: Sequence[float]) -> Array:
    """Quantiles of a histogram; edges: (n + 1,), counts: (n,), not all of them 0."""
    below = np.concatenate([[0.0], np.cumsum(counts)])
    wanted = np.multiply(shares, below[-1])
    # The middle of empty bins, as the median of -1 and 1 is 0: from either end.
    upper = np.interp(wanted, below, edges)
    lower = np.interp(-wanted, -below[::-1], edges[::-1])
    return (lower + upper) / 2


def histograms(summaries: Sequence[Summary]) -> list[Array]:
    """Of each, (30, 3) rows of left edge, right edge, count; counts sum to `count`.

    float32 where it tells the edges apart, else float64. A single value is 30 bins of
    no width, the last of them full, and nothing finite is all zeros: both as
    TensorBoard's own summaries have it.
    """
    if not summaries:
        return []
    count = np.array([one.count for one in summaries], np.float64)
    low = np.array([one.minimum if one.count else 0.0 for one in summaries])
    high = np.array([one.maximum if one.count else 0.0 for one in summaries])
    rows = np.zeros((len(summaries), TENSORBOARD_BINS, 3))
    with np.errstate(over="ignore"):  # of a range that float64 cannot hold
        edges = low[:, None] * (1 - FRACTIONS) + high[:, None] * FRACTIONS
        width = (high - low) / TENSORBOARD_BINS
    edges[:, -1] = high
    rows[:, :, 0], rows[:, :, 1] = edges[:, :-1], edges[:, 1:]
    bins = np.stack([one.bins for one in summaries])
    sampled = bins.reshape(len(summaries), TENSORBOARD_BINS, -1).sum(axis=2)
    total = sampled.sum(axis=1)
    rows[:, :, 2] = sampled * (count / np.maximum(total, 1))[:, None]
    is_one = low == high
    rows[is_one, :, 2] = 0
    rows[is_one, -1, 2] = count[is_one]
    # Where the rounding of float32 is far below the width of a bin, and in range.
    largest = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(over="ignore"):
        is_exact = is_one & (largest.astype(np.float32) == largest)
    is_wide = (width > 1e2 * 2.0**-24 * largest) & (width > 1e-35)
    is_narrow = (largest < 1e38) & (is_exact | is_wide)
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float32)
    return [a if one else b for one, a, b in zip(is_narrow, narrow, rows, strict=True)]


def np_histograms(summaries: Mapping[Key, Summary]) -> dict[Key, tuple[Array, Array]]:
    """Of each, (counts, edges), (30,) and (31,), as `np.histogram` returns them."""
    made = {}
    for key, rows in zip(summaries, histograms([*summaries.values()]), strict=True):
        counts, edges = rows[:, 2], np.append(rows[:, 0], rows[-1, 1])
        if edges[0] == edges[-1]:  # a single value: in the middle of a range of 1
            counts = np.roll(counts, TENSORBOARD_BINS // 2 + 1)
            edges = edges + FRACTIONS - 0.5
        made[key] = counts, edges
    return made


def summarize(array: Array, sample_size: int) -> Summary:
    """The summary of an array of numbers of any shape and dtype."""
    return summarize_all({"": array}, sample_size)[""]


def summarize_all(arrays: Mapping[Key, Array], sample_size: int) -> dict[Key, Summary]:
    """The summary of each array; small ones of one dtype are binned together.

    Moments are reduced in float32 where that is safe, else in float64, and a piece at a
    time, so that what is computed of a piece stays in the processor's cache.
    """
    found: dict[Key, Summary] = {}
    small: list[Key] = []
    flat = {tag: _flat(array) for tag, array in arrays.items()}
    for tag, x in flat.items():
        if 0 < x.size <= min(PIECE, sample_size):
            small.append(tag)
        else:
            channels = arrays[tag].shape[-1] if arrays[tag].ndim else 1
            stride = sampling_stride(x.size, channels, sample_size)
            found[tag] = _summary_of(x, x[::stride])
    together: dict[tuple[Any, int], list[Key]] = {}
    elements = 0
    for tag in sorted(small, key=lambda tag: flat[tag].size):
        elements += flat[tag].size
        at = flat[tag].dtype, elements // (32 * PIECE)
        together.setdefault(at, []).append(tag)
    for tags in together.values():
        some = _summaries_of([flat[tag] for tag in tags])
        found |= zip(tags, some, strict=True)
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


def _summaries_of(arrays: Sequence[Array]) -> list[Summary]:
    """Of flat arrays of one dtype, by size, all of which enter their histograms."""
    sizes = np.array([x.size for x in arrays])
    firsts = np.cumsum(sizes) - sizes
    flat = np.concatenate(arrays)
    of_size, starts, counts = np.unique(sizes, return_index=True, return_counts=True)
    groups = [
        flat[first : first + size * count].reshape(count, size)
        for size, first, count in zip(of_size, firsts[starts], counts, strict=True)
    ]
    with np.errstate(all="ignore"):  # what is not finite is seen to below
        low, high, mean, spread = (
            np.concatenate(part) for part in zip(*map(_moments, groups), strict=True)
        )
        width = np.where(high > low, high - low, 1)
        position = flat - np.repeat(low, sizes)
        position *= np.repeat(BINS / width, sizes)
    safe = _is_safe(mean, spread)
    zeros = np.add.reduceat(flat == 0, firsts, dtype=np.intp) / sizes
    position[np.repeat(~safe, sizes)] = 0
    index = np.minimum(_whole(position), BINS - 1)
    index += np.repeat(np.arange(len(arrays)) * BINS, sizes)
    bins = np.bincount(index, minlength=len(arrays) * BINS)
    moments = np.array([low, high, mean, np.sqrt(spread), zeros]).T.tolist()
    parts = zip(arrays, safe, moments, bins.reshape(-1, BINS), strict=True)
    return [
        Summary(x.size, 0, low, high, mean, std, counts, share)
        if is_safe
        else _careful_summary(x, x)
        for x, is_safe, (low, high, mean, std, share), counts in parts
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
    moments = float(lowest), float(highest), mean, std
    return Summary(x.size, 0, *moments, bins, _zeros(sample))


def _careful_summary(x: Array, sample: Array) -> Summary:
    """In float64, of the finite elements: it takes five times as long."""
    finite = x[np.isfinite(x)].astype(np.float64)
    non_finite = x.size - finite.size
    if not finite.size:
        nan = math.nan
        return Summary(0, non_finite, nan, nan, nan, nan, np.zeros(BINS))
    low, high, mean = finite.min(), finite.max(), finite.mean()
    std = math.sqrt(np.mean(np.square(finite - mean)))
    sample = sample[np.isfinite(sample)].astype(np.float64)
    bins = _bins(sample, low, high)
    moments = float(low), float(high), float(mean), std
    return Summary(finite.size, non_finite, *moments, bins, _zeros(sample))


def _zeros(sample: Array) -> float:
    return float(np.count_nonzero(sample == 0) / sample.size) if sample.size else 0.0


def _bins(sample: Array, low: Any, high: Any) -> Array:
    position = sample - low
    position *= BINS / (high - low or 1.0)
    bins = np.bincount(_whole(position), minlength=BINS)
    bins[BINS - 1] += bins[BINS:].sum()  # the maximum itself
    return bins[:BINS]


def _whole(positions: Array) -> Array:
    """Numbers of bins, intp: past int32, for which processors have an instruction."""
    return positions.astype(np.int32).astype(np.intp)


def sampling_stride(size: int, channels: int, sample_size: int) -> int:
    """Smallest stride that leaves at most `sample_size` and meets every channel.

    A stride that shares a factor with the channel count reads the same few channels
    for ever: of 64 channels, every 64th element is channel 0 only.
    """
    stride = max(1, -(-size // sample_size))
    while math.gcd(stride, channels) > 1:
        stride += 1
    return stride


# --- of a tensor in a graph ---


def moments_of(tensor: Any) -> Any:
    """(5,) of a TensorFlow tensor of known shape: see `from_moments`.

    float32 of narrow floating types, else float64. Few ops, and one temporary as large
    as the tensor: there are hundreds of tensors, and each op is traced and optimized.
    """
    import tensorflow as tf

    narrow = tensor.dtype in {tf.float16, tf.bfloat16, tf.float32}
    wide = tf.float32 if narrow else tf.float64
    x = tensor if tensor.dtype == wide else tf.cast(tensor, wide)
    axis = [*range(x.shape.rank)]
    rounded = tf.raw_ops.Mean(input=x, axis=axis)
    rest = x - rounded
    return tf.stack(
        [
            rounded,
            # What rounding took from the mean: 0.03 at 1e6, which std would notice.
            tf.raw_ops.Mean(input=rest, axis=axis),
            tf.nn.l2_loss(rest),
            tf.raw_ops.Min(input=x, axis=axis),
            tf.raw_ops.Max(input=x, axis=axis),
        ]
    )


def moments_in_pieces(tensor: Any) -> Any:
    """(pieces, 7) of a tensor of known shape in a compiled function: `from_moments`.

    float32, or float64 of float64. For a compiler that computes all of it in one loop:
    elements that are not finite are left out at once, and squares are those of
    elements divided by the largest, so that nothing has to be read again.
    """
    from keras import ops

    x = ops.reshape(ops.cast(tensor, wide_dtype(tensor)), [-1])
    pieces = -(-math.prod(tensor.shape) // PIECE)
    padding = pieces * PIECE - math.prod(tensor.shape)
    x = ops.pad(x, [[0, padding]], constant_values=math.nan)
    x = ops.reshape(x, [pieces, PIECE])
    is_finite = ops.isfinite(x)
    count = ops.sum(ops.cast(is_finite, x.dtype), axis=1)
    low = ops.min(ops.where(is_finite, x, math.inf), axis=1)
    high = ops.max(ops.where(is_finite, x, -math.inf), axis=1)
    largest = ops.maximum(ops.abs(low), ops.abs(high))
    is_scaled = (count > 0) & (largest > 0)
    scale = ops.where(is_scaled, largest, 1.0)
    share = 1 / ops.maximum(count, 1)
    x = ops.where(is_finite, x / scale[:, None], 0.0)
    rounded = ops.sum(x, axis=1) * share
    rest = ops.where(is_finite, x - rounded[:, None], 0.0)
    # What rounding took from the mean, which the spread would notice.
    lost = ops.sum(rest, axis=1) * share
    square = ops.sum(ops.square(rest), axis=1) * share
    return ops.stack([count, low, high, scale, rounded, lost, square], axis=1)


def sample_of(tensor: Any, sample_size: int) -> Any:
    """The elements of a tensor of known shape that its histogram reads, flat."""
    from keras import ops

    channels = tensor.shape[-1] if len(tensor.shape) else 1
    stride = sampling_stride(math.prod(tensor.shape), channels, sample_size)
    flat = ops.reshape(tensor, [-1])
    return flat if stride == 1 else flat[::stride]


def are_safe(size: int, moments: Array) -> bool:
    """Whether these moments are those of the tensor: see `_is_safe`."""
    mean, spread = _mean_and_spread(size, moments)
    is_zero = not moments.any()
    return is_zero or bool(_is_safe(mean, spread))


def from_moments(size: int, moments: Array, sample: Array) -> Summary:
    """The summary of a tensor of so many elements.

    `moments_of` is of finite ones only, `moments_in_pieces` of any.
    """
    if moments.ndim == 2:
        return _from_pieces(size, moments.astype(np.float64), sample)
    mean, spread = _mean_and_spread(size, moments)
    low, high = float(moments[3]), float(moments[4])
    bins = _bins(sample.astype(moments.dtype, copy=False), low, high)
    std = math.sqrt(spread)
    return Summary(size, 0, low, high, mean, std, bins, _zeros(sample))


def _from_pieces(size: int, pieces: Array, sample: Array) -> Summary:
    pieces = pieces[pieces[:, 0] > 0]
    if not len(pieces):
        return _careful_summary(np.full(size, math.nan), sample)
    counts, lows, highs, scales, rounded, lost, squares = pieces.T
    means = scales * (rounded + lost)
    mean = float(np.average(means, weights=counts))
    spreads = np.square(scales) * np.maximum(squares - np.square(lost), 0)
    spreads += np.square(means - mean)
    std = math.sqrt(np.average(spreads, weights=counts))
    low, high, count = float(lows.min()), float(highs.max()), int(counts.sum())
    sample = sample[np.isfinite(sample)].astype(np.float64)
    bins = _bins(sample, low, high)
    zeros = _zeros(sample)
    return Summary(count, size - count, low, high, mean, std, bins, zeros)


def _mean_and_spread(size: int, moments: Array) -> tuple[float, float]:
    rounded, lost, half_square, *_ = moments.astype(np.float64).tolist()
    return rounded + lost, max(2 * half_square / size - lost**2, 0.0)


def merge(parts: Sequence[Summary]) -> Summary:
    """One summary of what several replicas hold; bins are exact within a bin."""
    if len(parts) == 1:
        return parts[0]
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
    zeros = float(np.average([part.zeros for part in full], weights=counts))
    return Summary(int(counts.sum()), non_finite, low, high, mean, std, bins, zeros)
