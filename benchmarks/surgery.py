"""What do converting and folding give for the networks of keras.applications?

Prints, for each network that has batch norm, with random weights and random statistics:
how many batch norms `kbn.fold_batch_norm` folds and leaves, how far the outputs move
beside the largest of them, how much faster inference is; whether the model that is
converted to kbn and back gives the same bits as the original (outputs, gradients and
statistics of a training step), how far the converted one is from it, and how much
faster its training step is. Beside each distance stands the original's own: how far its
outputs and gradients move when each input moves by one rounding, for random networks
amplify those, some of them without bound. Images are as small as 2 cores can train on
in seconds; a speed-up is the median of rounds that take turns, with its 95 % interval.

All of them take ten minutes, so `make bench` leaves this one out. `--only NAME`
measures one network; each runs in a process of its own.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import reporting
import timing
from model_step import CLASSES, small_cnn, training_step

import kbn

ALONE = "SURGERY_ALONE"  # set in the process of one network
BATCH = 8
# name: side of the images
NETWORKS = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "MobileNetV3Large": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "DenseNet121": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "NASNetMobile": 64,
}
QUICK = {"CNN of 3 convolutions": 8}


def network(name, side):
    """A network by name with random weights and statistics."""
    keras.utils.set_random_seed(0)
    if name in QUICK:
        model = small_cnn(side)
    else:
        make = getattr(keras.applications, name)
        shape = (side, side, 3)
        settings = {"classes": CLASSES, "classifier_activation": None}
        model = make(weights=None, input_shape=shape, **settings)
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                shape = variable.shape
                variable.assign(
                    rng.uniform(0.5, 2, shape)
                    if variable.name in ("gamma", "moving_variance")
                    else 0.3 * rng.normal(size=shape)
                )
    return model


def norms(model):
    """How many batch norms a model has."""
    kinds = keras.layers.BatchNormalization, kbn.BatchNorm
    return sum(isinstance(layer, kinds) for layer in model._flatten_layers())


def inference(model):
    """Its inference as a function of a graph."""
    import tensorflow as tf

    return tf.function(partial(model, training=False))


def step(model, x, y):
    """[outputs], gradients and statistics of one training step, in graph mode."""
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def once(x, y):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            value = loss(y, outputs)
        variables = [variable.value for variable in model.trainable_variables]
        return outputs, tape.gradient(value, variables)

    # Dropout draws the same in all models: their seeds are copies.
    outputs, gradients = once(x, y)
    statistics = [
        np.array(variable.value)
        for variable in model.non_trainable_variables
        if "float" in variable.dtype
    ]
    return [[outputs], gradients, statistics]


def distance(ours, theirs):
    """||ours - theirs|| / ||theirs|| of lists of tensors."""
    ours, theirs = (
        np.concatenate([np.asarray(one, "float64").ravel() for one in tensors])
        for tensors in (ours, theirs)
    )
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def repeats(model, *batch):
    """Whether two training steps from the same state give the same bits."""
    return all(
        map(np.array_equal, *(flat(undone_step(model, *batch)) for _ in range(2)))
    )


def undone_step(model, *batch):
    """`step`, and everything in the model put back: weights, statistics and seeds."""
    state = [(variable, np.array(variable.value)) for variable in model.variables]
    seen = step(model, *batch)
    for variable, value in state:
        variable.assign(value)
    return seen


def flat(lists):
    """All tensors of a step as arrays."""
    return [np.asarray(one) for tensors in lists for one in tensors]


def measure(name, side, rounds):
    """The cells of a network's row."""
    model = network(name, side)
    folded = kbn.fold_batch_norm(model)
    converted = kbn.convert_batch_norm(model)
    back = kbn.convert_batch_norm(converted, back=True)
    rng = np.random.default_rng(1)
    shape = (BATCH, side, side, 3)
    x = keras.ops.convert_to_tensor(rng.normal(size=shape), "float32")
    y = keras.ops.convert_to_tensor(rng.integers(0, CLASSES, BATCH), "int32")
    functions = {
        which: inference(one) for which, one in (("Keras", model), ("folded", folded))
    }
    theirs, ours = (np.asarray(function(x)) for function in functions.values())
    nudged = keras.ops.convert_to_tensor(np.nextafter(np.asarray(x), np.float32(9)))
    largest = np.abs(theirs).max()
    differ = np.abs(ours - theirs).max() / largest
    own = np.abs(np.asarray(functions["Keras"](nudged)) - theirs).max() / largest
    times = timing.interleaved(functions, x, rounds=rounds, repeats=1)
    moved = undone_step(model, nudged, y)
    is_repeatable = repeats(model, x, y)
    steps = [step(one, x, y) for one in (model, converted, back)]
    same = all(map(np.array_equal, flat(steps[0]), flat(steps[2])))
    away = [distance(*pair) for pair in zip(steps[1], steps[0], strict=True)]
    bounds = [distance(*pair) for pair in zip(moved, steps[0], strict=True)]
    training = {
        which: training_step(one)
        for which, one in (("Keras", model), ("kbn", converted))
    }
    trained = timing.interleaved(training, x, y, rounds=rounds, repeats=1)
    return [
        name,
        reporting.name_of(shape),
        f"{norms(model)} to {norms(folded)}",
        f"{differ:.1e} ({own:.1e})",
        *(f"{median(times[which]):.1f}" for which in ("Keras", "folded")),
        f"**{timing.ratio(times['Keras'], times['folded'])}**",
        "yes" if same else "no" if is_repeatable else "no, nor does the original",
        *(f"{one:.1e} ({bound:.1e})" for one, bound in zip(away, bounds, strict=True)),
        *(f"{median(trained[which]):.1f}" for which in ("Keras", "kbn")),
        f"**{timing.ratio(trained['Keras'], trained['kbn'])}**",
    ]


def alone(name, options):
    """`measure` in a process of its own: a network's memory is given back."""
    command = [sys.executable, Path(__file__).resolve(), "--only", name]
    command += ["--quick"] if options.quick else []
    command += ["--rounds", str(options.rounds)]
    run = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, ALONE: "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if run.returncode:
        raise SystemExit(f"{name}: the process ended with {run.returncode}.")
    return json.loads(run.stdout.splitlines()[-1])


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument("--only", metavar="NAME", help="one network")
    parser.add_argument("--rounds", type=reporting.whole(1), default=15, metavar="N")
    options = parser.parse_args(arguments)
    networks = QUICK if options.quick else NETWORKS
    if options.only is not None:
        if options.only not in networks:
            parser.error(f"--only: {options.only!r} is none of {', '.join(networks)}")
        networks = {options.only: networks[options.only]}
    rounds = 2 if options.quick else options.rounds
    if ALONE in os.environ:
        ((name, side),) = networks.items()
        print(json.dumps(measure(name, side, rounds)))
        return
    reporting.setting("tensorflow", "float32, graph mode; milliseconds")
    table = reporting.Table(
        "network",
        "inputs",
        "batch norms, before to after folding",
        "outputs differ by, of the largest (by a rounding of the inputs)",
        "inference: Keras",
        "folded",
        "Keras / folded",
        "converted and back: same bits",
        "converted differs in outputs (by a rounding)",
        "gradients",
        "statistics",
        "training step: Keras",
        "kbn",
        "Keras / kbn",
    )
    for number, name in enumerate(networks, 1):
        print(f"[{number}/{len(networks)}] {name}", file=sys.stderr, flush=True)
        table.row(*alone(name, options))


if __name__ == "__main__":
    sys.exit(main())
