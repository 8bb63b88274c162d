"""What follows from the histogram of any tensor: zeros, quantiles, NaN and Inf."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .registry import Chart, Guide, signal
from .remedy import Remedy, ask
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Gradient, Histogram, Output, Weight
from .view import View
from .weights import weight_growth

BORN = 0.1  # a weight with more zeros than that at the start was meant to have them


def _with_zeros(summary: Summary | None) -> tuple[Summary] | None:
    return (summary,) if summary is not None and summary.zeros else None


@signal(
    "zeros/weights/<path>",
    of=Weight,
    where=lambda weight: weight.first is not None and weight.first.zeros <= BORN,
    given=lambda weight: _with_zeros(weight.summary),
    unit="share of the elements, 0 to 1",
    guide=Guide(healthy=(0, 0.1)),
    source="watching zero weights: Google's guidelines for model quality",
    chart=Chart("Health", "zeros in the weights"),
)
def zero_weights(summary: Summary) -> float:
    """Share of a weight's elements that are exactly 0, only where there are any.

    Of the weights of `update_ratio`, after the step; above `sample_size` elements, of a
    sample. Not of those that began with more than a tenth of zeros. The others get
    there where they are pruned, where a constraint holds them, or where they have
    shrunk until they underflow.
    """
    return summary.zeros


@signal(
    "zeros/gradients/<path>",
    of=Gradient,
    where=lambda gradient: gradient.is_kernel and not gradient.is_again,
    given=lambda gradient: _with_zeros(gradient.summary),
    unit="share of the elements, 0 to 1",
    guide=Guide(healthy=(0, 0.9)),
    chart=Chart("Health", "zeros in the gradients"),
)
def zero_gradients(summary: Summary) -> float:
    """Share of a gradient's elements that are exactly 0, only where there are any.

    Sampled as its histogram. Of weights of two and more dimensions. They are those of
    dead units, of inputs that are 0, of rows of an embedding that the batch does not
    have, and of what underflows:
    at 1 no gradient reaches the weight.
    """
    return summary.zeros


@signal(
    "zeros/activations/<layer>",
    of=Output,
    where=lambda output: output.activation is not None and output.activation.rest == 0,
    given=lambda output: output.summary and (output.summary,),
    unit="share of the elements, 0 to 1",
    guide=Guide(healthy=(0, 0.9)),
    chart=Chart("Health", "zeros in the activations"),
)
def zero_activations(summary: Summary) -> float | None:
    """Share of what a layer gave that is exactly 0; sampled as its histogram.

    Of layers that end in a ReLU or another function that is 0 beyond one end. About
    half at random weights; `health/dead_units` tells whether it is the same units for
    all examples.
    """
    return summary.zeros if summary.count else None


@dataclass(frozen=True)
class ZeroWeights(Rule):
    """A kernel's weights have become 0.

    The share of exact zeros in a kernel above `share`, where its norm has fallen below
    `shrunk` of its first. So neither pruned weights nor those that a constraint keeps
    at 0 are meant: of these the large ones are left. Not of weights that began with
    more than a tenth of zeros, nor of biases, gamma and beta.

    No unit. Source: Google's guidelines for model quality (zero weights point to
    vanishing gradients or wrong arithmetic); measured on the healthy networks of the
    zoo: no zeros.
    """

    title: ClassVar = "weights have become 0"

    share: float = 0.1
    shrunk: float = 0.1
    patience: int = LASTING

    reads: ClassVar = (zero_weights, weight_growth)

    def readings(self, view: View) -> Iterable[Reading]:
        shares = view.under(zero_weights)
        for path, growth in view.under(weight_growth).items():
            if view.record.is_kernel(path):
                share = shares.get(path, 0.0) if growth < self.shrunk else 0.0
                yield Reading(path, share, self.share)

    def explain(self, reading: Reading, view: View) -> str:
        left = view.get(weight_growth.tag_of(reading.where)) or 0.0
        return (
            f"{reading.value:.0%} of the weights of {reading.where} have become exactly"
            f" 0, and {left:.1g} of its norm is left."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Another optimizer than Ftrl; else shrink weights less, and keep 32 bits."""
        return ask(
            "If the optimizer is Ftrl, use Adam: Ftrl forgets the initial "
            "weights. Else lower what shrinks them: weight decay, the kernel's "
            "regularizer; keep weights in float32, where 16 bits underflow."
        )


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
