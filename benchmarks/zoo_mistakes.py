"""The zoo's ordinary mistakes: healthy trainings on six data sets, each made sick once.

A `Recipe` is a training as its user would write it. A mistake is a recipe changed in
one place, so that every sick network has a healthy sibling.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import zoo_data as data
from keras import initializers, layers, optimizers, regularizers
from zoo_networks import CLASSES, HEALTHY, SICK, Network


@dataclass(frozen=True)
class Recipe:
    """A training.

    Args:
        data: Makes the data from a seed.
        build: Makes the model, not compiled, from `options`.
        options: What `build` is called with.
        optimizer: Makes the optimizer.
        loss: As `compile` takes it.
        fit: Arguments of `fit`.
        bar: Metric and number by which it is healthy.
    """

    data: Callable[[int], Any]
    build: Callable[..., Any]
    loss: Any
    bar: tuple[str, float]
    options: dict[str, Any] = field(default_factory=dict)
    optimizer: Callable[[], Any] = lambda: optimizers.Adam(3e-3)
    fit: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Any:
        """The compiled model."""
        model = self.build(**self.options)
        metrics = ["accuracy"] if self.bar[0] == "accuracy" else None
        model.compile(self.optimizer(), self.loss, metrics=metrics)
        return model

    def but(self, **changes: Any) -> "Recipe":
        """The same, with these fields; dictionaries are added to its own."""
        merged = {
            name: {**getattr(self, name), **value} if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return replace(self, **merged)

    def named(self, name: str, rules: str) -> Network:
        """It as a row of the zoo, with the monitor's default `log_freq`."""
        fit = {"epochs": 12, "batch_size": 32, **self.fit}
        names = frozenset(rules.split())
        return Network(name, self.model, self.data, self.bar, names, fit, "auto")


# --- models ---


def mlp(
    features,
    outputs,
    last="softmax",
    hidden=(32, 32),
    activation="relu",
    norm=None,
    first=(),
    dropout=0.0,
    **options,
):
    model = keras.Sequential([layers.Input((features,)), *first])
    for units in hidden:
        model.add(layers.Dense(units, **options))
        if norm is not None:
            model.add(norm())
        model.add(layers.Activation(activation))
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(outputs, activation=last, **options))
    return model


def cnn(activation="relu", momentum=0.9, last="softmax", dropout=0.0, **options):
    model = keras.Sequential([layers.Input((16, 16, 1))])
    for filters in (16, 32):
        model.add(layers.Conv2D(filters, 3, padding="same", **options))
        if momentum is not None:
            model.add(layers.BatchNormalization(momentum=momentum))
        model.add(layers.Activation(activation))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(64, activation=activation, **options))
    if dropout:
        model.add(layers.Dropout(dropout))
    model.add(layers.Dense(10, activation=last, **options))
    return model


def rnn(activation="tanh", gain=1.0):
    orthogonal = initializers.Orthogonal(gain)
    cell = layers.SimpleRNN(32, activation=activation, recurrent_initializer=orthogonal)
    return keras.Sequential(
        [layers.Input((28, 3)), cell, layers.Dense(2, activation="softmax")]
    )


def sgd(rate, momentum=0.0):
    return lambda: optimizers.SGD(rate, momentum=momentum)


def adam(rate):
    return lambda: optimizers.Adam(rate)


# --- healthy ---

RECIPES = {
    "digits CNN": Recipe(
        data.large_images, cnn, CLASSES, ("accuracy", 0.93), fit={"epochs": 8}
    ),
    "digits": Recipe(
        data.digits, functools.partial(mlp, 64, 10), CLASSES, ("accuracy", 0.9)
    ),
    "breast cancer": Recipe(
        data.breast_cancer,
        functools.partial(mlp, 30, 1, last="sigmoid"),
        "binary_crossentropy",
        ("accuracy", 0.92),
    ),
    "wine": Recipe(
        data.wine,
        functools.partial(mlp, 13, 3),
        CLASSES,
        ("accuracy", 0.85),
        optimizer=adam(1e-2),
        fit={"epochs": 20, "batch_size": 16},
    ),
    "moons": Recipe(
        data.moons,
        functools.partial(mlp, 2, 1, last="sigmoid"),
        "binary_crossentropy",
        ("accuracy", 0.93),
        optimizer=adam(1e-2),
    ),
    "made classes": Recipe(
        data.made_classes, functools.partial(mlp, 20, 4), CLASSES, ("accuracy", 0.75)
    ),
    "diabetes": Recipe(
        data.diabetes,
        functools.partial(mlp, 10, 1, last=None, hidden=(16,)),
        "mse",
        ("loss", 0.75),
    ),
}

