"""What does a look of kbn.callbacks.TrainingMonitor cost?

Of an MLP of six layers, MobileNetV2 and ResNet50 (64 x 64 images, batch 16), and a
residual network of 500 layers: the median time of a training step and of one that is
looked at, which take turns in one `fit`; the first unwatched step and the first look,
which are mostly tracing; bytes and tags of a look; peak memory with and without. Each
in a process of its own. Then the memory that looking adds to the training of 40 million
weights. The design's limits stand beside it.

`--quick`: the MLP only, and in this process.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import reporting
from keras import layers

import kbn
from tests.event_files import read_log

BATCH, WARM, STEPS = 16, 4, 24
FEW = 12  # steps of networks whose steps are slow
IMAGES = (64, 64, 3)


def mlp():
    hidden = [layers.Dense(64, activation="relu") for _ in range(5)]
    return keras.Sequential(
        [layers.Input((32,)), *hidden, layers.Dense(10, activation="softmax")]
    )


def mobilenet():
    return keras.applications.MobileNetV2(IMAGES, weights=None, classes=10)


def resnet():
    options = {"input_shape": IMAGES, "weights": None, "classes": 10}
    return keras.applications.ResNet50(**options)


def deep():
    x = inputs = layers.Input((32,))
    for _ in range(125):
        y = layers.Dense(32, use_bias=False)(x)
        y = layers.Activation("relu")(layers.BatchNormalization()(y))
        x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


LOOK, FIRST_LOOK, BYTES, MEMORY = 1.5, 2.0, 400, 200  # steps, first steps, kB, MiB
MLP_LOOK = 8  # ms
# {name: (network, shape of its inputs)}
NETWORKS = {
    "MLP, 6 layers": (mlp, (32,)),
    "MobileNetV2": (mobilenet, IMAGES),
    "ResNet50": (resnet, IMAGES),
    "500 layers": (deep, (32,)),
}


class Clock(keras.callbacks.Callback):
    """Milliseconds of each step, and the size of the log after it."""

    def __init__(self, log_dir):
        super().__init__()
        self.log_dir = Path(log_dir)
        self.steps, self.sizes = [], []

    def on_train_batch_begin(self, batch, logs=None):
        """Start the step's clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop it."""
        self.steps.append((time.perf_counter() - self.start) * 1e3)
        self.sizes.append(sum(x.stat().st_size for x in self.log_dir.glob("*.kbn")))


def trained(name, log_dir, monitors):
    network, shape = NETWORKS[name]
    keras.utils.set_random_seed(0)
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    steps = FEW if shape == IMAGES else STEPS
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, *shape)).astype("float32")
    y = rng.integers(0, 10, len(x))
    clock = Clock(log_dir)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[*monitors, clock])
    return clock


def measure(name, kind):
    """What a training with or without a monitor takes; for a process of its own."""
    with tempfile.TemporaryDirectory() as log_dir:
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=2)
        clock = trained(name, log_dir, [monitor] if kind == "monitor" else [])
        tags = len(read_log(log_dir))
    found = {"first": clock.steps[0], "peak": peak()}
    if kind == "monitor":
        found |= {
            "step": median(clock.steps[WARM::2]),
            "look": median(clock.steps[WARM + 1 :: 2]),
            "first_look": clock.steps[1],
            "bytes": clock.sizes[-1] - clock.sizes[-3],
            "tags": tags,
        }
    return found


def memory(kind, width=3162):
    """Peak MiB of four steps of 40 million weights; for a process of its own."""
    model = keras.Sequential([layers.Input((width,))])
    for _ in range(4):
        model.add(layers.Dense(width, use_bias=False))
    model.compile("sgd", "mse")
    x = np.ones((8, width), "float32")
    with tempfile.TemporaryDirectory() as log_dir:
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=2)
        callbacks = [monitor] if kind == "monitor" else []
        model.fit(x, x, batch_size=2, verbose=0, callbacks=callbacks)
    return {"peak": peak()}


def peak():
    """MiB that this process has needed at most."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def run(*arguments):
    """`measure` or `memory` in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_here(name, kind):
    """The same in this process, which is quick."""
    return memory(kind, width=64) if name == "memory" else measure(name, kind)


def main(arguments=None):
    quick = reporting.parser(__doc__).parse_args(arguments).quick
    names, run_one = ([*NETWORKS][:1], run_here) if quick else ([*NETWORKS], run)
    reporting.setting(
        "tensorflow",
        f"float32, graph mode, batch {BATCH}, images of {IMAGES[0]} x {IMAGES[1]}",
    )
    table = reporting.Table(
        "network",
        "step (ms)",
        "a look adds (ms)",
        "in steps",
        "first step (s)",
        "first look (s)",
        "in first steps",
        "kB a look",
        "tags",
        "peak memory, unwatched (MiB)",
        "looks add (MiB)",
    )
    looks, firsts, sizes = {}, {}, {}
    for name in names:
        free, seen = run_one(name, "plain"), run_one(name, "monitor")
        added = seen["look"] - seen["step"]
        looks[name] = added if name.startswith("MLP") else added / seen["step"]
        firsts[name] = seen["first_look"] / free["first"]
        if NETWORKS[name][1] == IMAGES:
            sizes[name] = seen["bytes"] / 1e3
        table.row(
            name,
            f"{seen['step']:.1f}",
            f"{added:.1f}",
            f"{added / seen['step']:.2f}",
            f"{free['first'] / 1e3:.2f}",
            f"{seen['first_look'] / 1e3:.2f}",
            f"{firsts[name]:.2f}",
            f"{seen['bytes'] / 1e3:.0f}",
            seen["tags"],
            f"{free['peak']:.0f}",
            f"{seen['peak'] - free['peak']:.0f}",
        )
    plain, watched = (run_one("memory", x)["peak"] for x in ("plain", "monitor"))
    print(
        f"\nTraining 40 million weights takes {plain:.0f} MiB; looks add "
        f"{watched - plain:.0f} MiB."
    )
    first, *others = names
    hold("a look adds, ms", MLP_LOOK, {first: looks[first]})
    hold("a look adds, steps", LOOK, {name: looks[name] for name in others})
    hold("the first look, first steps", FIRST_LOOK, firsts)
    hold("bytes a look, kB", BYTES, sizes)
    hold("memory that looks add, MiB", MEMORY, {"40 million weights": watched - plain})


def hold(what, limit, measured):
    if not measured:  # --quick
        return
    missed = [name for name, value in measured.items() if value > limit]
    reporting.hold(
        f"{what}: {', '.join(measured)}",
        f"at most {limit}",
        ", ".join(f"{value:.2f}" for value in measured.values()),
        f"no: {', '.join(missed)}" if missed else "yes",
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print(json.dumps(memory(sys.argv[2])))
    elif sys.argv[1:] and sys.argv[1] in NETWORKS:
        print(json.dumps(measure(*sys.argv[1:3])))
    else:
        main()
