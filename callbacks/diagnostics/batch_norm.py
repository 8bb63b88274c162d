"""Batch norm: its weights, the moments of its batches, and how far apart they are."""

from collections.abc import Sequence

import numpy as np

from .registry import Chart, Guide, diagnostic
from .statistics import Summary
from .subjects import Array, Moments, NormInput, NormWeight

VARIABLES = {
    "gamma": """The scale after normalization, (C,), after the step.

    It starts at 1. A channel whose gamma goes to 0 is switched off.
    """,
    "beta": """The shift after normalization, (C,), after the step.

    It starts at 0.
    """,
    "moving_mean": """The mean that inference uses, (C,), after the step.

    An average over past batches, with weight 1 - momentum for each new one.
    """,
    "moving_variance": """The variance that inference uses, (C,).

    After the step; an average over past batches, as the mean.
    """,
}


def variable(summary: Summary) -> Summary:
    """The distribution of one variable of a batch norm."""
    return summary


for _part, _description in VARIABLES.items():
    diagnostic(
        f"batch_norm/<layer>/{_part}",
        of=NormWeight,
        where=lambda weight, part=_part: weight.part == part,
        given=lambda weight: (weight.summary,),
        is_histogram=True,
        description=_description,
    )(variable)


def merge_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together: replicas' shares of a batch."""
    parts = [part for part in parts if part.elements] or list(parts[:1])
    counts = np.array([part.elements for part in parts])
    if len(parts) == 1 or not counts.any():
        return parts[0]
    means = np.stack([part.mean for part in parts])  # (replicas, C)
    variances = np.stack([part.variance for part in parts])
    mean = np.average(means, axis=0, weights=counts)
    spread = variances + np.square(means - mean)
    return Moments(
        float(counts.sum()), mean, np.average(spread, axis=0, weights=counts)
    )


def _has_elements(norm: NormInput) -> bool:
    return norm.batch is not None and bool(norm.batch.elements)


@diagnostic(
    "batch_norm/<layer>/batch_mean",
    of=NormInput,
    given=lambda norm: (norm.batch,) if _has_elements(norm) else None,
    is_histogram=True,
)
def batch_mean(batch: Moments) -> Array:
    """Mean of the layer's input per channel, (C,).

    Of the looked-at batch (all replicas' parts of it), as training normalizes with
    it. Not of a layer that was given a mask.
    """
    return batch.mean


@diagnostic(
    "batch_norm/<layer>/batch_variance",
    of=NormInput,
    given=lambda norm: (norm.batch,) if _has_elements(norm) else None,
    is_histogram=True,
)
def batch_variance(batch: Moments) -> Array:
    """Variance of the layer's input, (C,).

    `mean((x - mean(x))^2)` over the looked-at batch, per channel; as the mean.
    """
    return batch.variance


@diagnostic(
    "batch_norm_gap/<layer>/mean",
    of=NormInput,
    given=lambda norm: (norm.batch, norm.moving_mean) if _has_elements(norm) else None,
    unit="standard deviations of the batch",
    guide=Guide(healthy=(0, 0.2), sick=(None, 0.5)),
    chart=Chart("Training beside evaluation", "batch norm's gap, mean"),
)
def mean_gap(batch: Moments, moving_mean: Array) -> float | None:
    """`mean |mu_B - mu_moving| / sigma_B` over the channels.

    How far the mean that inference uses lies from the looked-at batch's own; the moving
    mean is that after the step. Channels that are constant over the batch are left out,
    and so are frozen layers: theirs are meant to stay. Where it is large, the moving
    statistics are behind: train on, lower the momentum, or make batches larger.
    """
    varies = _varies(batch)
    gap = np.abs(batch.mean - moving_mean)[varies] / np.sqrt(batch.variance[varies])
    return float(np.mean(gap)) if gap.size else None


@diagnostic(
    "batch_norm_gap/<layer>/variance",
    of=NormInput,
    given=lambda norm: (
        (norm.batch, norm.moving_variance) if _has_elements(norm) else None
    ),
    unit="natural logarithm of a ratio",
    guide=Guide(healthy=(0, 0.7), sick=(None, 1)),
    chart=Chart("Training beside evaluation", "batch norm's gap, variance"),
)
def variance_gap(batch: Moments, moving_variance: Array) -> float | None:
    """`mean |ln(var_moving / var_B)|` over the channels.

    0.7 is a factor of 2: inference then sees another scale than training did. Which
    channels, and when: as for the mean.
    """
    varies = _varies(batch) & (moving_variance > 0)
    ratio = moving_variance[varies] / batch.variance[varies]
    return float(np.mean(np.abs(np.log(ratio)))) if ratio.size else None


def _varies(batch: Moments) -> Array:
    # Of a constant channel, float32 leaves a variance of rounding errors.
    return batch.variance > 1e-12 * np.square(batch.mean)


@diagnostic(
    "batch_norm_elements/<layer>",
    of=NormInput,
    given=lambda norm: (norm.batch,) if _has_elements(norm) else None,
    unit="elements",
    guide=Guide(healthy=(32, None), sick=(16, None)),
    chart=Chart("Training beside evaluation", "elements that batch norm averages over"),
)
def elements(batch: Moments) -> float:
    """How many elements each channel of the looked-at batch has: batch x space.

    The moments of few elements are noise, and so is what is normalized by them.
    """
    return batch.elements


@diagnostic(
    "health/collapsed_channels/<layer>",
    of=NormInput,
    given=lambda norm: (
        (norm.batch, norm.gamma, norm.epsilon) if _has_elements(norm) else None
    ),
    unit="share of channels, 0 to 1",
    guide=Guide(healthy=(0, 0.1), sick=(None, 0.25)),
    chart=Chart("Health", "collapsed channels of batch norm"),
)
def collapsed_channels(batch: Moments, gamma: Array | None, epsilon: float) -> float:
    """Share of channels with `var_B < epsilon / 10` or `|gamma| < 1e-3`.

    Such a channel carries (almost) no signal: epsilon outweighs its variance, so that
    less than a tenth of the variance is left, or gamma switches it off.
    """
    collapsed = batch.variance < epsilon / 10
    if gamma is not None:
        collapsed |= np.abs(gamma) < 1e-3
    return float(np.mean(collapsed))
