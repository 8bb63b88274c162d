"""What the monitor shows, one pure function per diagnostic, and a sentence per tag.

A docstring here is what TensorBoard shows beside the charts of its tag. Guide values
are for orientation: where no other source is named, they were measured on small
classifiers of scikit-learn's digits, healthy and faulty ones. Nothing alerts. None is
returned where a formula has no value.
"""

import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Function = TypeVar("Function", bound=Callable[..., Any])

# What is read as it is: {pattern of a tag: description}. Functions below add theirs.
TAGS: dict[str, str] = {
    "weights/<path>": """All elements of one variable, after the step.

        A distribution that does not move does not learn; one that grows without end
        diverges.""",
    "gradients/<path>": """Gradient of the loss by one variable, in the looked-at step.

        Of the real training batch, without the loss scale, before clipping; `#1`, `#2`
        for an optimizer that is applied again in the same step. All in one narrow peak
        at 0, in the first layers only: the gradient vanishes.""",
    "activations/<layer>": """What the layer gave in the looked-at step.

        `#1`, `#2` for further calls of the same layer, `/0`, `/1` for several
        outputs.""",
    "batch_norm/<layer>/gamma": """The scale after normalization, (C,), after the step.

        It starts at 1. A channel whose gamma goes to 0 is switched off.""",
    "batch_norm/<layer>/beta": """The shift after normalization, (C,), after the step.

        It starts at 0.""",
    "batch_norm/<layer>/moving_mean": """Mean that inference uses, (C,), after the step.

        An average over past batches, with weight 1 - momentum for each new one.""",
    "batch_norm/<layer>/moving_variance": """Variance that inference uses, (C,).

        After the step; an average over past batches, as the mean.""",
    "batch_norm/<layer>/batch_mean": """Mean of the layer's input per channel, (C,).

        Of the looked-at batch (all replicas' parts of it), as training normalizes with
        it. Not of a layer that was given a mask.""",
    "batch_norm/<layer>/batch_variance": """Variance of the layer's input, (C,).

        `mean((x - mean(x))^2)` over the looked-at batch, per channel; as the mean.""",
    "quantiles/<tag>/p05": """Value below which 5 % of the finite elements lie.

        Of weights, gradients and activations, to draw a distribution as a band. Read
        from 960 bins of the sampled elements: within 1/960 of the range.""",
    "quantiles/<tag>/p50": """The median of the finite elements; see p05.""",
    "quantiles/<tag>/p95": """Value below which 95 % of them lie; see p05.""",
    "health/non_finite/<tag>": """How many elements are NaN or Inf.

        Written where there are any, and one is a fault: look for the first layer.""",
    "learning_rate": """Learning rate of the optimizer, schedules applied.""",
    "learning_rate/<optimizer>": """Learning rate of one of several optimizers.""",
    "loss_scale": """Factor by which LossScaleOptimizer multiplies the loss.

        After the step. It halves when a gradient is not finite and doubles after 2000
        (by default) steps that are; falling without end means that the gradients are
        not finite for another reason than the scale.""",
    "loss_scale/<optimizer>": """The loss scale of one of several optimizers.""",
    "skipped_steps": """Steps so far that LossScaleOptimizer did not apply.

        Steps tried less steps applied, over all fits of this monitor, looked at or not.
        Guide: one in 2000 is how the scale finds its limit. Left out where `fit` does
        not know the number of steps in an epoch, and under gradient accumulation.""",
    "skipped_steps/<optimizer>": """The skipped steps of one of several optimizers.""",
    "epoch/<metric>": """What `fit` reports for the epoch, `val_` for validation.

        Training metrics are averages over the epoch, in which the weights moved.""",
}


def shows(*patterns: str) -> Callable[[Function], Function]:
    """Enter a function's docstring as the description of the tags that it fills."""

    def enter(function: Function) -> Function:
        for pattern in patterns:
            TAGS[pattern] = function.__doc__ or ""
        return function

    return enter


@shows("gradient_norm/global")
def global_norm(norms: Sequence[float]) -> float:
    """`sqrt(sum ||g||^2)` over the gradients of all weights, before clipping.

    In units of loss per unit of weight. Guide: 0.3 to 10 in healthy training, above 1e3
    it explodes. Before clipping, as Google's tuning playbook recommends
    (github.com/google-research/tuning_playbook).
    """
    return math.hypot(*norms)


@shows("gradient_norm/suggested_clip")
def suggested_clip(norms: Sequence[float]) -> float | None:
    """The 90th percentile of the finite global norms at the looks so far.

    A value for `global_clipnorm` that would touch one step in ten; the last 10 000
    looks count. Source: Google's tuning playbook
    (github.com/google-research/tuning_playbook), which calls clipping of more than half
    of the steps extremely aggressive.
    """
    finite = [norm for norm in norms if math.isfinite(norm)]
    return float(np.quantile(finite, 0.9)) if finite else None


