"""What does a look of kbn.callbacks.TrainingMonitor cost?

Prints the median time of a training step and of one that is looked at, which take
turns in one `fit`; what that is of a run at log_freq=100; the trace before the first
look; and, of processes of their own, the memory that looking adds to the training of
40 million weights. Beside it `keras.callbacks.TensorBoard(histogram_freq=1)`, which
looks at the weights after every epoch, and at nothing else.

The network: three times Conv2D, batch norm, ReLU and pooling, two Dense layers; 621
thousand weights, batches of 64 x 32 x 32 x 3, 12 million activations.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

import kbn

STEPS, EPOCHS, WARM = 40, 3, 4
LIMITS = {"look": 1.0, "run": 0.01, "memory": 200}


def network():
    model = keras.Sequential([layers.Input((32, 32, 3))])
    for filters in (32, 64, 128):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(256, activation="relu"))
    model.add(layers.Dense(10, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def data(rows):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 32, 32, 3)).astype("float32")
    return x, rng.integers(0, 10, rows)


class Clock(keras.callbacks.Callback):
    """Milliseconds of each step, and of the end of each epoch up to this callback."""

    def __init__(self):
        super().__init__()
        self.steps, self.ends, self.before = [], [], 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Start the step's clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop it."""
        self.steps.append((time.perf_counter() - self.start) * 1e3)
        self.before = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """How long the callbacks before this one took for the epoch's end."""
        self.ends.append((time.perf_counter() - self.before) * 1e3)


def timed_fit(*callbacks):
    clock = Clock()
    x, y = data(64 * STEPS)
    fit = {"batch_size": 64, "epochs": EPOCHS, "verbose": 0}
    network().fit(x, y, callbacks=[*callbacks, clock], **fit)
    return clock


def memory(kind):
    """In a process of its own: peak MiB of four steps of 40 million weights."""
    import resource

    width = 3162
    model = keras.Sequential([layers.Input((width,))])
    for _ in range(4):
        model.add(layers.Dense(width, use_bias=False))
    model.compile("sgd", "mse")
    x = np.ones((8, width), "float32")
    with tempfile.TemporaryDirectory() as log_dir:
        callbacks = {
            "plain": lambda: [],
            "monitor": lambda: [kbn.callbacks.TrainingMonitor(log_dir, log_freq=2)],
            "TensorBoard": lambda: [
                keras.callbacks.TensorBoard(log_dir, histogram_freq=1)
            ],
        }[kind]()
        model.fit(x, x, batch_size=2, verbose=0, callbacks=callbacks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10))


def peak_of(kind):
    run = [sys.executable, __file__, "memory", kind]
    return float(subprocess.run(run, check=True, capture_output=True).stdout)


def row(what, value, limit=""):
    print(f"{what:52}{value:>16}   {limit}")


def main():
    import tensorflow as tf

    print(
        f"TensorFlow {tf.__version__}, Keras {keras.__version__}, "
        f"{os.cpu_count()} cores {platform.machine()}, float32, graph mode"
    )
    with tempfile.TemporaryDirectory() as log_dir:
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=2)
        times = timed_fit(monitor).steps
        plain = median(times[WARM::2])
        looked = median(times[WARM + 1 :: 2])
        first = times[1] - looked
        board = timed_fit(keras.callbacks.TensorBoard(log_dir, histogram_freq=1))
    extra, run = looked / plain - 1, (looked - plain) / (100 * plain)
    row("a training step", f"{plain:.1f} ms")
    row("a step with a look", f"{looked:.1f} ms")
    row("  a look, in steps", f"{extra:.2f}", f"limit {LIMITS['look']:.2f}")
    row("  of a run at log_freq=100", f"{run:.2%}", f"limit {LIMITS['run']:.0%}")
    row("before the first look (trace), once", f"{first / 1e3:.1f} s")
    row("TensorBoard(histogram_freq=1): a step", f"{median(board.steps[WARM:]):.1f} ms")
    row("  its look at the weights, every epoch", f"{median(board.ends):.0f} ms")
    plain_peak = peak_of("plain")
    added = peak_of("monitor") - plain_peak
    row("memory of a training of 40 million weights", f"{plain_peak:.0f} MiB")
    row("  looks add", f"{added:.0f} MiB", f"limit {LIMITS['memory']} MiB")
    row("  TensorBoard adds", f"{peak_of('TensorBoard') - plain_peak:.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        memory(sys.argv[2])
    else:
        main()
