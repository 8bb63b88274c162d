"""Every rule on made-up entries: what it calls ill, what it does not, and its words."""

import dataclasses
import math

import pytest

from kbn.callbacks import rules
from kbn.callbacks.alerts.alert import rank
from kbn.callbacks.alerts.follow import alerts_of
from kbn.callbacks.signals.default import DEFAULT, listed
from kbn.momentum import fitting_momentum

KERNELS = [f"net/dense_{i}/kernel" for i in range(4)]


def layer(name, kind="Dense", activation="relu", shape=(8, 8), **more):
    kernel = {"path": f"net/{name}/kernel", "shape": [*shape], "trainable": True}
    owner = {key: more.pop(key) for key in ("optimizer", "call") if key in more}
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
        (28 * i, {f"epoch/{k}": x for k, x in zip(metrics, row, strict=True)})
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


EPOCH = 28, {"epoch/loss": 1.0}  # the first is over
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
    return entries + [(steps * i, {"epoch/loss": x, **rate}) for i, x in ends]


NAN = math.nan

OWN = {**DENSE, "no_guess": "the model has a train_step of its own"}
LOOK = [(1, {"learning_rate": 0.1})]


def scheduled(kind, **config):
    """A training of 280 steps, as it is recorded, with such a schedule."""
    whole = {"decay_steps": 280, "warmup_steps": 0, "alpha": 0.0, "cycle": False}
    whole |= {"initial_learning_rate": 0.1, "end_learning_rate": 0, "decay_rate": 0.1}
    settings = {"learning_rate": {"class_name": kind, "config": {**whole, **config}}}
    optimizer = {"name": "sgd", "type": "keras.SGD", "settings": settings}
    return {**DENSE, "began": 0, "optimizers": [optimizer]}


# (class of a schedule, how it differs, what is said of it)
SCHEDULES = [
    ("CosineDecay", {"decay_steps": 28}, "is next to 0 from step 28 on, of 280"),
    ("CosineDecay", {"decay_steps": 28, "warmup_steps": 9}, "from step 37 on"),
    ("CosineDecay", {"decay_steps": 9, "warmup_steps": 80}, "decay_steps=200."),
    ("CosineDecay", {"decay_steps": 2800}, "ends at step 2800, the training at step"),
    ("PolynomialDecay", {"decay_steps": 28}, "with the training: decay_steps=280."),
    ("PolynomialDecay", {"decay_steps": 600}, "with a rate that is still high"),
    ("ExponentialDecay", {"decay_steps": 28}, "from step 56 on"),
]

