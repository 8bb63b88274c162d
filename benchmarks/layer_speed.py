"""How long does a batch norm layer take, beside Keras' own?

Prints, for each shape, the median time of a training step (forward and all gradients)
and of inference, in milliseconds and in copies: one copy is `x * 1.0001` on the same
tensor, timed in the same run, in turns. The ratio is that of Keras' time to kbn's: the
median over the rounds, with its 95 % interval. For the backend that KERAS_BACKEND
names: TensorFlow in graph mode, or with the argument `xla` under XLA; JAX under jit;
torch eager.
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

KINDS = {"train": "training", "infer": "inference"}
# Which of the shapes a limit is about.
IMAGES, IMAGES_AND_DENSE, SEQUENCES, ALL = slice(3), slice(4), slice(4, 5), slice(5)
# (kind, ratio of, limit, shapes): the design's Numbers.
HELD = {
    "graph mode": [
        ("train", "copies", {"at_most": 5}, IMAGES_AND_DENSE),
        ("train", "Keras / kbn", {"at_least": 3}, IMAGES_AND_DENSE),
        ("train", "Keras / kbn", {"at_least": 2}, SEQUENCES),
        ("infer", "copies", {"at_most": 1.5}, ALL),
        ("infer", "Keras / kbn", {"at_least": 1}, ALL),
    ],
    "XLA": [
        ("train", "kbn / Keras", {"at_most": 1.05}, ALL),
        ("infer", "kbn / Keras", {"at_most": 1.05}, ALL),
    ],
    "eager": [("train", "Keras / kbn", {"at_least": 4}, IMAGES)],
    "jit": [],
}


def measure(shape, xla, **effort):
    layers = {"kbn": kbn.BatchNorm(), "Keras": keras.layers.BatchNormalization()}
    functions = {"copy": steps.copy()}
    for name, layer in layers.items():
        layer.build(shape)
        for kind, function in zip(KINDS, steps.functions(layer, xla), strict=True):
            functions[kind, name] = function
    return timing.interleaved(functions, *steps.tensors(shape), **effort)


def ratio(times, kind, of):
    above, below = {
        "copies": ((kind, "kbn"), "copy"),
        "Keras / kbn": ((kind, "Keras"), (kind, "kbn")),
        "kbn / Keras": ((kind, "kbn"), (kind, "Keras")),
    }[of]
    return timing.ratio(times[above], times[below])


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument("xla", nargs="?", choices=["xla"], help="TensorFlow under XLA")
    options = parser.parse_args(arguments)
    xla = options.xla is not None
    mode = steps.mode(xla)
    effort = (
        {"rounds": 2, "repeats": 1} if options.quick else {"rounds": 21, "repeats": 5}
    )
    reporting.setting(steps.package(), f"float32, {mode}; milliseconds (copies)")
    side = ("kbn", "Keras", "Keras / kbn")
    table = reporting.Table(
        "shape", "copy", *(f"{kind}: {s}" for kind in KINDS.values() for s in side)
    )
    found = {}
    for shape in steps.QUICK_SHAPES if options.quick else steps.SHAPES:
        times = found[shape] = measure(shape, xla, **effort)
        cells = [reporting.name_of(shape), f"{median(times['copy']):.2f}"]
        for kind in KINDS:
            for layer in ("kbn", "Keras"):
                copies = timing.ratio(times[kind, layer], times["copy"]).median
                cells.append(f"{median(times[kind, layer]):.2f} ({copies:.1f})")
            cells.append(f"**{ratio(times, kind, 'Keras / kbn')}**")
        table.row(*cells)
    for kind, of, limit, shapes in HELD[mode]:
        ratios = {
            reporting.name_of(shape): ratio(times, kind, of)
            for shape, times in list(found.items())[shapes]
        }
        if not ratios:
            continue  # a quick run has fewer shapes
        [(side, value)] = limit.items()
        reporting.hold(
            f"{KINDS[kind]}, {steps.BACKEND} {mode}, {of}: {', '.join(ratios)}",
            f"{side.replace('_', ' ')} {value}",
            ", ".join(f"{r.median:.2f}" for r in ratios.values()),
            timing.judge(ratios, **limit),
        )


if __name__ == "__main__":
    sys.exit(main())
