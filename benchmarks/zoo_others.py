"""The zoo's healthy trainings of other people's kinds: own steps, losses and copies.

Each is written as the examples of its kind are, small, and learns what its bar says.
"""

import keras
import numpy as np
import zoo_data as data
from keras import initializers, layers, ops, optimizers
from zoo_mistakes import cnn
from zoo_networks import (
    CLASSES,
    HEALTHY,
    Network,
    classifier,
    dense,
    normed,
    sick,
    warm_cosine,
)
from zoo_steps import Own, minimize


class Sampling(layers.Layer):
    """z = mean + exp(log variance / 2) * noise."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, moments):
        """Draw one."""
        mean, log_variance = moments
        noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
        return mean + ops.exp(0.5 * log_variance) * noise


class VAE(Own):
    """Its losses are summed over the pixels."""

    def __init__(self):
        super().__init__()
        inputs = layers.Input((16, 16, 1))
        x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
        x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(x)
        x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
        moments = [layers.Dense(2, name=n)(x) for n in ("z_mean", "z_log_var")]
        self.encoder = keras.Model(inputs, [*moments, Sampling()(moments)])
        code = layers.Input((2,))
        x = layers.Dense(4 * 4 * 32, activation="relu")(code)
        x = layers.Reshape((4, 4, 32))(x)
        for filters in (32, 16):
            x = layers.Conv2DTranspose(
                filters, 3, strides=2, padding="same", activation="relu"
            )(x)
        x = layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid")(x)
        self.decoder = keras.Model(code, x)

    def loss_of(self, x):
        """Of the picture and of the code."""
        mean, log_variance, code = self.encoder(x)
        given = keras.losses.binary_crossentropy(x, self.decoder(code))
        picture = ops.mean(ops.sum(given, axis=(1, 2)))
        divergence = 1 + log_variance - ops.square(mean) - ops.exp(log_variance)
        code_loss = ops.mean(-0.5 * ops.sum(divergence, axis=1))
        return picture + code_loss


def vae():
    model = VAE()
    model.compile(optimizers.Adam(1e-3))
    return model


class GAN(keras.Model):
    """Two networks and two optimizers; the default one of `compile` is not used."""

    def __init__(self, is_wasserstein=False):
        super().__init__()
        self.built = True  # its networks are; it is never called
        self.is_wasserstein = is_wasserstein
        self.seeds = keras.random.SeedGenerator()
        small = {"kernel_initializer": initializers.RandomNormal(stddev=0.02)}
        last = None if is_wasserstein else "sigmoid"
        self.critic = keras.Sequential(
            [
                layers.Input((16, 16, 1)),
                layers.Conv2D(16, 4, strides=2, padding="same", **small),
                layers.LeakyReLU(0.2),
                layers.Conv2D(32, 4, strides=2, padding="same", **small),
                layers.LeakyReLU(0.2),
                layers.Flatten(),
                layers.Dense(1, activation=last, **small),
            ]
        )
        self.generator = keras.Sequential(
            [
                layers.Input((16,)),
                layers.Dense(4 * 4 * 32, use_bias=False, **small),
                layers.BatchNormalization(momentum=0.9),
                layers.LeakyReLU(0.2),
                layers.Reshape((4, 4, 32)),
                layers.Conv2DTranspose(16, 4, strides=2, padding="same", **small),
                layers.BatchNormalization(momentum=0.9),
                layers.LeakyReLU(0.2),
                layers.Conv2DTranspose(
                    1, 4, strides=2, padding="same", activation="sigmoid", **small
                ),
            ]
        )

    def compile(self, critic_optimizer, generator_optimizer):
        """Keep both."""
        super().compile()
        self.critic_optimizer = critic_optimizer
        self.generator_optimizer = generator_optimizer

    def _pair(self, real, fake):
        if self.is_wasserstein:
            return ops.mean(fake) - ops.mean(real), -ops.mean(fake)
        given = keras.losses.binary_crossentropy
        ones = ops.ones_like(real)
        critic = given(ones, real) + given(ops.zeros_like(fake), fake)
        return ops.mean(critic) / 2, ops.mean(given(ones, fake))

    def train_step(self, batch):
        """The critic, three times as often where it is Wasserstein's; the generator."""
        x, weights = batch[0], self.critic.trainable_variables
        for _ in range(3 if self.is_wasserstein else 1):
            noise = self._noise(x)
            critic_loss = minimize(
                lambda noise=noise: self._critic_loss(x, noise),
                weights,
                self.critic_optimizer,
            )
            if self.is_wasserstein:
                for weight in weights:
                    weight.assign(ops.clip(weight, -0.05, 0.05))
        noise = self._noise(x)
        generator_loss = minimize(
            lambda: self._generator_loss(noise),
            self.generator.trainable_variables,
            self.generator_optimizer,
        )
        return {"d_loss": critic_loss, "g_loss": generator_loss}

    def _noise(self, x):
        return keras.random.normal((ops.shape(x)[0], 16), seed=self.seeds)

    def _critic_loss(self, x, noise):
        real = self.critic(x, training=True)
        return self._pair(real, self._judged(noise))[0]

    def _generator_loss(self, noise):
        fake = self._judged(noise)
        return self._pair(fake, fake)[1]

    def _judged(self, noise):
        return self.critic(self.generator(noise, training=True), training=True)

    def test_step(self, batch):
        """Nothing is judged."""
        return {"d_loss": ops.mean(self.critic(batch[0]))}


