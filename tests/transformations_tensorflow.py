"""Transformations of TensorFlow; see `tests.transformations`."""

import tensorflow as tf

from tests.transformations import Table, draw

TABLE = Table()


@TABLE.row("tf.vectorized_map of a gradient, training")
def _(layer_class):
    x = tf.constant(draw((4, 6, 3)))
    layer = layer_class()
    layer.build((6, 3))

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        return tape.gradient(loss, x)

    return tf.vectorized_map(gradient, x)
