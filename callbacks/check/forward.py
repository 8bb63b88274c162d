"""What a model gives for a batch, and two facts on that; nothing is left changed."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import tree

from ..watch.tensors import is_readable, tensor, to_numpy

Outputs = Mapping[tuple[Any, ...], Any]


def outputs(model: Any, x: Any, training: bool) -> Outputs:
    """{path in y_pred: array}, by a model that is built."""
    with keras.StatelessScope():
        given = model(tree.map_structure(tensor, x), training=training)
    return {
        tuple(path): to_numpy(keras.ops.cast(one, "float32"))
        for path, one in tree.flatten_with_path(given)
        if is_readable(one)
    }


def shapes(structure: Any) -> Any:
    """Of the arrays in a structure, for a user to read."""
    return tree.map_structure(lambda x: getattr(x, "shape", None), structure)


def spread(given: Outputs) -> float:
    """How far outputs differ between examples, beside their size: the largest.

    std over examples / root mean square; 0 if all examples get one answer, NaN if it
    cannot be told: of one example, or where an output is not finite.
    """
    found = [0.0]
    for one in given.values():
        if not one.ndim or len(one) < 2 or not np.isfinite(one).all():
            return np.nan
        size = np.sqrt(np.square(one, dtype=np.float64).mean())
        if size > 0:
            found.append(float(one.std(axis=0, dtype=np.float64).max() / size))
    return max(found)


def mixed(model: Any, x: Any, given: Outputs) -> float:
    """How far the first example's output depends on the others of its batch.

    |y_1 - y'_1|, y' of a batch of that example alone, repeated, beside the deviation of
    y between examples; the largest over the outputs, in evaluation mode.
    """
    alone = outputs(model, tree.map_structure(_of_first, x), training=False)
    found = [0.0]
    for path, one in given.items():
        other = alone[path]
        if one.shape != other.shape or not one.ndim or not np.isfinite(one).all():
            continue
        # What rounding makes of numbers of this size is no difference.
        scale = one.std(axis=0).max() + 1e-3 * np.abs(one).max()
        apart = np.abs(one[0] - other[0]).max()
        found.append(float(apart / scale) if scale else 0.0)
    return max(found)


def _of_first(x: Any) -> Any:
    return np.repeat(x[:1], len(x), axis=0) if isinstance(x, np.ndarray) else x