# (rule, record, entries, what is said: where, level, step, part of the message)
ILL = [
    (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", 2, 2e3, **gradients(1, 1, 9, 1), **LEARNS),
        ("net/dense_2/kernel", "critical", 120, "norm 2e+03, the largest in"),
    ),
    (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", *[1.5] * 5, 20, **LEARNS),
        ("net", "warning", 200, "Set global_clipnorm=1.5 in"),
    ),
    (
        "vanishing_gradient",
        DEEP,
        looks(*[gradients(1e-3, 5e-3, 0.1, 1)] * 3),
        ("net/dense_0/kernel", "warning", 120, "behind sigmoids is 0.001 of"),
    ),
    (
        "vanishing_gradient",
        DENSE,
        looks(*[{**gradients(1e-6, 5e-6, 0.1, 1), **ratio(1e-3)}] * 3),
        ("net/dense_0/kernel", "critical", 120, "still 0.001 of the weight: Adam"),
    ),
    (
        "gradient_imbalance",
        DENSE,
        looks(*[gradients(5, 3, 0.1, 1e-3)] * 3),
        ("net/dense_0/kernel", "warning", 120, "5e+03 times that of the last layer"),
    ),
    (
        "update_ratio_high",
        DENSE,
        looks(*[{**ratio(0.5), "learning_rate": 2.0}] * 3),
        (
            "net/dense_0/kernel",
            "warning",
            120,
            "Lower Adam's learning rate from 2 to about 0.04.",
        ),
    ),
    (
        "learning_rate_too_high",
        DENSE,
        first_steps([3.1, 0.69, 0.28, 0.1], [2.3, 42, 9, 2.4]),
        (
            "net",
            "warning",
            8,
            "Adam's learning rate from 0.5 to about 0.01, and start anew.",
        ),
    ),
    (
        "learning_rate_too_high",
        {**DENSE, "optimizers": [{"type": "keras.SGD"}]},
        first_steps([0.3, 1.2, 7, 0, 0], [2.3, 2.4, 8, 2.5, 2.3], rate=5.0),
        (
            "net",
            "warning",
            8,
            "SGD's learning rate from 5 to about 0.2, and start anew.",
        ),
    ),
    (
        "learning_rate_too_high",
        GAN,
        [
            (step, {k.replace("rate", "rate/g"): x for k, x in one.items()})
            for step, one in first_steps([2, 2, 2, 2], [1, 3, 3, 3])
        ],
        ("d", "warning", 8, "SGD's learning rate"),
    ),
    (
        "learning_rate_too_low",
        DENSE,
        with_epochs(first_steps([5e-6] * 5, [2.3] * 5, rate=1e-6), [2.31, 2.31, 2.30]),
        ("net", "warning", 120, "learning rate from 1e-06 to about 0.002."),
    ),
    (
        "unchanged_weight",
        DENSE,
        series(f"distance_from_init/{KERNELS[1]}", 0, 0, 0, 0),
        ("net/dense_1/kernel", "warning", 140, "has not moved since the start"),
    ),
    (
        "unchanged_weight",
        DENSE,
        series(f"distance_from_init/{KERNELS[1]}", 0.2, 0.3, 0.3, 0.3, 0.3),
        ("net/dense_1/kernel", "warning", 160, "no longer moves"),
    ),
    (
        "dead_relu",
        DENSE,
        series("health/dead_units/dense_1", 0.1, 0.9, 0.96, 0.96, learning_rate=2),
        ("dense_1", "warning", 140, "96% of the units of dense_1 (Dense, relu)"),
    ),
    (
        "dead_relu",
        DENSE,
        series("health/dead_units/dense_1#1", 0.9, 0.9, 0.9),
        ("dense_1#1", "warning", 120, "dense_1#1 (Dense, relu)"),
    ),
    (
        "saturated",
        DEEP,
        series("health/saturated/dense_2", 0.9, 0.9, 0.9),
        ("dense_2", "warning", 120, "where sigmoid is flat"),
    ),
    (
        "poor_init",
        DENSE,
        [(1, stds(1, 8, 64, 512))],
        ("dense_3", "warning", 1, "changes 64 times"),
    ),
    (
        "poor_init",
        DENSE,
        [(1, stds(1, 0.1, 0.01, 0.001))],
        ("dense_3", "warning", 1, "he_normal"),
    ),
    (
        "poor_init",
        DENSE,
        [(1, OF_ONES)],
        ("net/dense_0/kernel", "warning", 1, "are equal"),
    ),
    (
        "poor_init",
        DENSE,
        [(1, OF_ZEROS)],
        ("net/dense_0/kernel", "warning", 1, "Start dense_0 with random weights"),
    ),
    (
        "poor_init",
        {**DENSE, "first_look": 0},  # the first step of a call of ten
        [(10, stds(1, 8, 64, 512))],
        ("dense_3", "warning", 10, "changes 64 times"),
    ),
    (
        "weight_drift",
        DENSE,
        series(f"weight_drift/{KERNELS[0]}", 5, 5),
        ("net/dense_0/kernel", "warning", 120, "moved 5 initial standard"),
    ),
    (
        "weight_drift",
        DENSE,
        series(f"weight_spread/{KERNELS[0]}", 0.1, 0.1),
        ("net/dense_0/kernel", "warning", 120, "shrunk to a spread 10 times below"),
    ),
    (
        "weight_explosion",
        DENSE,
        series(f"weight_growth/{KERNELS[0]}", 2, 12),
        ("net/dense_0/kernel", "warning", 120, "12 times as large as it started"),
    ),
    (
        "loss_spike",
        DENSE,
        series("loss/train", *[2.3] * 5, 9.0),
        ("net", "warning", 200, "jumped to 9"),
    ),
    (
        "loss_spike",
        DENSE,
        epochs(loss=[2, 1, 1, 8]),
        ("net", "warning", 112, "at the start"),
    ),
    (
        "overfit",
        DENSE,
        epochs(loss=[0.5, 0.4, 0.3, 0.2], val_loss=[0.6, 0.7, 0.8, 0.9]),
        ("net", "info", 112, "lies 350% above"),
    ),
    (
        "overfit",
        CLASSES,
        [guessing(2.3), *later(*epochs(loss=[2.3, 2.0], val_loss=[2.4, 2.5]))],
        ("net", "warning", 156, "Check that labels belong to their inputs"),
    ),
    (
        "not_learning",
        CLASSES,
        [guessing(2.3), *epochs(loss=[2.31, 2.3, 2.29, 2.29], val_loss=[2.3] * 4)],
        ("net", "warning", 112, "is no better than 2.3, that of always giving one"),
    ),
    (
        "not_learning",
        CLASSES,
        [
            guessing(0.62, 0.03, share_of_largest=0.7, count=300),
            *epochs(loss=[0.63] * 4, accuracy=[0.7, 0.69, 0.71, 0.7]),
        ],
        ("net", "warning", 112, "Adam"),
    ),
    (
        "not_learning",
        TWO,
        [
            guessing(2.3, name="left"),
            guessing(2.3, name="right"),
            *epochs(
                loss=[4, 3.5, 3, 2.8, 2.7],
                left_loss=[2.0, 1.5, 1, 0.8, 0.7],
                right_loss=[2.3] * 5,
            ),
        ],
        ("right", "warning", 112, "of the output right, 2.3"),
    ),
    (
        "target_scale",
        NUMBERS,
        [
            guessing(5e9, 1e8, spread=1e-5, mean=1.5e5, std=7e4),
            *epochs(loss=[2.97e10, 2.96e10]),
        ],
        ("y", "warning", 56, "keras.layers.Rescaling(7e+04, 1.5e+05)"),
    ),
    (
        "class_imbalance",
        CLASSES,
        [(1, targets(share_of_largest=0.97, count=300))],
        ("y", "info", 1, "97.0% of the labels y are of one class"),
    ),
    (
        "class_imbalance",
        CLASSES,
        [
            guessing(0.1, 0.01),
            *later(*epochs(loss=[0.1, 0.05], val_loss=[0.9, 1.2])),
            (184, {"epoch/loss": 0.04, **targets(share_of_largest=0.98, count=900)}),
        ],
        ("y", "warning", 184, "by up to 49"),
    ),
    (
        "not_shuffled",
        CLASSES,
        [(8, targets(batch_effect=0.8))],
        ("y", "warning", 8, "dataset.shuffle"),
    ),
    (
        "output_mismatch",
        with_head(CE, "linear"),
        [(1, {"epoch": 1})],
        ("y", "warning", 1, "takes probabilities, but the output y (last) ends with"),
    ),
    (
        "output_mismatch",
        with_head(CE, "softmax", takes_logits=True),
        [(1, {"epoch": 1})],
        ("y", "warning", 1, "takes logits (from_logits=True), but the output y"),
    ),
    (
        "output_mismatch",
        with_head("categorical_crossentropy", "relu", takes_logits=True),
        [(1, {"epoch": 1})],
        ("y", "warning", 1, "ends with relu"),
    ),
    (
        "output_mismatch",
        with_head("binary_crossentropy", "softmax", units=1),
        [(1, {"epoch": 1})],
        ("y", "warning", 1, "A softmax over one unit is always 1"),
    ),
    (
        "output_mismatch",
        with_head(CE, None),
        [(1, {"epoch": 1, "outputs/y/out_of_range": 0.4})],
        ("y", "warning", 1, "but 40% of those of the output y (last) are outside"),
    ),
    (
        "output_mismatch",
        with_head(MSE, "tanh"),
        [(1, {"epoch": 1, **targets(out_of_reach=1.0)})],
        ("y", "warning", 1, "100% of the targets y are out of reach"),
    ),
    (
        "bn_train_eval_gap",
        NORM,
        looks(*[gap(1.0)] * 3),
        (
            "norm",
            "warning",
            120,
            "At momentum=0.9 28 steps, an epoch, renew 95% of them. ",
        ),
    ),
    (
        "bn_train_eval_gap",
        record(norm(momentum=0.999), fit={"steps": 28}),
        looks(*[gap(1.0)] * 3, first=9000),
        (
            "norm",
            "warning",
            9020,
            "28 steps, an epoch, renew 3% of them; 0.9 would renew 95%",
        ),
    ),
    (
        "bn_train_eval_gap",
        CUMULATIVE,
        looks(*[gap(1.0)] * 3),
        ("norm", "warning", 120, "To mend it, recompute the statistics"),
    ),
    (
        "bn_train_eval_gap",
        record(norm(momentum=0.99, warmup=True), fit={"steps": 2}),
        looks(*[gap(1.0)] * 3),
        ("norm", "warning", 120, "the farthest off. To mend it, recompute"),
    ),
    (
        "bn_stats_cold",
        COLD,
        [(1, gap(0.1)), EPOCH, (29, {**gap(4.0), **young()})],
        ("norm", "warning", 29, "40% of the moving statistics of norm (BatchNorm"),
    ),
    (
        "bn_stats_cold",
        COLD,
        [(16, {**gap(2.0), **young()}), *epochs(loss=[1.0], val_loss=[4.0])],
        ("norm", "warning", 28, "warmup=True), or lower momentum=0.99 to 0.9"),
    ),
    (
        "bn_stats_cold",
        NORM,
        [(1, gap(0.1)), EPOCH, (29, {**gap(4.0), **young()})],
        ("norm", "warning", 29, "Use kbn.BatchNorm(warmup=True), or recompute"),
    ),
    (
        "bn_stats_cold",
        record(norm(momentum=0.99, is_fresh=False), fit={"steps": 28}),
        [(1, gap(0.1)), EPOCH, (29, {**gap(4.0), **young()})],
        ("norm", "warning", 29, "Lower momentum=0.99 to 0.9, or recompute"),
    ),
    (
        "bn_stats_cold",
        record(norm(momentum=0.99), fit={"steps": 2}),
        [(1, gap(0.1)), EPOCH, (29, {**gap(4.0), **young()})],
        ("norm", "warning", 29, "An epoch of 2 steps is too short for any momentum"),
    ),
    (
        "bn_stats_cold",
        LOADED,
        [(1, gap(0.1)), EPOCH, (29, {**gap(4.0), **young()})],
        ("norm", "warning", 29, "are still those that it began with"),
    ),
    (
        "bn_not_updated",
        NORM,
        looks(unmoved(), unmoved()),
        ("norm", "warning", 120, "In your train_step call self(x, training=True)"),
    ),
    (
        "bn_train_eval_gap",
        NORM,
        looks(*[moments(mean=0.9, variance=0.7)] * 3),
        ("norm", "warning", 120, "0.9 standard deviations from the batch's"),
    ),
    (
        "bn_collapsed",
        NORM,
        series("health/collapsed_channels/norm", *[0.5] * 3),
        (
            "norm",
            "warning",
            120,
            "50% of the channels of norm (BatchNormalization) (eps",
        ),
    ),
    (
        "bn_small_batch",
        NORM,
        series("batch_norm_elements/norm", 12, 12),
        ("norm", "info", 120, "mean and variance of 12 elements"),
    ),
    (
        "bn_small_batch",
        NORM,
        series("batch_norm_elements/norm", 4, 4),
        ("norm", "warning", 120, "mean and variance of 4 elements"),
    ),
    (
        "bn_small_batch",
        NORM,
        series("batch_norm_elements/norm", 1, 1),
        ("norm", "warning", 120, "its output is beta whatever the input"),
    ),
    (
        "input_scale",
        RAW,
        looks(IMAGE),
        ("image", "info", 100, "has mean 33, standard deviation 79: the gradients"),
    ),
    *(
        ("input_scale", RAW, looks({**IMAGE, **harm}), ("image", "warning", 100, said))
        for harm, said in HARMS
    ),
    (
        "loss_scale_collapse",
        SCALED,
        series("loss_scale", 512, 0.5),
        ("net", "warning", 120, "down to 0.5"),
    ),
    (
        "loss_scale_collapse",
        SCALED,
        [(5, {"skipped_steps": 1}), (8, {"skipped_steps": 21})],
        ("net", "warning", 8, "20 steps in a row were skipped"),
    ),
    (
        "schedule_length",
        scheduled("CosineDecay", decay_steps=28),
        [(28, {"epoch/loss": 2.0}), (29, {**LOOK[0][1], "loss/guess": 2.3})],
        ("sgd", "warning", 29, "what comes after it changes nothing"),
    ),
    *(
        ("schedule_length", scheduled(kind, **config), LOOK, ("sgd", "info", 1, said))
        for kind, config, said in SCHEDULES
    ),
    (
        "collapsed",
        OWN,
        series("between_examples/dense_3", 0.5, *[0.05] * 3),
        ("dense_3", "warning", 140, "differ by 0.05 of their size, by 0.5 at first"),
    ),
    (
        "zero_weights",
        DENSE,
        looks(*[zeros(0.4, growth=1e-3)] * 3),
        (KERNELS[0], "warning", 120, "40% of the weights"),
    ),
    (
        "skewed",
        DENSE,
        [(30, {"skew/x": 250.0, "epoch": 2})],
        ("x", "warning", 30, "2.5e+02 standard deviations from the training data"),
    ),
]

