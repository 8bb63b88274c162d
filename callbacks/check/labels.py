"""Targets that no step could be made with: by their shapes and labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..signals.remedy import Remedy, ask
from ..signals.targets import CLASSES, LOSSES, Fault

SPARSE = "sparse_categorical_crossentropy"


def faults(
    loss: str | None, targets: Any, output: Any, ignored: Any
) -> Iterator[Fault]:
    """What does not fit: targets, (N, ...), beside outputs of a batch, (n, ..., C).

    `loss`: its name in `LOSSES`; of others nothing is known. `ignored`: a label that
    counts for nothing.
    """
    known, y, axes = LOSSES.get(str(loss)), np.asarray(targets), output.ndim
    if known is None:
        return
    units = output.shape[-1]
    shapes = (
        f"the targets have shape {_of_one(y)} an example, the outputs {_of_one(output)}"
    )
    is_column = y.ndim == axes and y.shape[-1] == 1
    if known.kind == CLASSES and loss != SPARSE:
        if y.shape[1:] != output.shape[1:]:
            yield Fault(
                1.0,
                f"{loss} takes one-hot rows, but {shapes}.",
                ask(f"Use {SPARSE}, or keras.utils.to_categorical(y, {units})."),
            )
    elif loss == SPARSE:
        if y.ndim == axes and not is_column:
            yield Fault(
                1.0,
                f"{loss} takes whole numbers, but {shapes}.",
                ask("Use categorical_crossentropy, or y.argmax(axis=-1)."),
            )
        else:
            yield from _out_of_range(y, units, ignored)
    elif y.ndim == axes and y.shape[1:] != output.shape[1:]:
        yield Fault(
            1.0,
            f"{loss} compares number by number, but {shapes}.",
            _units(y, units),
        )
    elif y.ndim == axes - 1 and units > 1:
        yield Fault(
            1.0,
            f"{loss} compares number by number, but {shapes}.",
            ask(f"Give the output one unit, or, of {units} classes, use {SPARSE}."),
        )


def _of_one(x: Any) -> tuple[int, ...]:
    return tuple(map(int, x.shape[1:]))


def _units(y: Any, units: int) -> Remedy:
    wanted = y.shape[-1]
    if wanted == units:
        return ask("Bring targets and outputs to one shape.")
    return ask(f"Give the last layer {wanted} units, or targets of {units} numbers.")


def _out_of_range(y: Any, units: int, ignored: Any) -> Iterator[Fault]:
    labels = y[np.isfinite(y)] if y.dtype.kind == "f" else y.reshape(-1)
    labels = labels if ignored is None else labels[labels != ignored]
    if not labels.size:
        return
    low, high = labels.min(), labels.max()
    if low < 0 or high >= units or (labels != np.floor(labels)).any():
        to = high - low + 1
        cure = f"Give the output {high + 1:.0f} units."
        if low > 0 and to <= units:
            cure = f"Train on y - {low:g}."
        elif low < 0:
            cure = "Number the classes from 0: np.unique(y, return_inverse=True)[1]."
        elif (labels != np.floor(labels)).any():
            cure = "Use whole numbers, or a loss of numbers, such as mse."
        yield Fault(
            float(((labels < 0) | (labels >= units)).mean()) or 1.0,
            f"The labels go from {low:g} to {high:g}, but the output has {units} units,"
            f" for labels from 0 to {units - 1}.",
            ask(cure),
        )