def gan():
    model = GAN()
    adams = [optimizers.Adam(2e-4, beta_1=0.5) for _ in range(2)]
    model.compile(*adams)
    return model


def wgan():
    model = GAN(is_wasserstein=True)
    model.compile(optimizers.RMSprop(2e-4), optimizers.RMSprop(2e-4))
    return model


class Diffusion(Own):
    """Predicts the noise in a picture; inference uses an average of the weights."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator()
        self.network, self.average = self._network(), self._network()
        self.average.set_weights(self.network.get_weights())
        self.average.trainable = False

    @staticmethod
    def _network():
        image, level = layers.Input((16, 16, 1)), layers.Input((1, 1, 1))
        whole = layers.UpSampling2D(16)(level)
        x = layers.Concatenate()([image, whole])
        for _ in range(2):
            x = layers.Conv2D(16, 3, padding="same", activation="swish")(x)
        x = layers.Conv2D(1, 1, kernel_initializer="zeros")(x)
        return keras.Model([image, level], x)

    def loss_of(self, x):
        """Mean square of the difference."""
        x = (x - 0.3) / 0.4
        noise = keras.random.normal(ops.shape(x), seed=self.seeds)
        level = (ops.shape(x)[0], 1, 1, 1)
        level = keras.random.uniform(level, seed=self.seeds)
        noisy = ops.sqrt(1 - level) * x + ops.sqrt(level) * noise
        given = self.network([noisy, level], training=True)
        return ops.mean(ops.square(given - noise))

    def after_step(self):
        """Let the average follow."""
        for mean, weight in zip(
            self.average.weights, self.network.weights, strict=True
        ):
            mean.assign(0.98 * mean + 0.02 * weight)


def diffusion():
    model = Diffusion()
    model.compile(optimizers.AdamW(2e-3, weight_decay=1e-4))
    return model


class SimSiam(Own):
    """Two views of a picture are to have one code; the gradient passes by one."""

    def __init__(self, stops=True):
        super().__init__()
        self.stops = stops
        self.seeds = keras.random.SeedGenerator()
        norm = [layers.BatchNormalization(momentum=0.9)] if stops else []
        self.encoder = keras.Sequential(
            [
                layers.Input((16, 16, 1)),
                layers.Conv2D(16, 3, strides=2, padding="same", use_bias=not stops),
                *norm,
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(32, use_bias=not stops),
                *[type(x)(momentum=0.9) for x in norm],
            ]
        )
        self.predictor = keras.Sequential(
            [
                layers.Input((32,)),
                layers.Dense(16, use_bias=not stops),
                *[type(x)(momentum=0.9) for x in norm],
                layers.ReLU(),
                layers.Dense(32),
            ]
        )

    def loss_of(self, x):
        """Negative cosine of prediction and code."""
        noises = [keras.random.normal(ops.shape(x), seed=self.seeds) for _ in range(2)]
        views = [x + 0.2 * noise for noise in noises]
        codes = [self.encoder(view, training=True) for view in views]
        given = [self.predictor(code, training=True) for code in codes]
        pairs = ((given[0], codes[1]), (given[1], codes[0]))
        losses = [
            ops.mean(keras.losses.cosine_similarity(self.stopped(code), one))
            for one, code in pairs
        ]
        return (losses[0] + losses[1]) / 2

    def stopped(self, code):
        """Without it, one code for all pictures is the best."""
        return ops.stop_gradient(code) if self.stops else code


def simsiam(stops=True):
    model = SimSiam(stops)
    model.compile(optimizers.SGD(0.05, momentum=0.9))
    return model


def fine_tuned():
    """A backbone that was trained on the digits' even rows, frozen at first."""
    keras.utils.set_random_seed(7)
    trained = data.large_images(7)
    backbone = cnn()
    backbone.compile(optimizers.Adam(3e-3), CLASSES)
    backbone.fit(trained.x, trained.y, epochs=3, batch_size=32, verbose=0)
    body = keras.Model(backbone.inputs, backbone.layers[-2].output)
    inputs = layers.Input((16, 16, 1))
    x = body(inputs, training=False)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile(optimizers.Adam(1e-3), CLASSES, metrics=["accuracy"])
    return model


