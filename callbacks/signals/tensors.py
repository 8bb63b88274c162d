"""What follows from the histogram of any tensor."""

from .registry import Chart, signal
from .statistics import Summary
from .subjects import Gradient, Histogram, Output, Weight

_QUANTILE = {
    "of": Histogram,
    "where": lambda shown: isinstance(shown.of, Output | Gradient | Weight),
    "watch": "quantiles",
    "given": lambda shown: (shown.summary,) if shown.summary.count else None,
}


@signal("quantiles/<tag>/p05", **_QUANTILE)
def p05(summary: Summary) -> float:
    """Value below which 5 % of the finite elements lie.

    Of weights, gradients and activations, to draw a distribution as a band, with
    `"quantiles"` in `watch`. Read from 960 bins of the sampled elements: within 1/960
    of the range.
    """
    return float(summary.quantiles([0.05])[0])


@signal("quantiles/<tag>/p50", **_QUANTILE)
def p50(summary: Summary) -> float:
    """The median of the finite elements; see p05."""
    return float(summary.quantiles([0.5])[0])


@signal("quantiles/<tag>/p95", **_QUANTILE)
def p95(summary: Summary) -> float:
    """Value below which 95 % of them lie; see p05."""
    return float(summary.quantiles([0.95])[0])


@signal(
    "health/non_finite/<tag>",
    of=Histogram,
    given=lambda shown: (
        (shown.summary.non_finite,) if shown.summary.non_finite else None
    ),
    unit="elements",
    chart=Chart("Health", "NaN and Inf", r"^health/non_finite/"),
)
def non_finite(count: int) -> float:
    """How many elements are NaN or Inf, only where there are any.

    One is a fault: look for the first layer.
    """
    return float(count)
