"""Other homes for what a monitor logs: each is an `on_look` of `TrainingMonitor`.

Example:
    >>> import kbn
    >>> from kbn.callbacks import sinks
    >>> class Headlines(sinks.Sink):
    ...     def alert(self, alert):
    ...         print(alert.headline)
    >>> monitor = kbn.callbacks.TrainingMonitor("logs", on_look=Headlines())
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .alerts.alert import Alert

if TYPE_CHECKING:
    from .report.report import Report

Array: TypeAlias = np.ndarray[Any, Any]
LEVELS = {"warning": "WARN", "critical": "ERROR"}  # of an alert: W&B's
OnLook: TypeAlias = Callable[[int, dict[str, float]], object]


class Sink:
    """Takes what a monitor logs. Override what yours is to take: the rest is dropped.

    An exception in a method is logged once, and training goes on. Of several processes
    that train together, only the first calls it.
    """

    def look(
        self,
        step: int,
        scalars: dict[str, float],
        histograms: Mapping[str, tuple[Array, Array]],
    ) -> None:
        """What is logged of a look or an epoch, by tag, at this step of the optimizer.

        A histogram is (counts, edges), (30,) and (31,), as of `np.histogram`.
        """

    def alert(self, alert: Alert) -> None:
        """An alert that has just been raised."""

    def end(self, report: Callable[[], "Report"]) -> None:
        """A `fit` has ended; `report()` reads its log."""


class _Function(Sink):
    """Calls a function with the scalars."""

    def __init__(self, function: OnLook) -> None:
        self._function = function

    def look(
        self, step: int, scalars: dict[str, float], histograms: Mapping[str, Any]
    ) -> None:
        self._function(step, scalars)


def sink_of(on_look: OnLook | Sink | None) -> Sink | None:
    """Where a monitor's numbers go, beside its log."""
    if on_look is None or isinstance(on_look, Sink):
        return on_look
    return _Function(on_look)


class WeightsAndBiases(Sink):
    """Sends what a monitor logs to a run of Weights & Biases (the package `wandb`).

    Scalars and histograms have the tags of the log. Their charts are over `kbn/step`,
    the step of the optimizer: W&B's own step counts all that anybody logs. Alerts of
    the levels "warning" and "critical" become `run.alert`, which W&B can send by mail;
    notes do not. When `fit` ends, the page of the report is `kbn/report`.

    Args:
        run: What `wandb.init` returned. It is not finished here.

    Raises:
        ImportError: wandb is not installed.
        ValueError: `run` is not a run.
    """

    def __init__(self, run: Any) -> None:
        import wandb

        if not hasattr(run, "define_metric"):
            raise ValueError(
                f"WeightsAndBiases(run={run!r}): run must be what wandb.init returned."
            )
        self._run, self._histogram, self._page = run, wandb.Histogram, wandb.Html
        self._families: set[str] = set()  # of tags, whose axis is known
        run.define_metric("kbn/step", hidden=True)

    def __deepcopy__(self, memo: Any) -> "WeightsAndBiases":
        """The same: a tuner copies its callbacks for each model."""
        return self

    def look(
        self,
        step: int,
        scalars: dict[str, float],
        histograms: Mapping[str, tuple[Array, Array]],
    ) -> None:
        """Log both as one row."""
        for tag in (*scalars, *histograms):
            first, slash, _ = tag.partition("/")
            family = f"{first}/*" if slash else tag
            if family not in self._families:
                self._families.add(family)
                self._run.define_metric(family, step_metric="kbn/step")
        drawn = {tag: self._histogram(np_histogram=x) for tag, x in histograms.items()}
        self._run.log({"kbn/step": step, **scalars, **drawn})

    def alert(self, alert: Alert) -> None:
        """Send it, unless it is a note."""
        if level := LEVELS.get(alert.level):
            title = (alert.title or alert.rule)[:63]  # W&B's limit
            self._run.alert(title, str(alert), level)

    def end(self, report: Callable[[], "Report"]) -> None:
        """Log the report's page."""
        self._run.log({"kbn/report": self._page(report().to_html(), inject=False)})
