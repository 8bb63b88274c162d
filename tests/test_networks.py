"""Real networks, each small: watched equals unwatched, and the numbers are true.

Each number is compared with one of a gradient of the test's own, over the first batch
and the same seeds.
"""

import math

import keras
import numpy as np
import pytest

if keras.backend.backend() == "jax":
    pytest.skip("the steps of one's own are none of JAX", allow_module_level=True)

from keras import layers, ops

from kbn.callbacks import TrainingMonitor
from tests.differentiation import value_and_gradients
from tests.event_files import read_log, values

SIZE = 6
RANDOM = np.random.default_rng(0)


def images(size):
    return RANDOM.normal(size=(SIZE, size, size, 3)).astype("float32")


def classes():
    return RANDOM.integers(0, 4, SIZE)


def mobile_net():
    net = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=4)
    return net, images(32), classes(), "sparse_categorical_crossentropy"


def res_net():
    net = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=4)
    return net, images(32), classes(), "sparse_categorical_crossentropy"


def transformer():
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 8, name="embedding")(inputs)
    attended = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(x + attended)
    y = layers.Dense(16, activation="relu", name="wide")(x)
    x = layers.LayerNormalization(name="norm2")(x + layers.Dense(8)(y))
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(4, activation="softmax", name="head")(x)
    tokens = RANDOM.integers(0, 20, (SIZE, 8))
    loss = "sparse_categorical_crossentropy"
    return keras.Model(inputs, outputs), tokens, classes(), loss


def lstm():
    inputs = keras.Input((7, 3))
    x = layers.LSTM(5, return_sequences=True, name="lstm")(inputs)
    x = layers.Bidirectional(layers.GRU(4), name="both")(x)
    model = keras.Model(inputs, layers.Dense(1, name="head")(x))
    return model, RANDOM.normal(size=(SIZE, 7, 3)), RANDOM.normal(size=(SIZE, 1)), "mse"


def u_net():
    inputs = keras.Input((16, 16, 3))
    left = layers.Conv2D(4, 3, padding="same", activation="relu", name="left")(inputs)
    x = layers.BatchNormalization(name="norm")(layers.MaxPooling2D()(left))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="bottom")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.Concatenate(name="skip")([left, x])
    outputs = layers.Conv2D(1, 1, name="head")(x)
    return keras.Model(inputs, outputs), images(16), images(16)[..., :1], "mse"


