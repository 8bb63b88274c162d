"""What follows from an alert: a line in the log, the end of training, or a call."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from .alert import Alert, rank
from .explanation import command

OnAlert: TypeAlias = str | Callable[[Alert], object]

WAYS = ("log", "stop", "raise")
LOGGED_AS = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "critical": logging.CRITICAL,
}
_log = logging.getLogger("kbn")


class TrainingAlert(RuntimeError):
    """A training is critically ill; `alert` says how.

    Example:
        >>> import kbn
        >>> from kbn.callbacks import Alert, TrainingAlert
        >>> alert = Alert("non_finite", "critical", "x", 3, 1, 5.0, 0.0, "NaN in x.")
        >>> try:
        ...     raise TrainingAlert(alert)
        ... except TrainingAlert as error:
        ...     print(error.alert.where)
        x
    """

    def __init__(self, alert: Alert) -> None:
        super().__init__(str(alert))
        self.alert = alert

    def __reduce__(self) -> tuple[type["TrainingAlert"], tuple[Alert]]:
        return type(self), (self.alert,)


def check(on_alert: object) -> None:
    """Raise a ValueError unless it is one of "log", "stop", "raise", or a function."""
    if not callable(on_alert) and on_alert not in WAYS:
        ways = ", ".join(map(repr, WAYS))
        raise ValueError(
            f"TrainingMonitor(on_alert={on_alert!r}): expected {ways} or a function of "
            "an Alert."
        )


def act(alerts: Iterable[Alert], on_alert: OnAlert) -> bool:
    """Do what is to be done about new alerts; whether training is to stop.

    Alerts that are over are passed by. What a user's function raises is not caught.

    Raises:
        TrainingAlert: One is critical, and `on_alert` is "raise"; the others have been
            logged by then.
    """
    fresh = [alert for alert in alerts if alert.is_open]
    if callable(on_alert):
        for alert in fresh:
            on_alert(alert)
        return False
    for alert in fresh:
        _log.log(LOGGED_AS[alert.level], "%s", brief(alert))
    critical = [alert for alert in fresh if alert.level == "critical"]
    if not critical or on_alert == "log":
        return False
    if on_alert == "raise":
        raise TrainingAlert(critical[0])
    _log.critical(
        "Training stops after step %d, because of %s (on_alert='stop').",
        critical[0].step,
        critical[0].rule,
    )
    return True


def brief(alert: Alert) -> str:
    """Two lines for a console: what, where and when; what to try, how to read more."""
    second = f"try: {alert.remedy}" if alert.remedy else alert.message
    return f"{alert.headline}\n  {second} ({command(alert.rule)})"


def log_summary(summary: str, found: Sequence[Alert]) -> None:
    """Say at the end of a training how it went, if alerts are open: notes too."""
    if found:
        worst = max((alert.level for alert in found), key=rank)
        _log.log(max(logging.WARNING, LOGGED_AS[worst]), "%s", summary)
