"""Do the verdicts hold for trainings that nobody chose?

Draws trainings at random: a data set of `zoo_mistakes`, and depth, width, activation,
norm, dropout, initializer, regularizer, optimizer, its rate from 1e-5 to 3, a schedule,
a clip and the batch size, each by itself. Many have several mistakes. Each is judged by
its score, 0 for guessing and 1 for a perfect network, beside what the data set's own
recipe reaches. Then the first remedy is applied, where a program can.

It prints those that are well and have a warning, those that are at guessing and are
called healthy, and what became of the rest. KERAS_BACKEND names another backend.
"""

import collections
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import cures
import keras
import numpy as np
import reporting
import zoo
from keras import layers, optimizers, regularizers

import kbn

AT_ONCE = 16
WELL, ILL = 0.93, 0.1  # scores, of what the recipe reaches
STEPS = 120  # at least: before 100, little is said
NORMS = {
    "none": None,
    "batch norm": layers.BatchNormalization,
    "batch norm, 0.9": lambda: layers.BatchNormalization(momentum=0.9),
    "batch norm, warm-up": lambda: kbn.BatchNorm(warmup=True),
    "layer norm": layers.LayerNormalization,
}
ACTIVATIONS = ["relu", "relu", "relu", "tanh", "gelu", "sigmoid", "elu", "silu", "selu"]
INITIALIZERS = ["glorot_uniform", "he_normal", "lecun_normal", "random_normal"]
OPTIMIZERS = ["SGD", "SGD", "Adam", "Adam", "AdamW", "RMSprop", "Adagrad", "Nadam"]
OPTIMIZERS += ["Lion", "Adamax", "Adadelta"]


def drawn(seed):
    """(words, the training, the recipe that it was made of)."""
    from zoo_mistakes import RECIPES

    rng = np.random.default_rng(seed)

    def one_of(choices):
        return choices[rng.integers(len(choices))]

    name = one_of([*RECIPES])
    recipe = RECIPES[name]
    low, high = one_of([(-5, 0.5), (-3.5, -1.5)])
    rate, kind = float(10 ** rng.uniform(low, high)), one_of(OPTIMIZERS)
    rows, batch = len(recipe.data(0).x), int(2 ** rng.integers(3, 8))
    epochs = recipe.fit.get("epochs", 12)
    while -(-rows // batch) * epochs < STEPS:
        batch //= 2
    steps = -(-rows // batch) * epochs
    more = {"clipnorm": 1.0} if rng.random() < 0.25 else {}
    more |= {"momentum": 0.9} if kind == "SGD" and rng.random() < 0.5 else {}
    falls = one_of(["", "", "", "cosine", "exponential"])

    def optimizer():
        schedules = optimizers.schedules
        made = {
            "": rate,
            "cosine": schedules.CosineDecay(rate, steps),
            "exponential": schedules.ExponentialDecay(rate, steps // 4, 0.5),
        }
        return getattr(optimizers, kind)(made[falls], **more)

    norm = one_of([*["none"] * 3, *NORMS])
    decay = one_of([0, 0, 0, 1e-4, 1e-2])
    options = {
        "activation": one_of(ACTIVATIONS),
        "kernel_initializer": one_of(INITIALIZERS),
        "kernel_regularizer": regularizers.L2(decay) if decay else None,
        "dropout": one_of([0.0, 0.0, 0.2, 0.5]),
    }
    depth, width = int(rng.integers(1, 7)), int(2 ** rng.integers(3, 8))
    if name != "digits CNN":
        options |= {"hidden": (width,) * depth, "norm": NORMS[norm]}
        norm = f"{depth} x {width}, {norm}"
    else:
        options["momentum"] = norm = one_of([None, 0.9, 0.99])
    words = [name, norm, options["activation"], options["kernel_initializer"]]
    words += [f"dropout {options['dropout']}", f"L2 {decay}", f"batches of {batch}"]
    words += [f"{kind} {rate:.2g}", falls, *(f"{k} {v}" for k, v in more.items())]
    fit = {"epochs": epochs, "batch_size": batch}
    changed = recipe.but(options=options, optimizer=optimizer, fit=fit)
    return ", ".join(map(str, filter(None, words))), changed, recipe


def judge(seed):
    """(words, score, verdict, warnings that are open, score after the remedy)."""
    words, recipe, healthy = drawn(seed)
    data = recipe.data(seed)
    with tempfile.TemporaryDirectory() as place:
        best, _ = cures.trained(healthy, data, seed, f"{place}/healthy")
        score, report = cures.trained(recipe, data, seed, f"{place}/drawn")
        ill = [alert for alert in report.open_alerts if alert.level != "info"]
        remedy = ill[0].remedy if ill else None
        made = cures.treated(recipe, remedy, data) if remedy else None
        after = None
        if made is not None:
            after = cures.trained(*made, seed, f"{place}/treated")[0] / best
    return words, score / best, report.verdict, [x.rule for x in ill], after


def main(arguments=None):
    parser = reporting.parser(__doc__)
    whole = reporting.whole(1)
    parser.add_argument("--trainings", type=whole, default=100, metavar="N")
    parser.add_argument("--first", type=reporting.whole(0), default=0, metavar="SEED")
    parser.add_argument("--processes", type=whole, default=zoo.PROCESSES, metavar="N")
    chosen = parser.parse_args(arguments)
    count = 1 if chosen.quick else chosen.trainings
    seeds = range(chosen.first, chosen.first + count)
    reporting.setting(keras.backend.backend())
    table = reporting.Table("seed", "training", "score", "verdict", "after the remedy")
    counts = collections.Counter()
    found = zoo.done(judge, seeds, chosen.processes, AT_ONCE)
    for seed, (words, score, verdict, ill, after) in zip(seeds, found, strict=True):
        treated = "" if after is None else f"{after:.2f}"
        table.row(str(seed), words, f"{score:.2f}", verdict, treated)
        counts["well"] += score >= WELL
        counts["well, with a warning"] += score >= WELL and bool(ill)
        counts["at guessing"] += score < ILL
        is_missed = score < ILL and verdict.startswith("Healthy")
        counts["at guessing, and called healthy"] += is_missed
        if after is not None and score < WELL:
            counts["treated"] += 1
            counts["better after it, or well"] += after > score + 0.05 or after >= WELL
            counts["worse after it"] += after < score - 0.05
    print("\n" + "; ".join(f"{number} {what}" for what, number in counts.items()) + ".")
    return counts["at guessing, and called healthy"] > 0


if __name__ == "__main__":
    sys.exit(main())
