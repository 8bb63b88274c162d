"""Models of every build that surgery is done on, with Keras' batch norm in them.

`MODELS` is {name: function that makes a model and a batch of its inputs}. All have
weights and statistics that are no initial ones.
"""

import keras
import numpy as np
from keras import layers

from tests.cases import BACKEND


def batch(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomized(model, seed=0):
    """`model` with random weights; variances are positive."""
    rng = np.random.default_rng(seed)
    adapted = [
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, layers.Normalization)
        for variable in layer.variables
    ]
    for variable in model.weights:
        shape = tuple(variable.shape)
        if "float" not in variable.dtype or id(variable) in adapted:
            continue
        if any(part in variable.path for part in ("variance", "stddev")):
            variable.assign(rng.uniform(0.5, 2, shape))
        elif variable.path.endswith("gamma"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        else:
            variable.assign(0.3 * rng.normal(size=shape))
    return model


def norm(*args, **kwargs):
    return layers.BatchNormalization(*args, **kwargs)


def sequential():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False),
            norm(momentum=0.7),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
            norm(epsilon=1e-2),
            layers.Dense(2),
        ],
        name="stack",
    )
    return model, batch(6, 8, 8, 3)


def built_by_a_call():
    model = keras.Sequential([layers.Dense(4), norm(), layers.Dense(2)])
    x = batch(6, 3)
    model(x)
    return model, x


def branches():
    x = keras.Input((6, 6, 2), name="picture")
    a = norm(name="left")(layers.Conv2D(3, 3, padding="same")(x))
    b = layers.Conv2D(3, 1)(x)
    b = norm(name="right", center=False)(b)
    y = layers.Add()([layers.ReLU()(a), b]) + a
    y = norm(scale=False)(keras.ops.relu(y))
    return keras.Model(x, layers.Flatten()(y), name="forked"), batch(5, 6, 6, 2)


def shared_layers():
    x, z = keras.Input((4,), name="x"), keras.Input((4,), name="z")
    dense, shared = layers.Dense(3), norm(name="twice")
    y = layers.Concatenate()([shared(dense(x)), shared(dense(z))])
    return keras.Model([x, z], layers.Dense(2)(y)), [batch(5, 4), batch(5, 4, seed=1)]


def nested():
    inner = keras.Input((4,))
    block = keras.Model(inner, layers.ReLU()(norm()(layers.Dense(4)(inner))), name="in")
    stack = keras.Sequential([layers.Dense(4), norm(name="same")], name="list")
    x = keras.Input((4,))
    # Each is called twice, and a block inside a list inside a model.
    deep = keras.Sequential([keras.Input((4,)), block, norm(name="same")], name="deep")
    y = stack(block(stack(block(x))))
    return keras.Model(x, deep(y) + y), batch(6, 4)


def shared_between_levels():
    dense, both = layers.Dense(4), norm(name="both")
    inner = keras.Input((4,))
    block = keras.Model(inner, both(dense(inner)), name="block")
    x = keras.Input((4,))
    return keras.Model(x, both(block(dense(x)))), batch(6, 4)


def several_inputs_and_outputs():
    x = {"b": keras.Input((3,), name="b"), "a": keras.Input((2,), name="a")}
    y = norm()(layers.Dense(4)(layers.Concatenate()([x["b"], x["a"]])))
    outputs = {"first": layers.Dense(1, name="first")(y), "second": y}
    return keras.Model(x, outputs), {"b": batch(6, 3), "a": batch(6, 2)}


def called_with_arguments():
    x = keras.Input((4,))
    y = norm(name="fixed")(layers.Dense(3)(x), training=False)
    y = layers.Dropout(0.5)(y)
    return keras.Model(x, norm(name="free")(inputs=y)), batch(6, 4)


def masked():
    x = keras.Input((3,), dtype="int32")
    y = layers.Embedding(9, 4, mask_zero=True)(x)
    y = layers.SimpleRNN(3, return_sequences=True)(norm()(layers.Dense(4)(y)))
    y = layers.GlobalAveragePooling1D()(y)
    return keras.Model(x, y), np.random.default_rng(0).integers(0, 9, (6, 3))


def wrapped():
    x = keras.Input((2, 4))
    y = layers.TimeDistributed(norm(name="inside"))(x)
    y = layers.Bidirectional(layers.SimpleRNN(3, return_sequences=True))(y)
    y = layers.TimeDistributed(layers.Dense(2))(norm()(y))
    return keras.Model(x, y), batch(6, 2, 4)


def functions_of_the_users():
    factor = 1.5

    def scaled(x):
        return keras.ops.tanh(x) * factor

    x = keras.Input((4,))
    y = layers.Dense(3, activation=scaled)(x)
    y = layers.Lambda(lambda z: z * factor + 1)(norm()(y))
    y = layers.Activation(lambda z: z / factor)(y)
    return keras.Model(x, y), batch(6, 4)


def channels_first():
    x = keras.Input((5, 4))
    y = norm(axis=1)(layers.Permute((2, 1))(x))
    return keras.Model(x, norm(axis=-2)(y)), batch(6, 5, 4)


