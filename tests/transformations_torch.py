"""Transformations of torch; see `tests.transformations`."""

import torch

from tests.transformations import Table, draw

TABLE = Table()


@TABLE.row("torch.func.vmap over an ensemble, inference")
def _(layer_class):
    x = torch.tensor(draw((4, 6, 3)))
    layer = layer_class()
    layer.build((6, 3))
    return torch.func.vmap(lambda x: layer(x, training=False))(x)
