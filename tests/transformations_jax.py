"""Transformations of JAX; see `tests.transformations`."""

import jax
import jax.numpy as jnp

from tests.transformations import Table, draw

TABLE = Table()


def pure(layer_class, shape, **arguments):
    """`function(x, weights, training) -> (y, moved)` of a new layer; its weights."""
    layer = layer_class(**arguments)
    layer.build(shape)
    fixed = [v.value for v in layer.non_trainable_variables]

    def function(x, weights, training=True):
        return layer.stateless_call(weights, fixed, x, training=training)

    return function, [v.value for v in layer.trainable_variables]


@TABLE.row("gradient of a jitted loss, training")
def _(layer_class):
    x = draw((6, 3))
    function, weights = pure(layer_class, x.shape)
    loss = jax.jit(lambda w, x: jnp.sum(function(x, w)[0] ** 3))
    return jax.grad(loss, (0, 1))(weights, x)
