"""What sums up a look: the worst layer, the median, how many alerts are open."""

import math
import statistics
from collections.abc import Mapping

from .guide import Guide, worst_of
from .registry import Chart, signal
from .subjects import Layers, OpenAlerts


@signal(
    "layers/worst/<diagnostic>",
    of=Layers,
    given=lambda layers: (layers.values, layers.guide),
)
def worst(values: Mapping[str, float], guide: Guide | None) -> float:
    """A signal at its worst layer, or variable, of those at the look.

    By the guide values, and the highest where there are none; NaN and infinity are
    worse than any number. The Text tab names the layer, in `health/worst`.

    values: by layer or variable, two or more.
    """
    return values[worst_of(guide, values)]


@signal(
    "layers/median/<diagnostic>",
    of=Layers,
    given=lambda layers: (layers.values,),
)
def median(values: Mapping[str, float]) -> float:
    """The median of a signal over the layers, or variables, of the look.

    NaN is left out, unless all are: the worst shows it.
    """
    known = [value for value in values.values() if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


@signal(
    "Health/<level>",
    of=OpenAlerts,
    given=lambda alerts: (alerts.count,),
    unit="alerts",
    chart=Chart("Alerts", "open alerts"),
)
def open_alerts(count: int) -> float:
    """Alerts of this level, critical, warning or info, that are open.

    What is wrong, where, and what to try: the tab Health, and the first table of the
    tab Text. Written from the first alert on.
    """
    return float(count)
