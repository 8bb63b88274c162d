"""Methods of instances overridden for a while, to note what they are given and give."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from .layers import attribute
from .sight import CallLog

# (sight, method, args, kwargs, what it returned)
Note: TypeAlias = Callable[[CallLog, Callable[..., Any], Any, Any, Any], None]


@contextlib.contextmanager
def overridden(
    notes: Iterable[tuple[Any, str, Note]], sight: Callable[[], CallLog | None]
) -> Iterator[None]:
    """Call each (instance, name of a method, note) along with the method, for a while.

    `sight()` says where to note: None for nowhere. Whatever a note raises, the call
    goes on.
    """
    with contextlib.ExitStack() as restore:
        for instance, method, note in notes:
            restore.callback(_override(instance, method, note, sight))
        yield


def _override(
    instance: Any, name: str, note: Note, sight: Callable[[], CallLog | None]
) -> Callable[[], None]:
    """Note what a method is given and gives; returns what puts the old state back.

    A user's own method may take any arguments: they are handed on as they came.
    """
    method = attribute(instance, name)
    if not callable(method):
        return lambda: None

    @functools.wraps(method, updated=())
    def noted_method(*args: Any, **kwargs: Any) -> Any:
        seen = sight()
        if seen is None:
            return method(*args, **kwargs)
        what = f"{name} of {attribute(instance, 'name')}"
        outputs = None
        if name == "apply":  # which changes the loss scale; and a zip is read once
            args = tuple(list(x) if isinstance(x, Iterator) else x for x in args)
        else:
            outputs = method(*args, **kwargs)
        seen.try_to(lambda: note(seen, method, args, kwargs, outputs), what)
        return method(*args, **kwargs) if name == "apply" else outputs

    own = vars(instance)
    is_own, before = name in own, own.get(name)
    try:  # past Keras' tracking
        object.__setattr__(instance, name, noted_method)
    except AttributeError:  # it has no dictionary, or a property in its place
        return lambda: None

    def restore() -> None:
        if own.get(name) is not noted_method:
            return  # somebody else's, set meanwhile
        if is_own:
            object.__setattr__(instance, name, before)
        else:
            object.__delattr__(instance, name)

    return restore
