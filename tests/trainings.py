"""Trainings of every kind that Keras runs, as data: made, run and told apart.

A `Training` is drawn by hypothesis, and run twice from one seed: with a monitor and
without. `run` returns how it ended, the state of the model, and the model.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

import kbn
from tests import watched_models
from tests.watched_models import BATCH

BACKEND = keras.backend.backend()
ROWS = 2 * BATCH + 5
FEATURES = 6


class Raises:
    """An attribute that cannot be had."""

    def __get__(self, instance, owner):
        raise RuntimeError("not now")


ODD: dict[str, dict[str, Any]] = {
    "operations": {"operations": ["conv"]},
    "layers": {"layers": {"a": 1}, "metrics_names": 3},
    "float moving mean": {"moving_mean": 0.5, "moving_variance": 1.0},
    "raising attributes": {x: Raises() for x in ("axis", "activation", "gamma")},
    "raising statistics": {x: Raises() for x in ("moving_mean", "moving_variance")},
    "strange slope": {"negative_slope": np.ones(3), "data_format": 3},
    "strange activation": {"activation": 3, "axis": "last"},
}


def odd(kind, **options):
    made = type("Odd", (layers.Layer,), {"call": lambda self, x: x * 1.5})
    for name, value in ODD[kind].items():
        setattr(made, name, value)
    return made(**options)


class Counted(layers.Layer):
    """Keywords only, several outputs in a dictionary, a weight without a gradient."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), trainable=False)
        self.idle = self.add_weight(shape=(2, 2))

    def call(self, x, *, training=False, **others):
        return {"x": x, "count": self.seen + 0.0}["x"]


LAYERS = {
    "dense": lambda: layers.Dense(5),
    "relu": lambda: layers.ReLU(),
    "dense with relu": lambda: layers.Dense(5, activation="relu"),
    "zero weights": lambda: layers.Dense(5, kernel_initializer="zeros"),
    "batch norm": lambda: layers.BatchNormalization(),
    "kbn": lambda: kbn.BatchNorm(momentum=None),
    "dropout": lambda: layers.Dropout(0.3),
    "keywords": Counted,
    "nested": lambda: keras.Sequential([layers.Dense(4), layers.BatchNormalization()]),
    "frozen": lambda: layers.BatchNormalization(trainable=False),
    **{name: (lambda name=name: odd(name)) for name in ODD},
}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, global_clipnorm=1.0),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=64.0
    ),
    "static scale": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=8.0),
}
if BACKEND == "jax":
    del OPTIMIZERS["ema"]  # Keras donates its buffers twice there
DRIVERS = ["fit", "two fits", "compiled between", "two models", "train_on_batch"]
STEPS = ["keras"]
if BACKEND == "tensorflow":
    STEPS += ["own loss", "two optimizers", "by hand", "fails"]
DATA = ["arrays", "one batch", "float64", "generator"]


class OwnLoss(keras.Model):
    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.compute_loss(data[1], self(data[0], training=True))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}

    def compute_loss(self, *given, **others):
        # Validation calls it as Keras does, its own step as it likes.
        y, output = given if len(given) == 2 else given[1:3]
        return keras.ops.mean((output - keras.ops.cast(y, output.dtype)[:, None]) ** 2)


class TwoOptimizers(OwnLoss):
    """The default one of `compile` is not used."""

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self.compute_loss(data[1], self(data[0], training=True))
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        pairs = {"head": [], "rest": []}
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                name = "head" if "head" in weight.path else "rest"
                pairs[name].append((gradient, weight))
        for name, group in pairs.items():
            if group:
                self.held[name].apply(*map(list, zip(*group, strict=True)))
        return {"loss": loss}


class ByHand(OwnLoss):
    def train_step(self, data):
        for weight in self.trainable_variables:
            weight.assign(weight * 0.9)
        return {"loss": self.compute_loss(data[1], self(data[0]))}


class Fails(OwnLoss):
    def train_step(self, data):
        raise ValueError("this step fails")


class Act(keras.callbacks.Callback):
    """Does something to the model when an epoch begins or a batch ends."""

    def __init__(self, what, when):
        super().__init__()
        self.what = what
        setattr(self, when, lambda number, logs=None: number == 1 and self.act())

    def act(self):
        model = self.model
        if self.what == "compile":
            model.recompile()
            model.make_train_function()
        elif self.what == "make":
            model.make_train_function(force=True)
        elif self.what == "freeze":
            model.layers[1].trainable = False
        elif self.what == "unfreeze":
            for layer in model.layers:
                layer.trainable = True
        elif self.what == "stop":
            model.stop_training = True
        elif self.what == "weights":
            model.set_weights([weight * 0.5 for weight in model.get_weights()])
        elif self.what == "another model":
            made = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
            made.compile("sgd", "mse")
            made.train_on_batch(np.ones((2, 3)), np.ones((2, 2)))
        elif self.what == "error":
            raise RuntimeError("a callback fails")
        elif self.what == "interrupt":
            raise KeyboardInterrupt


ACTS = ["freeze", "unfreeze", "stop", "weights", "another model", "error", "interrupt"]
if BACKEND == "tensorflow":  # where a train function is looked up at each step
    ACTS += ["compile", "make"]
