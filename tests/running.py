"""One training step of a layer on the backend of this run, as NumPy arrays."""

from dataclasses import dataclass

import keras
import numpy as np

BACKEND = keras.backend.backend()


@dataclass
class Outcome:
    y: np.ndarray
    dx: np.ndarray
    dgamma: np.ndarray | None
    dbeta: np.ndarray | None
    dtype: str


class Runner:
    """Calls `layer` in one of `cases.MODES`; a compiled mode compiles once."""

    def __init__(self, layer, mode, training, shape, mask_rank=None):
        if not layer.built:
            layer.build(shape)
        self.layer = layer
        self.step = STEPS[BACKEND](layer, mode, training, shape, mask_rank)

    def __call__(self, x, dy, mask=None):
        """Output of the layer and the gradient of sum(y * dy); moves its statistics.

        x, dy, mask: NumPy arrays.
        """
        layer = self.layer
        x, dy = (keras.ops.convert_to_tensor(v, layer.compute_dtype) for v in (x, dy))
        mask = () if mask is None else (keras.ops.convert_to_tensor(mask),)
        y, dx, dgamma, dbeta = self.step(x, dy, *mask)
        return Outcome(
            array(y),
            array(dx),
            None if layer.gamma is None else array(dgamma),
            None if layer.beta is None else array(dbeta),
            keras.backend.standardize_dtype(y.dtype),
        )


def array(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if dtype in ("float16", "bfloat16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor), "f8")


def _tensorflow(layer, mode, training, shape, mask_rank):
    import tensorflow as tf

    affine = [w.value for w in (layer.gamma, layer.beta) if w is not None]

    def step(x, dy, mask=None):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training, mask=mask)
        dx, *rest = tape.gradient(y, [x, *affine], dy, unconnected_gradients="zero")
        dgamma = None if layer.gamma is None else rest.pop(0)
        dbeta = None if layer.beta is None else rest.pop(0)
        return y, dx, dgamma, dbeta

    if mode == "eager":
        return step
    signature = None
    if mode == "unknown-sizes":
        axis = layer.axis % len(shape)
        unknown = [n if i == axis else None for i, n in enumerate(shape)]
        signature = [tf.TensorSpec(unknown, layer.compute_dtype)] * 2
        if mask_rank is not None:
            signature.append(tf.TensorSpec([None] * mask_rank, tf.bool))
    return tf.function(step, input_signature=signature, jit_compile=mode == "xla")


def _jax(layer, mode, training, shape, mask_rank):
    import jax

    weights = {v.path: v for v in layer.variables}
    affine = [w.path for w in (layer.gamma, layer.beta) if w is not None]

    def pure(x, dy, values, mask):
        def function(x, trainable):
            now = {**values, **trainable}
            mapping = [(weights[path], value) for path, value in now.items()]
            with keras.StatelessScope(mapping) as scope:
                y = layer(x, training=training, mask=mask)
            moved = {p: scope.get_current_value(w) for p, w in weights.items()}
            return y, moved

        trainable = {path: values[path] for path in affine}
        y, pullback, moved = jax.vjp(function, x, trainable, has_aux=True)
        return y, pullback(dy), moved

    compiled = jax.jit(pure) if mode == "graph" else pure

    def step(x, dy, mask=None):
        values = {path: variable.value for path, variable in weights.items()}
        y, (dx, dweights), moved = compiled(x, dy, values, mask)
        for path, value in moved.items():
            weights[path].assign(value)
        dgamma = None if layer.gamma is None else dweights[layer.gamma.path]
        dbeta = None if layer.beta is None else dweights[layer.beta.path]
        return y, dx, dgamma, dbeta

    return step


def _torch(layer, mode, training, shape, mask_rank):
    import torch

    def step(x, dy, mask=None):
        x = x.clone().requires_grad_(True)
        y = layer(x, training=training, mask=mask)
        wanted = [w.value for w in (layer.gamma, layer.beta) if w is not None]
        wanted = [x, *[value for value in wanted if value.requires_grad]]
        found = torch.autograd.grad(y, wanted, dy, allow_unused=True)
        by_id = {id(w): g for w, g in zip(wanted, found, strict=True)}

        def gradient(weight):
            if weight is None:
                return None
            found = by_id.get(id(weight.value))
            return torch.zeros_like(weight.value) if found is None else found

        return y.detach(), found[0], gradient(layer.gamma), gradient(layer.beta)

    return step


STEPS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
