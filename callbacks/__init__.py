"""Callbacks that make a training visible."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .monitor import TrainingMonitor as TrainingMonitor

__all__ = ["TrainingMonitor"]


def __getattr__(name: str) -> Any:
    """Import the monitor, and TensorBoard with it, at its first use."""
    if name != "TrainingMonitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(".monitor", __name__).TrainingMonitor