# (rule, record, entries): what looks like it and is healthy.
GOOD = {
    "a bias of two dimensions": (
        "weight_drift",
        record(layer("gru", "GRUCell", shape=(2, 96))),
        series("weight_drift/net/gru/bias", 5, 5, 5),
    ),
    **{
        f"an input that is {fate or 'not known'}": (
            "input_scale",
            {**DENSE, "inputs": {"image": {"fate": fate, "layer": "dense_0"}}},
            looks({**IMAGE, **HARMS[0][0]}),
        )
        for fate in ("index", "scaled", "unknown", "")
    },
    "inputs of unit scale": (
        "input_scale",
        RAW,
        looks({"inputs/image/mean": 0.1, "inputs/image/std": 1, **HARMS[2][0]}),
    ),
    "a summed loss that the step does not return": (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", 2e4, 3e4, 2.5e4),
    ),
    "gradients of two losses": (
        "gradient_imbalance",
        GAN,
        looks(*[gradients(1e3, 1e3, 1e-3, 1e-3)] * 5),
    ),
    "gradients of two losses, the first small": (
        "vanishing_gradient",
        GAN,
        looks(*[gradients(1e-6, 1e-6, 1, 1)] * 5),
    ),
    "a start near 0": (
        "update_ratio_high",
        DENSE,
        looks(*[{**ratio(0.3), f"weight_std/{KERNELS[0]}": 0.02}] * 5),
    ),
    "steps that the loss survives": (
        "learning_rate_too_high",
        DENSE,
        first_steps([1.7, 1.2, 0.8, 0.5, 0.2], [2.6, 3.8, 1.3, 0.7, 0.6]),
    ),
    "a loss that rises, by steps that are small": (
        "learning_rate_too_high",
        DENSE,
        first_steps([0.05] * 5, [2.3, 2.4, 2.5, 2.4, 2.4]),
    ),
    "a jump later": (
        "learning_rate_too_high",
        DENSE,
        first_steps([2.0] * 5, [2.3, 2.4, 2.5, 2.4, 2.4], steps=range(40, 90, 9)),
    ),
    "small steps that serve": (
        "learning_rate_too_low",
        DENSE,
        with_epochs(first_steps([1e-5] * 5, [2.3] * 5), [2.3, 2.0, 1.7, 1.4]),
    ),
    "flat, but not for want of movement": (
        "learning_rate_too_low",
        DENSE,
        with_epochs(first_steps([1e-3] * 5, [2.3] * 5), [2.3] * 5),
    ),
    "died of a high rate": (
        "learning_rate_too_low",
        DENSE,
        with_epochs(first_steps([9, 5, 2, 1e-6, 1e-6], [2.3] * 5), [2.3] * 5),
    ),
    "small steps of a network that was trained before": (
        "learning_rate_too_low",
        DENSE,
        with_epochs(
            first_steps([1e-6] * 5, [0.1] * 5, **{"loss/guess": 2.3}), [0.1] * 5
        ),
    ),
    "small steps of a training that goes on": (
        "learning_rate_too_low",
        {**DENSE, "first_look": 900},
        with_epochs(first_steps([1e-6] * 5, [0.1] * 5), [0.1] * 5),
    ),
    **{
        f"dead behind {what}": (
            "dead_relu",
            {**DENSE, **known},
            series("health/dead_units/dense_1", *[0.9] * looked),
        )
        for what, known, looked in [
            (
                "strong dropout",
                record({"name": "drop", "dropout": 0.95}, *DENSE["layers"]),
                6,
            ),
            ("batches of 2", {"fit": {"batch_size": 2}}, 4),
        ]
    },
    "large targets": (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", 2e4, 2e4, **{"loss/train": 1e6}),
    ),
    "a hard batch late": (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", *[0.01] * 9, 0.5, **LEARNS),
    ),
    "few norms": (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", 1, 50, **LEARNS),
    ),
    "a spike of a critic": (
        "exploding_gradient",
        DENSE,
        series("gradient_norm/global", *[0.5] * 9, 12),
    ),
    "gradients of one size": (
        "vanishing_gradient",
        DENSE,
        looks(*[gradients(0.1, 0.2, 1, 1)] * 5),
    ),
    "one small kernel in the middle": (
        "vanishing_gradient",
        DENSE,
        looks(*[gradients(0.5, 1e-6, 1, 1)] * 5),
    ),
    "small ones at the end": (
        "vanishing_gradient",
        DENSE,
        looks(*[gradients(1, 1, 1e-6, 1e-6)] * 5),
    ),
    "learned whatever its gradient": (
        "vanishing_gradient",
        DENSE,
        looks(
            {**gradients(1, 1, 1, 1), "loss/train": 2.3},
            *[{**gradients(1e-3, 1e-3, 1, 1), "loss/train": 0.1}] * 5,
        ),
    ),
    "no gradient at all": (
        "vanishing_gradient",
        DENSE,
        looks(*[gradients(0, 0, 0, 0)] * 5),
    ),
    "an embedding": (
        "vanishing_gradient",
        record(layer("dense_0", "Embedding"), *DENSE["layers"][1:]),
        looks(*[gradients(1e-6, 1, 1, 1)] * 5),
    ),
    "a branch without gradient": (
        "gradient_imbalance",
        DENSE,
        looks(*[gradients(1, 1, 0, 0)] * 5),
    ),
    "first steps": (
        "update_ratio_high",
        DENSE,
        looks(*[ratio(0.5)] * 8, first=1, every=1),
    ),
    "a bias": ("update_ratio_high", DENSE, looks(*[ratio(0.06)] * 5)),
    "arrived": (
        "unchanged_weight",
        DENSE,
        looks(
            {f"distance_from_init/{KERNELS[0]}": 0.1, "loss/train": 2.3},
            *[{f"distance_from_init/{KERNELS[0]}": 0.3, "loss/train": 0.1}] * 5,
        ),
    ),
    "rate of zero at the end": (
        "unchanged_weight",
        DENSE,
        looks(
            {f"distance_from_init/{KERNELS[0]}": 0.3, "learning_rate": 0.1},
            *[{f"distance_from_init/{KERNELS[0]}": 0.3, "learning_rate": 0}] * 5,
        ),
    ),
    "the model's output": (
        "saturated",
        record(layer("head", activation="sigmoid", is_output=True)),
        series("health/saturated/head", *[0.99] * 5),
    ),
    "signal kept": ("poor_init", DENSE, [(1, {**stds(1, 2, 2, 3), **HEALTHY_KERNEL})]),
    "two layers": ("poor_init", DENSE, [(1, stds(1, 100))]),
    "grown in training": (
        "poor_init",
        DENSE,
        [(1, stds(1, 1, 1)), (90, stds(1, 9, 99))],
    ),
    **{
        f"a scale that {what} sets anew": (
            "poor_init",
            record(*DENSE["layers"][:2], {"name": "a", **known}, *DENSE["layers"][2:]),
            [(1, stds(64, 64, 1, 1))],
        )
        for what, known in [
            ("a norm", {"is": ["Own", "BatchNormalization"]}),
            ("dropout", {"dropout": 0.95}),
        ]
    },
    "a first look late": ("poor_init", DENSE, [(10, stds(1, 8, 64, 512))]),
    "a training that goes on": (
        "poor_init",
        {**DENSE, "first_look": 500},
        [(501, {**stds(1, 8, 64, 512), **OF_ZEROS})],
    ),
    "layers that are frozen": (
        "poor_init",
        record(
            *(layer(f"dense_{i}", trainable=i > 1) for i in range(4)),
        ),
        [(1, stds(1, 8, 64, 512))],
    ),
    "a table of an own layer": (
        "weight_drift",
        record(
            layer("dense_0") | {"weights": [{"path": KERNELS[0], "is_table": True}]}
        ),
        series(f"weight_drift/{KERNELS[0]}", 9, 9),
    ),
    "a layer that is an embedding": (
        "weight_drift",
        record(layer("dense_0", "Tokens", **{"is": ["Embedding"]})),
        series(f"weight_drift/{KERNELS[0]}", 9, 9),
    ),
    "zeros that moved": ("poor_init", DENSE, [(1, OF_ZEROS_THAT_MOVED)]),
    "zeros in the head": (
        "poor_init",
        record(layer("dense_0", is_output=True)),
        [(1, OF_ZEROS)],
    ),
    "one unit": ("poor_init", record(layer("dense_0", shape=(8, 1))), [(1, OF_ZEROS)]),
    "few elements": (
        "weight_drift",
        record(layer("dense_0", shape=(4, 4))),
        series(f"weight_drift/{KERNELS[0]}", 5, 5),
    ),
    "an embedding that grows": (
        "weight_explosion",
        record(layer("dense_0", "Embedding")),
        series(f"weight_growth/{KERNELS[0]}", 20, 20),
    ),
    "a hard batch": ("loss_spike", DENSE, series("loss/train", 2.3, *[0.1] * 9, 1.0)),
    "validation falls": (
        "overfit",
        DENSE,
        epochs(loss=[0.1] * 6, val_loss=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
    ),
    "validation below": (
        "overfit",
        DENSE,
        epochs(loss=[1.0] * 5, val_loss=[0.5, 0.6, 0.7, 0.8, 0.9]),
    ),
    "validation that catches up": (
        "overfit",
        DENSE,
        epochs(loss=[0.5, 0.4, 0.3, 0.2, 0.1], val_loss=[0.6, 0.61, 0.64, 0.62, 0.63]),
    ),
    "batch norm that lags": (
        "overfit",
        {**CLASSES, "layers": [norm()]},
        [guessing(2.3), *later(*epochs(loss=[0.5] * 5, val_loss=[3, 4, 5, 6, 7]))],
    ),
    # Loss over guess in epochs 1, 2, 3 of healthy networks that start slowly.
    **{
        f"a slow start: {name}": (
            "not_learning",
            CLASSES,
            [guessing(1.0), *later(*epochs(loss=losses, val_loss=losses))],
        )
        for name, losses in {
            "convolutions": [0.99, 0.96, 0.9],
            "LSTM": [0.999, 0.98, 0.85],
            "three sigmoids": [1.02, 0.98, 0.96],
            "autoencoder": [1.99, 1.05, 0.93],
            "rare event": [10, 5.3, 3.3],
            "weak regression": [1.5, 1.16, 1.06],
        }.items()
    },
    "fewer than 100 steps": (
        "not_learning",
        CLASSES,
        [guessing(2.3), *epochs(loss=[2.3] * 3)],
    ),
    "a guess that is not known": ("not_learning", CLASSES, epochs(loss=[2.3] * 9)),
    "a penalty that falls": (
        "not_learning",
        CLASSES,
        [
            guessing(2.3),
            *(
                (step, {**one, "loss/penalty": 5 - i})
                for i, (step, one) in enumerate(
                    later(*epochs(loss=[6.0, 4.9, 3.8, 2.7]))
                )
            ),
        ],
    ),
    "validation that is better": (
        "not_learning",
        CLASSES,
        [guessing(2.3), *later(*epochs(loss=[2.3] * 4, val_loss=[2.2, 2.1, 2, 1.9]))],
    ),
    "a rate that warms up": (
        "not_learning",
        CLASSES,
        [
            guessing(2.3),
            *(
                (step, {**one, "learning_rate": 1e-4 * (i + 1)})
                for i, (step, one) in enumerate(later(*epochs(loss=[2.3] * 6)))
            ),
        ],
    ),
    "few targets, and outputs that differ": (
        "not_learning",
        NUMBERS,
        [guessing(1.0, 0.15), *later(*epochs(loss=[1.1] * 4))],
    ),
    "probabilities that are better than the majority": (
        "not_learning",
        CLASSES,
        [
            guessing(0.5, share_of_largest=0.8, count=900),
            *later(*epochs(loss=[0.4] * 4, accuracy=[0.8] * 4)),
        ],
    ),
    "large targets that are learned": (
        "target_scale",
        NUMBERS,
        [
            guessing(80, 5, mean=22, std=9),
            *later(*epochs(loss=[550, 400, 240, 150, 90, 40])),
        ],
    ),
    "targets of unit scale": (
        "target_scale",
        NUMBERS,
        [guessing(1.0, mean=0.1, std=1.0), *later(*epochs(loss=[1.3] * 4))],
    ),
    "nine of ten": (
        "class_imbalance",
        CLASSES,
        [(1, targets(share_of_largest=0.85, count=300))],
    ),
    "few labels": (
        "class_imbalance",
        CLASSES,
        [(1, targets(share_of_largest=0.95, count=32))],
    ),
    "stratified batches": ("not_shuffled", CLASSES, [(1, targets(batch_effect=0.1))]),
    "a loss of logits": (
        "output_mismatch",
        with_head(CE, "linear", takes_logits=True),
        [(1, {"epoch": 1})],
    ),
    "a loss of probabilities": (
        "output_mismatch",
        CLASSES,
        [(1, {"epoch": 1, "outputs/y/out_of_range": 0.0})],
    ),
    "a function that is not known": (
        "output_mismatch",
        with_head(CE, "my_softmax"),
        [(1, {"epoch": 1})],
    ),
    "a loss of one's own": (
        "output_mismatch",
        with_head(None, "relu"),
        [(1, {"epoch": 1})],
    ),
    "pixels of a sigmoid": (
        "output_mismatch",
        with_head(MSE, "sigmoid"),
        [(1, {"epoch": 1, **targets(out_of_reach=0.0)})],
    ),
    "dropout's gap": ("bn_train_eval_gap", NORM, looks(*[gap(-0.5)] * 3)),
    "no batch norm": ("bn_train_eval_gap", DENSE, looks(*[gap(3.0)] * 3)),
    "frozen": ("bn_train_eval_gap", FROZEN, looks(*[gap(3.0)] * 3)),
    "a loss of nearly 0": (
        "bn_train_eval_gap",
        NORM,
        looks(gap(0.0, loss=2.3), *[gap(2.0, loss=1e-3)] * 3),
    ),
    "an untrained network": ("bn_stats_cold", COLD, looks({**gap(4.0), **young()})),
    "a start that makes no gap": (
        "bn_stats_cold",
        COLD,
        [EPOCH, (29, {**gap(4.0), **young(share=0.4, makes=0.1)})],
    ),
    "worse than one batch, and not than the epoch": (
        "bn_stats_cold",
        COLD,
        [(25, {"loss/train": 0.5, **young()}), *epochs(loss=[1.0], val_loss=[1.2])],
    ),
    "young, and no harm": (
        "bn_stats_cold",
        COLD,
        [
            (1, {**gap(0.1), **young()}),
            *epochs(loss=[1.0], val_loss=[1.1]),
            (29, {**gap(0.1), **young()}),
        ],
    ),
    "overfit, evaluated alike": (
        "bn_stats_cold",
        COLD,
        [
            (1, gap(0.0)),
            *epochs(loss=[1.0], val_loss=[1.1]),
            (29, {**gap(0.1), **young()}),
            (56, {"epoch/loss": 1, "epoch/val_loss": 9}),
        ],
    ),
    "renewed since the last look": (
        "bn_stats_cold",
        COLD,
        [(1, young()), (500, {"epoch/loss": 1.0, "epoch/val_loss": 4.0})],
    ),
    "an average over all": ("bn_stats_cold", CUMULATIVE, [EPOCH, (29, gap(4.0))]),
    "not seen since the first step": (
        "bn_stats_cold",
        COLD,
        [(1, {**gap(0.1), **young()}), *epochs(loss=[1.0], val_loss=[4.0])],
    ),
    "young, which is said": (
        "bn_train_eval_gap",
        COLD,
        looks(*[{**gap(4.0), **young()}] * 4),
    ),
    "young moments, which is said": (
        "bn_train_eval_gap",
        COLD,
        looks(*[moments(0.9, 2.0, **young())] * 4),
    ),
    "moments that do no harm": (
        "bn_train_eval_gap",
        NORM,
        looks(*[{**gap(0.1), **moments(0.9, 2.0)}] * 4),
    ),
    "moments of few elements": (
        "bn_train_eval_gap",
        NORM,
        looks(*[moments(0.7, 1.4, **{"batch_norm_elements/norm": 8})] * 5),
    ),
    "a frozen start": ("bn_not_updated", FROZEN, looks(*[unmoved()] * 4)),
    "loaded statistics": ("bn_not_updated", LOADED, looks(*[unmoved()] * 4)),
    "moved now and then": ("bn_not_updated", NORM, looks(*[unmoved(0.7)] * 4)),
    "moved in the second step": (
        "bn_not_updated",
        NORM,
        looks(unmoved(), unmoved(0.9, 1), unmoved(0.8, 1)),
    ),
    "channels of one element": (
        "bn_collapsed",
        NORM,
        looks(
            *[{"health/collapsed_channels/norm": 1.0, "batch_norm_elements/norm": 1}]
            * 4
        ),
    ),
    "a short last batch": (
        "bn_small_batch",
        NORM,
        series("batch_norm_elements/norm", 64, 3, 64, 64, 3, 64),
    ),
    "only last batches": (
        "bn_small_batch",
        NORM,
        [(28 * i, {"batch_norm_elements/norm": 3}) for i in range(1, 5)],
    ),
    "pruned weights": ("zero_weights", DENSE, looks(*[zeros(0.9, growth=0.6)] * 3)),
    "weights that decay": ("zero_weights", DENSE, looks(*[zeros(0.05, 0.01)] * 3)),
    "biases of 0": (
        "zero_weights",
        DENSE,
        looks(*[zeros(1.0, 0.01, "net/gru/bias")] * 3),
    ),
    "validation data of a later month": ("skewed", DENSE, [(30, {"skew/x": 1.2})]),
    "outputs apart": ("collapsed", OWN, series("between_examples/dense_3", 1, 0.2)),
    "one of two outputs alike": (
        "collapsed",
        OWN,
        series(
            "between_examples/dense_3",
            1,
            *[0.01] * 5,
            **{"between_examples/dense_2": 1},
        ),
    ),
    "alike from the start": (
        "collapsed",
        OWN,
        series("between_examples/dense_3", 0.05, *[0.04] * 5),
    ),
    "alike, beside a known guess": (
        "collapsed",
        DENSE,
        series("between_examples/dense_3", 0.5, *[0.05] * 5),
    ),
    **{
        f"a schedule, {case}": ("schedule_length", known, LOOK)
        for case, known in {
            "of the training": scheduled("CosineDecay", decay_steps=280),
            "cut short": scheduled("CosineDecay", decay_steps=500),
            "with a high end": scheduled("CosineDecay", decay_steps=28, alpha=0.1),
            "a circle": scheduled("PolynomialDecay", decay_steps=28, cycle=True),
            "without an end": scheduled("ExponentialDecay", decay_steps=2800),
            "of a user": scheduled("Own", decay_steps=2800),
            "of one epoch": {**scheduled("CosineDecay"), "fit": {"epochs": 1}},
            "gone on with": {**scheduled("CosineDecay", decay_steps=28), "began": 28},
            "that lost a setting": scheduled("CosineDecay", decay_steps=None),
            "a number": {**SCALED, "began": 0},
        }.items()
    },
    "the scale's search": (
        "loss_scale_collapse",
        SCALED,
        [(1, {"skipped_steps": 0}), (9, {"skipped_steps": 8, "loss_scale": 128})],
    ),
    "an overflow under a loss scale": (
        "non_finite",
        SCALED,
        looks({"epoch": 1, "loss/train": 1, f"{BAD}gradients/{KERNELS[0]}": 64}),
    ),
}


def rule(name):
    (found,) = [one for one in DEFAULT if one.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "known", "entries", "said"),
    ILL,
    ids=[f"{name}-{i}" for i, (name, *_) in enumerate(ILL)],
)
def test_rule_names_the_illness(name, known, entries, said):
    (alert,) = alerts_of([known, *entries], [rule(name)])
    where, level, step, part = said
    assert (alert.where, alert.level, alert.step) == (where, level, step)
    assert part in alert.message
    assert part in str(alert)
    assert alert.is_open


