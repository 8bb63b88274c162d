"""How many alerts are open."""

from .registry import Chart, diagnostic
from .subjects import OpenAlerts


@diagnostic(
    "alerts/<level>",
    of=OpenAlerts,
    given=lambda alerts: (alerts.count,),
    unit="alerts",
    chart=Chart("Alerts", "open alerts"),
)
def open_alerts(count: int) -> float:
    """Alerts of this level, critical, warning or info, that are open.

    What they say stands in the Text tab. Written from the first alert on.
    """
    return float(count)
