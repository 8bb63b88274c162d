"""Imports modules of kbn that need no Keras, without `import kbn`, which needs it.

So TensorBoard's tab and `kbn report` start in half a second. The modules have their own
names and are no copies: a later `import kbn` finds and keeps them.
"""

import importlib
import importlib.util
import sys
import threading
from types import ModuleType

_lock = threading.RLock()


def load(name: str) -> ModuleType:
    """The module of this full name, such as `kbn.callbacks.report.report`.

    `kbn/__init__.py` is not run. The modules of `kbn.callbacks.log`, `.report`,
    `.alerts` and `.signals` import neither Keras nor a backend.

    Raises:
        ImportError: kbn is not installed, or the module needs what is missing.

    Example:
        >>> import kbn_light
        >>> report = kbn_light.load("kbn.callbacks.report.report")
        >>> report.Report([]).verdict
        'Nothing is logged of a training here.'
    """
    with _lock:
        if "kbn" in sys.modules:
            return importlib.import_module(name)
        spec = importlib.util.find_spec("kbn")
        if spec is None:
            raise ModuleNotFoundError("kbn is not installed", name="kbn")
        # Python imports the parents of a module first: it is content with this one.
        sys.modules["kbn"] = importlib.util.module_from_spec(spec)
        try:
            return importlib.import_module(name)
        finally:
            del sys.modules["kbn"]
