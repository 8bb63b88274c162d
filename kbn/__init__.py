"""kbn: batch normalization for Keras that is fast, exact and visible."""

import importlib
from typing import Any

from kbn.layer import BatchNormalization as BatchNormalization

BatchNorm = BatchNormalization

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import kbn.callbacks at its first use, so that `import kbn` stays cheap."""
    if name not in ("callbacks", "capture"):
        raise AttributeError(f"module 'kbn' has no attribute {name!r}")
    try:
        callbacks = importlib.import_module("kbn.callbacks")
    except ModuleNotFoundError as error:
        if error.name != "kbn.callbacks":
            raise
        raise ImportError(
            f"kbn.callbacks is not beside {__file__}: this looks like a source "
            "checkout that is not installed. Run `pip install -e .` in it, or "
            "start Python outside of it to use the installed wheel."
        ) from error
    if name == "callbacks":
        return callbacks
    return importlib.import_module("kbn.callbacks.capture").capture
