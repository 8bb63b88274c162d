"""How does a training step of the layer grow with the batch and with the channels?

Prints the median times of kbn's layer, of Keras' and of a copy (`x * 1.0001`) for
batches of 28 x 28 x 64 and for channels of 32 x 28 x 28, and the slopes in log-log
scale: 1 is proportional to the size of the tensor, 0 is overhead alone. Draws them into
the PNG file that `--png` names. TensorFlow, graph mode.
"""

import os
import sys
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import reporting
import steps
import timing

import kbn

SIDE = 28
SIZES = {
    "batch": [(n, SIDE, SIDE, 64) for n in (2, 4, 8, 16, 32, 64, 128, 256)],
    "channels": [(32, SIDE, SIDE, c) for c in (4, 8, 16, 32, 64, 128, 256, 512)],
}
QUICK_SIZES = {
    "batch": [(n, 4, 4, 8) for n in (2, 4, 8)],
    "channels": [(4, 4, 4, c) for c in (2, 4, 8)],
}
AXIS = {"batch": 0, "channels": 3}
COLOURS = {"Keras": "#D55E00", "kbn": "#0072B2", "copy": "tab:gray"}


def measure(shape, **effort):
    """{name: median milliseconds} of a training step and of a copy."""
    layers = {"Keras": keras.layers.BatchNormalization(), "kbn": kbn.BatchNorm()}
    functions = {}
    for name, layer in layers.items():
        layer.build(shape)
        functions[name], _ = steps.functions([layer], shape)
    functions["copy"] = steps.copy()
    times = timing.interleaved(functions, *steps.tensors(shape), **effort)
    return {name: median(values) for name, values in times.items()}


def slope(sizes, times):
    """Of the least-squares line through log(times) over log(sizes)."""
    return np.polyfit(np.log(sizes), np.log(times), 1)[0]


def draw(found, png):
    """found: {what grows: {size: {name: milliseconds}}}."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    labels = {
        "batch": "batch (examples of 28 x 28 x 64)",
        "channels": "channels (of 32 x 28 x 28 elements)",
    }
    for panel, (what, by_size) in zip(panels, found.items(), strict=True):
        sizes = list(by_size)
        for name, colour in COLOURS.items():
            times = [by_size[size][name] for size in sizes]
            label = f"{name}, slope {upper_slope(by_size, name):.2f}"
            panel.plot(sizes, times, "o-", color=colour, label=label, markersize=4)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(sizes, map(str, sizes))
        panel.set_xlabel(labels[what])
        panel.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        panel.grid(which="both", alpha=0.25)
        panel.legend(fontsize=9, title="slope of the larger half", title_fontsize=9)
    panels[0].set_ylabel("training step of the layer (ms)")
    figure.suptitle("Batch norm's training step, TensorFlow in graph mode, CPU")
    figure.tight_layout()
    figure.savefig(png, dpi=110, metadata={"Software": None})
    plt.close(figure)


def upper_slope(by_size, name):
    """The slope over the larger half of the sizes, where overhead is small."""
    sizes = list(by_size)[len(by_size) // 2 :]
    return slope(sizes, [by_size[size][name] for size in sizes])


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument(
        "--png",
        type=reporting.new_picture,
        metavar="FILE",
        help="draw into this file",
    )
    options = parser.parse_args(arguments)
    effort = (
        {"rounds": 2, "repeats": 1} if options.quick else {"rounds": 15, "repeats": 3}
    )
    reporting.setting("tensorflow", "float32, graph mode; milliseconds")
    table = reporting.Table("grows", "shape", "kbn", "Keras", "copy", "Keras / kbn")
    found = {}
    for what, shapes in (QUICK_SIZES if options.quick else SIZES).items():
        for shape in shapes:
            ms = measure(shape, **effort)
            found.setdefault(what, {})[shape[AXIS[what]]] = ms
            times = (f"{ms[name]:.2f}" for name in ("kbn", "Keras", "copy"))
            quotient = ms["Keras"] / ms["kbn"]
            table.row(what, reporting.name_of(shape), *times, f"{quotient:.1f}")
        for half in ("all sizes", "larger half"):
            by_size = found[what]
            slopes = (
                upper_slope(by_size, name)
                if half == "larger half"
                else slope(list(by_size), [ms[name] for ms in by_size.values()])
                for name in ("kbn", "Keras", "copy")
            )
            table.row(f"{what}: slope", half, *(f"**{s:.2f}**" for s in slopes), "")
    if options.png:
        was_there = options.png.exists()
        draw(found, options.png)
        reporting.say_written(options.png, was_there)


if __name__ == "__main__":
    sys.exit(main())
