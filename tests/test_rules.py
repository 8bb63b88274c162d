"""Every rule on made-up entries: what it calls ill, what it does not, and its words."""

import dataclasses
import math
import re

import pytest

from kbn.callbacks import rules
from kbn.callbacks.alerts.alert import rank
from kbn.callbacks.alerts.follow import alerts_of
from kbn.callbacks.signals.default import DEFAULT, listed
from kbn.momentum import fitting_momentum

KERNELS = [f"net/dense_{i}/kernel" for i in range(4)]


def layer(name, kind="Dense", activation="relu", shape=(8, 8), **more):
    kernel = {"path": f"net/{name}/kernel", "shape": [*shape], "trainable": True}
    owner = {
        key: more.pop(key) for key in ("optimizer", "call", "dtype") if key in more
    }
    weights = [kernel | owner]
    known = {"name": name, "path": f"net/{name}", "type": f"keras.{kind}"}
    return {**known, "activation": activation, "weights": weights, **more}


def record(*layers, **more):
    return {"model": {"name": "net"}, "layers": [*layers], **more}


def norm(name="norm", momentum=0.9, **more):
    settings = {"momentum": momentum, "epsilon": 1e-3, "is_frozen": False}
    settings |= {"is_fresh": True, **more}
    return {"name": name, "type": "keras.BatchNormalization", "batch_norm": settings}


DENSE = record(
    *(layer(f"dense_{i}") for i in range(4)),
    optimizers=[{"type": "keras.Adam", "loss_scaling": None}],
    fit={"epochs": 10, "steps": 28},
)
DEEP = record(*(layer(f"dense_{i}", activation="sigmoid") for i in range(4)))
SCALED = {**DENSE, "optimizers": [{"type": "keras.SGD", "loss_scaling": "keras.L"}]}
NORM = record(layer("dense_0"), norm(), fit={"steps": 28})
COLD = record(layer("dense_0"), norm(momentum=0.99), fit={"steps": 28})
LOADED = record(layer("dense_0"), norm(momentum=0.99, is_fresh=False))
CUMULATIVE = record(norm(momentum=None))
FROZEN = record(norm(is_frozen=True))


def head(loss, activation, name="y", takes_logits=False, units=10, is_only=True):
    """An output as the record has it."""
    known = {"name": name, "loss": loss, "takes_logits": takes_logits, "units": units}
    return {**known, "activation": activation, "layer": "last", "is_only": is_only}


ADAM = {"optimizers": [{"type": "keras.Adam"}], "fit": {"epochs": 10, "steps": 28}}
CE, MSE = "sparse_categorical_crossentropy", "mean_squared_error"
CLASSES = record(layer("last"), heads=[head(CE, "softmax")], **ADAM)
NUMBERS = record(layer("last"), heads=[head(MSE, "linear", units=1)], **ADAM)
TWO = record(
    heads=[head(CE, "softmax", x, is_only=False) for x in ("left", "right")], **ADAM
)


def with_head(*given, **more):
    return record(layer("last"), heads=[head(*given, **more)])


def targets(**parts):
    return {f"targets/y/{name}": x for name, x in parts.items()}


def guessing(guess, error=0.0, name="y", spread=0.5, **parts):
    """What a look logs of targets."""
    found = {"loss/guess": guess, f"targets/{name}/guess": guess}
    found |= {f"targets/{name}/guess_error": error, f"outputs/{name}/spread": spread}
    return (1, {**found, "epoch": 1, **targets(**parts)})


def later(*entries, by=100):
    """The same entries, so many steps later."""
    return [(step + by, scalars) for step, scalars in entries]


def looks(*scalars, first=100, every=20):
    return [(first + every * i, one) for i, one in enumerate(scalars)]


def series(tag, *values, **others):
    """Looks that differ in one tag."""
    return looks(*({tag: value, "epoch": 1, **others} for value in values))


def epochs(**metrics):
    """Ends of epochs: loss=[...], val_loss=[...]."""
    columns = zip(*metrics.values(), strict=True)
    return [
        (28 * i, {f"Epoch/{k}": x for k, x in zip(metrics, row, strict=True)})
        for i, row in enumerate(columns, start=1)
    ]


def gradients(*rms):
    return {f"gradient_rms/{path}": x for path, x in zip(KERNELS, rms, strict=False)}


def zeros(share, growth, path=KERNELS[0]):
    return {f"zeros/weights/{path}": share, f"weight_growth/{path}": growth, "epoch": 1}


def stds(*values):
    return {f"activation_std/dense_{i}": x for i, x in enumerate(values)}


def ratio(value, path=KERNELS[0]):
    return {f"update_ratio/{path}": value}


def normalized(number):
    return norm(f"norm_{number}") | {"is": ["BatchNormalization"]}


CELL = {"is": ["LSTM", "RNN"]}
RECURRENT = "net/cell/recurrent_kernel"
SQUARE = record(
    {**layer("cell"), "weights": [{"path": RECURRENT, "shape": [9, 9]}]}, first_look=0
)
TIMES_1_6 = {f"weight_std/{RECURRENT}": 1.6 / 3, f"weight_spread/{RECURRENT}": 1.0}


def moments(mean, variance, **more):
    """A look at a batch norm in training."""
    gaps = {"mean": mean, "variance": variance}
    return {f"batch_norm_gap/norm/{k}": x for k, x in gaps.items()} | more


def gap(value, loss=1.0):
    """A look at a model with batch norm."""
    losses = {"loss_gap/train_eval": value, "loss/train": loss}
    return moments(0.1, 0.1, **losses)


def young(share=0.4, makes=1.5, **more):
    """A look at a batch norm whose start is still in its statistics."""
    start = {"share": share, "gap": makes}
    return {f"batch_norm_start/norm/{k}": x for k, x in start.items()} | more


def unmoved(share=1.0, updates=0.0):
    """A look at a step that trained a batch norm."""
    return {"batch_norm_start/norm/share": share, "batch_norm_updates/norm": updates}


