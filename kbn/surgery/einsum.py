"""EinsumDense takes up an affine map, along whatever axes its kernel has."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kbn.surgery.affine import Affine, Array, Inexact, Taken
from kbn.surgery.graph import Layer


class Labels(NamedTuple):
    """The labels of an EinsumDense: an ellipsis becomes one label for each axis."""

    inputs: list[str]
    kernel: list[str]
    outputs: list[str]
    bias: list[str]  # in the order of the outputs

    def _numbered(self, labels: Sequence[str]) -> list[int]:
        every = [*dict.fromkeys(self.inputs + self.kernel + self.outputs)]
        return [every.index(label) for label in labels]

    def sum(self, *operands: Any) -> Array:
        """np.einsum of arrays and their labels in turn; the last are the result's."""
        return np.einsum(
            *(self._numbered(one) if isinstance(one, list) else one for one in operands)
        )

    def spread(self, values: Array, given: list[str], wanted: list[str]) -> Array:
        """`values` with axes `given` as one that broadcasts along `wanted`."""
        moved = [label for label in wanted if label in given]
        turned = np.transpose(values, [given.index(label) for label in moved])
        sizes = iter(turned.shape)
        return turned.reshape([next(sizes) if one in given else 1 for one in wanted])


def labels_of(layer: Layer, taken: Taken, rank: int, of_inputs: bool) -> Labels:
    """The labels of `layer` on inputs, or with outputs, of `rank` axes."""
    left, _, right = layer.equation.partition("->")
    inputs, _, kernel = left.partition(",")
    elided = rank - len((inputs if of_inputs else right).replace("...", ""))

    def labels(spec: str) -> list[str]:
        left, dots, right = spec.partition("...")
        filled = [f"{i}" for i in range(elided)] if dots else []
        return [*left, *filled, *right]

    outputs = labels(right)
    axes = taken.changes.get("bias_axes", layer.bias_axes) or ""
    bias = [label for label in outputs if label in axes]
    return Labels(labels(inputs), labels(kernel), outputs, bias)


def _bias(labels: Labels, taken: Taken) -> Array:
    """The bias with one axis for each of its labels."""
    if not labels.bias:
        return np.zeros(())
    bias = taken.weights["bias"]
    sizes = dict(zip(labels.kernel, taken.weights["kernel"].shape, strict=True))
    if all(label in sizes for label in labels.bias):
        return bias.reshape([sizes[label] for label in labels.bias])
    # Of an axis that the kernel lacks: where there are no others, it is its own size.
    if bias.ndim == len(labels.bias):
        return bias
    start = labels.outputs.index(labels.bias[0])
    kept = [
        size
        for label, size in zip(labels.outputs[start:], bias.shape, strict=False)
        if label in labels.bias
    ]
    return bias.reshape(kept)


def after(layer: Layer, taken: Taken, affine: Affine) -> Taken:
    """What `layer` is with `affine` behind it."""
    labels = labels_of(layer, taken, affine.rank, of_inputs=False)
    along = [labels.outputs[axis] for axis in affine.axes]
    _check_labels(labels, along)
    wanted = [one for one in labels.outputs if one in labels.bias or one in along]
    bias = labels.spread(_bias(labels, taken), labels.bias, wanted)
    scale, shift = (
        labels.spread(values, along, wanted) for values in (affine.scale, affine.shift)
    )
    kernel = taken.weights["kernel"]
    weights = {
        **taken.weights,
        "kernel": kernel * labels.spread(affine.scale, along, labels.kernel),
        "bias": bias * scale + shift,
    }
    return Taken(weights, {**taken.changes, "bias_axes": "".join(wanted)})


def before(layer: Layer, taken: Taken, affine: Affine) -> Taken:
    """What `layer` is with `affine` before it."""
    labels = labels_of(layer, taken, affine.rank, of_inputs=True)
    along = [labels.inputs[axis] for axis in affine.axes]
    _check_labels(labels, along)
    if set(labels.inputs) - {*labels.kernel, *labels.outputs}:
        raise Inexact(f"sums over an axis without the kernel ({layer.equation})")
    kept = [one for one in labels.outputs if one in labels.kernel]
    if not kept:
        raise Inexact(f"has no axis of the outputs in its kernel ({layer.equation})")
    wanted = [one for one in labels.outputs if one in labels.bias or one in kept]
    kernel = taken.weights["kernel"]
    moved = labels.sum(kernel, labels.kernel, affine.shift, along, kept)
    bias = labels.spread(_bias(labels, taken), labels.bias, wanted)
    weights = {
        **taken.weights,
        "kernel": kernel * labels.spread(affine.scale, along, labels.kernel),
        "bias": bias + labels.spread(moved, kept, wanted),
    }
    return Taken(weights, {**taken.changes, "bias_axes": "".join(wanted)})


def _check_labels(labels: Labels, along: list[str]) -> None:
    if not set(along) <= set(labels.kernel):
        raise Inexact("has no such axis in its kernel")
