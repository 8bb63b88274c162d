"""Which calls of a model are noted in a sight, and what of each."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from kbn.private import keras as private

from .inventory import BatchNorm
from .layers import Layer, Variable, attribute
from .overriding import Note, overridden
from .sight import CallLog
from .tensors import is_readable


@contextlib.contextmanager
def seeing(
    layers: Mapping[str, Layer],
    optimizers: Mapping[str, Any],
    weights: Callable[[], Mapping[str, Variable]],
    sight: Callable[[], CallLog | None],
    norms: Mapping[str, BatchNorm] | None = None,
    model: Any = None,
) -> Iterator[None]:
    """Note the outputs of layers and the gradients given to optimizers, for a while.

    `sight()` says where to note: None for nowhere. `weights` is asked when gradients
    arrive: a model may be built only then. Of `norms` the inputs are noted, of `model`
    the outputs and the losses it computes.
    """
    notes: list[tuple[Any, str, Note]] = [
        (layer, "call", functools.partial(_note_outputs, name))
        for name, layer in layers.items()
    ]
    notes += [
        (norm.layer, "call", functools.partial(_note_norm, name, norm))
        for name, norm in (norms or {}).items()
    ]
    if model is not None:
        notes.append((model, "call", _note_model))
        notes.append((model, "compute_loss", _note_loss))
    notes += [
        (x, "apply", functools.partial(_note_gradients, name, x, weights))
        for name, x in optimizers.items()
    ]
    with overridden(notes, sight):
        yield


def _note_outputs(
    name: str, seen: CallLog, method: Any, args: Any, kwargs: Any, outputs: Any
) -> None:
    tensors = [x for x in keras.tree.flatten(outputs) if is_readable(x)]
    if tensors and seen.reaches(name):
        call = seen.number(name)
        for index, tensor in enumerate(tensors):
            part = f"{call}/{index}" if len(tensors) > 1 else call
            seen.activations[part] = (tensor, name)


def _note_norm(
    name: str,
    norm: BatchNorm,
    seen: CallLog,
    method: Any,
    args: Any,
    kwargs: Any,
    outputs: Any,
) -> None:
    given = dict(zip(("inputs", "training", "mask"), args, strict=False)) | kwargs
    inputs = given.get("inputs")
    if is_readable(inputs) and seen.reaches(name):
        call = seen.number(name, "norm")
        is_training = given.get("training") is True and not norm.is_frozen
        if is_training and given.get("mask") is None:
            seen.norm_inputs[call] = (inputs, name)


def _note_model(seen: CallLog, method: Any, args: Any, kwargs: Any, outputs: Any) -> None:
    if seen.is_here:
        seen.outputs += keras.tree.flatten(outputs)


def _note_loss(seen: CallLog, method: Any, args: Any, kwargs: Any, loss: Any) -> None:
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    if seen.is_here and {"x", "y"} <= given.keys():
        parts = [given.get(name) for name in ("x", "y", "sample_weight")]
        of = [leaf for leaf in keras.tree.flatten(parts) if leaf is not None]
        seen.losses.append((loss, of))


def _note_gradients(
    name: str,
    optimizer: Any,
    weights: Callable[[], Mapping[str, Variable]],
    seen: CallLog,
    method: Any,
    args: Any,
    kwargs: Any,
    outputs: Any,
) -> None:
    given = dict(zip(("grads", "trainable_variables"), args, strict=False)) | kwargs
    if not seen.reaches(name):
        return
    seen.applied.append(name)
    # Without a list, an optimizer goes by the one that it was built with.
    variables = given.get("trainable_variables") or private.optimizer_variables(
        optimizer
    )
    paths = {id(weight): path for path, weight in weights().items()}
    scale = seen.scale(optimizer)
    for gradient, variable in zip(given["grads"], variables, strict=False):
        path = paths.get(id(variable))
        # Of a variable of float8's scaling, it is the new value.
        is_value = attribute(variable, "overwrite_with_gradient", False)
        if gradient is not None and path is not None and not is_value:
            seen.gradients[seen.number(path)] = (gradient, scale)
