"""How long does a batch norm layer take, beside Keras' own?

Layers stand in a chain, ten one after the other, three of the large shapes, so that
each input has just been made. Prints, for each shape, the median time of a layer's
training step (forward and all gradients) and of its inference, in milliseconds. The
ratio is that of Keras' time to kbn's: the median over the rounds, whose order is
shuffled, with its 95 % interval. Of the large shapes also in copies, one copy being `x
* 1.0001` on the same tensor, and in TensorFlow's graph mode beside the fused op by
itself and beside tf_keras, where that is installed (`pip install tf_keras`).

For the backend that KERAS_BACKEND names, in its first mode or the one given: TensorFlow
in graph mode, with an unknown batch, under XLA or eager; JAX under jit or eager; torch
eager.
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

KINDS = {"train": "training", "infer": "inference"}
# Which of the large shapes a limit is about.
IMAGES, IMAGES_AND_DENSE, SEQUENCES, ALL = slice(3), slice(4), slice(4, 5), slice(5)
# (kind, ratio of, limit, shapes): the design's Numbers.
HELD = {
    "graph mode": [
        ("train", "copies", {"at_most": 5}, IMAGES_AND_DENSE),
        ("train", "Keras / kbn", {"at_least": 3}, IMAGES_AND_DENSE),
        ("train", "Keras / kbn", {"at_least": 2}, SEQUENCES),
        ("train", "kbn / fused op", {"at_most": 1.05}, IMAGES),
        ("train", "kbn / tf_keras", {"at_most": 1.05}, IMAGES),
        ("infer", "copies", {"at_most": 1.5}, ALL),
        ("infer", "Keras / kbn", {"at_least": 1}, ALL),
    ],
    "XLA": [
        ("train", "kbn / Keras", {"at_most": 1.05}, ALL),
        ("infer", "kbn / Keras", {"at_most": 1.05}, ALL),
    ],
    ("torch", "eager"): [("train", "Keras / kbn", {"at_least": 4}, IMAGES)],
}
SMALL_HELD = [(kind, "kbn / Keras", {"at_most": 1.1}, slice(None)) for kind in KINDS]


def measure(shape, mode, others=(), **effort):
    """{(kind, name): milliseconds of one layer, a value a round}; "copy" too."""
    classes = {"kbn": kbn.BatchNorm, "Keras": keras.layers.BatchNormalization}
    classes |= dict(others)
    functions = {"copy": steps.copy()}
    depth = steps.depth(shape)
    for name, layer in classes.items():
        layers = [layer() for _ in range(depth)]
        for one in layers:
            one.build(shape)
        for kind, function in zip(
            KINDS, steps.functions(layers, shape, mode), strict=True
        ):
            functions[kind, name] = function
    times = timing.interleaved(functions, *steps.tensors(shape), **effort)
    for name in times.keys() - {"copy"}:
        times[name] = [time / depth for time in times[name]]
    return times


def ratio(times, kind, of):
    if of == "copies":
        return timing.ratio(times[kind, "kbn"], times["copy"])
    above, below = of.split(" / ")
    return timing.ratio(times[kind, above], times[kind, below])


def hold(mode, limits, found):
    for kind, of, limit, shapes in limits:
        sides = [side for side in of.split(" / ") if side != "copies"]
        ratios = {
            reporting.name_of(shape): ratio(times, kind, of)
            for shape, times in [*found.items()][shapes]
            if all((kind, side) in times for side in sides)
        }
        if not ratios:
            continue  # a quick run has fewer shapes; tf_keras may be missing
        [(side, value)] = limit.items()
        reporting.hold(
            f"{KINDS[kind]}, {steps.BACKEND} {mode}, {of}: {', '.join(ratios)}",
            f"{side.replace('_', ' ')} {value}",
            ", ".join(f"{r.median:.2f}" for r in ratios.values()),
            timing.judge(ratios, **limit),
        )


def large(mode, shapes, effort):
    """The table of the design's shapes."""
    others = {}
    if steps.BACKEND == "tensorflow" and mode == "graph mode":
        others = steps.raw_layers()
    side = ("kbn", "Keras", "Keras / kbn", *(f"kbn / {name}" for name in others))
    table = reporting.Table(
        "shape", "copy", *(f"{kind}: {s}" for kind in KINDS.values() for s in side)
    )
    found = {}
    for shape in shapes:
        times = found[shape] = measure(shape, mode, others, **effort)
        cells = [reporting.name_of(shape), f"{median(times['copy']):.2f}"]
        for kind in KINDS:
            for layer in ("kbn", "Keras"):
                copies = timing.ratio(times[kind, layer], times["copy"]).median
                cells.append(f"{median(times[kind, layer]):.2f} ({copies:.1f})")
            cells.append(f"**{ratio(times, kind, 'Keras / kbn')}**")
            cells += [str(ratio(times, kind, f"kbn / {name}")) for name in others]
        table.row(*cells)
    return found


def small(mode, shapes, effort):
    """The table of shapes from the smallest on."""
    side = ("kbn", "Keras", "Keras / kbn")
    table = reporting.Table(
        "shape", *(f"{kind}: {s}" for kind in KINDS.values() for s in side)
    )
    found = {}
    for shape in shapes:
        calls = int(max(1, min(effort["repeats"], 2**19 // np.prod(shape))))
        times = found[shape] = measure(shape, mode, **{**effort, "repeats": calls})
        cells = [reporting.name_of(shape)]
        for kind in KINDS:
            cells += [f"{median(times[kind, s]):.3f}" for s in ("kbn", "Keras")]
            cells.append(f"**{ratio(times, kind, 'Keras / kbn')}**")
        table.row(*cells)
    return found


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument(
        "mode", nargs="?", choices=steps.MODES, default=next(iter(steps.MODES))
    )
    options = parser.parse_args(arguments)
    mode, quick = steps.MODES[options.mode], options.quick
    reporting.setting(
        steps.package(), f"float32, {mode}; milliseconds of one layer (copies)"
    )
    effort = {"rounds": 2, "repeats": 1} if quick else {"rounds": 15, "repeats": 1}
    if mode != "eager" or steps.BACKEND == "torch":
        found = large(mode, steps.QUICK_SHAPES[:1] if quick else steps.SHAPES, effort)
        hold(mode, HELD.get(mode, HELD.get((steps.BACKEND, mode), [])), found)
    if not quick:
        effort = {"rounds": 15, "repeats": 2 if mode == "eager" else 10}
    found = small(mode, steps.QUICK_SHAPES[1:] if quick else steps.CHAIN_SHAPES, effort)
    hold(mode, SMALL_HELD, found)


if __name__ == "__main__":
    sys.exit(main())
