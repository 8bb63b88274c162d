"""A ResNet50 of keras.applications, converted to kbn, trained, folded and exported.

Each step stands beside Keras' own: seconds for a training step and for inference, and
the peak of the memory that a process of its own took for it. The weights are random, so
nothing is downloaded. On TensorFlow, with images of 64 x 64 that 2 cores can train on:

    python examples/convert_resnet.py [--steps N] [--out DIR]
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import command
import keras
import numpy as np

import kbn

SIDE, BATCH, CLASSES = 64, 16, 10


def resnet():
    """The network as Keras ships it, always with the same random weights."""
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(
        weights=None, input_shape=(SIDE, SIDE, 3), classes=CLASSES
    )


def batch(seed):
    """Random pictures, of a class that their brightness tells."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, BATCH)
    brightness = labels[:, None, None, None] / CLASSES
    pictures = rng.normal(size=(BATCH, SIDE, SIDE, 3)) + brightness
    return pictures.astype("float32"), labels


def train(model, steps):
    """Seconds of a training step: the median but for the first, which traces."""
    model.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy")
    seconds = []
    for step in range(steps):
        start = time.perf_counter()
        loss = model.train_on_batch(*batch(step))
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:]), float(loss)


def infer(model, repeats):
    """Seconds of a batch's inference, and the outputs."""
    x, _ = batch(0)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        outputs = model.predict_on_batch(x)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:]), outputs


def peak_mb():
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(which, steps, out):
    """Train one of the networks in this process and print what it took."""
    model = resnet()
    if which == "kbn":
        model = kbn.convert_batch_norm(model)
    seconds, loss = train(model, steps)
    print(
        f"{which + ': training step':32}{seconds * 1e3:9.0f} ms{peak_mb():9.0f} MB"
        f"   loss {loss:.4f}"
    )
    seconds, outputs = infer(model, steps)
    print(f"{which + ': inference':32}{seconds * 1e3:9.0f} ms")
    folded = kbn.fold_batch_norm(model)
    seconds, folded_outputs = infer(folded, steps)
    differ = np.abs(folded_outputs - outputs).max() / np.abs(outputs).max()
    print(
        f"{which + ': inference, folded':32}{seconds * 1e3:9.0f} ms"
        f"             outputs differ by {differ:.0e}"
    )
    print(f"{which}: {str(folded.folding).splitlines()[0]}")
    if which == "kbn":
        export(folded, outputs, out)


def export(folded, outputs, out):
    """Write the folded network as a SavedModel, and run what was written."""
    import tensorflow as tf

    folded.export(str(out), verbose=False)
    loaded = tf.saved_model.load(str(out))
    served = loaded.serve(batch(0)[0]).numpy()
    differ = np.abs(served - outputs).max() / np.abs(outputs).max()
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(
        f"Exported to {out}: {size / 1e6:.0f} MB, serves outputs that differ by "
        f"{differ:.0e}"
    )


def main():
    """Run one network after the other."""
    parser = command.parser(__doc__)
    parser.add_argument(
        "--steps",
        type=command.whole(2),
        default=6,
        metavar="N",
        help="of training; the first traces and is not timed",
    )
    command.add_out(parser, "resnet50-folded")
    parser.add_argument("--which", choices=["Keras", "kbn"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.which:
        run(options.which, options.steps, options.out)
        return
    out = command.new_directory(parser, options.out)
    print(
        f"{'ResNet50, ' + f'{BATCH} x {SIDE} x {SIDE} x 3':32}{'time':>12}{'peak':>12}"
    )
    for which in ("Keras", "kbn"):
        # In a process each, so that one's memory is not the other's.
        arguments = ["--which", which, "--steps", str(options.steps), "--out", str(out)]
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