TABLES = [name for name in RECIPES if name not in ("digits CNN", "diabetes")]
CLASSIFIERS = [name for name in RECIPES if name != "diabetes"]
for _name, _recipe in RECIPES.items():
    HEALTHY.append(_recipe.named(f"{_name}, as it should be", ""))


# {name of the row: (the recipe with its mistake, its healthy sibling)}
MISTAKES: dict[str, tuple[Recipe, Recipe]] = {}


def mistake(of, name, rules, sibling=None, **changes):
    """Make it in each of these recipes.

    sibling: what the healthy one differs in from the recipe, beside the epochs.
    """
    for one in of:
        recipe = RECIPES[one]
        sick, well = (
            {k: x(recipe) if k == "data" else x for k, x in known.items()}
            for known in (changes, sibling or {})
        )
        epochs = changes.get("fit", {}).get("epochs")
        well.setdefault("fit", {"epochs": epochs} if epochs else {})
        add(f"{one}, {name}", rules, recipe.but(**sick), recipe.but(**well))


def add(name, rules, sick, healthy):
    """A row of the zoo, and the recipe without the mistake."""
    MISTAKES[name] = sick, healthy
    SICK.append(sick.named(name, rules))


def then(change, *given):
    """The recipe's data, changed: `change(data, seed, *given)`."""
    return lambda recipe: lambda seed: change(recipe.data(seed), seed, *given)


# Of the input's scale Adam and batch norm make nothing.
_pixels = RECIPES["digits CNN"].but(data=then(data.times, 255.0)(RECIPES["digits CNN"]))
HEALTHY.append(_pixels.named("digits CNN, pixels to 255 and Adam", ""))

HIGH = "learning_rate_too_high"
LOW = "learning_rate_too_low"
mistake(
    ["digits CNN", "digits", "made classes"], "Adam at 0.3", HIGH, optimizer=adam(0.3)
)
mistake(["digits CNN", "digits"], "Adam at 0.1", HIGH, optimizer=adam(0.1))
mistake(["digits CNN", "digits", "made classes"], "SGD at 5", HIGH, optimizer=sgd(5.0))
mistake(CLASSIFIERS, "Adam at 1e-6", LOW, optimizer=adam(1e-6))
mistake(CLASSIFIERS, "SGD at 1e-5", LOW, optimizer=sgd(1e-5))
mistake(
    ["digits CNN"],
    "batch norm at 0.99",
    "bn_stats_cold",
    options={"momentum": 0.99},
)
mistake(
    ["digits CNN"],
    "60 examples, batch norm at 0.99",
    "bn_stats_cold",
    sibling={"options": {"momentum": None}, "data": then(data.first_rows, 60)},
    options={"momentum": 0.99},
    data=then(data.first_rows, 60),
    fit={"epochs": 40},
)
_norm = functools.partial(layers.BatchNormalization, momentum=0.9)
for _size in (1, 2):
    mistake(
        ["digits", "breast cancer", "made classes"],
        f"batch norm, batches of {_size}",
        "bn_small_batch",
        sibling={"options": {"norm": _norm}},
        options={"norm": _norm},
        fit={"batch_size": _size, "epochs": 1},
    )
mistake(
    ["breast cancer", "wine"],
    "raw features",
    "input_scale",
    sibling={"optimizer": sgd(0.05, 0.9)},
    data=then(data.raw),
    optimizer=sgd(0.05, 0.9),
)
mistake(
    ["breast cancer", "wine", "diabetes", "made classes"],
    "a constant feature of 1e6",
    "input_scale",
    data=then(data.constant_column),
)
mistake(
    ["digits CNN"],
    "pixels to 255 and SGD",
    "input_scale",
    sibling={"options": {"momentum": None}, "optimizer": sgd(0.05)},
    options={"momentum": None},
    data=then(data.times, 255.0),
    optimizer=sgd(0.05),
)
for _name, _end in [("relu6", 30), ("hard_tanh", 30), ("hard_silu", -30)]:
    mistake(
        ["digits", "made classes"],
        f"{_name} on its flat end",
        "saturated dead_relu",
        sibling={"options": {"activation": _name}, "optimizer": sgd(0.01)},
        options={
            "activation": _name,
            "bias_initializer": initializers.Constant(_end),
        },
        optimizer=sgd(0.01),
    )
