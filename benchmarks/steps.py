"""A layer's training step and inference as functions, on the backend of this run.

TensorFlow in graph mode or under XLA, JAX under jit, torch eager. A training step gives
what a model needs of the layer: the output and all gradients, and it moves the moving
statistics.
"""

import keras
import numpy as np

BACKEND = keras.backend.backend()
SHAPES = [
    (32, 56, 56, 64),
    (64, 28, 28, 128),
    (128, 7, 7, 512),
    (8192, 1024),
    (64, 128, 256),
]
QUICK_SHAPES = [(6, 5, 4, 3), (10, 7)]


def mode(xla=False):
    """How the functions run, in words."""
    if xla and BACKEND != "tensorflow":
        raise SystemExit(f"xla: an argument for TensorFlow, not for {BACKEND}")
    return {
        "tensorflow": "XLA" if xla else "graph mode",
        "jax": "jit",
        "torch": "eager",
    }[BACKEND]


def package():
    """'tensorflow 2.21.0'; torch names its build too."""
    return f"{BACKEND} {__import__(BACKEND).__version__}"


def tensors(shape):
    """x and dy, of mean 0 and deviation 1."""
    rng = np.random.default_rng(0)
    return [
        keras.ops.convert_to_tensor(rng.normal(size=shape), "float32") for _ in range(2)
    ]


def functions(layer, xla=False):
    """Training step, giving output and gradients, and inference; of x and dy each."""
    if BACKEND == "tensorflow":
        return _tensorflow(layer, xla)
    return {"jax": _jax, "torch": _torch}[BACKEND](layer)


def copy():
    """`x * 1.0001` of x and dy: reads the tensor once and writes it once."""
    if BACKEND == "torch":
        return lambda x, dy: x * 1.0001
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x, dy: x * 1.0001)
    import jax

    multiply = jax.jit(lambda x: x * 1.0001)
    return lambda x, dy: jax.block_until_ready(multiply(x))


def _tensorflow(layer, xla):
    import tensorflow as tf

    weights = [layer.gamma.value, layer.beta.value]

    @tf.function(jit_compile=xla)
    def train(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        # y too: what nobody asks for is not computed.
        return y, tape.gradient(y, [x, *weights], dy)

    infer = tf.function(lambda x, dy: layer(x, training=False), jit_compile=xla)
    return train, infer


def _torch(layer):
    import torch

    weights = [layer.gamma.value, layer.beta.value]

    def train(x, dy):
        x = x.detach().requires_grad_()
        y = layer(x, training=True)
        return y, torch.autograd.grad(y, [x, *weights], dy)

    @torch.no_grad
    def infer(x, dy):
        return layer(x, training=False)

    return train, infer


def _jax(layer):
    import jax

    train = jax_step(layer)
    trainable, others = jax_values(layer)
    infer = jax.jit(
        lambda x: layer.stateless_call(trainable, others, x, training=False)[0]
    )
    return (
        lambda x, dy: jax.block_until_ready(train(x, dy)),
        lambda x, dy: jax.block_until_ready(infer(x)),
    )


def jax_values(layer):
    """Trainable and other values of the layer."""
    return [
        [v.value for v in variables]
        for variables in (layer.trainable_variables, layer.non_trainable_variables)
    ]


def jax_step(layer):
    """The training step under jit: output, moved statistics and gradients."""
    import jax

    trainable, others = jax_values(layer)

    @jax.jit
    def train(x, dy):
        y, pullback, moved = jax.vjp(
            lambda x, weights: layer.stateless_call(weights, others, x, training=True),
            x,
            trainable,
            has_aux=True,
        )
        return y, moved, pullback(dy)

    return train
