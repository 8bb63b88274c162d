"""All layers in two numbers: of each diagnostic of theirs, the worst and the median."""

import math
import statistics
from collections.abc import Mapping

from .guide import Guide
from .registry import diagnostic
from .subjects import Layers


def _with_guide(layers: Layers) -> tuple[Mapping[str, float], Guide] | None:
    return None if layers.guide is None else (layers.values, layers.guide)


def _without_guide(layers: Layers) -> tuple[Mapping[str, float]] | None:
    return (layers.values,) if layers.guide is None else None


@diagnostic(
    "worst/<diagnostic>",
    of=Layers,
    where=lambda layers: layers.guide is not None,
    given=_with_guide,
)
def worst(values: Mapping[str, float], guide: Guide) -> float:
    """A diagnostic at its worst layer, or variable, of those at the look.

    By the guide values; NaN and infinity are worse than any number. Which layer it is
    stands in the Text tab, in `health/worst`.

    values: by layer or variable, two or more.
    """
    return values[guide.worst(values)]


@diagnostic(
    "lowest/<diagnostic>",
    of=Layers,
    where=lambda layers: layers.guide is None,
    given=_without_guide,
)
def lowest(values: Mapping[str, float]) -> float:
    """A diagnostic without guide values at the layer where it is lowest; NaN if any is.

    Which layer it is stands in the Text tab, in `health/worst`.
    """
    return values[lowest_of(values)]


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


@diagnostic(
    "highest/<diagnostic>",
    of=Layers,
    where=lambda layers: layers.guide is None,
    given=_without_guide,
)
def highest(values: Mapping[str, float]) -> float:
    """A diagnostic without guide values where it is highest; as the lowest."""
    return values[highest_of(values)]


def lowest_of(values: Mapping[str, float]) -> str:
    """The name of the lowest value, or of the first NaN."""
    return min(values, key=lambda name: (not math.isnan(values[name]), values[name]))


def highest_of(values: Mapping[str, float]) -> str:
    """The name of the highest value, or of the first NaN."""
    return max(values, key=lambda name: (math.isnan(values[name]), values[name]))
