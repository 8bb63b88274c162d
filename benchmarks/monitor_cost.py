"""What does a look of kbn.callbacks.TrainingMonitor cost?

Of an MLP of six layers, MobileNetV2 and ResNet50 (64 x 64 images, batch 16): the median
time of a training step and of one that is looked at, every third in one `fit`; the
first unwatched step, and what the first look adds, which are mostly tracing; bytes and
tags of a look; peak memory with and without. Each in a process of its own. Then the
memory that looks at every step add to the training of 40 million weights. The design's
limits stand beside it.

`free`: instead, the time of a step that is not looked at over that of an unwatched one,
by fits that alternate, on any backend. `--quick`: the MLP only, in this process.
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

BATCH, EVERY, STEPS = 16, 3, 33
FEW = 18  # steps of networks whose steps are slow
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


LOOK, FIRST_LOOK, BYTES, MEMORY = 1.7, 1.0, 400, 512  # steps, first steps, kB, MiB
FREE = 1.01  # of the time of an unwatched step
MLP_LOOK = 8  # ms
# {name: (network, shape of its inputs)}
NETWORKS = {
    "MLP, 6 layers": (mlp, (32,)),
    "MobileNetV2": (mobilenet, IMAGES),
    "ResNet50": (resnet, IMAGES),
}


class Epoch(keras.callbacks.Callback):
    """Milliseconds a step of an epoch; Keras would wait for a method of each batch."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.step = steps, None

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stop it."""
        self.step = (time.perf_counter() - self.start) * 1e3 / self.steps


def free(rounds=20, steps=150):
    """A step's milliseconds unwatched, and the ratio of one that is not looked at.

    Each watched fit stands between two unwatched ones, and of each counts the second
    epoch: what a fit costs once is left out.
    """
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(64, activation="relu") for _ in range(12)]
    model = keras.Sequential([layers.Input((32,)), *hidden, layers.Dense(10)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, 32)).astype("float32")
    y = rng.normal(size=(BATCH * steps, 10)).astype("float32")

    def step(*monitors):
        clock = Epoch(steps)
        fit = {"batch_size": BATCH, "epochs": 2, "verbose": 0}
        model.fit(x, y, callbacks=[clock, *monitors], **fit)
        return clock.step

    step()  # it compiles
    unwatched, ratios = [], []
    with tempfile.TemporaryDirectory() as log_dir:
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=lambda step: False)
        for _ in range(rounds):
            before, watched, after = step(), step(monitor), step()
            unwatched += [before, after]
            ratios.append(watched / (before * after) ** 0.5)
    return median(unwatched), median(ratios)


def report_free(quick):
    reporting.setting(keras.backend.backend(), f"float32, MLP, batch {BATCH}")
    unwatched, ratio = free(2, 20) if quick else free()
    table = reporting.Table("a step (ms), unwatched", "ratio of one without a look")
    table.row(f"{unwatched:.3f}", f"{ratio:.3f}")
    if not quick:
        hold("a step without a look, of unwatched", FREE, {"MLP": ratio})


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
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=EVERY)
        clock = trained(name, log_dir, [monitor] if kind == "monitor" else [])
        tags = len(read_log(log_dir))
    found = {"first": clock.steps[0], "peak": peak()}
    if kind == "monitor":
        looks = clock.steps[2 * EVERY - 1 :: EVERY]
        step = median(x for i, x in enumerate(clock.steps[EVERY:], 1) if i % EVERY)
        found |= {
            "step": step,
            "look": median(looks),
            "first_look": clock.steps[EVERY - 1] - step,
            "bytes": (clock.sizes[-1] - clock.sizes[2 * EVERY - 1]) / (len(looks) - 1),
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
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=1)
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
    parser = reporting.parser(__doc__)
    parser.add_argument("what", nargs="?", type=reporting.one_of(["free"]))
    given = parser.parse_args(arguments)
    quick = given.quick
    if given.what == "free":
        report_free(quick)
        return
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
        "the first look adds (s)",
        "in first steps",
        "kB a look",
        "tags",
        "peak memory, unwatched (MiB)",
        "looks add (MiB)",
    )
    looks, firsts, sizes = {}, {}, {}
    for name in names:
        alone, seen = run_one(name, "plain"), run_one(name, "monitor")
        added = seen["look"] - seen["step"]
        looks[name] = added if name.startswith("MLP") else added / seen["step"]
        firsts[name] = seen["first_look"] / alone["first"]
        if NETWORKS[name][1] == IMAGES:
            sizes[name] = seen["bytes"] / 1e3
        table.row(
            name,
            f"{seen['step']:.1f}",
            f"{added:.1f}",
            f"{added / seen['step']:.2f}",
            f"{alone['first'] / 1e3:.2f}",
            f"{seen['first_look'] / 1e3:.2f}",
            f"{firsts[name]:.2f}",
            f"{seen['bytes'] / 1e3:.0f}",
            seen["tags"],
            f"{alone['peak']:.0f}",
            f"{seen['peak'] - alone['peak']:.0f}",
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
