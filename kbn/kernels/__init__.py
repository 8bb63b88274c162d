"""Batch normalization, one module a backend, one contract.

`normalize_batch(x, gamma, beta, axis, epsilon, mask=None, synchronized=False)`
returns `(y, mean, variance, count)` and serves training::

    y = gamma * (x - mean) / sqrt(variance + epsilon) + beta

with `mean` and `variance` those of `x` over all axes but `axis`.

`normalize_fixed(x, mean, variance, gamma, beta, axis, epsilon)` returns `y`, the
same formula with given statistics, and serves inference.

- `x`: any rank from 1, any floating dtype; `y` has its shape and dtype.
- `axis`: int, `0 <= axis < ndim`; C is the length of `x` along it.
- `gamma`, `beta`: (C,) or None, float32 or wider.
- `mask`: None, or booleans of the rank of `x` that broadcast to it; True where an
  element counts. `y` is computed at masked positions too.
- `mean`, `variance`: (C,), float32 or wider; the variance is the biased one. They
  carry no gradient.
- `count`: how many elements entered; an int where every channel has the same and it is
  known, else a tensor that broadcasts to (C,). Where it is 0, mean and variance are 0
  and no gradient flows.
- `synchronized`: the statistics are those of all replicas together.

`y` is differentiable to second order in x, gamma and beta. No weights, momentum or
validation in here.

`average_replicas(values, count, enters)` returns the mean of each of `values`, (C,),
over the replicas where it `enters`, by their `count`, and where any of them entered.
Where a backend trains one replica, or where no collective is allowed, it returns what
it was given.

`switch(condition, then, otherwise)` returns `then()` or `otherwise()`.

`read(variable)` returns the value of a Keras variable, read once.

`where(condition, x, y)` takes `x` or `y`, tensors of one dtype, element by element.
"""

import keras

from kbn.kernels.reference import average_replicas, read, switch, where

if keras.backend.backend() == "tensorflow":
    from kbn.kernels.tensorflow import (
        average_replicas,
        normalize_batch,
        normalize_fixed,
        read,
        switch,
    )
elif keras.backend.backend() == "jax":
    from kbn.kernels.jax import normalize_batch, normalize_fixed
elif keras.backend.backend() == "torch":
    from kbn.kernels.torch import normalize_batch, normalize_fixed, where
else:
    from kbn.kernels.reference import normalize_batch, normalize_fixed

__all__ = [
    "average_replicas",
    "normalize_batch",
    "normalize_fixed",
    "read",
    "switch",
    "where",
]
