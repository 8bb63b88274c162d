"""Batch norms fold into the layers beside them, for inference."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kbn.private import keras as private
from kbn.surgery import compiling, copying, graph, plan
from kbn.surgery.plan import Fold


@dataclasses.dataclass(frozen=True)
class Folding:
    """Tells what became of each batch norm, and how far the model's outputs moved.

    Iterates over all, in the order of the model's layers, each a
    `(batch_norm, into, reason)`.
    """

    folds: tuple[Fold, ...]
    difference: float | None
    compared: str

    @property
    def folded(self) -> tuple[Fold, ...]:
        """The batch norms that a layer took up."""
        return tuple(fold for fold in self.folds if fold.into)

    @property
    def left(self) -> tuple[Fold, ...]:
        """The batch norms that stay, each with the reason."""
        return tuple(fold for fold in self.folds if not fold.into)

    def __iter__(self) -> Iterator[Fold]:
        return iter(self.folds)

    def __len__(self) -> int:
        return len(self.folds)

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} of {len(self)} batch norms folded."]
        lines += [f"  {fold.batch_norm} -> {fold.into}" for fold in self.folded]
        lines += [f"  {fold.batch_norm} stays: {fold.reason}" for fold in self.left]
        return "\n".join([*lines, self.compared])


def fold_batch_norm(model: Any, verbose: bool = False, probe: Any = None) -> Any:
    """A copy of `model` for inference, without the batch norms that layers can take up.

    In inference a batch norm is a map of each channel, y = scale * x + shift, with
    scale = gamma / sqrt(moving_variance + epsilon) and shift = beta - scale *
    moving_mean. A convolution (Conv1D to Conv3D, transposed, depthwise, separable) or
    Dense before it takes both into its kernel and bias; so does one behind it that sees
    no padding, global average pooling in between or not. The new weights are computed
    in float64.

    A batch norm stays where that would not be exact: something else reads the value in
    between, an activation is in between, its channels are on another axis, either layer
    is called more than once, quantized, of another dtype policy or called with
    `training=True`. Layers that do nothing in inference, such as dropout, may be in
    between, and models that are called once.

    Args:
        model: A sequential or functional model, with any models nested in it, built,
            with Keras' batch norm or ours. It stays as it is.
        verbose: Whether to print what was folded.
        probe: Inputs to compare the outputs on. By default random ones, of 2 samples
            and, where the model leaves sizes open, of a size that it takes.

    Returns:
        The copy, compiled as `model` is. Its attribute `folding` is a sequence of
        `(batch_norm, into, reason)`, one for each batch norm, by name; `into` is None
        where it stays. `folding.difference` is the largest difference of the outputs
        over the largest output; None where the two could not be run.

    Raises:
        ValueError: `model` is subclassed, or has no weights yet, or a layer cannot be
            copied, which is named.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)),
        ...     keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
        ...     kbn.BatchNorm(name="norm"),
        ...     keras.layers.ReLU(),
        ... ])
        >>> folded = kbn.fold_batch_norm(model)
        >>> [(fold.batch_norm, fold.into) for fold in folded.folding]
        [('norm', 'conv')]
        >>> [layer.name for layer in folded.layers]
        ['conv', 're_lu']
        >>> folded.folding.difference < 1e-5
        True
    """
    graph.require_graph(model, "fold_batch_norm")
    planned = plan.plan(model)
    changes = {layer: taken.changes for layer, taken in planned.taken.items()}
    folded, twins = copying.copy(model, changes, planned.gone, plain=True)
    for layer, taken in planned.taken.items():
        for variable in private.own_variables(twins[layer]):
            values = taken.weights[variable.name]
            variable.assign(values.reshape(variable.shape))
    compiling.compile_like(model, folded, None)
    difference, compared = _compared(model, folded, probe)
    folded.folding = Folding(tuple(planned.folds), difference, compared)
    if verbose:
        print(folded.folding)
    return folded


def _compared(
    model: keras.Model, folded: keras.Model, probe: Any
) -> tuple[float | None, str]:
    """The largest difference of the outputs over the largest output; and in words."""
    reason = "it has inputs of text"
    for x in probes(model) if probe is None else [probe]:
        try:
            theirs, ours = (_outputs(one, x) for one in (model, folded))
        except Exception as error:  # a size that the model does not take
            if probe is not None:
                raise
            reason = str(error).strip().rpartition("\n")[2]
            continue
        finite = np.isfinite(theirs) & np.isfinite(ours)
        same = finite | (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
        difference = float(np.abs(theirs[finite] - ours[finite]).max(initial=0))
        if largest := np.abs(theirs[np.isfinite(theirs)]).max(initial=0):
            difference = difference / float(largest)
        difference = difference if same.all() else np.inf
        return difference, (
            f"Outputs on a probe batch differ by {difference:.1e} of the largest one."
        )
    return None, f"The outputs were not compared: {reason}."


def _outputs(model: keras.Model, x: Any) -> Any:
    """All that `model` gives for `x` in inference. Stateless: nothing in it moves."""
    trainable = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    outputs, _ = model.stateless_call(trainable, others, x, training=False)
    arrays = map(keras.ops.convert_to_numpy, keras.tree.flatten(outputs))
    return np.concatenate([np.ravel(one).astype("float64") for one in arrays])


def probes(model: keras.Model) -> Iterator[Any]:
    """Random inputs of 2 samples, in several sizes where `model` leaves them open."""
    inputs = graph.function(model).input
    tensors = keras.tree.flatten(inputs)
    if any(tensor.dtype == "string" for tensor in tensors):
        return
    rng = np.random.default_rng(0)

    def random(tensor: Any, size: int) -> Any:
        batch, *rest = tensor.shape
        shape = (batch or 2, *(one or size for one in rest))
        # Of indices, 0 and 1 are hardly ever out of range.
        is_float = "float" in tensor.dtype
        values = rng.normal(size=shape) if is_float else rng.integers(0, 2, shape)
        return keras.ops.cast(keras.ops.convert_to_tensor(values), tensor.dtype)

    open_sizes = any(None in tensor.shape[1:] for tensor in tensors)
    for size in (32, 64, 128, 256, 8) if open_sizes else (1,):
        yield keras.tree.map_structure(lambda t, n=size: random(t, n), inputs)