EPOCH = 28, {"Epoch/loss": 1.0}  # the first is over
TURNED = [(1, gap(0.1)), EPOCH, (29, {**gap(4.0), **young()})]
HEALTHY_KERNEL = {
    "weight_std/net/dense_0/kernel": 0.1,
    "weight_spread/net/dense_0/kernel": 1.0,
    "distance_from_init/net/dense_0/kernel": 0.1,
}
OF_ZEROS = {"weight_std/net/dense_0/kernel": 0.0}
OF_ZEROS_THAT_MOVED = {"weight_std/net/dense_0/kernel": 1e-3}
OF_ONES = {
    "weight_std/net/dense_0/kernel": 1e-3,  # the first step has moved its rows apart
    "distance_from_init/net/dense_0/kernel": 0.01,
}
LEARNS = {"loss/train": 0.9}
RAW = {**DENSE, "inputs": {"image": {"fate": "kernel", "layer": "dense_0"}}}
IMAGE = {"inputs/image/mean": 33, "inputs/image/std": 79}
COLUMN = {"inputs/image/column": 7, "inputs/image/column_mean": 1e6}
COLUMN |= {"inputs/image/column_std": 0, "inputs/image/small_columns": 0.9}
# What shows that a scale does harm, and how it is said.
HARMS = [
    (COLUMN, "its largest column, 7, has mean 1e+06, standard deviation 0: 90% of its"),
    ({"inputs/image/offset": 100}, "it lies 1e+02 standard deviations from 0. Adapt"),
    ({f"update_ratio/{KERNELS[0]}": 2.0}, "this step changed dense_0 by 2 of itself"),
    ({"health/dead_units/dense_0": 0.9}, "90% of the units are dead in dense_0"),
    ({"health/saturated/dense_0": 0.9}, "90% of the outputs are saturated in dense_0"),
    ({"activation_std/dense_0": 6e4}, "outputs of dense_0 have standard deviation 6e"),
    ({"loss/train": 9.0, "loss/guess": 2.3}, "3.9 times that of guessing"),
]
BAD = "health/non_finite/"
GAN = record(
    *(
        layer(f"dense_{i}", optimizer=name, call=i // 2)
        for i, name in enumerate(["d", "d", "g", "g"])
    ),
    optimizers=[
        {"name": "d", "type": "keras.SGD"},
        {"name": "g", "type": "keras.Adam"},
    ],
)


def first_steps(updates, losses, rate=0.5, steps=(1, 2, 4, 8, 16), **others):
    """Looks at the beginning: how far a step moved the weights, and the loss."""
    return [
        (
            step,
            {f"update_from_init/{path}": update for path in KERNELS}
            | {"loss/train": loss, "learning_rate": rate, **others},
        )
        for step, update, loss in zip(steps, updates, losses, strict=False)
    ]


def with_epochs(entries, losses, steps=60):
    rate = {"learning_rate": entries[-1][1]["learning_rate"]}
    ends = enumerate(losses, start=1)
    return entries + [(steps * i, {"Epoch/loss": x, **rate}) for i, x in ends]


def with_settings(known, **settings):
    """A record whose optimizer has these arguments."""
    return {**known, "optimizers": [{"type": "keras.SGD", "settings": settings}]}


def with_tag(entries, tag, *values):
    """The entries, each with one more scalar."""
    pairs = zip(entries, values, strict=True)
    return [(step, {**one, tag: value}) for (step, one), value in pairs]


NAN = math.nan
FROZEN_KERNEL = {"path": "net/last/kernel", "shape": [8, 8], "trainable": False}
STUCK = later(*epochs(loss=[2.3] * 4, val_loss=[2.3] * 4))
CLIPPED = with_settings(CLASSES, clipnorm=1e-6)
DECAYED = with_settings(CLASSES, weight_decay=100)
PRESSED = {**CLASSES, "layers": [layer("dense_0", regularized=["kernel_regularizer"])]}

OWN = {**DENSE, "no_guess": "the model has a train_step of its own"}
LOOK = [(1, {"learning_rate": 0.1})]


def scheduled(kind, **config):
    """A training of 280 steps, as it is recorded, with such a schedule."""
    whole = {"decay_steps": 280, "warmup_steps": 0, "alpha": 0.0, "cycle": False}
    whole |= {"initial_learning_rate": 0.1, "end_learning_rate": 0, "decay_rate": 0.1}
    whole = {k: x for k, x in {**whole, **config}.items() if x is not ...}
    settings = {"learning_rate": {"class_name": kind, "config": whole}}
    optimizer = {"name": "sgd", "type": "keras.SGD", "settings": settings}
    return {**DENSE, "began": 0, "optimizers": [optimizer]}


# A callback sets the rate to 1e-9 after an epoch; a warm-up goes on for ever.
PLANNED = {**DENSE, "began": 0, "optimizers": [{"name": "adam", "type": "keras.Adam"}]}
FELL = [
    PLANNED,
    *[
        (28 * i, {"Epoch/loss": 2.2, "learning_rate": rate, "loss/guess": 2.3})
        for i, rate in enumerate([1e-3, *[1e-9] * 4])
    ],
]
WARMED_UP = [
    PLANNED,
    *[
        (
            28 * i,
            {f"update_from_init/{path}": 1e-7 * i for path in KERNELS}
            | {"Epoch/loss": 2.3, "loss/train": 2.3, "learning_rate": 1e-7 * 28 * i},
        )
        for i in range(1, 8)
    ],
]

# (class of a schedule, how it differs, what is said of it)
SCHEDULES = [
    ("CosineDecay", {"decay_steps": 28}, "is next to 0 from step 28 on, of 280"),
    ("CosineDecay", {"decay_steps": 28, "warmup_steps": 9}, "from step 37 on"),
    ("CosineDecay", {"decay_steps": 9, "warmup_steps": 80}, "decay_steps=200."),
    ("CosineDecay", {"decay_steps": 2800}, "ends at step 2800, the training at step"),
    ("PolynomialDecay", {"decay_steps": 28}, "with the training: decay_steps=280."),
    ("PolynomialDecay", {"decay_steps": 600}, "with a rate that is still high"),
    ("ExponentialDecay", {"decay_steps": 28}, "from step 56 on"),
    ("InverseTimeDecay", {"decay_steps": 1, "decay_rate": 9}, "from step 11 on"),
    (
        "PiecewiseConstantDecay",
        {"decay_steps": ..., "boundaries": [9, 28], "values": [0.1, 0.05, 1e-9]},
        "with the training: boundaries=[90, 280].",
    ),
]

# {rule: {"level in place at step: part of the message": entries}}
ILL = {
    "exploding_gradient": {
        "critical in net/dense_2/kernel at 120: norm 2e+03, the largest in": series(
            "gradient_norm/global", 2, 2e3, **gradients(1, 1, 9, 1), **LEARNS
        ),
        "warning in net at 200: Set global_clipnorm=1.5 in": [
            with_settings(DENSE),
            *series("gradient_norm/global", *[1.5] * 5, 20, **LEARNS),
        ],
        "warning in net at 200: norm 200": [
            CLASSES,
            *series("gradient_norm/global", *[1.5] * 5, 200, **LEARNS),
        ],
    },
    "vanishing_gradient": {
        "warning in net/dense_0/kernel at 120: behind sigmoids is 0.001 of": [
            DEEP,
            *looks(*[gradients(1e-3, 5e-3, 0.1, 1)] * 3),
        ],
        "warning in net/dense_0/kernel at 120: Make it shallower": [
            record(
                *(normalized(i) for i in range(4)),
                *(layer(f"dense_{i}", activation="tanh", **CELL) for i in range(4)),
            ),
            *looks(*[gradients(1e-3, 5e-3, 0.1, 1)] * 3),
        ],
        'warning in net/dense_0/kernel at 120: Use activation="relu" in dense_0': [
            record(*(x for i in range(4) for x in (DEEP["layers"][i], normalized(i)))),
            *looks(*[gradients(1e-3, 5e-3, 0.1, 1)] * 3),
        ],
        "critical in net/dense_0/kernel at 120: still 0.001 of the weight": looks(
            *[{**gradients(1e-6, 5e-6, 0.1, 1), **ratio(1e-3)}] * 3
        ),
    },
    "gradient_imbalance": {
        "warning in net/dense_0/kernel at 120: 5e+03 times that of the": looks(
            *[gradients(5, 3, 0.1, 1e-3)] * 3
        )
    },
    "update_ratio_high": {
        "warning in net/dense_0/kernel at 120: rate from 2 to about 0.04.": looks(
            *[{**ratio(0.5), "learning_rate": 2.0}] * 3
        )
    },
    "learning_rate_too_high": {
        "warning in net at 8: Adam's learning rate from 0.5 to about 0.01": first_steps(
            [3.1, 0.69, 0.28, 0.1], [2.3, 42, 9, 2.4]
        ),
        "warning in net at 8: SGD's learning rate from 5 to about 0.2,": [
            {**DENSE, "optimizers": [{"type": "keras.SGD"}]},
            *first_steps([0.3, 1.2, 7, 0, 0], [2.3, 2.4, 8, 2.5, 2.3], rate=5.0),
        ],
        "warning in net at 8: SGD's learning rate from 5 to about 0.002,": [
            with_settings(DENSE, momentum=0.999),
            *first_steps([0.3, 1.2, 7, 0, 0], [2.3, 2.4, 8, 2.5, 2.3], rate=5.0),
        ],
        "warning in net at 8: and the loss is no better than then": [
            {**DENSE, "optimizers": [{"type": "keras.SGD"}]},
            *first_steps(
                [1.2, 1.1, 1, 0, 0], [1.6, 2.4, 8, 1.6, 0.9], 2.7, **{"loss/guess": 1.4}
            ),
            (75, {"Epoch/loss": 1.4}),
            (150, {"Epoch/loss": 1.38}),
            (160, {"loss/train": 0.9, "loss/guess": 1.4}),
        ],
        "warning in d at 8: SGD's learning rate": [
            GAN,
            *[
                (step, {k.replace("rate", "rate/g"): x for k, x in one.items()})
                for step, one in first_steps([2, 2, 2, 2], [1, 3, 3, 3])
            ],
        ],
    },
    "learning_rate_too_low": {
        "warning in net at 120: learning rate from 1e-06 to about 0.002.": with_epochs(
            first_steps([5e-6] * 5, [2.3] * 5, rate=1e-6), [2.31, 2.31, 2.30]
        ),
        "warning in net at 120: Adadelta's learning rate from 0.0007 to about 1.": [
            {**DENSE, "optimizers": [{"type": "keras.Adadelta"}]},
            *with_epochs(
                first_steps([5e-7] * 5, [2.3] * 5, rate=7e-4), [2.31, 2.31, 2.30]
            ),
        ],
        "warning in net at 168: learning rate from 1.68e-05 to about": WARMED_UP,
        "warning in net at 120: Lower epsilon from 100 to 1e-07": [
            with_settings(DENSE, epsilon=100.0),
            *with_epochs(
                first_steps([5e-6] * 5, [2.3] * 5, **{"gradient_norm/global": 2.0}),
                [2.31, 2.31, 2.30],
            ),
        ],
    },
    "unchanged_weight": {
        "warning in net/dense_1/kernel at 140: has not moved since the start": series(
            f"distance_from_init/{KERNELS[1]}", 0, 0, 0, 0
        ),
        "warning in net/dense_1/kernel at 160: no longer moves": series(
            f"distance_from_init/{KERNELS[1]}", 0.2, 0.3, 0.3, 0.3, 0.3
        ),
        "warning in net/dense_1/kernel at 140: whether all sample weights": series(
            f"distance_from_init/{KERNELS[1]}", 0, 0, 0, 0, **{"loss/train": 0.0}
        ),
    },
    "dead_relu": {
        'warning in dense_0 at 120: Use activation="leaky_relu" in dense_0': [
            record(layer("dense_0"), normalized(0)),
            *series("health/dead_units/dense_0", 0.9, 0.9, 0.9),
        ],
        "warning in act at 120: Put keras.layers.LeakyReLU() in the place of act": [
            record(
                layer("dense_0", activation="linear"),
                normalized(0),
                {"name": "act", "type": "keras.ReLU", "activation": "relu"},
            ),
            *series("health/dead_units/act", 0.9, 0.9, 0.9),
        ],
        "warning in dense_1 at 140: 96% of the units of dense_1 (Dense, relu)": series(
            "health/dead_units/dense_1", 0.1, 0.9, 0.96, 0.96, learning_rate=2
        ),
        "warning in dense_1 at 120: 100% of the units": [
            record(layer("dense_1", shape=(1, 4))),
            *series("health/dead_units/dense_1", 1.0, 1.0, 1.0),
        ],
        "warning in dense_1#1 at 120: dense_1#1 (Dense, relu)": series(
            "health/dead_units/dense_1#1", 0.9, 0.9, 0.9
        ),
    },
    "saturated": {
        "warning in dense_2 at 120: where sigmoid is flat": [
            DEEP,
            *series("health/saturated/dense_2", 0.9, 0.9, 0.9),
        ]
    },
    "poor_init": {
        "warning in dense_3 at 1: changes 64 times": [(1, stds(1, 8, 64, 512))],
        "warning in dense_3 at 1: he_normal": [(1, stds(1, 0.1, 0.01, 0.001))],
        "warning in dense_3 at 1: Put batch norm before": [
            DEEP,
            (1, stds(1, 0.1, 0.01, 0.001)),
        ],
        "warning in net/cell/recurrent_kernel at 1: multiplies by about 1.6": [
            SQUARE,
            (1, {**TIMES_1_6, "loss/train": 8.2, "loss/guess": 0.69}),
        ],
        "warning in dense_99 at 1: batch norm before the activations": [
            record(*(layer(f"dense_{i}") for i in range(100))),
            (1, stds(*(1.2**i for i in range(100)))),
        ],
        "warning in net/last/kernel at 1: Start last with random weights": [
            record(layer("last", is_output=True), first_look=0),
            (
                1,
                {
                    "weight_std/net/last/kernel": 50.0,
                    "weight_spread/net/last/kernel": 1.0,
                    "loss/train": 31.0,
                    "loss/guess": 2.3,
                },
            ),
        ],
        "warning in net/dense_0/kernel at 1: are equal": [(1, OF_ONES)],
        "warning in net/dense_0/kernel at 1: Start dense_0 with random weights": [
            (1, OF_ZEROS)
        ],
        "warning in dense_3 at 10: changes 64 times": [
            {**DENSE, "first_look": 0},
            (10, stds(1, 8, 64, 512)),
        ],
    },
    "weight_drift": {
        "warning in net/dense_0/kernel at 120: moved 5 initial standard": series(
            f"weight_drift/{KERNELS[0]}", 5, 5
        ),
        "warning in net/dense_0/kernel at 120: shrunk to a spread 10 times": series(
            f"weight_spread/{KERNELS[0]}", 0.1, 0.1
        ),
    },
    "weight_explosion": {
        "warning in net/dense_0/kernel at 120: 12 times as large as it started": series(
            f"weight_growth/{KERNELS[0]}", 2, 12
        )
    },
    "loss_spike": {
        "warning in net at 200: jumped to 9": series("loss/train", *[2.3] * 5, 9.0),
        "warning in net at 112: at the start": epochs(loss=[2, 1, 1, 8]),
    },
    "overfit": {
        "info in net at 112: is 4.5 times training": epochs(
            loss=[0.5, 0.4, 0.3, 0.2], val_loss=[0.6, 0.7, 0.8, 0.9]
        ),
        "warning in net at 156: Check that labels belong to their inputs": [
            CLASSES,
            guessing(2.3),
            *later(*epochs(loss=[2.3, 2.0], val_loss=[2.4, 2.5])),
        ],
    },
    "not_learning": {
        "warning in net at 112: is no better than 2.3, that of always giving one": [
            CLASSES,
            guessing(2.3),
            *epochs(loss=[2.31, 2.3, 2.29, 2.29], val_loss=[2.3] * 4),
        ],
        "warning in net at 156: Set trainable=True where": [
            {**CLASSES, "layers": [layer("last") | {"weights": [FROZEN_KERNEL]}]},
            guessing(2.3),
            *STUCK,
        ],
        "warning in net at 156: Raise clipnorm from 1e-06 to about 0.6": [
            CLIPPED,
            guessing(2.3),
            *with_tag(STUCK, "gradient_norm/global", *[0.58] * 4),
        ],
        "warning in net at 156: from 6e-05 to about 0.002; and see that labels": [
            CLASSES,
            (
                1,
                {"update_from_init/net/last/kernel": 3e-4, "learning_rate": 6e-5}
                | guessing(2.3)[1],
            ),
            *STUCK,
        ],
        "warning in net at 112: Adam": [
            CLASSES,
            guessing(0.62, 0.03, share_of_largest=0.7, count=300),
            *epochs(loss=[0.63] * 4, accuracy=[0.7, 0.69, 0.71, 0.7]),
        ],
        "warning in right at 112: of the output right, 2.3": [
            TWO,
            guessing(2.3, name="left"),
            guessing(2.3, name="right"),
            *epochs(
                loss=[4, 3.5, 3, 2.8, 2.7],
                left_loss=[2.0, 1.5, 1, 0.8, 0.7],
                right_loss=[2.3] * 5,
            ),
        ],
    },
    "target_scale": {
        "warning in y at 56: keras.layers.Rescaling(7e+04, 1.5e+05)": [
            NUMBERS,
            guessing(5e9, 1e8, spread=1e-5, mean=1.5e5, std=7e4),
            *epochs(loss=[2.97e10, 2.96e10]),
        ]
    },
    "class_imbalance": {
        "info in y at 28: 100.0% of the labels y are of one class": [
            CLASSES,
            (28, {"Epoch/loss": 0.1, **targets(share_of_largest=1.0, count=300)}),
        ],
        "info in y at 1: 97.0% of the labels y are of one class": [
            CLASSES,
            (1, targets(share_of_largest=0.97, count=300)),
        ],
        "warning in y at 184: by up to 49": [
            CLASSES,
            guessing(0.1, 0.01),
            *later(*epochs(loss=[0.1, 0.05], val_loss=[0.9, 1.2])),
            (184, {"Epoch/loss": 0.04, **targets(share_of_largest=0.98, count=900)}),
        ],
    },
    "not_shuffled": {
        "warning in y at 8: dataset.shuffle": [CLASSES, (8, targets(batch_effect=0.8))]
    },
    "output_mismatch": {
        "warning in y at 1: takes probabilities, but the output y (last) ends with": [
            with_head(CE, "linear"),
            (1, {"epoch": 1}),
        ],
        "warning in y at 1: takes logits (from_logits=True), but the output y": [
            with_head(CE, "softmax", takes_logits=True),
            (1, {"epoch": 1}),
        ],
        "warning in y at 1: ends with relu": [
            with_head("categorical_crossentropy", "relu", takes_logits=True),
            (1, {"epoch": 1}),
        ],
        "warning in y at 1: A softmax over one unit is always 1": [
            with_head("binary_crossentropy", "softmax", units=1),
            (1, {"epoch": 1}),
        ],
        "warning in y at 1: but 40% of those of the output y (last) are outside": [
            with_head(CE, None),
            (1, {"epoch": 1, "outputs/y/out_of_range": 0.4}),
        ],
        "warning in y at 1: 100% of the targets y are out of reach": [
            with_head(MSE, "tanh"),
            (1, {"epoch": 1, **targets(out_of_reach=1.0)}),
        ],
    },
    "bn_train_eval_gap": {
        "warning in norm at 120: At momentum=0.9 28 steps, an epoch, renew 95% of": [
            NORM,
            *looks(*[gap(1.0)] * 3),
        ],
        "warning in norm at 9020: 28 steps, an epoch, renew 3% of them; 0.9 would": [
            record(norm(momentum=0.999), fit={"steps": 28}),
            *looks(*[gap(1.0)] * 3, first=9000),
        ],
        "warning in norm at 120: To mend it, recompute the statistics": [
            CUMULATIVE,
            *looks(*[gap(1.0)] * 3),
        ],
        "warning in norm at 120: the farthest off. To mend it, recompute": [
            record(norm(momentum=0.99, warmup=True), fit={"steps": 2}),
            *looks(*[gap(1.0)] * 3),
        ],
        "warning in norm at 120: 0.9 standard deviations from the batch's": [
            NORM,
            *looks(*[moments(mean=0.9, variance=0.7)] * 3),
        ],
    },
    "bn_stats_cold": {
        "warning in norm at 29: 40% of the moving statistics of norm (BatchNorm": [
            COLD,
            *TURNED,
        ],
        "warning in norm at 28: warmup=True), or lower momentum=0.99 to 0.9": [
            COLD,
            (16, {**gap(2.0), **young()}),
            *epochs(loss=[1.0], val_loss=[4.0]),
        ],
        "warning in norm at 29: Use kbn.BatchNorm(warmup=True), or recompute": [
            NORM,
            *TURNED,
        ],
        "warning in norm at 29: Lower momentum=0.99 to 0.9, or recompute": [
            record(norm(momentum=0.99, is_fresh=False), fit={"steps": 28}),
            *TURNED,
        ],
        "warning in norm at 29: An epoch of 2 steps is too short for any momentum": [
            record(norm(momentum=0.99), fit={"steps": 2}),
            *TURNED,
        ],
        "warning in norm at 29: are still those that it began with": [LOADED, *TURNED],
    },
    "bn_not_updated": {
        "warning in norm at 120: In your train_step call self(x, training=True)": [
            NORM,
            *looks(unmoved(), unmoved()),
        ]
    },
    "bn_collapsed": {
        "warning in norm at 120: 50% of the channels of norm (BatchNormalization)": [
            NORM,
            *series("health/collapsed_channels/norm", *[0.5] * 3),
        ]
    },
    "bn_small_batch": {
        "info in norm at 120: mean and variance of 12 elements": [
            NORM,
            *series("batch_norm_elements/norm", 12, 12),
        ],
        "warning in norm at 120: mean and variance of 4 elements": [
            NORM,
            *series("batch_norm_elements/norm", 4, 4),
        ],
        "warning in norm at 120: its output is beta whatever the input": [
            NORM,
            *series("batch_norm_elements/norm", 1, 1),
        ],
    },
    "input_scale": {
        "info in image at 100: has mean 33, standard deviation 79: the gradients": [
            RAW,
            *looks(IMAGE),
        ],
        "info in image at 100: deviation 0.0002: the first layer makes next": [
            RAW,
            *looks({"inputs/image/mean": 1e-5, "inputs/image/std": 2e-4}),
        ],
        "warning in image at 100: See why the input image is the same": [
            RAW,
            *looks(
                {"inputs/image/mean": 7, "inputs/image/std": 0}
                | {"loss/train": 2.3, "loss/guess": 2.3}
            ),
        ],
        **{
            f"warning in image at 100: {said}": [RAW, *looks({**IMAGE, **harm})]
            for harm, said in HARMS
        },
    },
    "loss_scale_collapse": {
        "warning in net at 120: down to 0.5": [SCALED, *series("loss_scale", 512, 0.5)],
        "warning in net at 8: 20 steps in a row were skipped": [
            SCALED,
            (5, {"skipped_steps": 1}),
            (8, {"skipped_steps": 21}),
        ],
    },
    "schedule_length": {
        "warning in sgd at 29: what comes after it changes nothing": [
            scheduled("CosineDecay", decay_steps=28),
            (28, {"Epoch/loss": 2.0}),
            (29, {**LOOK[0][1], "loss/guess": 2.3}),
        ],
        "warning in adam at 56: next to 0 from step 28 on, of 280": FELL,
        **{
            f"info in sgd at 1: {said}": [scheduled(kind, **config), *LOOK]
            for kind, config, said in SCHEDULES
        },
    },
    "collapsed": {
        "warning in dense_3 at 140: differ by 0.05 of their size, by 0.5 at first": [
            OWN,
            *series("between_examples/dense_3", 0.5, *[0.05] * 3),
        ],
        "warning in dense_3 at 140: Check the sign of the loss": [
            OWN,
            (28, {"Epoch/loss": -3.0}),
            *series("between_examples/dense_3", 0.5, *[0.05] * 3),
        ],
    },
    "zero_weights": {
        f"warning in {KERNELS[0]} at 120: 40% of the weights": [
            DENSE,
            *looks(*[zeros(0.4, growth=1e-3)] * 3),
        ]
    },
    "strong_decay": {
        "warning in net at 156: Lower weight_decay from 100 to about 0.01.": [
            DECAYED,
            guessing(2.3),
            *with_tag(STUCK, "learning_rate", *[1e-3] * 4),
        ],
        "warning in net at 156: Leave out the kernel_regularizer of dense_0, or": [
            PRESSED,
            guessing(2.3),
            *with_tag(
                later(*epochs(loss=[500, 90, 9, 7], val_loss=[302.3, 42.3, 7.3, 5.3])),
                "loss/penalty",
                *[300, 40, 5, 3],
            ),
        ],
    },
    "skewed": {
        "warning in x at 30: 2.5e+02 standard deviations from the training data": [
            DENSE,
            (30, {"skew/x": 250.0, "epoch": 2}),
        ]
    },
}

# {rule: {what looks like its illness and is healthy: entries}}
GOOD = {
    "weight_drift": {
        "a bias of two dimensions": [
            record(layer("gru", "GRUCell", shape=(2, 96))),
            *series("weight_drift/net/gru/bias", 5, 5, 5),
        ],
        "a table of an own layer": [
            record(
                layer("dense_0") | {"weights": [{"path": KERNELS[0], "is_table": True}]}
            ),
            *series(f"weight_drift/{KERNELS[0]}", 9, 9),
        ],
        "a layer that is an embedding": [
            record(layer("dense_0", "Tokens", **{"is": ["Embedding"]})),
            *series(f"weight_drift/{KERNELS[0]}", 9, 9),
        ],
        "few elements": [
            record(layer("dense_0", shape=(4, 4))),
            *series(f"weight_drift/{KERNELS[0]}", 5, 5),
        ],
    },
    "input_scale": {
        **{
            f"an input that is {fate or 'not known'}": [
                {**DENSE, "inputs": {"image": {"fate": fate, "layer": "dense_0"}}},
                *looks({**IMAGE, **HARMS[0][0]}),
            ]
            for fate in ("index", "scaled", "unknown", "")
        },
        "inputs of unit scale": [
            RAW,
            *looks({"inputs/image/mean": 0.1, "inputs/image/std": 1, **HARMS[2][0]}),
        ],
        "small inputs far from 0, in their own units": [
            RAW,
            *looks({"inputs/image/mean": 0.1, "inputs/image/std": 1e-4}),
        ],
    },
    "strong_decay": {
        "decay that training outruns": [
            DECAYED,
            guessing(2.3),
            *with_tag(
                later(*epochs(loss=[2.0, 1.0, 0.5])), "learning_rate", *[1e-3] * 3
            ),
        ],
        "the usual decay of a network that does not learn": [
            with_settings(CLASSES, weight_decay=0.01),
            guessing(2.3),
            *with_tag(STUCK, "learning_rate", *[1e-3] * 4),
        ],
        "a penalty below the guess": [
            PRESSED,
            guessing(2.3),
            *with_tag(STUCK, "loss/penalty", *[0.2] * 4),
        ],
    },
    "exploding_gradient": {
        "a summed loss that the step does not return": series(
            "gradient_norm/global", 2e4, 3e4, 2.5e4
        ),
        "large targets": series(
            "gradient_norm/global", 2e4, 2e4, **{"loss/train": 1e6}
        ),
        "a hard batch late": series("gradient_norm/global", *[0.01] * 9, 0.5, **LEARNS),
        "few norms": series("gradient_norm/global", 1, 50, **LEARNS),
        "a spike that Adam divides away": [
            CLASSES,
            *series("gradient_norm/global", *[1.5] * 9, 100, **LEARNS),
        ],
        "a spike of a critic": series("gradient_norm/global", *[0.5] * 9, 12),
    },
    "gradient_imbalance": {
        "gradients of two losses": [
            GAN,
            *looks(*[gradients(1e3, 1e3, 1e-3, 1e-3)] * 5),
        ],
        "a branch without gradient": looks(*[gradients(1, 1, 0, 0)] * 5),
    },
    "vanishing_gradient": {
        "gradients of two losses, the first small": [
            GAN,
            *looks(*[gradients(1e-6, 1e-6, 1, 1)] * 5),
        ],
        "gradients of one size": looks(*[gradients(0.1, 0.2, 1, 1)] * 5),
        "one small kernel in the middle": looks(*[gradients(0.5, 1e-6, 1, 1)] * 5),
        "small ones at the end": looks(*[gradients(1, 1, 1e-6, 1e-6)] * 5),
        "learned whatever its gradient": looks(
            {**gradients(1, 1, 1, 1), "loss/train": 2.3},
            *[{**gradients(1e-3, 1e-3, 1, 1), "loss/train": 0.1}] * 5,
        ),
        "no gradient at all": looks(*[gradients(0, 0, 0, 0)] * 5),
        "an embedding": [
            record(layer("dense_0", "Embedding"), *DENSE["layers"][1:]),
            *looks(*[gradients(1e-6, 1, 1, 1)] * 5),
        ],
    },
    "update_ratio_high": {
        "a start near 0": looks(
            *[{**ratio(0.3), f"weight_std/{KERNELS[0]}": 0.02}] * 5
        ),
        "first steps": looks(*[ratio(0.5)] * 8, first=1, every=1),
        "a bias": looks(*[ratio(0.06)] * 5),
    },
    "learning_rate_too_high": {
        "steps that the loss survives": first_steps(
            [1.7, 1.2, 0.8, 0.5, 0.2], [2.6, 3.8, 1.3, 0.7, 0.6]
        ),
        "a loss that rises, by steps that are small": first_steps(
            [0.05] * 5, [2.3, 2.4, 2.5, 2.4, 2.4]
        ),
        "a jump later": first_steps(
            [2.0] * 5, [2.3, 2.4, 2.5, 2.4, 2.4], steps=range(40, 90, 9)
        ),
        "weights that are rewritten after one step": first_steps(
            [0.9, 0.01, 0.01, 0.01, 0.01], [2.3, 2.4, 2.5, 2.4, 2.4]
        ),
        "float16 that overflows": [
            record(*(layer(f"dense_{i}", dtype="float16") for i in range(4)), **ADAM),
            *first_steps([9.0] * 5, [2.3, *[float("nan")] * 4]),
        ],
    },
    "learning_rate_too_low": {
        "small steps that serve": with_epochs(
            first_steps([1e-5] * 5, [2.3] * 5), [2.3, 2.0, 1.7, 1.4]
        ),
        "flat, but not for want of movement": with_epochs(
            first_steps([1e-3] * 5, [2.3] * 5), [2.3] * 5
        ),
        "died of a high rate": with_epochs(
            first_steps([9, 5, 2, 1e-6, 1e-6], [2.3] * 5), [2.3] * 5
        ),
        "small steps of a network that was trained before": with_epochs(
            first_steps([1e-6] * 5, [0.1] * 5, **{"loss/guess": 2.3}), [0.1] * 5
        ),
        "small steps of a training that goes on": [
            {**DENSE, "first_look": 900},
            *with_epochs(first_steps([1e-6] * 5, [0.1] * 5), [0.1] * 5),
        ],
    },
    "dead_relu": {
        "three of four units": [
            record(layer("dense_1", shape=(1, 4))),
            *series("health/dead_units/dense_1", *[0.75] * 6),
        ],
        **{
            f"dead behind {what}": [
                {**DENSE, **known},
                *series("health/dead_units/dense_1", *[0.9] * looked),
            ]
            for what, known, looked in [
                (
                    "strong dropout",
                    record({"name": "drop", "dropout": 0.95}, *DENSE["layers"]),
                    6,
                ),
                ("batches of 2", {"fit": {"batch_size": 2}}, 4),
            ]
        },
    },
    "unchanged_weight": {
        "arrived": looks(
            {f"distance_from_init/{KERNELS[0]}": 0.1, "loss/train": 2.3},
            *[{f"distance_from_init/{KERNELS[0]}": 0.3, "loss/train": 0.1}] * 5,
        ),
        "rate of zero at the end": looks(
            {f"distance_from_init/{KERNELS[0]}": 0.3, "learning_rate": 0.1},
            *[{f"distance_from_init/{KERNELS[0]}": 0.3, "learning_rate": 0}] * 5,
        ),
    },
    "saturated": {
        "a network that has learned with them": [
            DEEP,
            (90, {"Epoch/loss": 0.2, "loss/guess": 0.7}),
            *series("health/saturated/dense_2", 0.9, 0.9, 0.9),
        ],
        "the code of an autoencoder, in its first epochs": [
            DEEP,
            *series("health/saturated/dense_2", 0.64, 0.67, 0.58, 0.51),
        ],
        "the model's output": [
            record(layer("head", activation="sigmoid", is_output=True)),
            *series("health/saturated/head", *[0.99] * 5),
        ],
    },
    "poor_init": {
        "signal kept": [(1, {**stds(1, 2, 2, 3), **HEALTHY_KERNEL})],
        "two layers": [(1, stds(1, 100))],
        "grown in training": [(1, stds(1, 1, 1)), (90, stds(1, 9, 99))],
        **{
            f"a scale that {what} sets anew": [
                record(
                    *DENSE["layers"][:2], {"name": "a", **known}, *DENSE["layers"][2:]
                ),
                (1, stds(64, 64, 1, 1)),
            ]
            for what, known in [
                ("a norm", {"is": ["Own", "BatchNormalization"]}),
                ("dropout", {"dropout": 0.95}),
            ]
        },
        "a first look late": [(10, stds(1, 8, 64, 512))],
        "a training that goes on": [
            {**DENSE, "first_look": 500},
            (501, {**stds(1, 8, 64, 512), **OF_ZEROS}),
        ],
        "layers that are frozen": [
            record(*(layer(f"dense_{i}", trainable=i > 1) for i in range(4))),
            (1, stds(1, 8, 64, 512)),
        ],
        "an output's kernel that the first step threw far": [
            record(layer("last", is_output=True), first_look=0),
            (
                1,
                {
                    "weight_std/net/last/kernel": 50.0,
                    "weight_spread/net/last/kernel": 150.0,
                    "loss/train": 31.0,
                    "loss/guess": 2.3,
                },
            ),
        ],
        "zeros that moved": [(1, OF_ZEROS_THAT_MOVED)],
        "a branch that begins with zeros": [
            {**DENSE, "first_look": 0},
            (1, {**stds(0.0, 1, 1, 1), **OF_ZEROS_THAT_MOVED}),
            (1, {**stds(1, 1, 1, 0.0), "weight_std/net/dense_3/kernel": 1e-3}),
        ],
        "zeros in the head": [record(layer("dense_0", is_output=True)), (1, OF_ZEROS)],
        "one unit": [record(layer("dense_0", shape=(8, 1))), (1, OF_ZEROS)],
    },
    "weight_explosion": {
        "an embedding that grows": [
            record(layer("dense_0", "Embedding")),
            *series(f"weight_growth/{KERNELS[0]}", 20, 20),
        ],
        "a network that learns": [
            DENSE,
            (28, {"Epoch/loss": 2.3}),
            (56, {"Epoch/loss": 1.0}),
            *series(f"weight_growth/{KERNELS[0]}", 20, 20),
        ],
    },
    "loss_spike": {"a hard batch": series("loss/train", 2.3, *[0.1] * 9, 1.0)},
    "overfit": {
        "training batches that evaluate as badly: batch norm lags": [
            CLASSES,
            guessing(2.3),
            (50, {"loss_gap/train_eval": 0.3}),
            *later(*epochs(loss=[2.3, 2.0], val_loss=[2.4, 2.5])),
        ],
        "a penalty that falls by more than the guess in an epoch": [
            CLASSES,
            guessing(2.3),
            *with_tag(
                later(
                    *epochs(loss=[500, 190, 30, 7], val_loss=[302.3, 42.3, 7.3, 5.3])
                ),
                "loss/penalty",
                *[300, 40, 5, 3],
            ),
        ],
        "validation falls": epochs(
            loss=[0.1] * 6, val_loss=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
        ),
        "validation below": epochs(loss=[1.0] * 5, val_loss=[0.5, 0.6, 0.7, 0.8, 0.9]),
        "validation that catches up": epochs(
            loss=[0.5, 0.4, 0.3, 0.2, 0.1], val_loss=[0.6, 0.61, 0.64, 0.62, 0.63]
        ),
        "batch norm that lags": [
            {**CLASSES, "layers": [norm()]},
            guessing(2.3),
            *later(*epochs(loss=[0.5] * 5, val_loss=[3, 4, 5, 6, 7])),
        ],
    },
    "not_learning": {
        **{
            f"a slow start: {name}": [
                CLASSES,
                guessing(1.0),
                *later(*epochs(loss=losses, val_loss=losses)),
            ]
            for name, losses in {
                "convolutions": [0.99, 0.96, 0.9],
                "LSTM": [0.999, 0.98, 0.85],
                "three sigmoids": [1.02, 0.98, 0.96],
                "autoencoder": [1.99, 1.05, 0.93],
                "rare event": [10, 5.3, 3.3],
                "weak regression": [1.5, 1.16, 1.06],
            }.items()
        },
        "fewer than 100 steps": [CLASSES, guessing(2.3), *epochs(loss=[2.3] * 3)],
        "a guess that is not known": [CLASSES, *epochs(loss=[2.3] * 9)],
        "a penalty that falls": [
            CLASSES,
            guessing(2.3),
            *(
                (step, {**one, "loss/penalty": 5 - i})
                for i, (step, one) in enumerate(
                    later(*epochs(loss=[6.0, 4.9, 3.8, 2.7]))
                )
            ),
        ],
        "validation that is better": [
            CLASSES,
            guessing(2.3),
            *later(*epochs(loss=[2.3] * 4, val_loss=[2.2, 2.1, 2, 1.9])),
        ],
        "a rate that warms up": [
            {**CLASSES, "fit": {"epochs": 40, "steps": 28}},
            guessing(2.3),
            *(
                (step, {**one, "learning_rate": 1e-4 * (i + 1)})
                for i, (step, one) in enumerate(later(*epochs(loss=[2.3] * 6)))
            ),
        ],
        "few targets, and outputs that differ": [
            NUMBERS,
            guessing(1.0, 0.15),
            *later(*epochs(loss=[1.1] * 4)),
        ],
        "probabilities that are better than the majority": [
            CLASSES,
            guessing(0.5, share_of_largest=0.8, count=900),
            *later(*epochs(loss=[0.4] * 4, accuracy=[0.8] * 4)),
        ],
    },
    "target_scale": {
        "large targets that are learned": [
            NUMBERS,
            guessing(80, 5, mean=22, std=9),
            *later(*epochs(loss=[550, 400, 240, 150, 90, 40])),
        ],
        "targets of unit scale": [
            NUMBERS,
            guessing(1.0, mean=0.1, std=1.0),
            *later(*epochs(loss=[1.3] * 4)),
        ],
    },
    "class_imbalance": {
        "nine of ten": [CLASSES, (1, targets(share_of_largest=0.85, count=300))],
        "one class so far": [CLASSES, (1, targets(share_of_largest=1.0, count=300))],
        "few labels": [CLASSES, (1, targets(share_of_largest=0.95, count=32))],
    },
    "not_shuffled": {"stratified batches": [CLASSES, (1, targets(batch_effect=0.1))]},
    "output_mismatch": {
        "a loss of logits": [
            with_head(CE, "linear", takes_logits=True),
            (1, {"epoch": 1}),
        ],
        "a loss of probabilities": [
            CLASSES,
            (1, {"epoch": 1, "outputs/y/out_of_range": 0.0}),
        ],
        "a function that is not known": [
            with_head(CE, "my_softmax"),
            (1, {"epoch": 1}),
        ],
        "a loss of one's own": [with_head(None, "relu"), (1, {"epoch": 1})],
        "pixels of a sigmoid": [
            with_head(MSE, "sigmoid"),
            (1, {"epoch": 1, **targets(out_of_reach=0.0)}),
        ],
    },
    "bn_train_eval_gap": {
        "dropout's gap": [NORM, *looks(*[gap(-0.5)] * 3)],
        "no batch norm": looks(*[gap(3.0)] * 3),
        "frozen": [FROZEN, *looks(*[gap(3.0)] * 3)],
        "a loss of nearly 0": [
            NORM,
            *looks(gap(0.0, loss=2.3), *[gap(2.0, loss=1e-3)] * 3),
        ],
        "young, which is said": [COLD, *looks(*[{**gap(4.0), **young()}] * 4)],
        "young moments, which is said": [
            COLD,
            *looks(*[moments(0.9, 2.0, **young())] * 4),
        ],
        "moments that do no harm": [
            NORM,
            *looks(*[{**gap(0.1), **moments(0.9, 2.0)}] * 4),
        ],
        "moments of few elements": [
            NORM,
            *looks(*[moments(0.7, 1.4, **{"batch_norm_elements/norm": 8})] * 5),
        ],
    },
    "bn_stats_cold": {
        "an untrained network": [COLD, *looks({**gap(4.0), **young()})],
        "a start that makes no gap": [
            COLD,
            EPOCH,
            (29, {**gap(4.0), **young(share=0.4, makes=0.1)}),
        ],
        "worse than one batch, and not than the epoch": [
            COLD,
            (25, {"loss/train": 0.5, **young()}),
            *epochs(loss=[1.0], val_loss=[1.2]),
        ],
        "young, and no harm": [
            COLD,
            (1, {**gap(0.1), **young()}),
            *epochs(loss=[1.0], val_loss=[1.1]),
            (29, {**gap(0.1), **young()}),
        ],
        "overfit, evaluated alike": [
            COLD,
            (1, gap(0.0)),
            *epochs(loss=[1.0], val_loss=[1.1]),
            (29, {**gap(0.1), **young()}),
            (56, {"Epoch/loss": 1, "Epoch/val_loss": 9}),
        ],
        "renewed since the last look": [
            COLD,
            (1, young()),
            (500, {"Epoch/loss": 1.0, "Epoch/val_loss": 4.0}),
        ],
        "an average over all": [CUMULATIVE, EPOCH, (29, gap(4.0))],
        "not seen since the first step": [
            COLD,
            (1, {**gap(0.1), **young()}),
            *epochs(loss=[1.0], val_loss=[4.0]),
        ],
    },
    "bn_not_updated": {
        "a frozen start": [FROZEN, *looks(*[unmoved()] * 4)],
        "loaded statistics": [LOADED, *looks(*[unmoved()] * 4)],
        "moved now and then": [NORM, *looks(*[unmoved(0.7)] * 4)],
        "moved in the second step": [
            NORM,
            *looks(unmoved(), unmoved(0.9, 1), unmoved(0.8, 1)),
        ],
    },
    "bn_collapsed": {
        "a network that has learned without them": [
            NORM,
            (90, {"Epoch/loss": 0.2, "loss/guess": 0.7}),
            *series("health/collapsed_channels/norm", *[0.5] * 4),
        ],
        "channels of one element": [
            NORM,
            *looks(
                *[
                    {
                        "health/collapsed_channels/norm": 1.0,
                        "batch_norm_elements/norm": 1,
                    }
                ]
                * 4
            ),
        ],
    },
    "bn_small_batch": {
        "a short last batch": [
            NORM,
            *series("batch_norm_elements/norm", 64, 3, 64, 64, 3, 64),
        ],
        "only last batches": [
            NORM,
            *[(28 * i, {"batch_norm_elements/norm": 3}) for i in range(1, 5)],
        ],
    },
    "zero_weights": {
        "pruned weights": [DENSE, *looks(*[zeros(0.9, growth=0.6)] * 3)],
        "weights that decay": [DENSE, *looks(*[zeros(0.05, 0.01)] * 3)],
        "biases of 0": [DENSE, *looks(*[zeros(1.0, 0.01, "net/gru/bias")] * 3)],
    },
    "skewed": {"validation data of a later month": [DENSE, (30, {"skew/x": 1.2})]},
    "collapsed": {
        "outputs apart": [OWN, *series("between_examples/dense_3", 1, 0.2)],
        "one of two outputs alike": [
            OWN,
            *series(
                "between_examples/dense_3",
                1,
                *[0.01] * 5,
                **{"between_examples/dense_2": 1},
            ),
        ],
        "alike from the start": [
            OWN,
            *series("between_examples/dense_3", 0.05, *[0.04] * 5),
        ],
        "alike, beside a known guess": series(
            "between_examples/dense_3", 0.5, *[0.05] * 5
        ),
    },
    "schedule_length": {
        **{
            f"a schedule, {case}": [known, *LOOK]
            for case, known in {
                "of the training": scheduled("CosineDecay", decay_steps=280),
                "cut short": scheduled("CosineDecay", decay_steps=500),
                "with a high end": scheduled("CosineDecay", decay_steps=28, alpha=0.1),
                "a circle": scheduled("PolynomialDecay", decay_steps=28, cycle=True),
                "without an end": scheduled("ExponentialDecay", decay_steps=2800),
                "of a user": scheduled("Own", decay_steps=2800),
                "of one epoch": {**scheduled("CosineDecay"), "fit": {"epochs": 1}},
                "gone on with": {
                    **scheduled("CosineDecay", decay_steps=28),
                    "began": 28,
                },
                "that lost a setting": scheduled("CosineDecay", decay_steps=None),
                "a number": {**SCALED, "began": 0},
            }.items()
        }
    },
    "loss_scale_collapse": {
        "the scale's search": [
            SCALED,
            (1, {"skipped_steps": 0}),
            (9, {"skipped_steps": 8, "loss_scale": 128}),
        ]
    },
    "non_finite": {
        "an overflow under a loss scale": [
            SCALED,
            *looks({"epoch": 1, "loss/train": 1, f"{BAD}gradients/{KERNELS[0]}": 64}),
        ]
    },
}


def rule(name):
    (found,) = [one for one in DEFAULT if one.name == name]
    return found


def cases(table):
    """(rule, case, entries): after a record of dense layers, unless they have one."""
    for name, rows in table.items():
        for case, entries in rows.items():
            known = [] if isinstance(entries[0], dict) else [DENSE]
            yield pytest.param(name, case, known + entries, id=f"{name}-{case}")


@pytest.mark.parametrize(("name", "said", "entries"), [*cases(ILL)])
def test_rule_names_the_illness(name, said, entries):
    level, where, step, part = re.match(r"(\w+) in (\S+) at (\d+): (.*)", said).groups()
    (alert,) = alerts_of(entries, [rule(name)])
    assert (alert.where, alert.level, alert.step) == (where, level, int(step))
    assert part in alert.message
    assert part in str(alert)
    assert alert.is_open
    # Among all rules it is one diagnosis.
    together = alerts_of(entries)
    causes = [x for x in together if name in (x.rule, *x.symptoms)]
    assert causes
    assert rank(max(causes, key=lambda x: rank(x.level)).level) >= rank(level)
    told = [name for x in together if x.is_open for name in (x.rule, *x.symptoms)]
    assert len({*told}) == len(told)


@pytest.mark.parametrize(("name", "case", "entries"), [*cases(GOOD)])
def test_rule_is_silent_on_what_is_healthy(name, case, entries):
    assert alerts_of(entries, [rule(name)]) == []


def test_every_rule_has_both_kinds_of_cases():
    names = {one.name for one in DEFAULT} - {"non_finite", "non_finite_data"}
    assert {*ILL} == names
    assert names <= {*GOOD}


def test_rule_that_is_gone_names_its_heir():
    with pytest.raises(AttributeError, match="BnMomentGap is gone: use BnTrainEvalGap"):
        _ = rules.BnMomentGap
    with pytest.raises(ValueError, match=r"Did you mean LearningRateTooLow\(\)"):
        listed(["update_ratio_low"])


# --- NaN and Inf ---

FINE = {"epoch": 2, "loss/train": 1.0, "inputs/x/mean": 0.0, **ratio(1e-3)}


def non_finite(*tags, **scalars):
    return {**FINE, **scalars, **{BAD + tag: 5 for tag in tags}}


WEIGHTS = [f"weights/{path}" for path in KERNELS]
GRADIENTS = [f"gradients/{path}" for path in KERNELS]
BROKEN = {"loss/train": NAN, f"update_ratio/{KERNELS[0]}": NAN}
ORIGINS = {
    "a layer": (
        [
            (
                7,
                non_finite(
                    "activations/dense_3", "activations/dense_2#1", *WEIGHTS, **BROKEN
                ),
            )
        ],
        ("dense_2#1", "while the model's inputs and the outputs of all layers before"),
    ),
    "a layer, inputs unseen": (
        [(7, {BAD + "activations/dense_1": 1, "epoch": 1})],
        ("dense_1", "whether the inputs were finite was not logged"),
    ),
    "the loss": (
        [(7, non_finite(*GRADIENTS, *WEIGHTS, **BROKEN))],
        ("net", "The loss is NaN or Inf while every layer's output is finite"),
    ),
    "the way back": (
        [(7, non_finite(GRADIENTS[0], GRADIENTS[2] + "#1"))],
        ("net/dense_2/kernel", "while the forward pass is finite"),
    ),
    "a weight": (
        [(7, non_finite(WEIGHTS[2], WEIGHTS[1], **ratio(NAN, KERNELS[1])))],
        ("net/dense_1/kernel", "after this step"),
    ),
    "moving statistics": (
        [(7, non_finite("batch_norm/dense_1/moving_mean"))],
        ("dense_1", "after this step"),
    ),
    "before the look": (
        [
            (20, FINE),
            (
                40,
                {BAD + tag: 5 for tag in [*WEIGHTS, "activations/dense_0"]}
                | {"epoch": 2},
            ),
        ],
        ("net", "it happened between steps 20 and 40, in a step of which there is no"),
    ),
    "a step without a look": (
        [(20, FINE), (23, {BAD + x: 5 for x in WEIGHTS} | {BAD + "loss": 1})],
        ("net", "in this step, of which there is no snapshot; NaN or Inf are in the"),
    ),
    "weights of a step without a look": (
        [(20, FINE), (23, {BAD + "loss": 1, "epoch": 1})],
        ("net", "in this step, of which there is no snapshot; all weights are finite"),
    ),
    "between looks": (
        [(29, FINE), (56, {"Epoch/loss": NAN, "epoch": 2})],
        ("net", "log_freq=1, or log_freq=lambda step: step > 29"),
    ),
    "validation": (
        [(56, {"Epoch/loss": 0.3, "Epoch/val_loss": NAN})],
        ("net", "validation loss is NaN or Inf while that of training is finite"),
    ),
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_non_finite_names_its_origin(origin):
    entries, (where, part) = ORIGINS[origin]
    (alert,) = alerts_of([DENSE, *entries], [rules.NonFinite()])
    assert (alert.where, alert.level) == (where, "critical")
    assert alert.step == entries[-1][0]
    assert part in alert.message


def test_epoch_of_one_bad_batch_is_told_of_once():
    entries = [(7, non_finite("activations/dense_1", **{"loss/train": NAN})), (8, FINE)]
    entries += [(28, {"Epoch/loss": NAN, "epoch": 1})]
    (alert,) = alerts_of([DENSE, *entries], [rules.NonFinite()])
    assert (alert.where, alert.ending) == ("dense_1", "resolved at step 8")


@pytest.mark.parametrize(
    ("tag", "part"),
    [
        ("inputs/x", "5 elements of the input x are NaN or Inf, before any layer"),
        ("targets/x", "5 elements of the target x are NaN or Inf, and so is the loss"),
    ],
)
def test_bad_data_explain_the_rest_and_are_never_over(tag, part):
    bad = non_finite(tag, "activations/dense_0", *GRADIENTS, *WEIGHTS, **BROKEN)
    alert, *others = alerts_of([DENSE, (7, bad), (8, FINE), (9, FINE)])
    assert (alert.rule, alert.where, alert.level) == (
        "non_finite_data",
        "x",
        "critical",
    )
    assert alert.is_open
    assert part in alert.message
    assert (alert.remedy.kind, alert.remedy.what) == ("data", "drop_rows")
    assert others == []


def test_network_that_broke_is_one_alert_to_the_end():
    broken = {BAD + tag: 5 for tag in [*WEIGHTS, "activations/dense_0"]}
    entries = [(7, non_finite("activations/dense_2", *WEIGHTS, **BROKEN))]
    entries += [(28, {"Epoch/loss": NAN}), (29, {**broken, "epoch": 2})]
    (alert,) = alerts_of([DENSE, *entries], [rules.NonFinite()])
    assert (alert.where, alert.is_open) == ("dense_2", True)
    assert "the first variable to break is net/dense_0/kernel" in alert.message


@pytest.mark.parametrize(
    ("loss", "ending"), [(1.8, "resolved at step 29"), (1.9, ""), (NAN, "")]
)
@pytest.mark.parametrize("start", [stds(1, 8, 64, 512), OF_ZEROS, OF_ONES])
def test_poor_start_is_over_once_the_network_has_learned(start, loss, ending):
    entries = [(1, {**start, "loss/guess": 2.3}), (28, {"Epoch/loss": loss})]
    (alert,) = alerts_of([DENSE, *entries, (29, start)], [rules.PoorInit()])
    assert alert.ending == ending


# --- batch norm, young ---


def test_not_learning_stays_until_the_loss_is_below_that_of_guessing():
    falls = [3.98, 3.97, 3.6, 3.59, 3.2, 2.77, 2.39, 1.6, 1.52]
    entries = [CLASSES, guessing(1.5), *epochs(loss=[4.1, 4.0, 3.99, *falls])]
    (alert,) = alerts_of(entries, [rule("not_learning")])
    assert alert.is_open
    below = later(*epochs(loss=[1.4]), by=28 * 12)
    (alert,) = alerts_of([*entries, *below], [rule("not_learning")])
    assert not alert.is_open


def test_young_statistics_are_one_alert_that_is_over_when_it_is_over():
    young_looks = [(1 + 28 * i, {**gap(2.0), **young()}) for i in range(4)]
    entries = [COLD, young_looks[0], EPOCH, *young_looks[1:]]
    entries += [(113, {**gap(0.1), **young(0.05, 0.4)})]
    (alert,) = alerts_of(entries)
    assert (alert.rule, alert.step) == ("bn_stats_cold", 29)
    assert alert.ending == "resolved at step 113"


def test_gap_that_outlives_the_start_has_another_cause():
    old = [(1 + 28 * i, {**gap(2.0), **young(1e-3, 0.01)}) for i in range(40, 44)]
    entries = [COLD, EPOCH, (29, {**gap(2.0), **young()}), *old]
    cold, later = alerts_of(entries)
    assert (cold.rule, cold.ending) == ("bn_stats_cold", "resolved at step 1121")
    assert (later.rule, later.step) == ("bn_train_eval_gap", 1149)


@pytest.mark.parametrize(
    ("steps", "momentum"),
    [(1, None), (3, None), (4, 0.5), (10, 0.7), (24, 0.8), (25, 0.9), (400, 0.99)],
)
def test_momentum_that_fits_an_epoch(steps, momentum):
    assert fitting_momentum(steps) == momentum


# --- arguments ---


def test_limit_is_an_argument():
    entries = [DENSE, *looks(*[gradients(0.05, 0.1, 1, 1)] * 2)]
    assert alerts_of(entries) == []
    mine = rules.default_rules(rules.VanishingGradient(ratio=0.07, patience=2))
    (alert,) = alerts_of(entries, mine)
    assert alert.limit == 0.07
    assert len(mine) == len(DEFAULT)


@pytest.mark.parametrize(
    ("one", "field"),
    [
        (one, field.name)
        for one in DEFAULT
        for field in dataclasses.fields(one)  # the default rules are dataclasses
    ],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_arguments_are_checked(one, field):
    for wrong in (0, -1, NAN, math.inf, "3", None, True):
        with pytest.raises(ValueError, match=rf"{type(one).__name__}\({field}="):
            dataclasses.replace(one, **{field: wrong})
    if isinstance(getattr(one, field), int):
        with pytest.raises(ValueError, match=r"=1.5\): expected a whole number"):
            dataclasses.replace(one, **{field: 1.5})


def test_rules_are_public_and_documented():
    public = {name for name in vars(rules) if name[0].isupper()}
    assert public == {type(one).__name__ for one in DEFAULT} | {
        "Rule",
        "Reading",
        "View",
    }
    for one in DEFAULT:
        assert "nit" in one.__doc__
        words = " ".join(one.__doc__.split())
        assert "Source" in words or "kbn's own" in words
        assert one.name == rule(one.name).name


class HighLoss(rules.Rule):
    """The loss of a step is above 10."""

    reads = ("loss/train",)
    patience = 2

    def readings(self, view):
        """Of the model."""
        yield rules.Reading("", view["loss/train"], limit=10.0)


def test_own_rule_needs_a_name_tags_and_readings():
    (alert,) = alerts_of([DENSE, *series("loss/train", 11, 12)], [HighLoss()])
    assert (alert.rule, alert.where, alert.value) == ("high_loss", "net", 12)
    assert alert.message == "The loss of a step is above 10."