def transformer():
    """Weights of deviation 0.02, warm-up, as GPT and BERT."""
    small = {"kernel_initializer": initializers.RandomNormal(stddev=0.02)}
    x = inputs = layers.Input((12,), dtype="int32")
    x = layers.Embedding(40, 32, embeddings_initializer=small["kernel_initializer"])(x)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, 16, **small)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(64, activation="gelu", **small)(y)
        x = layers.Add()([x, layers.Dense(32, **small)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    outputs = layers.Dense(2, activation="softmax", **small)(x)
    model = keras.Model(inputs, outputs)
    schedule = warm_cosine(3e-3, 400)
    model.compile(optimizers.AdamW(schedule), CLASSES, metrics=["accuracy"])
    return model


def lora():
    """Frozen layers with a low-rank change, which starts at 0."""
    model = fine_tuned()
    body = model.layers[1]
    for layer in body.layers:
        if isinstance(layer, layers.Dense):
            layer.enable_lora(4)
        else:
            layer.trainable = False
    model.compile(optimizers.Adam(3e-3), CLASSES, metrics=["accuracy"])
    return model


class Flow(keras.Model):
    """Coupling layers, whose networks end with zeros: at first it changes nothing."""

    def __init__(self):
        super().__init__()
        self.parts = [
            keras.Sequential(
                [
                    layers.Dense(32, activation="relu"),
                    layers.Dense(2, kernel_initializer="zeros"),
                ]
            )
            for _ in range(4)
        ]

    def call(self, x):
        """Where the points go, and the logarithm of how much that stretches."""
        kept, moved, stretched = x[:, :1], x[:, 1:], 0.0
        for part in self.parts:
            scale, shift = ops.split(part(kept), 2, axis=-1)
            scale = ops.tanh(scale)
            moved = moved * ops.exp(scale) + shift
            stretched = stretched + scale
            kept, moved = moved, kept
        return ops.concatenate([kept, moved, stretched], axis=-1)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Less the likelihood of the points under a normal distribution."""
        return ops.mean(0.5 * ops.sum(y_pred[:, :2] ** 2, axis=-1) - y_pred[:, 2])


def flow():
    model = Flow()
    model.compile(optimizers.Adam(3e-3))
    return model


class Radial(layers.Layer):
    """exp(-scale ||x - center||^2) of each of `count` centers."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def build(self, shape):
        """Centers where the moons are."""
        around = initializers.RandomUniform(-1.5, 2.0)
        self.centers = self.add_weight((self.count, shape[-1]), around, name="centers")
        self.scales = self.add_weight((self.count,), "ones", name="scales")

    def call(self, x):
        """Of each example."""
        apart = ops.sum((x[:, None] - self.centers) ** 2, axis=-1)
        return ops.exp(-self.scales * apart)


def radial():
    """Small numbers, which take a large kernel."""
    adam = optimizers.Adam(2e-2)
    return classifier(Radial(30), shape=(2,), classes=2, optimizer=adam)


class Pruned(keras.constraints.Constraint):
    """Sets four of five weights to 0 after each step."""

    def __call__(self, weight):
        """The others stay."""
        kept = np.random.default_rng(0).random(weight.shape) < 0.2
        return weight * ops.cast(kept, weight.dtype)


def pruned():
    return classifier(
        layers.Dense(128, activation="relu", kernel_constraint=Pruned()),
        optimizer=optimizers.Adam(3e-3),
    )


def _add(name, build, of, bar, by_hand=False, **fit):
    known = {"epochs": 8, "batch_size": 32, **fit}
    one = Network(name, build, of, bar, frozenset(), known, "auto", by_hand)
    HEALTHY.append(one)


_add("VAE, summed loss", vae, data.unlabelled, ("loss", 125.0))
_add("DCGAN, unused optimizer", gan, data.unlabelled, None, by_hand=True)
_add("WGAN, unused optimizer", wgan, data.unlabelled, None, by_hand=True)
_add("diffusion, an average that follows", diffusion, data.unlabelled, ("loss", 0.75))
_add("SimSiam", simsiam, data.unlabelled, ("loss", -0.5))
sick(
    "SimSiam without a stop",
    "collapsed",
    lambda: simsiam(stops=False),
    of=data.unlabelled,
    epochs=8,
    batch_size=32,
)
_add("flow, branches of zeros", flow, data.moons, ("loss", 0.2), epochs=12)
_add("radial functions", radial, data.moons, ("accuracy", 0.93), epochs=12)
_add("pruned weights", pruned, data.digits, ("accuracy", 0.9))
_add("fine tuning", fine_tuned, data.large_images, ("accuracy", 0.9), epochs=4)
_add("LoRA", lora, data.large_images, ("accuracy", 0.9), epochs=4)
_add("transformer, warm-up", transformer, data.tokens, ("accuracy", 0.9), epochs=12)
_add(
    "batch norm at 0.99, many steps",
    lambda: classifier(*normed(2), optimizer="adam"),
    data.digits,
    ("accuracy", 0.9),
    batch_size=8,
    epochs=6,
)
_add(
    "no batch norm, few steps",
    lambda: classifier(*dense(2), optimizer=optimizers.Adam(1e-2)),
    data.digits,
    ("accuracy", 0.85),
    batch_size=256,
    epochs=8,
)
