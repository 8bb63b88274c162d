"""One strategy on two CPU devices for the whole run.

TensorFlow 2.21 counts the collectives of every strategy from the same number, and
confuses those of two on the same devices.
"""

import logging
from functools import cache

import tensorflow as tf


@cache
def two_replicas():
    """Two replicas on the devices that `tests.conftest` has set up."""
    tf.get_logger().setLevel(logging.ERROR)  # it warns that they are no GPUs
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # noqa: TID251
