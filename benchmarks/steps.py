"""A layer's training step and inference as functions, on the backend of this run.

A training step gives what a model needs of a chain of layers: the output and all
gradients, and it moves the moving statistics.
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


# From the smallest that a network has to what no cache holds.
CHAIN_SHAPES = [
    (8, 16),
    (32, 64),
    (128, 128),
    (1024, 256),
    (8, 8, 8, 16),
    (16, 20, 48),
    (1, 14, 14, 256),
    (64, 100, 4),
    (16, 16, 16, 32),
    (8, 28, 28, 128),
    (32, 28, 28, 64),
    (64, 56, 56, 64),
]
MODES = {
    "tensorflow": {
        "graph": "graph mode",
        "unknown": "graph mode, unknown batch",
        "xla": "XLA",
        "eager": "eager",
    },
    "jax": {"jit": "jit", "eager": "eager"},
    "torch": {"eager": "eager"},
}[BACKEND]
FIRST = next(iter(MODES.values()))


def depth(shape):
    """How many layers a chain of this shape has: ten, fewer where that is long."""
    if shape in QUICK_SHAPES:
        return 2
    return 10 if np.prod(shape) < 2**20 else 3


def package():
    """'tensorflow 2.21.0'; torch names its build too."""
    return f"{BACKEND} {__import__(BACKEND).__version__}"


def tensors(shape):
    """x and dy, of mean 0 and deviation 1."""
    rng = np.random.default_rng(0)
    return [
        keras.ops.convert_to_tensor(rng.normal(size=shape), "float32") for _ in range(2)
    ]


def functions(layers, shape, mode=FIRST):
    """Training step, giving output and gradients, and inference; of x and dy each.

    The layers stand one after the other, so that each input has just been made, as in a
    network.
    """
    make = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND]
    return make(layers, shape, mode)


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


def raw_layers():
    """{name: class}: TensorFlow's fused op by itself, and the layer of tf_keras."""
    import tensorflow as tf

    class FusedOp(keras.layers.Layer):
        """In training, with the op's own gradient; it tracks nothing."""

        def build(self, shape):
            one = {"shape": shape[-1:], "dtype": "float32"}
            self.gamma = self.add_weight(initializer="ones", **one)
            self.beta = self.add_weight(initializer="zeros", **one)

        def call(self, x, training):
            empty = tf.constant([], tf.float32)
            given = (empty, empty) if training else (self.beta.value, self.gamma.value)
            image = x if len(x.shape) == 4 else tf.reshape(x, (-1, 1, 1, x.shape[-1]))
            y, *_ = tf.raw_ops.FusedBatchNormV3(
                x=image,
                scale=self.gamma.value,
                offset=self.beta.value,
                mean=given[0],
                variance=given[1],
                epsilon=1e-3,
                is_training=training,
            )
            return y if len(x.shape) == 4 else tf.reshape(y, tf.shape(x))

    layers = {"fused op": FusedOp}
    try:
        import tf_keras
    except ImportError:
        return layers
    return {**layers, "tf_keras": tf_keras.layers.BatchNormalization}


def _tensorflow(layers, shape, mode):
    import tensorflow as tf

    weights = [w for layer in layers for w in (layer.gamma, layer.beta)]
    # Keras' variables hold TensorFlow's; those of tf_keras are TensorFlow's.
    weights = [w if isinstance(w, tf.Variable) else w.value for w in weights]

    def chain(x, training):
        for layer in layers:
            x = layer(x, training=training)
        return x

    def train(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = chain(x, True)
        # y too: what nobody asks for is not computed.
        return y, tape.gradient(y, [x, *weights], dy)

    def infer(x, dy):
        return chain(x, False)

    if mode == "eager":
        return train, infer

    options = {"jit_compile": mode == "XLA"}
    if "unknown" in mode:
        spec = tf.TensorSpec((None, *shape[1:]))
        options["input_signature"] = [spec, spec]
    return tf.function(train, **options), tf.function(infer, **options)


def _torch(layers, shape, mode):
    import torch

    weights = [w.value for layer in layers for w in (layer.gamma, layer.beta)]

    def chain(x, training):
        for layer in layers:
            x = layer(x, training=training)
        return x

    def train(x, dy):
        x = x.detach().requires_grad_()
        y = chain(x, True)
        return y, torch.autograd.grad(y, [x, *weights], dy)

    @torch.no_grad
    def infer(x, dy):
        return chain(x, False)

    return train, infer


def _jax(layers, shape, mode):
    import jax

    train = jax_step(layers, jax.jit if mode == "jit" else lambda f: f)
    trainable, others = jax_values(layers)

    def infer(x):
        for layer, *values in zip(layers, trainable, others, strict=True):
            x, _ = layer.stateless_call(*values, x, training=False)
        return x

    infer = jax.jit(infer) if mode == "jit" else infer
    return (
        lambda x, dy: jax.block_until_ready(train(x, dy)),
        lambda x, dy: jax.block_until_ready(infer(x)),
    )


def jax_values(layers):
    """Trainable and other values of the layers."""
    return [
        [[v.value for v in getattr(layer, kind)] for layer in layers]
        for kind in ("trainable_variables", "non_trainable_variables")
    ]


def jax_step(layers, compiled):
    """The training step: output, moved statistics and gradients."""
    import jax

    trainable, others = jax_values(layers)

    def chain(x, weights):
        moved = []
        for layer, own, fixed in zip(layers, weights, others, strict=True):
            x, new = layer.stateless_call(own, fixed, x, training=True)
            moved.append(new)
        return x, moved

    @compiled
    def train(x, dy):
        y, pullback, moved = jax.vjp(chain, x, trainable, has_aux=True)
        return y, moved, pullback(dy)

    return train
