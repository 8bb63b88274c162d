"""Batch norm: what training sees and what inference will see; rules on it.

They hold for Keras' own layer as well as for kbn's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .loss import epoch_validation_loss, train_eval_gap, train_loss
from .registry import Chart, Guide, signal
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Array, Moments, NormInput, NormWeight
from .view import View

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
    signal(
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


@signal(
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


@signal(
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


@signal(
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


@signal(
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


@signal(
    "batch_norm_elements/<layer>",
    of=NormInput,
    given=lambda norm: (norm.batch,) if _has_elements(norm) else None,
    unit="elements",
    guide=Guide(healthy=(32, None), sick=(16, None)),
    chart=Chart("Training beside evaluation", "elements that batch norm averages over"),
)
def channel_elements(batch: Moments) -> float:
    """How many elements each channel of the looked-at batch has: batch x space.

    The moments of few elements are noise, and so is what is normalized by them.
    """
    return batch.elements


@signal(
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


COLD = 0.01  # the weight that the initial moving statistics may still have


def share_of_start(view: View, layer: str, steps: int) -> float:
    """momentum^steps: what is left in the moving statistics of what was there before.

    0 of a layer whose momentum is not known: kbn's averages over all batches alike.
    """
    momentum = view.record.batch_norm(layer).get("momentum")
    return 0.0 if momentum is None else float(momentum) ** max(steps, 0)


def _trained(view: View) -> dict[str, Mapping[str, Any]]:
    """Layers whose statistics move, by name, in forward order."""
    norms = view.record.batch_norms()
    return {name: norm for name, norm in norms if not norm.get("is_frozen")}


def coldest(view: View) -> tuple[str, float]:
    """The layer whose moving statistics are the youngest, and `share_of_start`."""
    shares = {name: share_of_start(view, name, view.step) for name in _trained(view)}
    where = max(shares, key=lambda name: shares[name], default="")
    return where, shares.get(where, 0.0)


def _gaps(view: View) -> dict[str, tuple[float, float]]:
    """{call: (gap of the mean, of the variance)}."""
    found: dict[str, tuple[float, float]] = {}
    gaps = view.under(mean_gap)
    for rest in gaps:
        call = rest.rpartition("/")[0]
        mean, variance = (gaps.get(f"{call}/{x}", 0.0) for x in ("mean", "variance"))
        found[call] = mean, variance
    return found


def _advice(view: View, where: str) -> str:
    """What a user must do: momentum by name and value, beside the steps of an epoch."""
    momentum = view.record.batch_norm(where).get("momentum")
    recompute = (
        "recompute the statistics with kbn.update_bn_stats(model, data) or "
        "kbn.callbacks.UpdateBatchNormStats"
    )
    if momentum is None:
        return f"To mend it, {recompute}, or use larger batches."
    steps = view.record.steps_per_epoch
    per_epoch = ""
    if steps:
        share = 1 - float(momentum) ** steps
        per_epoch = f" ({steps} steps, an epoch, renew {share:.0%} of the statistics)"
    lower = "0.9" if momentum > 0.9 else f"{momentum / 2:.2g}"
    return (
        f"Lower momentum={momentum:g} to {lower}{per_epoch}, or {recompute} before "
        "validation."
    )


class _Gap(Rule):
    """A gap waits while the statistics are young, and is told of at the end."""

    def holds_at_end(self, reading: Reading, since: int, view: View) -> bool:
        """Whether the statistics are still for the most part those of that look."""
        return share_of_start(view, reading.where, view.step - since) > 0.5


@dataclass(frozen=True)
class BnTrainEvalGap(_Gap):
    """Validation judges a different network from the one that trains.

    (L_eval - L_train) / |L_train| above `gap`, both of the same batch and weights, and
    L_eval - L_train above `share` of the first loss: near a loss of 0 any difference is
    many times the loss. Of models with batch norm. While momentum^updates > 0.01, only
    at the end of the training: see `BnStatsCold`.

    No unit. Source: TheDeepChecker (loss change of 50 % between the modes); measured on
    digits: +0.1 at momentum 0.9, +0.9 at 0.99 after 224 steps.
    """

    gap: float = 0.5
    share: float = 0.15
    patience: int = LASTING

    reads: ClassVar = (train_eval_gap, mean_gap, train_loss)
    keeps: ClassVar = {train_loss: 1}
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model, named by the layer with the largest gap of its own."""
        gap, gaps = view.get(train_eval_gap), _gaps(view)
        norms = _trained(view)
        if gap is None or not (norms or (view.record.is_empty and gaps)):
            return
        where = max(
            sorted(gaps), key=lambda x: max(gaps[x]), default=next(iter(norms), "")
        )
        loss, first = view.get(train_loss), view.first(train_loss)
        limit = self.gap
        if loss and first:
            limit = max(limit, self.share * abs(first) / abs(loss))
        yield Reading(where, gap, limit, waits=coldest(view)[1] > COLD)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer, its momentum and the steps of an epoch."""
        return (
            f"With the moving statistics the loss is {reading.value:.0%} higher than "
            "with the batch's own, on the same batch, so validation and inference are "
            f"worse than training; {view.record.describe(reading.where)} is the "
            f"farthest off. {_advice(view, reading.where)}"
        )


@dataclass(frozen=True)
class BnMomentGap(_Gap):
    """Moving statistics are not those of the batches.

    mean |mu_B - mu_moving| / sigma_B above `mean`, or mean |ln(var_moving / var_B)|
    above `variance` (0.7 is a factor of 2), over the channels of a layer. While
    momentum^updates > 0.01, only at the end of the training: see `BnStatsCold`. Of few
    elements per channel, n, a batch's own moments scatter: 1 / sqrt(n) and
    sqrt(2 / n) are added to the limits where n is logged.

    Units: standard deviations of the batch; natural logarithm. The limits are kbn's
    own, measured on digits: healthy 0.12 to 0.19 and 0.10 to 0.69; young statistics
    0.8 to 1.06 and 1.4 to 3.7.
    """

    mean: float = 0.5
    variance: float = 1.0
    patience: int = LASTING

    reads: ClassVar = (mean_gap, channel_elements)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each call of a batch norm that is not frozen."""
        elements = view.under(channel_elements)
        for call, (mean, variance) in _gaps(view).items():
            n = elements.get(call, 0.0)
            scatter = n**-0.5 if n > 0 else 0.0
            pairs = [
                (mean, self.mean + scatter),
                (variance, self.variance + 2**0.5 * scatter),
            ]
            value, limit = max(pairs, key=lambda pair: pair[0] / pair[1])
            is_cold = share_of_start(view, call, view.step) > COLD
            yield Reading(call, value, limit, waits=is_cold)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer, its momentum and the steps of an epoch."""
        mean, variance = _gaps(view).get(reading.where, (reading.value, reading.value))
        times = math.exp(min(variance, 99.0))
        return (
            f"{view.record.describe(reading.where)} normalizes in inference with a "
            f"mean that lies {mean:.2g} standard deviations from the batch's, and a "
            f"variance off by {times:.2g} times. "
            f"{_advice(view, reading.where)}"
        )


@dataclass(frozen=True)
class BnStatsCold(Rule):
    """The moving statistics are young, so validation says little yet.

    momentum^updates above `share` at a validation, or above 0.01 at a look at which
    `BnTrainEvalGap` or `BnMomentGap` would be ill: it takes their place. Updates are
    the optimizer's steps. It is over at 0.01, and needs a known momentum.

    No unit. At momentum 0.99, 299 updates for 0.05 and 459 for 0.01; at 0.999, 2995 and
    4603. The limits are kbn's own. Level "info": it passes as training goes on.
    """

    share: float = 0.05

    reads: ClassVar = (
        epoch_validation_loss,
        train_eval_gap,
        mean_gap,
        channel_elements,
        train_loss,
    )
    keeps: ClassVar = {train_loss: 1}
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model, named by the layer with the youngest statistics."""
        where, share = coldest(view)
        if not where:
            return
        if share <= COLD:
            yield Reading(where, share, COLD, "info")
        elif epoch_validation_loss in view:
            # Below, it is neither: a gap at a look may have raised it.
            if share > self.share:
                yield Reading(where, share, self.share, "info")
        else:
            gaps = [*BnTrainEvalGap().readings(view), *BnMomentGap().readings(view)]
            if any(gap.is_ill for gap in gaps):
                yield Reading(where, share, COLD, "info")

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer, its momentum, and how many steps it takes."""
        momentum = view.record.batch_norm(reading.where).get("momentum")
        return (
            f"{reading.value:.0%} of the moving statistics of "
            f"{view.record.describe(reading.where)} are still its initial 0 and 1, so "
            "evaluation is worse than the network. Train on, or use a lower momentum "
            f"than {momentum:g}; with kbn.update_bn_stats they are right at once."
        )


@dataclass(frozen=True)
class BnCollapsed(Rule):
    """Channels of a batch norm carry nothing.

    The share of channels with a batch variance below epsilon / 10 or |gamma| < 1e-3,
    above `share`.

    No unit, 0 to 1. The limits are kbn's own.
    """

    share: float = 0.25
    patience: int = LASTING

    reads: ClassVar = (collapsed_channels,)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each batch norm."""
        for layer, share in view.under(collapsed_channels).items():
            yield Reading(layer, share, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer and its epsilon."""
        epsilon = view.record.batch_norm(reading.where).get("epsilon")
        known = "" if epsilon is None else f" (epsilon={epsilon:g})"
        return (
            f"{reading.value:.0%} of the channels of "
            f"{view.record.describe(reading.where)}{known} are constant over the batch "
            "or have a gamma of 0, and pass no signal. Look for dead units before it "
            "and for weight decay on gamma; if its inputs are that small by design, "
            "lower epsilon."
        )


@dataclass(frozen=True)
class BnSmallBatch(Rule):
    """Batch statistics of few elements are noise.

    Elements per channel (batch x space) below `elements`, at three looks: the last
    batch of an epoch is often a short one.

    Unit: elements. The limit is kbn's own: the standard error of a mean of 16 elements
    is a quarter of their standard deviation.
    """

    elements: int = 16
    patience: int = LASTING

    reads: ClassVar = (channel_elements,)

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each call of a batch norm."""
        for call, count in view.under(channel_elements).items():
            yield Reading(call, count, self.elements, "info", below=True)

    def explain(self, reading: Reading, view: View) -> str:
        """Name the layer."""
        return (
            f"{view.record.describe(reading.where)} takes mean and variance of "
            f"{reading.value:.0f} elements a channel, which adds noise to training and "
            "to what inference uses. Use larger batches, synchronized=True over "
            "replicas, or group or layer normalization."
        )
