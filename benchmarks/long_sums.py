"""How exact is the variance of a batch, from a thousand to millions of elements?

Prints the relative error of the moving variance against float64, in training, for
channels of 2^10 to 2^24 elements drawn from N(0, 1), kbn's layer beside Keras'. kbn is
held to 2e-5, or to Keras' own error where that is larger. `--png FILE` draws it. For
the backend that KERAS_BACKEND names; TensorFlow in graph mode, JAX under jit.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import reporting
import steps

import kbn

LIMIT = 2e-5
CHANNELS = [1, 4, 16, 64]
POWERS = range(10, 25, 2)
QUICK_POWERS = range(4, 7, 2)
LARGEST = 2**25  # elements of a tensor


def variance_error(layer_class, x):
    """The largest relative error of a channel's variance."""
    layer = layer_class(momentum=0.0)
    layer.build(x.shape)
    inputs = keras.ops.convert_to_tensor(x)
    if steps.BACKEND == "tensorflow":
        import tensorflow as tf

        tf.function(lambda x: layer(x, training=True))(inputs)
    elif steps.BACKEND == "jax":
        import jax

        trainable, fixed = (
            [v.value for v in vs]
            for vs in (layer.trainable_variables, layer.non_trainable_variables)
        )
        step = jax.jit(
            lambda x: layer.stateless_call(trainable, fixed, x, training=True)
        )
        for variable, value in zip(
            layer.non_trainable_variables, step(inputs)[1], strict=True
        ):
            variable.assign(value)
    else:
        layer(inputs, training=True)
    found = keras.ops.convert_to_numpy(layer.moving_variance).astype("f8")
    exact = np.array([x[:, i].astype("f8").var() for i in range(x.shape[1])])
    return float(np.max(np.abs(found / exact - 1)))


def draw(path, errors):
    """The errors by elements a channel, a panel for each number of channels."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(CHANNELS), figsize=(13, 3.6), sharey=True, layout="constrained"
    )
    for panel, channels in zip(panels, CHANNELS, strict=True):
        for name, colour, mark in (
            ("Keras", "#D55E00", "s"),
            ("kbn", "#0072B2", "o"),
        ):
            points = [
                (2.0**power, error)
                for (power, c), error in errors[name].items()
                if c == channels
            ]
            panel.loglog(
                *zip(*points, strict=True), color=colour, marker=mark, label=name
            )
        panel.axhline(LIMIT, color="grey", linestyle=":", label="kbn's limit")
        panel.set_title(f"{channels} channel{'s' * (channels > 1)}")
        panel.set_xlabel("elements a channel")
    panels[0].set_ylabel("relative error of the variance")
    panels[0].legend()
    figure.suptitle(f"Error of a batch's variance, {steps.package()}")
    figure.savefig(path, dpi=110)


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument(
        "--png",
        type=reporting.new_picture,
        metavar="FILE",
        help="draw the errors into it",
    )
    options = parser.parse_args(arguments)
    reporting.setting(steps.package(), f"float32, {steps.FIRST}; kbn (Keras)")
    table = reporting.Table("channels", *(f"2^{p}" for p in powers(options)))
    layers = {"kbn": kbn.BatchNorm, "Keras": keras.layers.BatchNormalization}
    errors = {name: {} for name in layers}
    kept = {}
    for channels in CHANNELS:
        cells = []
        for power in powers(options):
            if channels * 2**power > LARGEST:
                cells.append("")
                continue
            x = np.random.default_rng(power).normal(size=(2**power, channels))
            pair = {n: variance_error(c, x.astype("f4")) for n, c in layers.items()}
            for name, error in pair.items():
                errors[name][power, channels] = error
            cells.append("{kbn:.1e} ({Keras:.1e})".format(**pair))
            kept[f"2^{power} x {channels}"] = pair["kbn"] <= max(LIMIT, pair["Keras"])
        table.row(channels, *cells)
    reporting.hold(
        f"error of the variance, up to 2^24 elements a channel, {steps.BACKEND}",
        "at most 2e-05, or Keras' own",
        f"{max(errors['kbn'].values()):.1e}",
        reporting.verdict(kept),
    )
    if options.png:
        was_there = options.png.exists()
        draw(options.png, errors)
        reporting.say_written(options.png, was_there)


def powers(options):
    return QUICK_POWERS if options.quick else POWERS


if __name__ == "__main__":
    sys.exit(main())
