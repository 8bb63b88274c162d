"""What does a batch norm layer take on a GPU, beside the framework's own, in copies?

For a machine that has one, and the backend that KERAS_BACKEND names: under two minutes
each. Layers stand in a chain of three. One copy is `x * 1.0001` on the same tensor, the
time that memory bandwidth demands. JAX eager and under jit, TensorFlow in graph mode
and under XLA, torch eager. The framework's own is torch's `batch_norm`, TensorFlow's
fused op, and on JAX the plain formula. Without a GPU the script says so and measures
nothing; `--quick` tries it on whatever is there.
"""

import os
import sys
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import reporting
import steps
import timing

import kbn

DEPTH = 3
KINDS = ("training", "inference")
SHAPES = [(256, 56, 56, 64), (256, 28, 28, 128), (1024, 7, 7, 512), (65536, 1024)]
SHAPES += [(32, 56, 56, 64), (32, 64)]


class Own(keras.layers.Layer):
    """The framework's own way, on the last axis; it tracks nothing."""

    def build(self, shape):
        """Gamma and beta."""
        one = {"shape": shape[-1:], "dtype": "float32"}
        self.gamma = self.add_weight(initializer="ones", **one)
        self.beta = self.add_weight(initializer="zeros", **one)

    def call(self, x, training):
        """In training by the batch, in inference by fixed statistics."""
        gamma, beta = self.gamma.value, self.beta.value
        if steps.BACKEND == "torch":
            from torch.nn import functional

            given = (None, None) if training else (beta, gamma)
            y = functional.batch_norm(
                x.movedim(-1, 1), *given, gamma, beta, training, 0.0, 1e-3
            )
            return y.movedim(1, -1)
        others = tuple(range(len(x.shape) - 1))
        mean, variance = (x.mean(others), x.var(others)) if training else (beta, gamma)
        return (x - mean) * (variance + 1e-3) ** -0.5 * gamma + beta


MODES = {
    "tensorflow": ("graph mode", "XLA"),
    "jax": ("eager", "jit"),
    "torch": ("eager",),  # torch.compile of such a step takes minutes
}[steps.BACKEND]


def finished():
    """A function that waits for what it is given."""
    if steps.BACKEND == "torch":
        import torch

        wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        return lambda result: wait()
    if steps.BACKEND == "jax":
        import jax

        return jax.block_until_ready
    # Of the last result alone: what a GPU is given, it does in order.
    return lambda result: keras.tree.flatten(result)[-1].numpy()


def has_gpu():
    if steps.BACKEND == "torch":
        import torch

        return torch.cuda.is_available()
    if steps.BACKEND == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def measure(shape, mode, quick):
    """{(kind, name): milliseconds of one layer, a value a round}; "copy" too."""
    classes = {"kbn": kbn.BatchNorm, "Keras": keras.layers.BatchNormalization}
    own = steps.raw_layers()["fused op"] if steps.BACKEND == "tensorflow" else Own
    wait = finished()

    def timed(function):
        return lambda x, dy: wait(function(x, dy))

    functions = {"copy": timed(steps.copy())}
    for name, cls in {**classes, "own": own}.items():
        layers = [cls() for _ in range(DEPTH)]
        for one in layers:
            one.build(shape)
        for kind, function in zip(
            KINDS, steps.functions(layers, shape, mode), strict=True
        ):
            functions[kind, name] = timed(function)
    effort = {"rounds": 2, "repeats": 1} if quick else {"rounds": 11, "repeats": 5}
    times = timing.interleaved(functions, *steps.tensors(shape), **effort)
    for name in times.keys() - {"copy"}:
        times[name] = [time / DEPTH for time in times[name]]
    return times


def main(arguments=None):
    options = reporting.parser(__doc__).parse_args(arguments)
    if not (options.quick or has_gpu()):
        print("Not run: there is no GPU that this backend sees.")
        return
    reporting.setting(steps.package(), "float32; milliseconds of one layer (copies)")
    columns = [f"{kind}: {n}" for kind in KINDS for n in ("kbn", "Keras", "own")]
    table = reporting.Table("shape", "mode", "copy", *columns)
    for mode in MODES:
        for shape in steps.QUICK_SHAPES if options.quick else SHAPES:
            times = measure(shape, mode, options.quick)
            cells = [
                f"{median(times[kind, name]):.3f} "
                f"({timing.ratio(times[kind, name], times['copy']).median:.1f})"
                for kind in KINDS
                for name in ("kbn", "Keras", "own")
            ]
            copy = f"{median(times['copy']):.3f}"
            table.row(reporting.name_of(shape), mode, copy, *cells)


if __name__ == "__main__":
    sys.exit(main())
