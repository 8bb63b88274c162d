"""Batch norm: what training sees and what inference will see; rules on it.

They hold for Keras' own layer as well as for kbn's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from kbn.momentum import fitting_momentum

from .loss import above, epoch_loss, epoch_validation_loss, train_eval_gap, train_loss
from .registry import Chart, Guide, signal
from .remedy import Remedy, ask
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Array, Moments, NormInput, NormStatistics, NormWeight
from .targets import guess, has_learned
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


_START = Chart("Training beside evaluation", "what is left of batch norm's start")


@signal(
    "batch_norm_start/<layer>/share",
    of=NormStatistics,
    given=lambda norm: None if norm.share is None else (norm.share,),
    unit="share of the moving statistics, 0 to 1",
    guide=Guide(healthy=(0, 0.1)),
    chart=_START,
)
def start_share(share: float) -> float:
    """How much of the moving statistics is still what they began with.

    The product of what each update keeps, which is the momentum: momentum^updates.
    Each call in training is an update; kbn's layer with warm-up or without a momentum
    counts its own. They began as 0 and 1, or with what was loaded.
    """
    return share


@signal(
    "batch_norm_start/<layer>/gap",
    of=NormStatistics,
    given=lambda norm: (
        None
        if not norm.share or norm.share == 1
        else (norm.moving, norm.start, norm.share)
    ),
    unit="as batch_norm_gap",
    guide=Guide(healthy=(0, 0.2), sick=(None, 0.5)),
    chart=_START,
)
def start_gap(moving: Array, start: Array, share: float) -> float | None:
    """What the start alone makes of the gaps of mean and variance, the larger one.

    With `clean = (moving - share * start) / (1 - share)`, the average of the batches so
    far: `mean |mean - mean_clean| / sigma_clean` or `mean |ln(var / var_clean)|` over
    the channels. Of inputs of small variance little of a start at 1 makes much.
    """
    mean, variance = moving
    clean_mean, clean_variance = (moving - share * start) / (1 - share)
    # Below, float32 leaves rounding errors of the start.
    varies = clean_variance > 1e-6 * share / (1 - share) * start[1]
    varies &= (variance > 0) & (clean_variance > 0)
    if not varies.any():
        return None
    sigma = np.sqrt(clean_variance[varies])
    gaps = np.abs(mean - clean_mean)[varies] / sigma
    ratios = np.abs(np.log(variance[varies] / clean_variance[varies]))
    return float(max(np.mean(gaps), np.mean(ratios)))


@signal(
    "batch_norm_updates/<layer>",
    of=NormStatistics,
    given=lambda norm: None if norm.updates is None else (norm.updates,),
    unit="updates",
    guide=Guide(healthy=(1, None), sick=(1, None)),
    chart=Chart("Training beside evaluation", "updates of batch norm in a step"),
)
def statistics_updates(updates: int) -> float:
    """How often the looked-at step moved the moving statistics, of layers it trained.

    Once for each call in training. A step that trains gamma and beta and moves no
    statistics calls the layer in inference mode.
    """
    return float(updates)


YOUNG = 0.3  # the gap that the start alone must make to be called the cause
FEW = 8  # elements a channel, of which moments are noise
RECOMPUTE = "recompute the statistics with kbn.update_bn_stats(model, data)"


class Age(NamedTuple):
    """Of a layer's moving statistics: the start's share, and the gap that it makes."""

    where: str
    share: float = 0.0
    gap: float = 0.0

    @property
    def is_young(self) -> bool:
        """Whether their start alone spoils evaluation."""
        return self.gap > YOUNG


def age(view: View, call: str) -> Age:
    """As the last look had it, less what the steps since then have renewed."""
    layer = str(view.record.layer(call).get("name") or call.partition("#")[0])
    tags = [one.tag_of(layer) for one in (start_share, start_gap)]
    if any(tag in view for tag in tags):
        share, gap = (view.get(tag) or 0.0 for tag in tags)
        return Age(layer, share, gap)
    points = [view.points(tag)[-1:] for tag in tags]
    share, gap = (last[0].value if last else 0.0 for last in points)
    momentum = view.record.batch_norm(layer).get("momentum")
    if points[1] and momentum is not None:
        kept = float(momentum) ** (view.step - points[1][0].step)
        share, gap = share * kept, gap * kept
    return Age(layer, share, gap)


def _trained(view: View) -> list[str]:
    """Layers whose statistics move, in forward order."""
    return [name for name, x in view.record.batch_norms() if not x.get("is_frozen")]


def youngest(view: View) -> Age:
    """Of the layers that train, the one whose start makes the largest gap."""
    ages = (age(view, name) for name in _trained(view))
    return max(ages, key=lambda one: one.gap, default=Age(""))


def _gaps(view: View) -> dict[str, tuple[float, float]]:
    """{call: (gap of the mean, of the variance)}."""
    found: dict[str, tuple[float, float]] = {}
    gaps = view.under(mean_gap)
    for rest in gaps:
        call = rest.rpartition("/")[0]
        mean, variance = (gaps.get(f"{call}/{x}", 0.0) for x in ("mean", "variance"))
        found[call] = mean, variance
    return found


def _limit(view: View, loss: float | None, gap: float, share: float) -> float:
    """`gap`, or more: near a loss of 0 any difference is many times the loss.

    `share`: of the first loss, that the difference is to be at least.
    """
    first = view.first(train_loss) or view.first(epoch_loss)
    return max(gap, share * abs(first) / abs(loss)) if loss and first else gap


def _renew(view: View, where: str) -> Remedy:
    """What renews the statistics in an epoch."""
    norm, steps = view.record.batch_norm(where), view.record.steps_per_epoch
    momentum = norm.get("momentum")
    fitting = fitting_momentum(steps) if steps else 0.9
    is_short = momentum is not None and not steps and momentum <= 0.9
    if momentum is None or is_short or (fitting is None and norm.get("warmup")):
        return ask(f"To mend it, {RECOMPUTE}, or use larger batches.")
    momentum, names = float(momentum), tuple(_trained(view))
    if fitting is None:
        return Remedy(
            "replace",
            "BatchNorm",
            names,
            old=momentum,
            words=f"An epoch of {steps} steps is too short for any momentum: use "
            f"kbn.BatchNorm(warmup=True), or {RECOMPUTE}.",
        )
    if fitting >= momentum:
        return ask(
            f"momentum={momentum:g} is not the cause: {RECOMPUTE}, shuffle the data, "
            "or use larger batches."
        )
    return Remedy(
        "layer",
        "momentum",
        names,
        old=momentum,
        new=fitting,
        words=f"Lower momentum={momentum:g} to {fitting:g}, or {RECOMPUTE}.",
    )


def _renewed(view: View, where: str) -> str:
    """How much an epoch renews: a sentence that begins with a space, or nothing."""
    norm, steps = view.record.batch_norm(where), view.record.steps_per_epoch
    momentum = norm.get("momentum")
    if momentum is None or not steps or norm.get("warmup"):
        return ""
    fitting = fitting_momentum(steps) or momentum
    then = f"; {fitting:g} would renew {1 - fitting**steps:.0%}"
    return (
        f" At momentum={momentum:g} {steps} steps, an epoch, renew "
        f"{1 - momentum**steps:.0%} of them{then if fitting < momentum else ''}."
    )


@dataclass(frozen=True)
class BnTrainEvalGap(Rule):
    """Validation judges a different network from the one that trains.

    (L_eval - L_train) / |L_train| above `gap`, both of the same batch and weights, and
    L_eval - L_train above `share` of the first loss: near a loss of 0 any difference is
    many times the loss. Where the loss in evaluation mode is not logged, the statistics
    themselves: mean |mu_B - mu_moving| / sigma_B above `mean`, or
    mean |ln(var_moving / var_B)| above `variance` (0.7 is a factor of 2), over the
    channels of a layer, to which 1 / sqrt(n) and sqrt(2 / n) are added, by which the
    moments of a batch of n elements a channel scatter. And at the end of an epoch: the
    validation loss is no better than guessing (`loss/guess`), training's is below half
    of that, and the last gap of the losses was above `gap`.

    Of models with batch norm whose moving statistics are not young, see `BnStatsCold`,
    and of 8 elements a channel or more, see `BnSmallBatch`.

    No unit; standard deviations of the batch; natural logarithm. Sources:
    TheDeepChecker (loss change of 50 % between the modes); measured on digits: +0.1 at
    momentum 0.9, +0.9 at 0.99 after 224 steps; of the statistics 0.12 to 0.19 and 0.10
    to 0.69 in health, 0.8 to 1.06 and 1.4 to 3.7 of young ones.
    """

    title: ClassVar = "evaluation is worse than training"

    gap: float = 0.5
    share: float = 0.15
    mean: float = 0.5
    variance: float = 1.0
    patience: int = LASTING

    reads: ClassVar = (
        train_eval_gap,
        mean_gap,
        channel_elements,
        train_loss,
        epoch_validation_loss,
    )
    keeps: ClassVar = {train_loss: 1, start_share: 1, train_eval_gap: 1, guess: 1}
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model, named by the layer with the largest gap of its own."""
        gap, gaps, norms = view.get(train_eval_gap), _gaps(view), _trained(view)
        has_norms = bool(norms or (view.record.is_empty and gaps))
        elements = view.under(channel_elements)
        has_few = min(elements.values(), default=FEW) < FEW
        if not has_norms or has_few or youngest(view).is_young:
            return
        validation, known = view.get(epoch_validation_loss), view.newest(guess)
        if validation is not None and known is not None and known > 0:
            is_trained = (view.get(epoch_loss) or math.inf) < 0.5 * known
            is_lost = is_trained and (view.newest(train_eval_gap) or 0.0) > self.gap
            where = next(iter(norms), "")
            yield Reading(where, validation / known if is_lost else 0.0, 1.0)
        elif gap is not None:
            where = max(
                sorted(gaps), key=lambda x: max(gaps[x]), default=next(iter(norms), "")
            )
            limit = _limit(view, view.get(train_loss), self.gap, self.share)
            yield Reading(where, gap, limit)
        elif gaps and not view.points(train_eval_gap):
            found = [self._of_moments(x, elements.get(x, 0.0), gaps[x]) for x in gaps]
            yield max(found, key=lambda x: x.value / x.limit)

    def _of_moments(self, call: str, n: float, gaps: tuple[float, float]) -> Reading:
        scatter = n**-0.5 if n > 0 else 0.0
        limits = self.mean + scatter, self.variance + 2**0.5 * scatter
        pairs = zip(gaps, limits, strict=True)
        return Reading(call, *max(pairs, key=lambda pair: pair[0] / pair[1]))

    def explain(self, reading: Reading, view: View) -> str:
        return self._meaning(reading, view) + _renewed(view, reading.where)

    def _meaning(self, reading: Reading, view: View) -> str:
        named = view.record.describe(reading.where)
        if epoch_validation_loss in view:
            return (
                f"The validation loss is {reading.value:.2g} times that of guessing, "
                "while training learns: with its moving statistics batch norm makes "
                "another network."
            )
        if train_eval_gap in view:
            return (
                f"With the moving statistics the loss is {above(reading.value)} that "
                "with the batch's own, on the same batch, so validation and "
                f"inference are worse than training; {named} is the farthest off."
            )
        mean, variance = _gaps(view).get(reading.where, (reading.value, reading.value))
        return (
            f"{named} normalizes in inference with a mean that lies {mean:.2g} "
            "standard deviations from the batch's, and a variance off by "
            f"{math.exp(min(variance, 99.0)):.2g} times."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Give batch norm a momentum that fits the steps of an epoch."""
        return _renew(view, reading.where)


@dataclass(frozen=True)
class BnStatsCold(Rule):
    """Moving statistics that are still near their start spoil validation.

    The start alone makes a gap above 0.3 (`batch_norm_start/<layer>/gap`), and
    evaluation is worse than training by more than `gap` of its loss, and by more than
    `share` of the first loss. At a validation that is L_val beside the epoch's L_train,
    and at the last look L_eval beside L_train of the same batch, where such are logged.
    Not before the first epoch is over: nobody has asked for evaluation. Nor where the
    last validation was below the epoch's loss.

    No unit. The limits are kbn's own. It is over when evaluation is as good as training
    or the statistics are renewed: at momentum 0.99 that takes 259 steps of training
    for 7.5 %.
    """

    title: ClassVar = "batch norm's moving statistics lag behind"

    gap: float = 0.5
    share: float = 0.15

    reads: ClassVar = (epoch_validation_loss, train_eval_gap)
    keeps: ClassVar = {
        start_share: 1,
        train_eval_gap: 1,
        train_loss: 1,
        epoch_loss: 1,
        epoch_validation_loss: 1,
    }
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model, named by the layer with the youngest statistics."""
        if not _trained(view):
            return
        train, worse = self._losses(view)
        if worse is not None:
            one = youngest(view)
            value = worse if one.is_young else min(worse, 0.0)
            limit = _limit(view, train, self.gap, self.share)
            yield Reading(one.where, value, limit)

    def _losses(self, view: View) -> tuple[float | None, float | None]:
        """Of training, and by what share of it evaluation is worse."""
        if train_eval_gap in view:
            trained, validated = (
                view.past(one) for one in (epoch_loss, epoch_validation_loss)
            )
            if not trained:
                return view.get(train_loss), None
            is_fine = bool(validated) and validated[-1] <= trained[-1]
            return view.get(train_loss), 0.0 if is_fine else view[train_eval_gap]
        validation, train = view.get(epoch_validation_loss), view.get(epoch_loss)
        if validation is None or not train:
            return None, None
        before = view.points(epoch_validation_loss)[-1:]
        since = before[0].step if before else 1  # at 1 the network is untrained
        worse = (validation - train) / abs(train)
        known = view.points(train_eval_gap)[-1:]
        if not known:  # such losses are not seen here
            return train, worse
        step, gap = known[0]
        if step > since:
            return train, min(worse, gap)
        return train, worse if worse <= self.gap else None  # the cause is not known

    def explain(self, reading: Reading, view: View) -> str:
        _, share, _ = age(view, reading.where)
        is_fresh = view.record.batch_norm(reading.where).get("is_fresh")
        start = "its initial 0 and 1" if is_fresh else "those that it began with"
        return (
            f"{100 * share:.2g}% of the moving statistics of "
            f"{view.record.describe(reading.where)} are still {start}, so evaluation's "
            f"loss is {above(reading.value)} that of training: validation and "
            "inference judge another network, until they are renewed."
            f"{_renewed(view, reading.where)}"
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Let batch norm warm up, which leaves nothing of the start in it."""
        where = reading.where
        renew, norm = _renew(view, where), view.record.batch_norm(where)
        momentum, is_done = norm.get("momentum"), renew.kind == "replace"
        is_loaded = not norm.get("is_fresh")
        if is_done or momentum is None or norm.get("warmup") or is_loaded:
            return renew
        other = RECOMPUTE
        if renew.kind == "layer":
            other = f"lower momentum={momentum:g} to {renew.new:g}"
        return Remedy(
            "replace",
            "BatchNorm",
            tuple(_trained(view)),
            old=float(momentum),
            words=f"Use kbn.BatchNorm(warmup=True), or {other}.",
        )


@dataclass(frozen=True)
class BnNotUpdated(Rule):
    """A batch norm that no step has given a batch.

    Its moving statistics are exactly the 0 and 1 that they began with, while the
    looked-at step trained its gamma or beta: the step has called the layer, in
    inference mode. Not of frozen layers, of statistics that were loaded, or of a layer
    that the step does not train.

    Unit: updates in a step, below 1. A fact, no limit of kbn's own.
    """

    title: ClassVar = "batch norm gets no batch"

    patience: int = 2

    reads: ClassVar = (statistics_updates, start_share)

    def readings(self, view: View) -> Iterable[Reading]:
        shares = view.under(start_share)
        for layer, updates in view.under(statistics_updates).items():
            norm = view.record.batch_norm(layer)
            is_at_start = shares.get(f"{layer}/share") == 1 and norm.get("is_fresh")
            if updates or (is_at_start and not norm.get("is_frozen")):
                yield Reading(layer, updates, 1, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"{view.record.describe(reading.where)} is trained and its moving "
            "statistics are still its initial 0 and 1: the step calls it in inference "
            "mode, so that it normalizes nothing."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Call the model with training=True in your step, or freeze the layer."""
        return ask(
            "In your train_step call self(x, training=True); if it is meant so, freeze "
            "the layer with trainable=False."
        )


@dataclass(frozen=True)
class BnCollapsed(Rule):
    """Channels of a batch norm carry nothing.

    The share of channels with a batch variance below epsilon / 10 or |gamma| < 1e-3,
    above `share`. Not of fewer than 8 elements a channel, which may be equal by chance,
    and of which one alone has no variance: see `BnSmallBatch`. Over once the loss
    of an epoch is below `learned` times that of guessing: other channels do their work.

    No unit, 0 to 1. The limits are kbn's own.
    """

    title: ClassVar = "channels of batch norm are constant"

    share: float = 0.25
    learned: float = 0.5
    patience: int = LASTING

    reads: ClassVar = (collapsed_channels, channel_elements)
    keeps: ClassVar = {epoch_loss: 1, guess: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        is_harmless = has_learned(view, self.learned)
        elements = view.under(channel_elements)
        for call, share in view.under(collapsed_channels).items():
            if elements.get(call, FEW) >= FEW:
                yield Reading(call, 0.0 if is_harmless else share, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        epsilon = view.record.batch_norm(reading.where).get("epsilon")
        known = "" if epsilon is None else f" (epsilon={epsilon:g})"
        return (
            f"{reading.value:.0%} of the channels of "
            f"{view.record.describe(reading.where)}{known} are constant over the batch "
            "or have a gamma of 0, and pass no signal."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Look for dead units before it, and for weight decay on gamma."""
        return ask(
            "Look for dead units before it and for weight decay on gamma; if its "
            "inputs are that small by design, lower epsilon."
        )


@dataclass(frozen=True)
class BnSmallBatch(Rule):
    """Batch statistics of few elements are noise.

    Elements per channel (batch x space), the most so far, below `elements`: a level of
    "info", and a warning below 8. Not of the last batch of an epoch, which is often a
    short one.

    Unit: elements. The limits are kbn's own: the standard error of a mean of 16
    elements is a quarter of their standard deviation; of one element nothing is left.
    """

    title: ClassVar = "batch norm gets too few elements"

    elements: int = 16
    patience: int = 2

    reads: ClassVar = (channel_elements,)
    keeps: ClassVar = {channel_elements: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        steps = view.record.steps_per_epoch or 1
        is_last = steps > 1 and view.step % steps == 0
        for call in view.under(channel_elements):
            count = view.largest(channel_elements.tag_of(call))
            if count is not None and not (is_last and count < self.elements):
                level = "warning" if count < FEW else "info"
                yield Reading(call, count, self.elements, level, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        name = view.record.describe(reading.where)
        if reading.value <= 1:
            return (
                f"{name} normalizes batches of 1 element a channel: that minus its own "
                "mean is 0, so its output is beta whatever the input, and nothing is "
                "learned through it."
            )
        return (
            f"{name} takes mean and variance of {reading.value:.0f} elements a "
            "channel, which adds noise to training and to what inference uses."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Larger batches, or a normalization that needs none."""
        size = view.record.batch_size
        times = math.ceil(2 * self.elements / max(reading.value, 1.0))
        new = size * times if size else None
        given = f" of {new}" if new else f" {times} times as large"
        return Remedy(
            "fit",
            "batch_size",
            old=size,
            new=new,
            words=f"Use batches{given}, synchronized=True over replicas, or group or "
            "layer normalization (keras.layers.GroupNormalization).",
        )
