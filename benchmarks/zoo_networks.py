"""The zoo: small networks, healthy and sick, each a row.

A healthy network reaches its bar in evaluation mode. A sick one has an illness that is
built in, and rules that name it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import zoo_data as data
from keras import initializers, layers, ops, optimizers
from zoo_steps import minimize

import kbn


@dataclass(frozen=True)
class Network:
    """A training of the zoo.

    Args:
        name: Its name.
        build: Makes the compiled model.
        data: Makes the data from a seed.
        bar: What the model must reach on validation data to be healthy: a metric and a
            number, above it for an accuracy, below it for a loss. A sick network may
            have one, which it must miss; None: its illness shows elsewhere.
        rules: Names of the rules that fit; none for a healthy network.
        fit: Arguments of `fit`.
        log_freq: Of the monitor.
        by_hand: Whether it trains by `zoo_steps.minimize`, which JAX has not.
    """

    name: str
    build: Callable[[], Any]
    data: Callable[[int], data.Data]
    bar: tuple[str, float] | None = None
    rules: frozenset[str] = frozenset()
    fit: dict[str, Any] = field(default_factory=dict)
    log_freq: Any = "epoch"
    by_hand: bool = False

    @property
    def is_healthy(self) -> bool:
        """Whether no rule is to call it ill."""
        return not self.rules

    def reaches(self, results: dict[str, float]) -> bool | None:
        """Whether it has reached its bar; None without one."""
        if self.bar is None:
            return None
        metric, limit = self.bar
        value = results[metric]
        return bool(value >= limit if "accuracy" in metric else value <= limit)


HEALTHY: list[Network] = []
SICK: list[Network] = []
CLASSES = "sparse_categorical_crossentropy"


def healthy(
    name: str,
    make: Any,
    bar: float,
    log_freq: Any = "epoch",
    of: Any = data.digits,
    **fit: Any,
) -> None:
    metric = ("loss", bar) if of in LOSSES else ("accuracy", bar)
    known = {"epochs": 8, "batch_size": 64, **fit}
    HEALTHY.append(Network(name, make, of, metric, frozenset(), known, log_freq))


def sick(
    name: str,
    rules: str,
    make: Any,
    bar: float | None = None,
    log_freq: Any = "auto",
    of: Any = data.digits,
    by_hand: bool = False,
    **fit: Any,
) -> None:
    known = {"epochs": 4, "batch_size": 64, **fit}
    missed = None if bar is None else ("loss" if of in LOSSES else "accuracy", bar)
    fits = frozenset(rules.split())
    SICK.append(Network(name, make, of, missed, fits, known, log_freq, by_hand))


# --- parts ---


def large_curve(seed):
    return data.curve(seed, scale=1e3)


def spoiled_curve(seed):
    return data.curve(seed, outliers=1)


def curve(seed):
    return data.curve(seed)


# Judged by their loss, the others by their accuracy.
LOSSES = (data.itself, data.masks, curve, large_curve, spoiled_curve)


class Forgetful(keras.Sequential):
    """Its train_step forgets training=True."""

    def train_step(self, data):
        """Train on a batch."""
        x, y = data
        y_pred = None

        def loss_of():
            nonlocal y_pred
            y_pred = self(x)
            return self.compute_loss(x, y, y_pred)

        loss = minimize(loss_of, self.trainable_variables, self.optimizer)
        return {"loss": loss, **self.compute_metrics(x, y, y_pred)}


def classifier(
    *inner,
    shape=(64,),
    optimizer="adam",
    classes=10,
    head=None,
    kind=keras.Sequential,
    **options,
):
    """A sequential classifier; `head`: arguments of its last layer."""
    model = kind(
        [
            layers.Input(shape),
            *inner,
            layers.Dense(classes, **{"activation": "softmax", **(head or {})}),
        ]
    )
    model.compile(optimizer, CLASSES, metrics=["accuracy"], **options)
    return model


def regressor(*inner, shape=(8,), optimizer="adam", loss="mse", scale=1, **options):
    outer = [layers.Rescaling(scale)] if scale != 1 else []
    model = keras.Sequential([layers.Input(shape), *inner, layers.Dense(1), *outer])
    model.compile(optimizer, loss, **options)
    return model


def dense(count, units=32, activation="relu", **options):
    return [layers.Dense(units, activation=activation, **options) for _ in range(count)]


def normed(
    count, units=32, activation="relu", norm=layers.BatchNormalization, **options
):
    """Dense, batch norm, activation."""
    return [
        layer
        for _ in range(count)
        for layer in (
            layers.Dense(units, use_bias=False),
            norm(**options),
            layers.Activation(activation),
        )
    ]


def normal(std):
    return {"kernel_initializer": initializers.RandomNormal(stddev=std)}


def sgd(rate=0.1, momentum=0.9, **options):
    return optimizers.SGD(rate, momentum=momentum, **options)


def adam(rate=3e-3, **options):
    return optimizers.Adam(rate, **options)


def warm_cosine(rate=3e-3, steps=160):
    return optimizers.schedules.CosineDecay(
        1e-5, steps - 40, warmup_target=rate, warmup_steps=40
    )


def residual(norm, blocks=2, filters=8, optimizer=None, classes=10):
    x = inputs = layers.Input((8, 8, 1))
    x = layers.Conv2D(filters, 3, padding="same")(x)
    for _ in range(blocks):
        y = layers.Activation("relu")(norm()(x))
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        y = layers.Activation("relu")(norm()(y))
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu")(norm()(x)))
    model = keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))
    model.compile(optimizer or adam(1e-2), CLASSES, metrics=["accuracy"])
    return model


def attention():
    x = inputs = layers.Input((12,), dtype="int32")
    x = layers.Embedding(40, 16)(x)
    y = layers.MultiHeadAttention(2, 8)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    model.compile(adam(), CLASSES, metrics=["accuracy"])
    return model


def segmenter():
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            *(
                layer
                for _ in range(2)
                for layer in (
                    layers.Conv2D(8, 3, padding="same", use_bias=False),
                    layers.BatchNormalization(momentum=0.9),
                    layers.ReLU(),
                )
            ),
            layers.Conv2D(1, 1, activation="sigmoid"),
        ]
    )
    model.compile(adam(1e-2), "binary_crossentropy")
    return model


def autoencoder():
    model = keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(12, activation="tanh"),
            layers.Dense(32, activation="relu"),
            layers.Dense(64, activation="sigmoid"),
        ]
    )
    model.compile(adam(), "mse")
    return model


def two_headed():
    top, bottom = layers.Input((32,), name="top"), layers.Input((32,), name="bottom")
    shared = layers.Dense(24, activation="relu")
    x = layers.Concatenate()([shared(top), shared(bottom)])
    x = layers.Dense(32, activation="relu")(x)
    outputs = layers.Dense(10, activation="softmax")(x)
    model = keras.Model({"top": top, "bottom": bottom}, outputs)
    model.compile(adam(), CLASSES, metrics=["accuracy"])
    return model


def half_precision():
    def layer(units, activation):
        return layers.Dense(units, activation=activation, dtype="mixed_float16")

    model = keras.Sequential(
        [
            layers.Input((64,)),
            layer(32, "relu"),
            layer(32, "relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = optimizers.LossScaleOptimizer(adam())
    model.compile(optimizer, CLASSES, metrics=["accuracy"])
    return model


def batch_norm(momentum=0.9):
    return lambda: layers.BatchNormalization(momentum=momentum)


def conv(*filters, **options):
    made = [
        layers.Conv2D(n, 3, activation="relu", padding="same", **options)
        for n in filters
    ]
    return [*made, layers.Flatten()]


# --- healthy ---

IMAGE = {"shape": (8, 8, 1)}
healthy("dense relu, Adam", lambda: classifier(*dense(2), optimizer=adam()), 0.9, 20)
healthy(
    "dense relu, SGD with momentum", lambda: classifier(*dense(2), optimizer=sgd()), 0.9
)
healthy(
    "dense relu, plain SGD",
    lambda: classifier(*dense(2), optimizer=sgd(0.3, 0.0)),
    0.9,
    20,
)
healthy(
    "dense tanh, SGD",
    lambda: classifier(*dense(2, activation="tanh"), optimizer=sgd()),
    0.9,
    20,
)
healthy(
    "dense sigmoid, one hidden layer",
    lambda: classifier(*dense(1, activation="sigmoid"), optimizer=adam(1e-2)),
    0.9,
)
healthy(
    "dense selu",
    lambda: classifier(
        *dense(3, activation="selu", kernel_initializer="lecun_normal"),
        optimizer=adam(),
    ),
    0.9,
    20,
)
healthy(
    "dense gelu, AdamW with warm-up and cosine decay",
    lambda: classifier(
        *dense(2, activation="gelu"),
        optimizer=optimizers.AdamW(warm_cosine(5e-3), weight_decay=0.01),
    ),
    0.9,
    1,
)
healthy(
    "dense leaky relu",
    lambda: classifier(*dense(2, activation="leaky_relu"), optimizer=adam()),
    0.9,
)
healthy(
    "eight relu layers, He initialization",
    lambda: classifier(*dense(8, kernel_initializer="he_normal"), optimizer=adam(1e-3)),
    0.9,
    20,
    epochs=20,
)
healthy(
    "dropout",
    lambda: classifier(
        *dense(1, 64),
        layers.Dropout(0.3),
        *dense(1, 64),
        layers.Dropout(0.3),
        optimizer=adam(),
    ),
    0.9,
    20,
)
healthy(
    "batch norm, momentum 0.9",
    lambda: classifier(*normed(2, momentum=0.9), optimizer=adam()),
    0.9,
    20,
)
healthy(
    "batch norm, momentum 0.99, on inputs of 0 and 1",
    lambda: classifier(layers.Rescaling(3.0, -1.0), *normed(1), optimizer=adam()),
    0.9,
)
healthy(
    "batch norm, warm-up",
    lambda: classifier(*normed(2, norm=kbn.BatchNorm, warmup=True), optimizer=adam()),
    0.9,
)
healthy(
    "kbn batch norm, batches of 32",
    lambda: classifier(*normed(2, norm=kbn.BatchNorm, momentum=0.9), optimizer=adam()),
    0.9,
    20,
    batch_size=32,
    epochs=6,
)
healthy(
    "batch norm, sigmoid, four layers",
    lambda: classifier(
        *normed(4, activation="sigmoid", momentum=0.9), optimizer=adam(1e-2)
    ),
    0.9,
    20,
    epochs=10,
)
healthy(
    "batch norm, SGD 0.5",
    lambda: classifier(*normed(2, momentum=0.9), optimizer=sgd(0.5, 0.0)),
    0.9,
    1,
    epochs=4,
)
healthy(
    "layer norm",
    lambda: classifier(*normed(2, norm=layers.LayerNormalization), optimizer=adam()),
    0.9,
    20,
)
healthy(
    "convolutions",
    lambda: classifier(*conv(8, 8), optimizer=adam(), **IMAGE),
    0.9,
    20,
    of=data.images,
    epochs=6,
)
healthy(
    "separable convolutions, relu6, batch norm",
    lambda: classifier(
        layers.SeparableConv2D(16, 3, use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(6.0),
        layers.Flatten(),
        optimizer=adam(1e-2),
        **IMAGE,
    ),
    0.9,
    20,
    of=data.images,
)
healthy(
    "residual, batch norm",
    lambda: residual(batch_norm(0.8)),
    0.85,
    of=data.images,
    epochs=10,
)
healthy(
    "residual, layer norm",
    lambda: residual(layers.LayerNormalization, optimizer=adam(5e-3)),
    0.85,
    20,
    of=data.images,
    epochs=24,
)
healthy(
    "LSTM",
    lambda: classifier(layers.LSTM(16), shape=(12, 3), classes=2, optimizer=adam(1e-2)),
    0.8,
    20,
    of=data.sequences,
    epochs=20,
)
healthy(
    "GRU, clipped",
    lambda: classifier(
        layers.GRU(16),
        shape=(12, 3),
        classes=2,
        optimizer=adam(1e-2, global_clipnorm=1.0),
    ),
    0.8,
    of=data.sequences,
    epochs=20,
)
healthy("attention", attention, 0.9, 20, of=data.tokens)
healthy("autoencoder", autoencoder, 0.04, 20, of=data.itself, epochs=12)
healthy("segmentation, batch norm", segmenter, 0.25, 20, of=data.masks)
healthy(
    "regression",
    lambda: regressor(*dense(2, 64), optimizer=adam(1e-2)),
    0.4,
    20,
    of=curve,
    epochs=15,
)
healthy(
    "regression, targets of a thousand",
    lambda: regressor(*dense(2, 64), optimizer=adam(1e-2), scale=1e3),
    4e5,
    20,
    of=large_curve,
    epochs=15,
)
healthy(
    "batches of 8",
    lambda: classifier(*dense(2), optimizer=adam(1e-3)),
    0.9,
    20,
    batch_size=8,
    epochs=4,
)
healthy(
    "batches of 512",
    lambda: classifier(*dense(2, 64), optimizer=adam(1e-2)),
    0.9,
    1,
    batch_size=512,
    epochs=30,
)
healthy(
    "long, to a loss of nearly 0",
    lambda: classifier(*dense(2, 64), optimizer=adam(1e-2)),
    0.9,
    epochs=40,
)
healthy(
    "long, SGD, every step seen",
    lambda: classifier(*dense(2, 64), optimizer=sgd(0.1)),
    0.9,
    1,
    epochs=16,
    batch_size=128,
)
healthy(
    "gradient accumulation",
    lambda: classifier(*dense(2), optimizer=adam(1e-2, gradient_accumulation_steps=4)),
    0.9,
    4,
    epochs=12,
)
healthy("half precision", half_precision, 0.9, 20)
healthy("two inputs, a shared layer", two_headed, 0.9, 20, of=data.two_inputs)

# --- sick ---


def log_of_zero(y, output):
    """A user's loss without an epsilon."""
    return -ops.mean(ops.log(ops.relu(output - 0.2)), axis=-1)


