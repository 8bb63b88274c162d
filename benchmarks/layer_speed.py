"""How long does a batch norm layer take, beside Keras' own?

Prints, for each shape, the median time of a training step (forward and all gradients)
and of inference, in milliseconds and in copies: one copy is `x * 1.0001` on the same
tensor, timed in the same run. The layers take turns, so that the machine's noise meets
all of them alike. For the backend that KERAS_BACKEND names: TensorFlow in graph mode,
or with the argument `xla` under XLA; JAX under jit; torch eager.
"""

import os
import platform
import sys
import time
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import kbn

BACKEND = keras.backend.backend()
SHAPES = [(32, 56, 56, 64), (64, 28, 28, 128), (128, 7, 7, 512), (8192, 1024)]
SHAPES += [(64, 128, 256)]
REPEATS, ROUNDS = 5, 9
XLA = sys.argv[1:] == ["xla"]
MODE = {"tensorflow": "XLA" if XLA else "graph mode", "jax": "jit", "torch": "eager"}


def tensorflow_functions(layer):
    """Training step and inference, of x and dy."""
    import tensorflow as tf

    weights = [layer.gamma.value, layer.beta.value]

    @tf.function(jit_compile=XLA)
    def train(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, *weights], dy)

    infer = tf.function(lambda x, dy: layer(x, training=False), jit_compile=XLA)
    return train, infer


def torch_functions(layer):
    """Training step and inference, of x and dy."""
    import torch

    weights = [layer.gamma.value, layer.beta.value]

    def train(x, dy):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(layer(x, training=True), [x, *weights], dy)

    @torch.no_grad
    def infer(x, dy):
        return layer(x, training=False)

    return train, infer


def jax_functions(layer):
    """Training step (it returns the moved statistics too) and inference."""
    import jax

    trainable, others = (
        [v.value for v in variables]
        for variables in (layer.trainable_variables, layer.non_trainable_variables)
    )

    def call(x, weights, training):
        return layer.stateless_call(weights, others, x, training=training)

    @jax.jit
    def train(x, dy):
        y, pullback, moved = jax.vjp(
            lambda x, weights: call(x, weights, True), x, trainable, has_aux=True
        )
        return y, moved, pullback(dy)

    infer = jax.jit(lambda x, dy: call(x, trainable, False)[0])
    return (
        lambda x, dy: jax.block_until_ready(train(x, dy)),
        lambda x, dy: jax.block_until_ready(infer(x, dy)),
    )


FUNCTIONS = {
    "tensorflow": tensorflow_functions,
    "jax": jax_functions,
    "torch": torch_functions,
}


def copy_function():
    if BACKEND == "torch":
        return lambda x, dy: x * 1.0001
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x, dy: x * 1.0001)
    import jax

    copy = jax.jit(lambda x: x * 1.0001)
    return lambda x, dy: jax.block_until_ready(copy(x))


def interleaved(functions, *arguments):
    """{name: median milliseconds of one call}."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function(*arguments)
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(REPEATS):
                function(*arguments)
            times[name].append((time.perf_counter() - start) / REPEATS * 1e3)
    return {name: median(values) for name, values in times.items()}


def measure(shape):
    rng = np.random.default_rng(0)
    x, dy = (
        keras.ops.convert_to_tensor(rng.normal(size=shape), "float32") for _ in range(2)
    )
    layers = {"kbn": kbn.BatchNorm(), "Keras": keras.layers.BatchNormalization()}
    functions = {"copy": copy_function()}
    for name, layer in layers.items():
        layer.build(shape)
        train, infer = FUNCTIONS[BACKEND](layer)
        functions[f"train {name}"], functions[f"infer {name}"] = train, infer
    return interleaved(functions, x, dy)


def main():
    backend = __import__(BACKEND)
    print(
        f"{BACKEND} {backend.__version__}, Keras {keras.__version__}, "
        f"{os.cpu_count()} cores {platform.machine()}, float32, {MODE[BACKEND]}"
    )
    print(
        f"{'':20}{'copy':>9}{'training step, ms (copies)':>36}{'':8}"
        f"{'inference, ms (copies)':>36}"
    )
    print(f"{'shape':20}{'ms':>9}" + f"{'kbn':>16}{'Keras':>18}{'speed-up':>10}" * 2)
    for shape in SHAPES:
        times = measure(shape)
        one = times["copy"]
        row = f"{'x'.join(map(str, shape)):20}{one:9.2f}"
        for kind in ("train", "infer"):
            ours, theirs = times[f"{kind} kbn"], times[f"{kind} Keras"]
            row += f"{ours:9.2f} ({ours / one:4.1f})"
            row += f"{theirs:11.2f} ({theirs / one:4.1f}){theirs / ours:9.1f}x"
        print(row, flush=True)


if __name__ == "__main__":
    main()
