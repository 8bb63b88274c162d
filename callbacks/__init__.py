"""Callbacks that make a training visible, and its statistics fit its weights."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import rules as rules
    from . import sinks as sinks
    from .alerts.action import TrainingAlert as TrainingAlert
    from .alerts.alert import Alert as Alert
    from .monitor import TrainingMonitor as TrainingMonitor
    from .report.report import Report as Report
    from .signals.remedy import Remedy as Remedy
    from .update_bn_stats import UpdateBatchNormStats as UpdateBatchNormStats

HOMES = {
    "Alert": ".alerts.alert",
    "Remedy": ".signals.remedy",
    "Report": ".report.report",
    "TrainingAlert": ".alerts.action",
    "TrainingMonitor": ".monitor",
    "UpdateBatchNormStats": ".update_bn_stats",
}

if __name__ == "callbacks":
    raise ImportError(
        "`import callbacks` would make a second copy of every class: import "
        "kbn.callbacks."
    )

__all__ = [*HOMES, "rules", "sinks"]


def __dir__() -> list[str]:
    """The public names, those too that are imported at their first use."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import a callback, and with the monitor TensorBoard, at its first use."""
    if name in ("rules", "sinks"):
        return importlib.import_module(f".{name}", __name__)
    if name not in HOMES:
        module = sys.modules[__name__]
        text = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=module)
    return getattr(importlib.import_module(HOMES[name], __name__), name)
