"""How a tensor of a training step is read, so that the step keeps its bits."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from keras import tree

from ..model.tensors import kind_of

# Element by element, or of another shape: Grappler's arithmetic optimizer, constant
# folding and remapper reorder, hoist and fuse chains of these.
_MOVES = {"Identity", "Reshape", "Squeeze", "ExpandDims", "Transpose", "Pad", "PadV2"}
_MOVES |= {"MirrorPad", "BroadcastTo", "Tile", "Cast", "StopGradient", "Snapshot"}
_SUMS = {"Add", "AddN", "AddV2", "BiasAdd", "Sub", "Neg", "Mul", "Div", "RealDiv"}
_SUMS |= {"Maximum", "Minimum", "Square", "SquaredDifference", "Pow", "DivNoNan"}
_UNARY = {"Abs", "Ceil", "Cos", "Elu", "Erf", "Erfc", "Exp", "Expm1", "Floor", "Inv"}
_UNARY |= {"LeakyRelu", "Log", "Log1p", "Reciprocal", "Relu", "Relu6", "Rint", "Round"}
_UNARY |= {"Rsqrt", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Tan"}
_UNARY |= {"Tanh", "Cosh", "Sinh", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh"}
_ELEMENTWISE = _MOVES | _SUMS | _UNARY
_JOINS = {"Concat", "ConcatV2", "Pack", "Slice", "StridedSlice", "Split", "SplitV"}
# What the remapper makes one oneDNN call of, together with such followers. A product is
# none of a MatMul: the gradient of every Dense kernel is one, which the optimizer
# multiplies by the learning rate.
_CONVOLUTIONS = {"Conv2D", "Conv3D", "DepthwiseConv2dNative"}
_MATMULS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"}
_CONTRACTIONS = _CONVOLUTIONS | _MATMULS
_NORMS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
_BIASES = {"BiasAdd", "Add", "AddV2", "AddN"}
_FOLLOWS = dict.fromkeys(_CONVOLUTIONS, _BIASES | _UNARY | _NORMS | {"Mul", "Squeeze"})
_FOLLOWS |= dict.fromkeys(_MATMULS, _BIASES | _UNARY | {"Mul", "Reshape"})
_FOLLOWS["MatMul"] = _FOLLOWS["MatMul"] - {"Mul"}
_FOLLOWS |= dict.fromkeys(_NORMS, _BIASES | _UNARY)
_MERGED = _ELEMENTWISE | _CONTRACTIONS | _NORMS
# Sums and products whose order changes bits, as gradients and updates are made of; what
# seems to need them, such as a sum over no axis, may be taken away before.
_REORDERED = {"Add", "AddN", "AddV2", "Identity", "Mul", "Neg", "Reshape", "Sub"}
_REDUCTIONS = {"Sum", "Mean", "Max", "Min", "Prod"}
# With oneDNN, a bias before a leaky ReLU is merged though its gradient reads it too.
_GRADIENTS = {"LeakyReluGrad"}
_METADATA = {"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "NoOp"}


class Aside:
    """The same values, computed once more where reading them would change a training.

    Grappler rewrites what a graph computes where nobody else can notice: it makes
    `Tanh(BiasAdd(MatMul(x, w), b))` one call of oneDNN, and `rate * (a * b)` into
    `(rate * a) * b`, in other bits, if nobody else reads what is in between. A monitor
    does read it. So that the twin trains with the same bits as Keras' own step, such a
    value is computed again for the reader, from values that can be read, with an
    attribute that keeps Grappler from finding the two equal.

    A value can be read as it is if its operation is none that is ever merged into its
    followers, or if one of its followers takes no others in: then it is computed in any
    case. Sums and products are never read as they are. Followers that nothing needs,
    such as the gradients of frozen layers, do not count.

    `results`: what the step returns, tensors of its graph in any structure.
    """

    def __init__(self, results: Any) -> None:
        self._copies: dict[Any, Any] = {}
        self._is_free: dict[Any, bool] = {}
        self._results = [x for x in tree.flatten(results) if tf.is_tensor(x)]
        self._needed: set[Any] = set()

    def of(
        self, tensors: Mapping[str, Any], failed: dict[str, Exception]
    ) -> dict[str, Any]:
        """Each tensor, or its copy; notes what cannot be had."""
        made = {}
        if not tf.executing_eagerly():
            graph = tf.compat.v1.get_default_graph()
            self._needed = _needed(graph, [x.op for x in self._results])
        for tag, tensor in tensors.items():
            try:
                made[tag] = self(tensor)
            except Exception as error:  # a training is not to fail for its statistics
                failed[tag] = error
        return made

    def __call__(self, tensor: Any) -> Any:
        """The tensor, or its copy; dense, of whatever kind it is."""
        kind = kind_of(tensor)
        if kind is None:
            return self._dense(tensor)
        return kind.dense([self._dense(part) for part in kind.parts(tensor)])

    def _dense(self, tensor: Any) -> Any:
        if tf.executing_eagerly() or self._can_be_read(tensor):
            return tensor
        op = tensor.op
        if op not in self._copies:
            attributes = {name: op.node_def.attr[name] for name in op.node_def.attr}
            attributes["_kbn_aside"] = tf.compat.v1.AttrValue(b=True)
            self._copies[op] = op.graph.create_op(
                op.type,
                [self._opaque(x) for x in op.inputs],
                [x.dtype for x in op.outputs],
                name="kbn_aside",
                attrs=attributes,
            )
        return self._copies[op].outputs[tensor.value_index]

    def _opaque(self, tensor: Any) -> Any:
        """The tensor or its copy, so that Grappler cannot look behind it.

        With oneDNN it would merge copies too, and some of its rules (mish, leaky ReLU)
        do not ask who else reads what they merge: they fail, and all merging with them
        (TensorFlow 2.21: "fanout exist for missing node").
        """
        dense = self._dense(tensor)
        if dense.op.type not in _MERGED or dense.shape.rank is None:
            return dense
        # Not None: TensorFlow 2.21 takes the unknown shape for one of rank -1.
        shape = tf.TensorShape([None] * dense.shape.rank).as_proto()
        return dense.graph.create_op(
            "EnsureShape",
            [dense],
            [dense.dtype],
            attrs={
                "T": tf.compat.v1.AttrValue(type=dense.dtype.as_datatype_enum),
                "shape": tf.compat.v1.AttrValue(shape=shape),
            },
            name="kbn_opaque",
        ).outputs[0]

    def _can_be_read(self, tensor: Any) -> bool:
        op = tensor.op
        key = op, tensor.value_index
        if key not in self._is_free:
            self._is_free[key] = self._is_never_merged(op, tensor)
        return self._is_free[key]

    def _is_never_merged(self, op: Any, tensor: Any) -> bool:
        if not op.inputs:
            return True
        if op.type in _REORDERED or op not in self._needed:
            return False
        consumers = {consumer.type for consumer in self._consumers(tensor)}
        consumers -= _METADATA
        if op.type in _ELEMENTWISE:
            mergers = _ELEMENTWISE | _CONTRACTIONS | _NORMS | _JOINS | _REDUCTIONS
            mergers |= _GRADIENTS
        elif op.type in _FOLLOWS and consumers & _FOLLOWS[op.type]:
            mergers = _FOLLOWS[op.type] | _MOVES | {"Mul", "Sub", "Maximum"}
        else:
            return True
        return bool(consumers - mergers)

    def _consumers(self, tensor: Any) -> list[Any]:
        return [x for x in tensor.consumers() if x in self._needed]


def _needed(graph: Any, results: list[Any]) -> set[Any]:
    """The operations that results, and changes of state, are computed from."""
    left = [op for op in graph.get_operations() if op.op_def.is_stateful]
    left += [op for op in results if op.graph is graph]
    found = set(left)
    while left:
        op = left.pop()
        for before in (*(x.op for x in op.inputs), *op.control_inputs):
            if before not in found:
                found.add(before)
                left.append(before)
    return found