@pytest.mark.parametrize("case", GOOD)
def test_rule_is_silent_on_what_is_healthy(case):
    name, known, entries = GOOD[case]
    assert alerts_of([known, *entries], [rule(name)]) == []


def test_every_rule_has_both_kinds_of_cases():
    names = {one.name for one in DEFAULT} - {"non_finite", "non_finite_data"}
    assert {name for name, *_ in ILL} == names
    quiet = {name for name, *_ in GOOD.values()}
    # A share or a growth below its limit: the property test of constant series.
    assert names - quiet == set()


@pytest.mark.parametrize(
    ("name", "known", "entries", "said"),
    ILL,
    ids=[f"{name}-{i}" for i, (name, *_) in enumerate(ILL)],
)
def test_an_illness_is_one_diagnosis_among_all_rules(name, known, entries, said):
    (alone,) = alerts_of([known, *entries], [rule(name)])
    together = alerts_of([known, *entries])
    causes = [x for x in together if name in (x.rule, *x.symptoms)]
    assert causes
    assert rank(max(causes, key=lambda x: rank(x.level)).level) >= rank(alone.level)
    told = [name for x in together if x.is_open for name in (x.rule, *x.symptoms)]
    assert len({*told}) == len(told)


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
        [(29, FINE), (56, {"epoch/loss": NAN, "epoch": 2})],
        ("net", "log_freq=1, or log_freq=lambda step: step > 29"),
    ),
    "validation": (
        [(56, {"epoch/loss": 0.3, "epoch/val_loss": NAN})],
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
    entries += [(28, {"epoch/loss": NAN, "epoch": 1})]
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
    entries += [(28, {"epoch/loss": NAN}), (29, {**broken, "epoch": 2})]
    (alert,) = alerts_of([DENSE, *entries], [rules.NonFinite()])
    assert (alert.where, alert.is_open) == ("dense_2", True)
    assert "the first variable to break is net/dense_0/kernel" in alert.message


@pytest.mark.parametrize(
    ("loss", "ending"), [(1.1, "resolved at step 29"), (1.2, ""), (NAN, "")]
)
@pytest.mark.parametrize("start", [stds(1, 8, 64, 512), OF_ZEROS, OF_ONES])
def test_poor_start_is_over_once_the_network_has_learned(start, loss, ending):
    entries = [(1, {**start, "loss/guess": 2.3}), (28, {"epoch/loss": loss})]
    (alert,) = alerts_of([DENSE, *entries, (29, start)], [rules.PoorInit()])
    assert alert.ending == ending


# --- batch norm, young ---


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


def test_argument_rules_of_a_monitor():
    assert listed("default") == [*DEFAULT]
    assert listed(None) == []
    assert listed([rules.DeadRelu()]) == [rules.DeadRelu()]
    for wrong, said in [
        ("all", "rules='all': expected 'default', a list or None"),
        (3, "rules=3"),
        ([rules.DeadRelu], "A rule is an instance"),
        ([len], "is not a kbn rule"),
        ([rules.DeadRelu(), rules.DeadRelu(share=0.3)], "two of dead_relu"),
    ]:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            listed(wrong)
        assert said in str(error.value)


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


NAMES = """
non_finite_data non_finite loss_scale_collapse
exploding_gradient vanishing_gradient gradient_imbalance update_ratio_high
unchanged_weight dead_relu saturated poor_init
weight_drift weight_explosion learning_rate_too_high learning_rate_too_low
schedule_length loss_spike overfit bn_train_eval_gap
bn_stats_cold bn_not_updated bn_collapsed
bn_small_batch input_scale output_mismatch
not_shuffled not_learning collapsed target_scale class_imbalance
zero_weights skewed
"""


def test_names_are_the_public_ones():
    assert {one.name for one in DEFAULT} == {*NAMES.split()}
