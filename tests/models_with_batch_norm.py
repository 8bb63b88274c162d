"""Models of every kind that hold batch norms, Keras' or ours: what surgery meets."""

from dataclasses import dataclass

import keras
import numpy as np

import kbn

LAYERS = {"Keras": keras.layers.BatchNormalization, "kbn": kbn.BatchNorm}
FEATURES = 6


@keras.saving.register_keras_serializable(package="tests")
class Held(keras.Model):
    """Batch norms in an attribute, a list and a dictionary; dropout between them."""

    def __init__(self, kind, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.rate = kind, rate
        norm = LAYERS[kind]
        self.first = norm(momentum=0.5)
        self.listed = [keras.layers.Dense(5), norm(axis=-1), keras.layers.ReLU()]
        self.named = {"dense": keras.layers.Dense(4), "norm": norm()}
        self.dropout = keras.layers.Dropout(rate)

    def call(self, inputs, training=None):
        # Handed on by name: on JAX, `fit` hands it on to nobody else.
        dense, norm, relu = self.listed
        x = dense(self.first(inputs, training=training))
        x = self.dropout(relu(norm(x, training=training)), training=training)
        return self.named["norm"](self.named["dense"](x), training=training)

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "rate": self.rate}


def sequential(norm):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            norm(),
            layers.Dense(5),
            layers.Dropout(0.5),
            norm(momentum=0.8, scale=False),
            layers.ReLU(),
            layers.GaussianNoise(0.5),
            layers.Dense(3),
            norm(center=False, epsilon=1e-2),
        ]
    )


def branches(norm):
    layers = keras.layers
    x = keras.Input((FEATURES,))
    left = norm()(layers.Dense(4)(x))
    right = norm()(layers.ReLU()(layers.Dense(4)(x)))
    return keras.Model(x, norm()(left + layers.Dropout(0.3)(right)))


def shared(norm):
    layers = keras.layers
    x = keras.Input((FEATURES,))
    both = norm()
    head = norm()
    other = layers.Dense(FEATURES)(x)
    return keras.Model(x, head(layers.Dense(3)(both(x) + both(layers.ReLU()(other)))))


def nested(norm):
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(4), norm(), layers.ReLU()], name="inner"
    )
    x = keras.Input((FEATURES,))
    return keras.Model(x, norm()(layers.Dense(3)(layers.Dropout(0.5)(inner(x)))))


def images(norm):
    layers = keras.layers
    x = keras.Input((FEATURES,))
    y = layers.Reshape((2, 3, 1))(x)
    y = norm()(layers.Conv2D(4, 2, padding="same")(y))
    y = layers.RandomFlip()(y)
    y = norm(axis=1)(layers.SpatialDropout2D(0.3)(layers.ReLU()(y)))
    return keras.Model(x, norm()(layers.Dense(3)(layers.Flatten()(y))))


def held(norm):
    model = Held(next(kind for kind, layer in LAYERS.items() if layer is norm))
    model(np.zeros((2, FEATURES), "float32"))
    return model


MODELS = {f.__name__: f for f in (sequential, branches, shared, nested, images, held)}


@dataclass(frozen=True)
class Situation:
    """A kind of model with a kind of batch norm in it."""

    kind: str
    layer: str

    def model(self, seed=0):
        """The model, its batch norms in a state that no initializer gives."""
        keras.utils.set_random_seed(seed)
        model = MODELS[self.kind](LAYERS[self.layer])
        rng = np.random.default_rng(seed)
        for layer in norms(model):
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        return model

    def __str__(self):
        return f"{self.kind}-{self.layer}"


SITUATIONS = [Situation(kind, layer) for kind in MODELS for layer in LAYERS]


def norms(model):
    """Its batch norms, found by what they hold and not by what is tested."""
    return [x for x in model._flatten_layers() if hasattr(x, "moving_mean")]


def data(size, seed=0):
    """x: (size, FEATURES), y: (size, 1)."""
    rng = np.random.default_rng(seed)
    spread = np.array([1, 3, 0.2, 1, 1, 10])
    x = rng.normal(2, 1, (size, FEATURES)) * spread + [0, 5, 0, -3, 0, 0]
    return x.astype("float32"), rng.normal(size=(size, 1)).astype("float32")


def values(weights):
    """Copies, as NumPy arrays."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in weights]


def statistics(model):
    return values(w for x in norms(model) for w in (x.moving_mean, x.moving_variance))


def gammas(model):
    """Only those: a beta before a layer and a batch norm has no gradient."""
    return values(x.gamma for x in norms(model) if x.gamma is not None)
