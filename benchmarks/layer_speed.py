"""How long does a batch norm layer take, beside Keras' own?

Prints, for each shape, the median time of a training step (forward and all gradients)
and of inference, in milliseconds and in copies: one copy is `x * 1.0001` on the same
tensor, timed in the same run. The layers take turns, so that the machine's noise meets
all of them alike. TensorFlow: graph mode, or XLA with the argument `xla`.
"""

import os
import platform
import sys
import time
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import kbn

SHAPES = [(32, 56, 56, 64), (64, 28, 28, 128), (128, 7, 7, 512), (8192, 1024)]
SHAPES += [(64, 128, 256)]
REPEATS, ROUNDS = 5, 9
XLA = sys.argv[1:] == ["xla"]


def training_step(layer):
    weights = [layer.gamma.value, layer.beta.value]

    @tf.function(jit_compile=XLA)
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, *weights], dy)

    return step


def inference(layer):
    return tf.function(lambda x, dy: layer(x, training=False), jit_compile=XLA)


def copy(x, dy):
    return x * 1.0001


def interleaved(functions, *arguments):
    """{name: median milliseconds of one call}."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function(*arguments)
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(REPEATS):
                result = function(*arguments)
            tf.nest.map_structure(lambda t: t.shape, result)
            times[name].append((time.perf_counter() - start) / REPEATS * 1e3)
    return {name: median(values) for name, values in times.items()}


def measure(shape):
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(size=shape), tf.float32) for _ in range(2))
    layers = {"kbn": kbn.BatchNorm(), "Keras": keras.layers.BatchNormalization()}
    for layer in layers.values():
        layer.build(shape)
    functions = {"copy": tf.function(copy)}
    for name, layer in layers.items():
        functions[f"train {name}"] = training_step(layer)
        functions[f"infer {name}"] = inference(layer)
    return interleaved(functions, x, dy)


def main():
    mode = "XLA" if XLA else "graph mode"
    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"{os.cpu_count()} cores {platform.machine()}, float32, {mode}"
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
        print(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