# What not every training is to come to; and a function made right before its first
# call, which is never seen: what is frozen between it and the next cannot be known.
PLACES = {
    **dict.fromkeys(("error", "interrupt"), ("on_train_batch_end",)),
    **dict.fromkeys(("compile", "make"), ("on_epoch_begin", "on_train_batch_end")),
}
WHEN = ["on_epoch_begin", "on_train_batch_end", "on_epoch_end", "on_train_batch_begin"]
OTHERS = {
    "early stopping": lambda: keras.callbacks.EarlyStopping(
        "loss", patience=0, restore_best_weights=True
    ),
    "schedule": lambda: keras.callbacks.LearningRateScheduler(lambda e: 0.1 / (1 + e)),
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau("loss", patience=1),
    "nan": lambda: keras.callbacks.TerminateOnNaN(),
    **{
        f"{act}, {when}": (lambda act=act, when=when: Act(act, when))
        for act in ACTS
        for when in PLACES.get(act, WHEN)
    },
}


def fails_on_some(layer):
    return layer.units > 4


MONITORS = {
    "epoch": {},
    "every step": {"log_freq": 1},
    "every third": {"log_freq": np.int64(3), "layers": "dense|head"},
    "selection": {"log_freq": 2, "layers": fails_on_some},
    "seldom": {"log_freq": 50},
    "schedule fails": {"log_freq": lambda step: step / (step - 2) > 1},
    "batch norm": {"log_freq": 2, "watch": ("batch_norm",)},
}


@dataclass
class Training:
    """One training."""

    body: list[str]
    step: str
    optimizer: str
    driver: str
    data: str
    is_eager: bool
    before: list[str]
    after: list[str]
    monitor: str


names = st.lists(st.sampled_from(list(OTHERS)), max_size=2)
trainings = st.builds(
    Training,
    body=st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=4),
    step=st.sampled_from(STEPS),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    driver=st.sampled_from(DRIVERS),
    data=st.sampled_from(DATA),
    # A graph takes ten times as long to make as it is run here.
    is_eager=st.sampled_from([True, True, True, False])
    if BACKEND == "tensorflow"
    else st.just(False),
    before=names,
    after=names,
    monitor=st.sampled_from(list(MONITORS)),
)


def model_of(training):
    kinds = {
        "keras": keras.Model,
        "own loss": OwnLoss,
        "two optimizers": TwoOptimizers,
        "by hand": ByHand,
        "fails": Fails,
    }
    inputs = x = keras.Input((FEATURES,))
    for name in ["dense", *training.body]:
        x = LAYERS[name]()(x)
    model = kinds[training.step](inputs, watched_models.head(x))

    def recompile():
        if training.step == "two optimizers":
            model.held = {x: OPTIMIZERS[training.optimizer]() for x in ("head", "rest")}
        options = {"run_eagerly": True} if training.is_eager else {"jit_compile": False}
        if BACKEND == "jax":
            options = {}
        model.compile(
            OPTIMIZERS[training.optimizer](),
            loss="sparse_categorical_crossentropy",
            **options,
        )

    object.__setattr__(model, "recompile", recompile)
    recompile()
    return model


def data_of(training):
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    y = random.integers(0, 3, ROWS)
    if training.data == "float64":
        x = x.astype("float64")
    if training.data == "one batch":
        x, y = x[:BATCH], y[:BATCH]
    return x, y


def fit(training, model, callbacks):
    x, y = data_of(training)
    if training.driver == "train_on_batch":
        loop(model, callbacks, x[:BATCH], y[:BATCH])
    elif training.data == "generator":
        data = ((x[:BATCH], y[:BATCH]) for _ in range(6))
        options = {"steps_per_epoch": 2, "shuffle": False}
        model.fit(data, epochs=3, callbacks=callbacks, verbose=0, **options)
    else:
        options = {"batch_size": BATCH, "verbose": 0, "validation_data": (x, y)}
        model.fit(x, y, epochs=3, callbacks=callbacks, **options)


def loop(model, callbacks, x, y):
    listed = keras.callbacks.CallbackList(callbacks, model=model, add_history=True)
    model.stop_training = False
    listed.on_train_begin()
    logs = {}
    for epoch in range(2):
        listed.on_epoch_begin(epoch)
        for index in range(3):
            listed.on_train_batch_begin(index)
            logs = model.train_on_batch(x, y, return_dict=True)
            listed.on_train_batch_end(index, logs)
        listed.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    listed.on_train_end(logs)


def run(training, monitors):
    """(the exception that ended it or None, the variables of its models, the model)."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    error = None
    model = model_of(training)
    models = [model]

    def callbacks():
        return [
            *(OTHERS[name]() for name in training.before),
            *monitors,
            *(OTHERS[name]() for name in training.after),
        ]

    try:
        fit(training, model, callbacks())
        if training.driver in ("two fits", "compiled between"):
            if training.driver == "compiled between":
                model.recompile()
            fit(training, model, callbacks())
        if training.driver == "two models":
            models.append(model_of(training))
            fit(training, models[-1], callbacks())
    except (Exception, KeyboardInterrupt) as caught:
        error = caught
    if error and BACKEND == "jax":
        # Where a step fails, its variables were handed over and do not come back.
        return error, [], models
    # Afterwards the model trains as ever, with nobody watching.
    if training.step != "fails":
        x, y = data_of(training)
        # On JAX, what was frozen at the end does not fit the optimizer any more.
        mine = [ValueError] if BACKEND == "jax" else [type(error)] if error else []
        with contextlib.suppress(*mine):
            model.train_on_batch(x[:BATCH], y[:BATCH])
    variables = [variable for model in models for variable in model.variables]
    return error, [np.array(keras.ops.convert_to_numpy(v)) for v in variables], models
