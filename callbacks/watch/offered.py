"""What a look offers to signals of the user's own: whole tensors, by name."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from ..signals.own import Named, Tensors
from ..signals.subjects import Gradient, Output, Subject
from .notes import Notes


def offered(
    notes: Notes, whole: Callable[[str], Any], weights: Mapping[str, Any]
) -> Tensors:
    """What a signal of the user's own may ask for; `whole`: a tensor by its key."""

    def named(kind: type[Subject]) -> Named:
        return Named(
            {
                one.name: functools.partial(whole, key)
                for key, one in notes.subjects.items()
                if isinstance(one, kind)
            }
        )

    make = keras.ops.convert_to_tensor
    makers = {path: functools.partial(make, x) for path, x in weights.items()}
    return Tensors(named(Output), named(Gradient), Named(makers))


def whole_of(subject: Subject, replicas: Sequence[Any]) -> Any:
    """One tensor of those of replicas: all examples, or the gradient by all."""
    if len(replicas) == 1:
        return replicas[0]
    if isinstance(subject, Gradient):
        return functools.reduce(keras.ops.add, replicas)
    return keras.ops.concatenate(replicas, axis=0)
