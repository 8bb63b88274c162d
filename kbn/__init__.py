"""kbn: batch normalization for Keras that is fast, exact and visible."""

import importlib
from typing import TYPE_CHECKING, Any

from kbn.layer import BatchNormalization as BatchNormalization

if TYPE_CHECKING:
    from kbn.surgery.convert import convert_batch_norm as convert_batch_norm
    from kbn.surgery.fold import fold_batch_norm as fold_batch_norm

BatchNorm = BatchNormalization

__version__ = "0.1.0"

# Imported at their first use, so that `import kbn` stays cheap.
_SURGERY = {
    "convert_batch_norm": "kbn.surgery.convert",
    "fold_batch_norm": "kbn.surgery.fold",
}


def __dir__() -> list[str]:
    """All names, those imported at their first use too."""
    return sorted({*globals(), *_SURGERY})


def __getattr__(name: str) -> Any:
    """Import what a name stands for at its first use."""
    if name in _SURGERY:
        return getattr(importlib.import_module(_SURGERY[name]), name)
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
