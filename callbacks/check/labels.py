"""Targets with which no step can be made: by their shapes and labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import tree

from ..alerts.alert import Alert
from ..signals.remedy import ask
from ..signals.targets import CLASSES, LOSSES, Fault, OutputMismatch
from ..watch.targets import Supervision, setting, supervised
from ..watch.tensors import tensor
from .examples import Examples
from .trial import Outputs, shapes

SPARSE = "sparse_categorical_crossentropy"


def misfits(model: Any, given: Examples, outputs: Outputs) -> list[Alert]:
    """What does not fit, by outputs of the first batch; the model is compiled.

    Raises:
        ValueError: The loss of the first batch cannot be computed, for another reason.
    """
    x, y, weights = (tree.map_structure(tensor, z) for z in given.batches[0])
    failure = None
    try:  # it tells the losses by their outputs too
        model.compute_loss(x, y, model(x, training=False), weights)
    except Exception as error:
        failure = error
    whole = Supervision(given.everything[1], None, outputs)
    alerts = [
        _alert(head.name, fault)
        for head, targets, _, output in (
            supervised(model, whole) if y is not None else ()
        )
        for fault in faults(
            head.loss_name, targets, output, setting(head.loss, "ignore_class")
        )
    ]
    if failure is not None and not alerts:
        raise ValueError(
            f"kbn.check received y of shape {shapes(given.batches[0][1])} in a "
            f"batch, of which the loss cannot be computed: {failure}"
        ) from failure
    return alerts


def _alert(where: str, fault: Fault) -> Alert:
    rule, message = OutputMismatch, f"{fault.message} {fault.remedy.words}"
    return Alert(
        rule.name,
        "critical",
        where,
        step=0,
        epoch=None,
        value=fault.share,
        limit=rule.share,
        message=message,
        title=rule.title,
        remedy=fault.remedy,
    )


def faults(
    loss: str | None, targets: Any, output: Any, ignored: Any
) -> Iterator[Fault]:
    """What does not fit: targets, (N, ...), beside outputs of a batch, (n, ..., C).

    `loss`: its name in `LOSSES`; of others nothing is known. `ignored`: a label that
    counts for nothing.
    """
    known, y = LOSSES.get(str(loss)), np.asarray(targets)
    if known is None:
        return
    units, is_wide = output.shape[-1], y.ndim == output.ndim and y.shape[-1] > 1
    shapes = f"targets have shape {_of_one(y)}, outputs {_of_one(output)}"
    differ = _of_one(y) != _of_one(output)
    if loss == SPARSE and not is_wide:
        yield from _out_of_range(y, units, ignored)
    elif loss == SPARSE:
        cure = ask("Use categorical_crossentropy, or y.argmax(axis=-1).")
        yield Fault(1.0, f"{loss} takes whole numbers, but {shapes}.", cure)
    elif known.kind == CLASSES and differ:
        cure = ask(f"Use {SPARSE}, or keras.utils.to_categorical(y, {units}).")
        yield Fault(1.0, f"{loss} takes one-hot rows, but {shapes}.", cure)
    elif differ and (is_wide or units > 1):  # else Keras adds the axis
        cure = ask(f"Give the output one unit, or, for classes, use {SPARSE}.")
        if is_wide:
            wanted = y.shape[-1]
            cure = ask(f"Give the output {wanted} units, or targets of {units}.")
        yield Fault(1.0, f"{loss} compares number by number, but {shapes}.", cure)


def _of_one(x: Any) -> tuple[int, ...]:
    return tuple(map(int, x.shape[1:]))


def _out_of_range(y: Any, units: int, ignored: Any) -> Iterator[Fault]:
    labels = y[np.isfinite(y)] if y.dtype.kind == "f" else y.reshape(-1)
    labels = labels if ignored is None else labels[labels != ignored]
    is_wrong = (labels < 0) | (labels >= units) | (labels != np.floor(labels))
    if not is_wrong.any():
        return
    low, high = labels.min(), labels.max()
    cure = f"Give the output {high + 1:.0f} units."
    if (labels != np.floor(labels)).any():
        cure = "Use whole numbers, or a loss of numbers, such as mse."
    elif low < 0:
        cure = "Number the classes from 0: np.unique(y, return_inverse=True)[1]."
    elif high - low < units:
        cure = f"Train on y - {low:g}."
    yield Fault(
        float(is_wrong.mean()),
        f"The labels go from {low:g} to {high:g}, but the output has {units} units, "
        f"for whole numbers from 0 to {units - 1}.",
        ask(cure),
    )
