"""How much memory does a training step of ten stacked layers need, beside Keras' own?

Prints, for each shape and dtype policy, the peak over what was there before the step
(input, gradient of the output, weights): as TensorFlow's CPU allocator counts it, which
is exact, in MiB and in tensors of the input's size and dtype; and as the memory of the
process grew in the first step, which holds what the allocator does not see. Each
measurement is a process of its own, in graph mode. The memory of the process is read
as Linux tells it.
"""

import argparse
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The allocator counts only with oneDNN, which is not TensorFlow's default on every
# processor.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import reporting

LAYERS = 10
# The first is the design's; the others are powers of two, so that the allocator rounds
# nothing, and have 32 MiB in float32.
SHAPES = [(32, 56, 56, 64), (32, 64, 64, 64), (8192, 1024)]
QUICK_SHAPES = [(64, 32, 32, 16)]
# What the graph knows of a shape: all of it, all but the batch, or its channels only.
KNOWN = {
    "all sizes": lambda shape: shape,
    "unknown batch": lambda shape: (None, *shape[1:]),
    "channels": lambda shape: (*[None] * (len(shape) - 1), shape[-1]),
}
# policy: at most this share of Keras' memory
LIMITS = {"float32": 0.95, "mixed_bfloat16": 0.5, "mixed_float16": None}


def measure(which, policy, shape, known):
    """{"allocator": MiB, "resident": MiB} of one training step, in this process."""
    import keras
    import tensorflow as tf

    import kbn

    keras.config.set_dtype_policy(policy)
    make = {"kbn": kbn.BatchNorm, "Keras": keras.layers.BatchNormalization}[which]
    layers = [make() for _ in range(LAYERS)]
    dtype = layers[0].compute_dtype
    for layer in layers:
        layer.build(shape)
    weights = [w.value for layer in layers for w in layer.trainable_variables]

    spec = tf.TensorSpec(KNOWN[known](shape), dtype)

    @tf.function(input_signature=[spec, spec])
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = x
            for layer in layers:
                y = layer(y, training=True)
        return y, tape.gradient(y, [x, *weights], dy)

    def tensors(shape):
        # In their own dtype: a wider one before would leave room that is then reused.
        values = tf.random.stateless_uniform(shape, (0, 0), dtype=dtype)
        return values, values + 1

    if known != "all sizes":
        step(*tensors((2, *shape[1:])))  # what TensorFlow needs once
    x, dy = tensors(shape)
    step.get_concrete_function()
    allocated, resident = [], None
    for _ in range(3):
        tf.config.experimental.reset_memory_stats("CPU:0")
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is
        resident_before = status("VmRSS")
        step(x, dy)
        if resident is None:  # later steps find the memory that the first one took
            resident = status("VmHWM") - resident_before
        peak = tf.config.experimental.get_memory_info("CPU:0")["peak"]
        allocated.append((peak - before) / 2**20)
    return {"allocator": median(allocated), "resident": resident}


def status(key):
    """A field of /proc/self/status, in MiB."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)[1]) / 1024


def in_own_process(*given):
    command = [
        sys.executable,
        __file__,
        "--measure",
        json.dumps(given),
    ]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)


def main(arguments=None):
    parser = reporting.parser(__doc__)
    # By the script itself, in a process of its own.
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    reporting.setting(
        "tensorflow", f"graph mode, {LAYERS} layers; MiB (tensors of the input's size)"
    )
    table = reporting.Table(
        "shape",
        "the graph knows",
        "policy",
        "allocator: kbn",
        "Keras",
        "kbn / Keras",
        "resident: kbn",
        "Keras",
        "kbn / Keras",
    )
    found = {}
    for shape in QUICK_SHAPES if options.quick else SHAPES:
        pairs = itertools.product(LIMITS, KNOWN)
        if len(shape) == 2:  # of which the channels are all but the batch
            pairs = itertools.product(LIMITS, list(KNOWN)[:2])
        if options.quick:
            pairs = [("mixed_bfloat16", "channels")]
        for policy, known in pairs:
            ours, theirs = (
                in_own_process(which, policy, shape, known)
                for which in ("kbn", "Keras")
            )
            cells = []
            size = math.prod(shape) * (4 if policy == "float32" else 2) / 2**20
            for kind in ("allocator", "resident"):
                for one in (ours, theirs):
                    tensors = one[kind] / size
                    cells.append(f"{one[kind]:.0f} ({tensors:.1f})")
                cells.append(f"**{ours[kind] / theirs[kind]:.2f}**")
            share = ours["allocator"] / theirs["allocator"]
            name = reporting.name_of(shape)
            found.setdefault(policy, {})[f"{name} ({known})"] = share
            table.row(name, known, policy, *cells)
    for policy, shares in found.items():
        if (limit := LIMITS[policy]) is not None:
            reporting.hold(
                f"peak memory of {LAYERS} layers, {policy}, kbn / Keras: "
                + ", ".join(shares),
                f"at most {limit}",
                ", ".join(f"{share:.2f}" for share in shares.values()),
                reporting.verdict({name: s <= limit for name, s in shares.items()}),
            )


if __name__ == "__main__":
    sys.exit(main())
