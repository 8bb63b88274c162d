"""kbn: batch normalization for Keras that is fast, exact and visible."""

import importlib
from typing import TYPE_CHECKING, Any

from kbn.layer import BatchNormalization as BatchNormalization

if TYPE_CHECKING:
    from kbn.surgery.convert import convert_batch_norm as convert_batch_norm
    from kbn.surgery.fold import fold_batch_norm as fold_batch_norm
    from kbn.surgery.freeze import freeze_batch_norm as freeze_batch_norm
    from kbn.surgery.freeze import unfreeze_batch_norm as unfreeze_batch_norm
    from kbn.surgery.statistics import update_bn_stats as update_bn_stats
    from kbn.surgery.torch_batch_norm import (
        from_torch_batch_norm as from_torch_batch_norm,
    )
    from kbn.surgery.torch_batch_norm import to_torch_batch_norm as to_torch_batch_norm

BatchNorm = BatchNormalization

__version__ = "0.1.0"

# {name: module of kbn.surgery}, imported at their first use: `import kbn` stays cheap.
_SURGERY = {
    "convert_batch_norm": "convert",
    "fold_batch_norm": "fold",
    "freeze_batch_norm": "freeze",
    "unfreeze_batch_norm": "freeze",
    "update_bn_stats": "statistics",
    "from_torch_batch_norm": "torch_batch_norm",
    "to_torch_batch_norm": "torch_batch_norm",
}


def __dir__() -> list[str]:
    """The public names, those too that are imported at their first use."""
    return sorted({*globals(), *_SURGERY} - {"TYPE_CHECKING", "Any", "importlib"})


def __getattr__(name: str) -> Any:
    """Import what a name stands for at its first use."""
    if name in _SURGERY:
        return getattr(importlib.import_module(f"kbn.surgery.{_SURGERY[name]}"), name)
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
