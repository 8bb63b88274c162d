"""The gradients of the looked-at step."""

import math
from collections.abc import Sequence

import numpy as np

from .registry import Chart, Guide, diagnostic
from .statistics import Summary
from .subjects import Gradient, Whole

_NORM = Chart("Training", "gradient norm, before clipping")
PAST = 9_999  # looks that the suggested clip remembers, beside the latest


@diagnostic(
    "gradients/<path>",
    of=Gradient,
    given=lambda gradient: (gradient.summary,),
    is_histogram=True,
    unit="loss per unit of weight",
)
def gradients(summary: Summary) -> Summary:
    """Gradient of the loss by one variable, in the looked-at step.

    Of the real training batch, without the loss scale, before clipping; `#1`, `#2`
    for an optimizer that is applied again in the same step. All in one narrow peak
    at 0, in the first layers only: the gradient vanishes.
    """
    return summary


def _norms(whole: Whole) -> tuple[list[float]] | None:
    norms = [
        one.summary.norm
        for one in whole.subjects
        if isinstance(one, Gradient) and one.summary is not None and not one.is_again
    ]
    return (norms,) if norms else None


@diagnostic(
    "gradient_norm/global",
    of=Whole,
    given=_norms,
    unit="loss per unit of weight",
    guide=Guide(healthy=(0.3, 10), sick=(None, 1e3)),
    source="Google's tuning playbook (github.com/google-research/tuning_playbook) for "
    "before clipping",
    chart=_NORM,
)
def global_norm(norms: Sequence[float]) -> float:
    """`sqrt(sum ||g||^2)` over the gradients of all weights, before clipping."""
    return math.hypot(*norms)


def _all_norms(whole: Whole) -> tuple[list[float]] | None:
    tag = "gradient_norm/global"
    if tag not in whole.scalars:
        return None
    return ([*whole.past(tag)[-PAST:], whole.scalars[tag]],)


@diagnostic(
    "gradient_norm/suggested_clip",
    of=Whole,
    given=_all_norms,
    source="Google's tuning playbook (github.com/google-research/tuning_playbook), "
    "which calls clipping of more than half of the steps extremely aggressive",
    chart=_NORM,
)
def suggested_clip(norms: Sequence[float]) -> float | None:
    """The 90th percentile of the finite global norms at the looks so far.

    A value for `global_clipnorm` that would touch one step in ten; the last 10 000
    looks count.
    """
    finite = [norm for norm in norms if math.isfinite(norm)]
    return float(np.quantile(finite, 0.9)) if finite else None


@diagnostic(
    "gradient_rms/<path>",
    of=Gradient,
    where=lambda gradient: gradient.is_kernel and not gradient.is_again,
    given=lambda gradient: gradient.summary and (gradient.summary,),
    unit="loss per unit of weight",
    guide=Guide(healthy=(1e-5, None), sick=(1e-7, None)),
    chart=Chart("Health", "gradient of each weight"),
)
def gradient_rms(summary: Summary) -> float | None:
    """`sqrt(mean(g^2))` over one weight of two and more dimensions.

    Compared from the first layer to the last, it shows where the gradient vanishes.
    """
    return summary.norm / math.sqrt(summary.count) if summary.count else None
