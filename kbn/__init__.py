"""kbn: batch normalization for Keras that is fast, exact and visible."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from kbn.layer import BatchNormalization as BatchNormalization

if TYPE_CHECKING:
    from kbn import callbacks as callbacks
    from kbn.callbacks.capture import capture as capture
    from kbn.callbacks.check.check import check as check
    from kbn.surgery.convert import convert_batch_norm as convert_batch_norm
    from kbn.surgery.fold import fold_batch_norm as fold_batch_norm
    from kbn.surgery.freeze import freeze_batch_norm as freeze_batch_norm
    from kbn.surgery.freeze import unfreeze_batch_norm as unfreeze_batch_norm
    from kbn.surgery.insert import insert_batch_norm as insert_batch_norm
    from kbn.surgery.statistics import update_bn_stats as update_bn_stats
    from kbn.surgery.torch_batch_norm import (
        from_torch_batch_norm as from_torch_batch_norm,
    )
    from kbn.surgery.torch_batch_norm import to_torch_batch_norm as to_torch_batch_norm

BatchNorm = BatchNormalization

__version__ = "0.1.0"

# {name: its module}, imported at their first use: `import kbn` stays cheap.
_HOMES = {
    "capture": "callbacks.capture",
    "check": "callbacks.check.check",
    "convert_batch_norm": "surgery.convert",
    "fold_batch_norm": "surgery.fold",
    "freeze_batch_norm": "surgery.freeze",
    "from_torch_batch_norm": "surgery.torch_batch_norm",
    "insert_batch_norm": "surgery.insert",
    "to_torch_batch_norm": "surgery.torch_batch_norm",
    "unfreeze_batch_norm": "surgery.freeze",
    "update_bn_stats": "surgery.statistics",
}
__all__ = ["BatchNorm", "BatchNormalization", "__version__", "callbacks", *_HOMES]


def __dir__() -> list[str]:
    """The public names, those too that are imported at their first use."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import what a name stands for at its first use."""
    if name != "callbacks" and name not in _HOMES:
        text = f"module 'kbn' has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=sys.modules[__name__])
    try:
        module = importlib.import_module(f"kbn.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name != "kbn.callbacks":
            raise
        raise ImportError(
            f"kbn.callbacks is not beside {__file__}, where a link to callbacks/ has "
            "to be: this checkout was made without symbolic links. Run `git config "
            "core.symlinks true` and `git checkout -- kbn/callbacks` in it, or "
            "install the wheel."
        ) from error
    return module if name == "callbacks" else getattr(module, name)