def logarithmic():
    model = classifier(*dense(2))
    model.compile(adam(), log_of_zero)
    return model


class StopGradient(layers.Layer):
    """Keeps the gradient from all that lies before it."""

    def call(self, x):
        """Return x."""
        return ops.stop_gradient(x)


class Overflow(layers.Layer):
    """Its gradient is not finite, whatever the scale of the loss."""

    def call(self, x):
        """Return x."""
        return x + ops.sqrt(x - ops.stop_gradient(x))


def collapsing_scale():
    model = keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(32, activation="relu", dtype="mixed_float16"),
            Overflow(dtype="mixed_float16"),
            layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )
    model.compile(optimizers.LossScaleOptimizer(adam()), CLASSES, metrics=["accuracy"])
    return model


def unused_branch():
    x = inputs = layers.Input((64,))
    x = layers.Dense(32, activation="relu")(x)
    lost = StopGradient()(layers.Dense(32, activation="relu", name="lost")(x))
    x = layers.Dense(32, activation="relu")(layers.Add()([x, lost]))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile(adam(), CLASSES, metrics=["accuracy"])
    return model


def jumping_rate():
    rates = optimizers.schedules.PiecewiseConstantDecay([60], [0.05, 30.0])
    return classifier(*dense(2), optimizer=optimizers.SGD(rates))


