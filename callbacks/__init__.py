"""Callbacks that make a training visible."""

from .monitor import TrainingMonitor as TrainingMonitor

__all__ = ["TrainingMonitor"]
