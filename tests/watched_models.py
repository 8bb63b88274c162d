"""Small models of every kind that a monitor meets, with data to train them on."""

import keras
import numpy as np
from keras import layers

from tests.differentiation import value_and_gradients

BACKEND = keras.backend.backend()
BATCH = 16
ROWS = 3 * BATCH + 5  # the last batch is a short one


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, *shape)).astype("float32")


def classes(number=3, seed=1):
    return np.random.default_rng(seed).integers(0, number, ROWS)


def compiled(model, loss="sparse_categorical_crossentropy", **options):
    if "optimizer" not in options:
        options["optimizer"] = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(loss=loss, **options)
    return model


def head(x):
    return layers.Dense(3, activation="softmax", name="head")(x)


def sequential(**options):
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8, use_bias=False, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    return compiled(model, **options), rows(6), classes()


def kbn_layers(**options):
    import kbn

    model = keras.Sequential(
        [
            layers.Input((8, 8, 2)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            kbn.BatchNorm(name="norm"),
            layers.ReLU(name="relu"),
            layers.Flatten(name="flatten"),
            layers.Dense(8, name="hidden"),
            kbn.BatchNorm(name="norm2"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    return compiled(model, **options), rows(8, 8, 2), classes()


def unbuilt(**options):
    model = keras.Sequential(
        [
            layers.Dense(8, activation="tanh", name="hidden"),
            layers.LayerNormalization(name="norm"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    return compiled(model, **options), rows(6), classes()


def dropout(**options):
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(8, name="hidden"),
            layers.Dropout(0.4, name="dropout"),
            layers.Activation("gelu", name="gelu"),
            layers.GaussianNoise(0.1, name="noise"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    return compiled(model, **options), rows(6), classes()


def convolution(**options):
    model = keras.Sequential(
        [
            layers.Input((8, 8, 2)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh", name="tanh"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Activation("sigmoid", name="sigmoid"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    return compiled(model, **options), rows(8, 8, 2), classes()


def residual(**options):
    """Adds of adds, regularizers and operations that are no layers."""
    inputs = x = keras.Input((6,))
    for index in range(2):
        y = layers.BatchNormalization(name=f"norm{index}")(x)
        y = layers.Dense(6, kernel_regularizer="l2", name=f"block{index}")(y)
        x = x + keras.ops.relu(y)
    return compiled(keras.Model(inputs, head(x)), **options), rows(6), classes()


def nested_and_shared(**options):
    encoder = keras.Sequential(
        [layers.Input((6,)), layers.Dense(4, activation="relu", name="inner")],
        name="encoder",
    )
    left, right = keras.Input((6,)), keras.Input((6,))
    x = layers.Concatenate(name="join")([encoder(left), encoder(right)])
    model = keras.Model([left, right], head(x))
    return compiled(model, **options), [rows(6), rows(6, seed=2)], classes()


def two_outputs(**options):
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    outputs = {"kind": layers.Dense(3, activation="softmax", name="kind")(x)}
    outputs["size"] = layers.Dense(1, name="size")(x)
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model = compiled(keras.Model(inputs, outputs), losses, **options)
    return model, rows(6), {"kind": classes(), "size": rows(1, seed=3)}


def recurrent(**options):
    model = keras.Sequential(
        [
            layers.Input((4,), dtype="int32"),
            layers.Embedding(10, 4, name="embedding"),
            layers.Bidirectional(
                layers.SimpleRNN(3, return_sequences=True), name="both"
            ),
            layers.TimeDistributed(layers.Dense(2, name="each"), name="every"),
            layers.LSTM(3, name="lstm"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    tokens = np.random.default_rng(4).integers(0, 9, (ROWS, 4))
    return compiled(model, **options), tokens, classes()


class Subclassed(keras.Model):
    """Layers in a list, one that makes its own layer in build, a weight of its own."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.blocks = [layers.Dense(5, activation="relu"), Lazy(name="lazy")]
        self.top = layers.Dense(3, activation="softmax", name="head")
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.top(x * self.gain)


class Lazy(layers.Layer):
    def build(self, shape):
        self.inner = layers.Dense(4, name="born_late")
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


def subclassed(**options):
    return compiled(Subclassed(), **options), rows(6), classes()


class TapeStep(keras.Model):
    def train_step(self, data):
        import tensorflow as tf

        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True), weight) * 2.0
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


class PureStep(keras.Model):
    def train_step(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss_of(trainable):
            y_pred, new = self.stateless_call(trainable, others, x, training=True)
            return self.compute_loss(x, y, y_pred, weight) * 2.0, new

        differentiated = jax.value_and_grad(loss_of, has_aux=True)
        (loss, others), gradients = differentiated(trainable)
        apply = self.optimizer.stateless_apply
        trainable, optimizer = apply(optimizer, gradients, trainable)
        return {"loss": loss}, (trainable, others, optimizer, metrics)


class BackwardStep(keras.Model):
    def train_step(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        self.zero_grad()
        loss = self.compute_loss(x, y, self(x, training=True), weight) * 2.0
        loss.backward()
        weights = self.trainable_variables
        self.optimizer.apply([weight.value.grad for weight in weights], weights)
        return {"loss": loss}


STEPS = {"tensorflow": TapeStep, "jax": PureStep, "torch": BackwardStep}
CustomStep = STEPS[BACKEND]


def custom_train_step(**options):
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    return compiled(CustomStep(inputs, head(x)), **options), rows(6), classes()


class Gan(keras.Model):
    """Two optimizers; the generator learns against the discriminator just updated."""

    def __init__(self):
        super().__init__(name="gan")
        self.generator = keras.Sequential(
            [layers.Input((2,)), layers.Dense(6, name="make")], name="generator"
        )
        self.discriminator = keras.Sequential(
            [layers.Input((6,)), layers.Dense(1, name="judge")], name="discriminator"
        )
        self.noise = keras.random.SeedGenerator(5)
        self.g_optimizer = keras.optimizers.Adam(1e-2)
        self.d_optimizer = keras.optimizers.SGD(1e-2)

    def call(self, x):
        return self.discriminator(x)

    def train_step(self, data):
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        noise = keras.random.normal((keras.ops.shape(x)[0], 2), seed=self.noise)
        mean = keras.ops.mean

        def d_loss():
            real = self.discriminator(x, training=True)
            fake = self.discriminator(self.generator(noise), training=True)
            return mean(fake - real) + mean(real**2 + fake**2)

        weights = self.discriminator.trainable_variables
        loss, gradients = value_and_gradients(d_loss, weights)
        self.d_optimizer.apply_gradients(zip(gradients, weights, strict=True))

        def g_loss():
            return -mean(self.discriminator(self.generator(noise), training=True))

        weights = self.generator.trainable_variables
        loss_of_g, gradients = value_and_gradients(g_loss, weights)
        self.g_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"d_loss": loss, "g_loss": loss_of_g}


def gan(**options):
    model = Gan()
    model.compile(**{k: v for k, v in options.items() if k != "optimizer"})
    return model, rows(6), None


class Repeated(layers.Layer):
    """A layer inside a loop: what it gives cannot leave the loop's graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.body = layers.Dense(6, activation="tanh", name="body")

    def build(self, shape):
        self.body.build(shape)

    def call(self, x):
        return keras.ops.fori_loop(0, 3, lambda _, x: self.body(x) + x, x)


def looped(**options):
    inputs = keras.Input((6,))
    x = layers.Dropout(0.2, name="dropout")(Repeated(name="repeated")(inputs))
    return compiled(keras.Model(inputs, head(x)), **options), rows(6), classes()


def traced(function):
    if BACKEND == "jax":
        import jax

        return lambda x: jax.checkpoint(lambda x: function(x))(x)
    if BACKEND == "torch":
        from torch.utils.checkpoint import checkpoint

        return lambda x: checkpoint(function, x, use_reentrant=False)
    import tensorflow as tf

    return tf.function(function)


class InFunction(layers.Layer):
    """A traced function of its own inside, such as a graph in that of the step."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(5, name="inner")

    def build(self, shape):
        self.inner.build(shape)
        self.function = traced(self.inner)

    def call(self, x):
        return self.function(x)


def function_layer(**options):
    inputs = keras.Input((6,))
    x = InFunction(name="in_function")(inputs)
    return compiled(keras.Model(inputs, head(x)), **options), rows(6), classes()


APART = ("tanh", "sigmoid", "elu", "gelu", "silu", "mish", "leaky_relu", "softplus")


def apart(**options):
    """Activations as layers of their own, which oneDNN computes with what is before."""
    inputs = x = keras.Input((6,))
    for index, name in enumerate(APART):
        x = layers.Dense(6, use_bias=index % 4 != 3, name=f"dense{index}")(x)
        x = layers.Activation(name, name=name)(x)
    return compiled(keras.Model(inputs, head(x)), **options), rows(6), classes()


def distilled(**options):
    """A frozen teacher: forward only, where more is fused than under a gradient."""
    inputs = x = keras.Input((6, 6, 2))
    for index, name in enumerate(APART):
        x = layers.Conv2D(3, 3, padding="same", trainable=False, name=f"conv{index}")(x)
        x = layers.Activation(name, name=name)(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(5, name="student")(x)
    x = layers.Activation("tanh", name="last")(x)
    return compiled(keras.Model(inputs, head(x)), **options), rows(6, 6, 2), classes()


KINDS = {
    kind.__name__: kind
    for kind in (
        sequential,
        kbn_layers,
        unbuilt,
        dropout,
        convolution,
        residual,
        nested_and_shared,
        two_outputs,
        recurrent,
        looped,
        function_layer,
        subclassed,
        custom_train_step,
        gan,
        apart,
        distilled,
    )
}
if BACKEND == "jax":
    del KINDS["gan"]  # its trainer has one optimizer's variables


def assert_nothing_is_overridden(model):
    """No method of the model, its layers or its optimizer is a monitor's."""
    for thing in [model, *model._flatten_layers(), model.optimizer]:
        assert not {"call", "apply", "compute_loss"} & set(vars(thing))


def assert_unwatched(model):
    """Nothing of a monitor is left in a model that has been trained."""
    assert_nothing_is_overridden(model)
    # JAX builds a model before a callback begins: it may fail there.
    assert type(model.train_function).__name__ in ("function", "NoneType")