def all_arguments():
    settings = {
        "beta_initializer": keras.initializers.RandomNormal(seed=1),
        "gamma_initializer": "uniform",
        "gamma_regularizer": keras.regularizers.L2(1e-2),
        "beta_regularizer": keras.regularizers.L1(1e-3),
        "gamma_constraint": keras.constraints.NonNeg(),
        "beta_constraint": keras.constraints.MaxNorm(1),
        "synchronized": BACKEND == "tensorflow",
    }
    x = keras.Input((4,))
    y = norm(renorm=True, renorm_clipping={"rmax": 2.0}, renorm_momentum=0.8)(x)
    return keras.Model(x, norm(**settings)(layers.Dense(4)(y))), batch(6, 4)


def mixed_precision():
    policy = "mixed_bfloat16"
    x = keras.Input((4,))
    y = norm(dtype=policy)(layers.Dense(8, dtype=policy)(x))
    y = norm(dtype="float32")(layers.Dense(4, dtype=policy)(y))
    return keras.Model(x, y), batch(16, 4)


def narrow_weights():
    x = keras.Input((4,), dtype="float16")
    return keras.Model(x, norm(dtype="float16")(x)), batch(64, 4).astype("float16")


def partly_frozen():
    model, x = nested()
    model.get_layer("in").trainable = False
    model.get_layer("list").layers[1].trainable = False
    first = model.get_layer("deep").layers[-1]
    first.gamma.trainable = False
    # A trainable layer in a frozen one.
    model.get_layer("in").layers[1].trainable = True
    return model, x


def random_layers():
    x = keras.Input((8,))
    y = layers.GaussianNoise(0.1)(layers.Dropout(0.5, seed=3)(layers.Dense(8)(x)))
    return keras.Model(x, norm()(y)), batch(16, 8)


def adapted():
    scaling = layers.Normalization()
    scaling.adapt(3 + 2 * batch(64, 4))
    x = keras.Input((4,))
    return keras.Model(x, norm()(scaling(x))), batch(6, 4)


class Block(layers.Layer):
    """Sublayers as attributes, made in the constructor and in build."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.first = norm()

    def build(self, input_shape):
        self.dense = layers.Dense(self.units, use_bias=False)
        self.dense.build(input_shape)
        self.first.build((*input_shape[:-1], self.units))

    def call(self, inputs, training=None):
        return self.first(self.dense(inputs), training=training)


def custom_layers():
    x = keras.Input((4,))
    y = Block(5, name="one")(x)
    return keras.Model(x, layers.Add()([y, Block(5, name="two")(y)])), batch(6, 4)


class Net(keras.Model):
    """Layers in attributes, lists, dictionaries, tuples, nested, in functions too."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.stem = layers.Dense(width)
        self.norm = norm()
        self.blocks = [[layers.Dense(width), norm()], [layers.Dense(width), norm()]]
        self.heads = {"a": (layers.Dense(2), norm()), "b": Block(2)}
        inner = keras.Input((width,))
        self.graph = keras.Model(inner, norm()(layers.Dense(width)(inner)))
        self.stack = keras.Sequential([layers.Dropout(0.2), norm()])
        self.shift = lambda x, training: self.norm(x, training=training) + 1

    def call(self, inputs, training=None):
        x = self.shift(self.stem(inputs), training)
        for dense, normal in self.blocks:
            x = normal(dense(x), training=training)
        x = self.stack(self.graph(x, training=training), training=training)
        dense, normal = self.heads["a"]
        y = self.heads["b"](x, training=training)
        return normal(dense(x), training=training) + y


def subclassed():
    model, x = Net(name="net"), batch(16, 3)
    model(x)
    return model, x


class NoArguments(keras.Model):
    """Its constructor takes nothing, not even a name."""

    def __init__(self):
        super().__init__()
        self.inner = Net(3)
        self.norm = norm()

    def call(self, inputs, training=None):
        first, second = inputs["x"], inputs["z"]
        y = self.inner(first + second, training=training)
        return self.norm(y, training=training)


def subclassed_of_dictionaries():
    model, x = NoArguments(), {"x": batch(16, 3), "z": batch(16, 3, seed=1)}
    model(x)
    return model, x


class OwnStep(keras.Model):
    """A functional model with a training step of its own."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def functional_subclass():
    x = keras.Input((4,))
    return OwnStep(x, norm()(layers.Dense(3)(x)), name="own"), batch(6, 4)


class OwnConstructor(keras.Model):
    """A functional model that makes its own graph."""

    def __init__(self, units=3, **kwargs):
        x = keras.Input((4,))
        y = norm()(layers.Dense(units)(x))
        super().__init__(inputs=x, outputs=y, **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


def functional_by_config():
    return OwnConstructor(5, name="made"), batch(6, 4)


MAKERS = {
    f.__name__: f
    for f in (
        sequential,
        built_by_a_call,
        branches,
        shared_layers,
        nested,
        shared_between_levels,
        several_inputs_and_outputs,
        called_with_arguments,
        masked,
        wrapped,
        functions_of_the_users,
        channels_first,
        all_arguments,
        mixed_precision,
        narrow_weights,
        partly_frozen,
        random_layers,
        adapted,
        custom_layers,
        subclassed,
        subclassed_of_dictionaries,
        functional_subclass,
        functional_by_config,
    )
}


def made(name):
    """A model by name, its weights random, and a batch of inputs."""
    keras.utils.set_random_seed(0)
    model, x = MAKERS[name]()
    return randomized(model), x
