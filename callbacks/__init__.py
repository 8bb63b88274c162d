"""Callbacks that make a training visible, and its statistics fit its weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .monitor import TrainingMonitor as TrainingMonitor
    from .update_bn_stats import UpdateBatchNormStats as UpdateBatchNormStats

HOMES = {"TrainingMonitor": ".monitor", "UpdateBatchNormStats": ".update_bn_stats"}

__all__ = ["TrainingMonitor", "UpdateBatchNormStats"]


def __getattr__(name: str) -> Any:
    """Import a callback, and with the monitor TensorBoard, at its first use."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name], __name__), name)