def cosine(steps):
    return lambda: classifier(*dense(2), optimizer=adam(warm_cosine(steps=steps)))


def explosive(std):
    return lambda: regressor(*dense(6, 64, **normal(std)), optimizer=sgd(1e-9, 0.0))


sick(
    "NaN in the data",
    "non_finite_data",
    lambda: classifier(*dense(2)),
    of=data.with_nan,
    bar=0.9,
)
sick(
    "NaN between looks",
    "non_finite_data",
    lambda: classifier(*dense(2)),
    log_freq="epoch",
    of=data.with_nan,
    bar=0.9,
)
sick(
    "SGD that overflows",
    "non_finite exploding_gradient weight_explosion learning_rate_too_high",
    lambda: regressor(*dense(3), optimizer=sgd(10.0)),
    log_freq=1,
    of=curve,
    bar=0.5,
)
sick("log of 0 in the loss", "non_finite", logarithmic)
sick(
    "initial weights of 1, six layers",
    "poor_init exploding_gradient",
    explosive(1.0),
    bar=0.5,
    of=curve,
    log_freq=1,
    epochs=1,
)
sick(
    "diverging SGD",
    "loss_spike exploding_gradient weight_drift learning_rate_too_high",
    lambda: regressor(*dense(2, 64), optimizer=sgd(0.7, 0.0)),
    bar=0.5,
    of=curve,
    log_freq=1,
)
sick(
    "plain SGD, rate 10",
    "update_ratio_high learning_rate_too_high",
    lambda: classifier(*dense(1, activation="tanh"), optimizer=sgd(10.0, 0.0)),
    bar=0.9,
    log_freq=3,
)
sick(
    "Adam, rate 0.5, one layer",
    "learning_rate_too_high update_ratio_high weight_explosion weight_drift",
    lambda: classifier(*dense(1, 16, activation="leaky_relu"), optimizer=adam(0.5)),
    bar=0.95,
    log_freq=1,
)
sick(
    "sigmoid, five layers",
    "vanishing_gradient",
    lambda: classifier(*dense(5, activation="sigmoid"), optimizer=sgd()),
    bar=0.6,
)
sick(
    "sigmoid, eight layers",
    "vanishing_gradient",
    lambda: classifier(*dense(8, activation="sigmoid"), optimizer=adam(1e-3)),
    bar=0.9,
)
sick(
    "tanh, eight layers, small weights",
    "vanishing_gradient poor_init",
    lambda: classifier(
        *dense(8, activation="tanh", **normal(0.03)), optimizer=sgd(0.01)
    ),
    bar=0.6,
)
sick(
    "forty layers of batch norm",
    "gradient_imbalance",
    lambda: classifier(*normed(40, 16, momentum=0.9), optimizer=sgd(1e-5)),
    bar=0.9,
    log_freq=4,
    epochs=2,
)
sick(
    "Adam, rate 1e-7",
    "learning_rate_too_low",
    lambda: classifier(*dense(2), optimizer=adam(1e-7)),
    bar=0.6,
    epochs=6,
)
sick(
    "SGD, rate 1e-6",
    "learning_rate_too_low",
    lambda: classifier(*dense(2), optimizer=sgd(1e-6, 0.0)),
    bar=0.6,
    epochs=6,
)
sick(
    "Adam, rate 1",
    "learning_rate_too_high update_ratio_high weight_explosion weight_drift dead_relu",
    lambda: classifier(*dense(2), optimizer=adam(1.0)),
    bar=0.6,
)
sick(
    "Adam, rate 0.1 with tanh",
    "learning_rate_too_high update_ratio_high weight_drift saturated weight_explosion",
    lambda: classifier(*dense(3, activation="tanh"), optimizer=adam(0.3)),
    bar=0.8,
)
sick(
    "batch norm, SGD 30",
    "learning_rate_too_high update_ratio_high weight_explosion weight_drift",
    lambda: classifier(*normed(2, momentum=0.9), optimizer=sgd(30.0, 0.0)),
    bar=0.9,
)
sick(
    "stopped gradient",
    "unchanged_weight",
    lambda: classifier(*dense(1), StopGradient(), *dense(1), optimizer=adam()),
)
sick("branch without gradient", "unchanged_weight", unused_branch)
sick(
    "rate 0",
    "unchanged_weight not_learning",
    lambda: classifier(*dense(2), optimizer=sgd(0.0, 0.0)),
    bar=0.6,
    epochs=8,
)
sick(
    "all dead",
    "learning_rate_too_high dead_relu not_learning",
    lambda: classifier(*dense(3), optimizer=sgd(5.0)),
    bar=0.6,
    epochs=8,
)
sick(
    "SGD, rate 2, dead",
    "dead_relu learning_rate_too_high",
    lambda: classifier(*dense(3), optimizer=sgd(2.0)),
    bar=0.6,
)
sick(
    "biases of -10",
    "dead_relu",
    lambda: classifier(
        *dense(2, bias_initializer=initializers.Constant(-10.0)), optimizer=adam(1e-3)
    ),
    bar=0.6,
)
sick(
    "tanh, weights of 3",
    "saturated",
    lambda: classifier(
        *dense(3, activation="tanh", **normal(3.0)), optimizer=adam(1e-3)
    ),
    bar=0.9,
)
sick(
    "sigmoid, weights of 6",
    "saturated",
    lambda: classifier(
        *dense(2, activation="sigmoid", **normal(6.0)), optimizer=adam(1e-3)
    ),
    bar=0.9,
)
sick(
    "weights of 0",
    "poor_init",
    lambda: classifier(*dense(2, kernel_initializer="zeros"), optimizer=adam()),
    bar=0.6,
)
sick(
    "equal weights",
    "poor_init",
    lambda: classifier(
        *dense(2, kernel_initializer=initializers.Constant(0.05)), optimizer=adam()
    ),
    bar=0.85,
)
sick(
    "weights of 0.001, four layers",
    "poor_init vanishing_gradient",
    lambda: classifier(*dense(4, **normal(1e-3)), optimizer=sgd(0.1, 0.0)),
    bar=0.6,
)
sick(
    "weights of 1, deep tanh",
    "poor_init saturated",
    lambda: classifier(*dense(6, 64, **normal(1.0)), optimizer=adam(1e-4)),
    bar=0.95,
)
sick(
    "Adam, rate 0.3",
    "learning_rate_too_high weight_drift update_ratio_high weight_explosion",
    lambda: classifier(*dense(2), optimizer=adam(0.3)),
    bar=0.9,
)
sick(
    "jumping rate",
    "loss_spike exploding_gradient non_finite weight_explosion",
    jumping_rate,
    log_freq=3,
    bar=0.9,
)
sick(
    "outlier in the targets",
    "loss_spike target_scale exploding_gradient",
    lambda: regressor(*dense(2), optimizer=adam()),
    of=spoiled_curve,
    log_freq=1,
    shuffle=False,
)
sick(
    "learned by heart",
    "overfit",
    lambda: classifier(*dense(2, 128), optimizer=adam()),
    of=data.noisy_labels,
    epochs=50,
    batch_size=32,
    log_freq="epoch",
)
sick(
    "batch norm, momentum 0.999",
    "bn_stats_cold",
    lambda: classifier(*normed(3, momentum=0.999), optimizer=adam()),
    bar=0.9,
    log_freq="epoch",
)
sick(
    "residual, momentum 0.999",
    "bn_stats_cold",
    lambda: residual(batch_norm(0.999)),
    bar=0.9,
    of=data.images,
    log_freq="epoch",
    epochs=6,
)
sick(
    "batch norm, momentum 0.99, which spoils early validations",
    "bn_stats_cold",
    lambda: classifier(*normed(2), optimizer=adam()),
    epochs=12,
    log_freq="epoch",
)
sick(
    "batch norm, a step that forgets training=True",
    "bn_not_updated",
    lambda: classifier(*normed(2), optimizer=adam(), kind=Forgetful),
    by_hand=True,
)
sick(
    "batches of two domains",
    "bn_train_eval_gap",
    lambda: classifier(*normed(2, momentum=0.9), optimizer=adam(1e-2)),
    bar=0.9,
    of=data.two_domains,
    shuffle=False,
    log_freq=3,
    epochs=6,
)
sick(
    "inputs of 1e-3 before batch norm",
    "bn_collapsed",
    lambda: classifier(
        layers.Rescaling(1e-3), *normed(2, momentum=0.9), optimizer=adam()
    ),
)
sick(
    "gamma decayed to 0",
    "bn_collapsed strong_decay",
    lambda: classifier(
        *normed(2, momentum=0.9, gamma_regularizer=keras.regularizers.L1(1.0)),
        optimizer=adam(2e-2),
    ),
    bar=0.9,
    epochs=8,
)
sick(
    "Ftrl, which forgets the weights at the start",
    "zero_weights",
    lambda: classifier(*dense(2), optimizer=optimizers.Ftrl(0.1)),
    bar=0.9,
    epochs=2,
)
sick(
    "batches of 4 before batch norm",
    "bn_small_batch",
    lambda: classifier(*normed(2, momentum=0.9), optimizer=adam()),
    batch_size=4,
    epochs=1,
)
sick(
    "batches of 1 before batch norm",
    "bn_small_batch",
    lambda: classifier(*normed(1, momentum=0.9), optimizer=adam()),
    bar=0.9,
    batch_size=1,
    epochs=1,
    steps_per_epoch=200,
)


def bytes_of(seed):
    return data.digits(seed, scale=255.0)


sick(
    "pixels up to 255",
    "input_scale",
    lambda: classifier(*dense(2), optimizer=adam()),
    of=bytes_of,
)
sick("loss scale that collapses", "loss_scale_collapse", collapsing_scale, bar=0.6)
sick("a schedule too short", "schedule_length", cosine(60), epochs=8)
sick("a schedule too long", "schedule_length", cosine(4000), epochs=8)