mistake(
    TABLES,
    "ten sigmoids",
    "vanishing_gradient",
    options={"hidden": (32,) * 10, "activation": "sigmoid"},
)
mistake(
    CLASSIFIERS,
    "shuffled labels",
    "overfit not_learning",
    data=then(data.shuffled_labels),
    fit={"epochs": 20},
)
mistake(
    CLASSIFIERS,
    "a cosine that counts epochs",
    "schedule_length",
    optimizer=lambda: optimizers.Adam(optimizers.schedules.CosineDecay(3e-3, 12)),
)
mistake(
    ["digits CNN", "digits", "made classes"],
    "a rate in pieces, the first of 5 steps",
    "schedule_length",
    optimizer=lambda: optimizers.Adam(
        optimizers.schedules.PiecewiseConstantDecay([5], [3e-3, 1e-9])
    ),
)
mistake(
    ["digits CNN", "digits", "made classes"],
    "L2 of 10",
    "strong_decay",
    options={"kernel_regularizer": regularizers.L2(10.0)},
)
mistake(
    ["digits CNN", "digits", "made classes"],
    "weight decay of 100",
    "strong_decay",
    optimizer=lambda: optimizers.AdamW(3e-3, weight_decay=100.0),
)
mistake(
    ["digits", "made classes"],
    "gradients clipped to 1e-6",
    f"{LOW} not_learning",
    sibling={"optimizer": sgd(0.1)},
    optimizer=lambda: optimizers.SGD(0.1, clipnorm=1e-6),
)
mistake(
    ["digits CNN", "digits", "made classes"],
    "epsilon of 1000",
    LOW,
    optimizer=lambda: optimizers.Adam(3e-3, epsilon=1e3),
)
mistake(
    ["digits", "made classes"],
    "inputs times 1e-4 and SGD",
    "input_scale",
    sibling={"optimizer": sgd(0.05, 0.9)},
    data=then(data.times, 1e-4),
    optimizer=sgd(0.05, 0.9),
)
mistake(
    ["digits", "made classes"],
    "inputs of zeros",
    "input_scale",
    data=then(data.times, 0.0),
)
mistake(
    ["digits CNN", "digits", "wine"],
    "validation data times 255",
    "skewed",
    data=then(data.validation_times, 255.0),
)
mistake(
    CLASSIFIERS, "weights of 0", "poor_init", options={"kernel_initializer": "zeros"}
)
mistake(
    ["digits CNN", "digits", "breast cancer", "made classes"],
    "a NaN in an input",
    "non_finite_data",
    data=then(data.nan_input),
)
mistake(
    ["diabetes"], "a NaN in a target", "non_finite_data", data=then(data.nan_target)
)
mistake(
    ["digits CNN", "digits", "made classes"],
    "dropout of 0.99",
    "not_learning",
    options={"dropout": 0.99},
)
mistake(
    ["digits CNN", "digits", "made classes"],
    "no softmax",
    "output_mismatch",
    options={"last": None},
)
mistake(
    ["digits CNN", "digits", "wine", "made classes"],
    "relu as output",
    "output_mismatch",
    options={"last": "relu"},
)
mistake(
    ["digits CNN", "digits"],
    "sorted and not shuffled",
    "not_shuffled",
    data=then(data.sorted_by_label),
    fit={"shuffle": False},
)
mistake(
    ["breast cancer", "moons"],
    "two classes, 98 to 2",
    "class_imbalance not_learning overfit",
    data=then(data.rare),
)
mistake(["diabetes"], "targets of 1e5", "target_scale", data=then(data.targets_of, 1e5))
mistake(
    ["diabetes"],
    "tanh for targets of 150",
    "output_mismatch",
    options={"last": "tanh"},
    data=then(data.targets_of, 75.0, 150.0),
)
for _name, _activation, _gain in [("relu", "relu", 1.6), ("tanh", "tanh", 4.0)]:
    _healthy = Recipe(
        data.long_sequences,
        rnn,
        CLASSES,
        ("accuracy", 0.8),
        options={"activation": _activation},
        optimizer=adam(1e-3),
    )
    add(
        f"{_name} RNN, recurrent gain {_gain}",
        "poor_init exploding_gradient",
        _healthy.but(options={"gain": _gain}),
        _healthy,
    )
