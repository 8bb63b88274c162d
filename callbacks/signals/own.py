"""Signals of the user's own: functions of a look's tensors that return a number."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from . import registry
from .registry import Chart, Signal
from .subjects import Own


class Tensors(NamedTuple):
    """What a look offers to a signal, of the step that it looks at.

    Attributes:
        activations: What each call of a layer gave in training, by the name that tags
            have: `hidden`, `hidden#1` for its second call.
        gradients: By the path of the variable, before clipping, without loss scale.
        weights: Variables before the step, by path.
    """

    activations: Mapping[str, Any]
    gradients: Mapping[str, Any]
    weights: Mapping[str, Any]


Function: TypeAlias = Callable[[Tensors], Any]


class Named(Mapping[str, Any]):
    """Tensors by name, each made when it is asked for."""

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Any:
        if name not in self._makers:
            names = ", ".join([*self._makers][:20]) or "none"
            raise KeyError(f"no tensor {name!r}; there are: {names}")
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def entered(functions: Iterable[Any]) -> tuple[Function, ...]:
    """The functions, each entered in the registry as `signals/<its name>`.

    Raises:
        ValueError: One is no function, has no name, or the name of another.
    """
    if isinstance(functions, str) or not isinstance(functions, Iterable):
        raise ValueError(f"signals={functions!r}: expected a list of functions")
    found: dict[str, Function] = {}
    for function in functions:
        name = getattr(function, "__name__", "")
        if not callable(function) or not name.isidentifier():
            raise ValueError(
                f"signals=[{function!r}]: expected functions with a name, which take "
                "the tensors of a look and return a number"
            )
        if name in found:
            raise ValueError(f"signals: two functions have the name {name!r}")
        found[name] = function
    for name, function in found.items():
        _enter(name, function)
    return tuple(found.values())


def _enter(name: str, function: Function) -> None:
    tag = f"signals/{name}"
    registry.REGISTRY.pop(tag, None)  # of a monitor before
    registry.add(
        Signal(
            tag,
            of=Own,
            value=lambda value: value,
            given=lambda own: (own.value,),
            where=lambda own: own.name == name,
            chart=Chart("Signals", name),
            description=function.__doc__ or f"`{name}`, a signal of the user's own.",
        )
    )


def evaluate(
    functions: Sequence[Function], tensors: Tensors, failed: dict[str, Exception]
) -> dict[str, Any]:
    """{name of a function: what it returns, a float32 of no dimension}.

    Whatever one raises goes into `failed`.
    """
    import keras

    found = {}
    for function in functions:
        try:
            value = keras.ops.cast(function(tensors), "float32")
            shape = tuple(value.shape)
            if shape:
                raise ValueError(f"it returned the shape {shape}, expected one number")
            found[function.__name__] = value
        except Exception as error:  # no reason to lose the others
            failed[function.__name__] = error
    return found