class Encoding(layers.Layer):
    """Mean and log variance to a sample and a loss, with seeds of Keras."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, inputs):
        mean, log = inputs
        divergence = keras.ops.mean(keras.ops.exp(log) + mean**2 - 1 - log)
        self.add_loss(keras.ops.cast(0.5 * divergence, keras.config.floatx()))
        shape = keras.ops.shape(mean)
        noise = keras.random.normal(shape, dtype=mean.dtype, seed=self.seed)
        return mean + keras.ops.exp(log / 2) * noise


def variational():
    inputs = keras.Input((12,))
    x = layers.Dense(8, activation="relu", name="encoder")(inputs)
    pair = layers.Dense(2, name="mean")(x), layers.Dense(2, name="log")(x)
    z = Encoding(name="sample")(pair)
    x = layers.Dense(8, activation="relu", name="decoder")(z)
    model = keras.Model(inputs, layers.Dense(12, name="head")(x))
    x = RANDOM.normal(size=(SIZE, 12)).astype("float32")
    return model, x, x, "mse"


# Half a minute each.
LARGE = (mobile_net, res_net, lstm)
NETWORKS = [
    *(pytest.param(network, marks=pytest.mark.long) for network in LARGE),
    transformer,
    u_net,
    variational,
]


def trained(network, callbacks):
    global RANDOM
    RANDOM = np.random.default_rng(0)
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    # A batch norm over six elements magnifies rounding: 7 % of a gradient in float32.
    keras.config.set_dtype_policy("float64")
    model, x, y, loss = network()
    model.compile(keras.optimizers.SGD(0.05), loss)
    before = [np.array(variable) for variable in model.variables]
    model.fit(x, y, batch_size=SIZE, shuffle=False, verbose=0, callbacks=callbacks)
    return model, x, y, before


def by_tape(model, x, y, before):
    """The first step again: gradients, and the outputs of all layers of the model."""
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    outputs = {}

    def noting(layer, call):
        def noted(*args, **kwargs):
            outputs[layer.name] = call(*args, **kwargs)
            return outputs[layer.name]

        return noted

    called = [x for x in model.layers if not isinstance(x, layers.InputLayer)]
    for layer in called:
        object.__setattr__(layer, "call", noting(layer, layer.call))
    try:
        weights = model.trainable_variables
        _, gradients = value_and_gradients(
            lambda: model.compute_loss(x, y, model(x, training=True)), weights
        )
    finally:
        for layer in called:
            object.__delattr__(layer, "call")
    outputs = {name: array(x) for name, x in outputs.items() if ops.is_tensor(x)}
    return [array(gradient) for gradient in gradients], outputs


def array(tensor):
    return ops.convert_to_numpy(ops.convert_to_tensor(tensor))


def close(value, expected, **tolerance):
    np.testing.assert_allclose(value, expected, **{"rtol": 2e-3, **tolerance})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_unchanged_and_its_numbers_are_those_of_a_tape(network, tmp_path):
    free, *_ = trained(network, [])
    monitor = TrainingMonitor(tmp_path)
    model, x, y, before = trained(network, [monitor])
    for variable, other in zip(model.variables, free.variables, strict=True):
        np.testing.assert_array_equal(array(variable), array(other), variable.path)
    after = [array(weight) for weight in model.trainable_variables]

    log = read_log(tmp_path)
    gradients, outputs = by_tape(model, x, y, before)
    norms = [np.linalg.norm(g.astype("float64")) for g in gradients]
    close(values(log, "gradient_norm/global"), [math.hypot(*norms)])
    # Before a batch norm a bias has none but rounding errors of the others'.
    noise = 1e-9 * max(np.abs(g).max() for g in gradients)
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        rows = log[f"gradients/{weight.path}"][0][1]
        close(rows[:, 2].sum(), gradient.size, rtol=1e-6)
        scale = np.abs(gradient).max()
        ends = [gradient.min(), gradient.max()]
        close([rows[0, 0], rows[-1, 1]], ends, atol=1e-6 * scale + noise)
    starts = {w.path: array(w) for w in model.trainable_variables}
    for weight, end in zip(model.trainable_variables, after, strict=True):
        tag = f"update_ratio/{weight.path}"
        start = starts[weight.path].astype("float64")
        if start.ndim > 1 and start.any():
            ratio = np.linalg.norm(end - start) / np.linalg.norm(start)
            # Of a sample of a large weight.
            exact = start.size <= monitor.sample_size
            close(values(log, tag), [ratio], rtol=1e-6 if exact else 0.05, atol=1e-12)
        else:
            assert tag not in log
    looked_at = 0
    for name, output in outputs.items():
        if f"activations/{name}" in log:
            looked_at += 1
            rows = log[f"activations/{name}"][0][1]
            low, high = output.min(), output.max()
            close(rows[0, 0], low, atol=1e-3 * max(1, abs(low)))
            close(rows[-1, 1], high, atol=1e-3 * max(1, abs(high)))
        if f"health/dead_units/{name}" in log:
            flat = np.reshape(output, (-1, output.shape[-1]))
            dead = np.mean(np.mean(flat != 0, axis=0) < 0.01)
            close(values(log, f"health/dead_units/{name}"), [dead], atol=1e-6)
    assert looked_at >= len(outputs) / 2


def global_norm(gradients):
    return ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))


class Diffusion(keras.Model):
    """Predicts the noise that was added; several calls of what Keras draws."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)
        self.net = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(8, activation="relu", name="in"),
                layers.Dense(4, name="out"),
            ]
        )

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        noise = keras.random.normal(ops.shape(x), seed=self.seed)
        time = keras.random.uniform((ops.shape(x)[0], 1), seed=self.seed)
        weights = self.trainable_variables
        loss, gradients = value_and_gradients(
            lambda: ops.mean((self(x * time + noise * (1 - time)) - noise) ** 2),
            weights,
        )
        self.optimizer.apply(gradients, weights)
        return {"loss": loss, "norm": global_norm(gradients)}


class Adversarial(keras.Model):
    """Two networks, two optimizers, the larger norm as a metric."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)
        self.makes = keras.Sequential([keras.Input((2,)), layers.Dense(4, name="make")])
        self.judges = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
        self.ways = {"d": keras.optimizers.SGD(0.1), "g": keras.optimizers.Adam(0.01)}

    def call(self, x):
        return self.judges(x)

    def train_step(self, data):
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        noise = keras.random.normal((ops.shape(x)[0], 2), seed=self.seed)

        def loss():
            fake = ops.mean(ops.softplus(self(self.makes(noise))))
            return fake + ops.mean(ops.softplus(-self(x)))

        norms = []
        for way, net, sign in (("d", self.judges, 1.0), ("g", self.makes, -1.0)):
            weights = net.trainable_variables
            value, gradients = value_and_gradients(lambda: sign * loss(), weights)  # noqa: B023
            self.ways[way].apply(gradients, weights)
            norms.append(global_norm(gradients))
        return {"loss": value, "norm": ops.maximum(*norms)}


@pytest.mark.parametrize("kind", [Diffusion, Adversarial])
def test_an_own_step_reports_the_norm_that_is_logged(kind, tmp_path):
    x = np.random.default_rng(0).normal(size=(4 * SIZE, 4)).astype("float32")

    def train(callbacks):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model = kind()
        model.compile()
        metrics = model.fit(
            x, batch_size=SIZE, epochs=3, verbose=0, callbacks=callbacks
        )
        return model, metrics.history

    free, _ = train([])
    monitor = TrainingMonitor(tmp_path, log_freq=4)
    model, history = train([monitor])
    for variable, other in zip(model.variables, free.variables, strict=True):
        np.testing.assert_array_equal(array(variable), array(other), variable.path)
    # Every fourth step is the last of an epoch, whose logs `fit` reports.
    close(
        values(read_log(tmp_path), "gradient_norm/global"), history["norm"], rtol=1e-5
    )
