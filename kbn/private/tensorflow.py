"""The private names of TensorFlow that kbn uses, as 2.16 to 2.22 have them."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any


def _cannot_tell(graph: Any) -> bool:
    return True


def _has_none() -> bool:
    return False


# is_built_for_xla(graph): whether a graph, or one around it, is compiled by XLA. There
# is no public means to learn that; tf_keras decides in the same way. Without it we take
# every graph for one: its formula is right in all of them.
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/ops/control_flow_util.py#L69
#
# Neither is a function around the other's: a kernel calls them for every layer.
try:
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    is_built_for_xla = GraphOrParentsInXlaContext
except ImportError:
    is_built_for_xla = _cannot_tell

# is_onednn_enabled(): whether TensorFlow runs oneDNN's ops. Without them the fused op
# takes twice the time of a multiply and an add, in inference.
# https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/util/port_wrapper.cc
try:
    from tensorflow.python.util._pywrap_util_port import IsMklEnabled

    is_onednn_enabled = IsMklEnabled
except ImportError:
    is_onednn_enabled = _has_none


def dtype_behind(handle: Any) -> Any:
    """The dtype of the variable behind a resource handle; None if it is no variable.

    Without the name, nothing is known to be a variable.
    """
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/framework/ops.py
    data = getattr(handle, "_handle_data", None)
    if data is None or not data.is_set or len(data.shape_and_type) != 1:
        return None
    import tensorflow as tf

    return tf.as_dtype(data.shape_and_type[0].dtype)


def spec_of_replica(spec: Any) -> Any:
    """The type of what one replica has, of that of a value on several.

    Without the name, that of the whole.
    """
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/distribute/values.py
    specs = getattr(spec, "_value_specs", None)
    return spec if specs is None else specs[0]


@contextlib.contextmanager
def eager_seeds_kept() -> Iterator[None]:
    """Let `tf.random` draw others than the seeds that it goes on with.

    Put back, they would be drawn twice, and an eager op of a seed that was drawn goes
    on with its numbers. Without the names, what is drawn meanwhile is drawn.
    """
    # https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/eager/context.py
    try:
        from tensorflow.python.eager.context import context

        eager, kept = context(), context()._rng
    except (ImportError, AttributeError):
        yield
        return
    eager._rng = random.Random(0)
    try:
        yield
    finally:
        eager._rng = kept
