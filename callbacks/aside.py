"""How a tensor of a training step is read, so that the step keeps its bits."""

from typing import Any

import tensorflow as tf

# What Grappler reorders: chains of sums and of products, across changes of shape.
_REORDERED = {"Add", "AddN", "AddV2", "Identity", "Mul", "Neg", "Reshape", "Sub"}


def aside(tensor: Any, copies: dict[Any, Any]) -> Any:
    """The same value, computed once more where reading it would change the training.

    Grappler turns learning_rate * (a * b) into (learning_rate * a) * b, in other bits,
    if nobody else reads a * b. So that the twin trains with the same bits as Keras'
    own step, a * b is computed again for the reader, with an attribute that keeps
    Grappler from finding the two equal. `copies`: those already made, by operation.
    """
    if isinstance(tensor, tf.IndexedSlices):
        # An embedding's gradient: the rows that were looked up, some repeatedly.
        return tf.scatter_nd(
            aside(tensor.indices, copies)[:, None],
            aside(tensor.values, copies),
            tf.cast(tensor.dense_shape, tensor.indices.dtype),
        )
    if tf.executing_eagerly() or tensor.op.type not in _REORDERED:
        return tensor
    op = tensor.op
    if op not in copies:
        attributes = {name: op.node_def.attr[name] for name in op.node_def.attr}
        attributes["_kbn_aside"] = tf.compat.v1.AttrValue(b=True)
        copies[op] = op.graph.create_op(
            op.type,
            [aside(x, copies) for x in op.inputs],
            [x.dtype for x in op.outputs],
            name="kbn_aside",
            attrs=attributes,
        )
    return copies[op].outputs[tensor.value_index]