@shows("update_ratio/<path>")
def update_ratio(change: float, before: float) -> float | None:
    """`||w_after - w_before|| / ||w_before||` of the looked-at step.

    No unit. Trainable weights of two and more dimensions; above `sample_size` elements,
    of a sample of them. Guide: 1e-4 to 1e-2, around 1e-3 (CS231n,
    cs231n.github.io/neural-networks-3/#ratio); below 1e-5 it hardly learns, above 1e-1
    it jumps. A step that only accumulates gradients, or that loss scaling skips, is 0.
    Left out while the weight is 0, as many are before their first step.

    change, before: sums of squares of the difference and of the weight before.
    """
    return math.sqrt(change / before) if before > 0 else None


@shows("distance_from_init/<path>")
def distance_from_init(change: float, initial: float) -> float | None:
    """`||w - w_0|| / ||w_0||`, w after the looked-at step.

    No unit; of the weights of `update_ratio`. w_0 is the weight when this monitor first
    met it: before the first step of its first `fit` on this model, not of a later one;
    of a weight born in that step, after it. Left out for weights that began as 0.
    Guide: a few tenths in healthy training; beyond 10 the initial values are forgotten.
    Source: Cockpit (Schneider et al., 2021, arXiv:2102.06604), relative here.

    change, initial: sums of squares of the difference and of w_0.
    """
    return math.sqrt(change / initial) if initial > 0 else None


@shows("health/dead_units/<layer>")
def dead_units(active: Array, elements: float) -> float:
    """Share of units, 0 to 1, that are non-zero in less than 1 % of batch x space.

    Layers that end in a ReLU or ReLU6, not leaky ones. A unit is a channel: the last
    axis, or axis 1 of a convolution with `channels_first`. A dead unit passes no
    gradient. Guide: 0.0 to 0.2; above 0.5 most of the layer is lost: try a lower
    learning rate or batch norm. Source: the 1 % of SageMaker Debugger's DeadRelu rule.

    active: (units,), how many of each unit's `elements` are not zero.
    """
    return float(np.mean(active < 0.01 * elements))


@shows("health/saturated/<layer>")
def saturated(outside: float, elements: float) -> float | None:
    """Share of the outputs, 0 to 1, that lie on the flat ends of the activation.

    |a| > 0.99 of tanh and softsign, a < 0.01 or a > 0.99 of sigmoid and hard sigmoid,
    in layers whose output is not the model's. There the gradient is nearly 0. Guide:
    0.00 to 0.01 healthy, above 0.5 the layer hardly learns.
    """
    return outside / elements if elements else None


class Moments(NamedTuple):
    """Of each channel; mean, biased variance: (C,) float64."""

    elements: float
    mean: Array
    variance: Array


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


@shows("batch_norm_gap/<layer>/mean")
def mean_gap(batch: Moments, moving_mean: Array) -> float | None:
    """`mean |mu_B - mu_moving| / sigma_B` over the channels.

    How far the mean that inference uses lies from the looked-at batch's own, in
    standard deviations of the batch; the moving mean is that after the step. Channels
    that are constant over the batch are left out, and so are frozen layers: theirs are
    meant to stay. Guide: 0.1 to 0.2 healthy; above 0.5
    the moving statistics are behind: train on, lower the momentum, or make batches
    larger.
    """
    varies = _varies(batch)
    gap = np.abs(batch.mean - moving_mean)[varies] / np.sqrt(batch.variance[varies])
    return float(np.mean(gap)) if gap.size else None


@shows("batch_norm_gap/<layer>/variance")
def variance_gap(batch: Moments, moving_variance: Array) -> float | None:
    """`mean |ln(var_moving / var_B)|` over the channels.

    0.7 is a factor of 2. Which channels, and when: as for the mean. Guide: 0.1 to 0.7
    healthy; above 0.7 inference sees another scale than training did.
    """
    varies = _varies(batch) & (moving_variance > 0)
    ratio = moving_variance[varies] / batch.variance[varies]
    return float(np.mean(np.abs(np.log(ratio)))) if ratio.size else None


def _varies(batch: Moments) -> Array:
    # Of a constant channel, float32 leaves a variance of rounding errors.
    return batch.variance > 1e-12 * np.square(batch.mean)


@shows("loss_gap/train_eval")
def train_eval_gap(train: float, evaluated: float) -> float | None:
    """`(L_eval - L_train) / |L_train|`, same batch, same weights, before the step.

    L_train is the training step's own loss, L_eval that of one more forward pass with
    `training=False`: batch norm uses its moving statistics, dropout is off. At the
    first look of an epoch, of models with either. Guide: within 0.1 of 0; above 0.5
    validation judges another network than the one that trains: moving statistics that
    lag behind (`batch_norm_gap`), or small batches. Dropout makes it negative.
    """
    return (evaluated - train) / abs(train) if train else None


def describe(tag: str) -> str:
    """What TensorBoard shows about a tag, as Markdown; empty for an unknown tag."""
    pattern = pattern_of(tag)
    return "" if pattern is None else inspect.cleandoc(TAGS[pattern])


def pattern_of(tag: str) -> str | None:
    """The key of `TAGS` that a tag belongs to."""
    for pattern, regex in _regexes().items():
        if regex.fullmatch(tag):
            return pattern
    return None


@functools.cache
def _regexes() -> dict[str, re.Pattern[str]]:
    return {p: re.compile(re.sub("<[a-z]+>", ".+", p)) for p in TAGS}
