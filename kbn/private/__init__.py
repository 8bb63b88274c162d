"""The private names of frameworks that kbn uses, one file a framework.

What only looks, or only chooses the faster way, goes on without a name that has moved.
What copies or changes a model raises `Moved`: half a copy is worse than none.
`tests/test_private.py` says which name of which framework is gone.
"""

import sys
from typing import Any


class Moved(RuntimeError):
    """A private name of a framework is not where kbn knows it."""


def required(owner: Any, name: str, framework: str, known: str) -> Any:
    """`owner.name`.

    Raises:
        Moved: `owner` has none; says of which version of `framework`, and which are
            `known` to have it.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        # A nightly's package has another name than its module.
        version = sys.modules[framework].__version__
        raise Moved(
            f"{framework} {version}: {type(owner).__name__} has no {name}, which kbn "
            f"needs here and knows of {framework} {known}. Install one of those, or a "
            "newer kbn."
        ) from error
