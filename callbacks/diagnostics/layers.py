"""All layers in two numbers: of each diagnostic of theirs, the worst and the median."""

import math
import statistics
from collections.abc import Mapping

from .guide import Guide, worst_of
from .registry import diagnostic
from .subjects import Layers


@diagnostic(
    "worst/<diagnostic>",
    of=Layers,
    given=lambda layers: (layers.values, layers.guide),
)
def worst(values: Mapping[str, float], guide: Guide | None) -> float:
    """A diagnostic at its worst layer, or variable, of those at the look.

    By the guide values, and the highest where there are none; NaN and infinity are
    worse than any number. The Text tab names the layer, in `health/worst`.

    values: by layer or variable, two or more.
    """
    return values[worst_of(guide, values)]


@diagnostic(
    "median/<diagnostic>",
    of=Layers,
    given=lambda layers: (layers.values,),
)
def median(values: Mapping[str, float]) -> float:
    """The median of a diagnostic over the layers, or variables, of the look.

    NaN is left out, unless all are: the worst shows it.
    """
    known = [value for value in values.values() if not math.isnan(value)]
    return statistics.median(known) if known else math.nan
