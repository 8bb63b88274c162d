"""How long does a training step of a whole model take on kbn's layer and on Keras'?

Prints, for ResNet50, a small CNN, MLPs of 50 layers and the network of `kbn demo`, the
median time of a training step as `fit` runs it (graph mode, unknown batch, SGD), with
Keras' batch norm, with kbn's, and with none at all; the ratio of the first two with its
95 % interval; and the share of the step that batch norm takes. The three models have
the same weights and take turns. First the outputs of kbn's model are compared with
those of Keras', in inference and in training; beside it stands how far Keras' own
outputs move if its inputs are rounded otherwise, which 50 layers make large.
"""

import os
import sys
from functools import partial
from statistics import median

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import reporting
import timing

import kbn

CLASSES = 10


def resnet50(size):
    return keras.applications.ResNet50(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )


def small_cnn(size):
    layers = [keras.Input((size, size, 3))]
    for filters in (32, 64, 128):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
    return keras.Sequential(layers)


def mlp(layers, width):
    """So many blocks of a dense layer, batch norm and ReLU."""
    blocks = [keras.Input((width,))]
    for _ in range(layers):
        blocks += [
            keras.layers.Dense(width, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*blocks, keras.layers.Dense(CLASSES)])


def digits_mlp():
    """The network of `kbn demo`."""
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(256, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dense(CLASSES),
        ]
    )


# name: (model, shape of the inputs)
MODELS = {
    "ResNet50": (partial(resnet50, 64), (16, 64, 64, 3)),
    "CNN of 3 convolutions": (partial(small_cnn, 32), (64, 32, 32, 3)),
    "MLP of 50 layers": (partial(mlp, 50, 64), (32, 64)),
    "MLP of 50 wider layers": (partial(mlp, 50, 256), (128, 256)),
    "kbn demo": (digits_mlp, (64, 64)),
}
QUICK_MODELS = {
    "CNN of 3 convolutions": (partial(small_cnn, 8), (4, 8, 8, 3)),
    "MLP of 2 layers": (partial(mlp, 2, 8), (4, 8)),
}


class NoBatchNorm(keras.layers.Layer):
    """Gives its inputs; a functional model calls it with a batch norm's arguments."""

    def call(self, inputs, training=None, mask=None):
        """The inputs."""
        return inputs


def with_layer(model, make):
    """A copy of `model`, weights too, with `make(layer)` for each batch norm."""

    def clone(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return make(layer)
        return type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if new.weights:
            new.set_weights(old.get_weights())
    return copy


def variants(model):
    """{name: the same model with that batch norm}."""
    return {
        "Keras": model,
        "kbn": with_layer(
            model, lambda layer: kbn.BatchNorm.from_config(layer.get_config())
        ),
        "none": with_layer(model, lambda layer: NoBatchNorm(name=layer.name)),
    }


def differences(models, x):
    """Of kbn's outputs from Keras', and of Keras' own with x rounded otherwise.

    The largest in inference and in training, beside the largest output.
    """
    found = []
    for model, inputs in (
        (models["kbn"], x),
        (models["Keras"], x * (1 + np.finfo("float32").eps)),
    ):
        pairs = [
            [np.asarray(one(of, training=training)) for one, of in calls]
            for training in (False, True)
            for calls in [((models["Keras"], x), (model, inputs))]
        ]
        found.append(max(abs(b - a).max() / abs(a).max() for a, b in pairs))
    return found


def training_step(model):
    import tensorflow as tf

    model.compile(
        keras.optimizers.SGD(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    images = tf.TensorSpec((None, *model.input_shape[1:]))
    labels = tf.TensorSpec((None,), "int32")
    return tf.function(
        lambda x, y: model.train_step((x, y)), input_signature=[images, labels]
    )


def main(arguments=None):
    options = reporting.parser(__doc__).parse_args(arguments)
    rounds = 2 if options.quick else 15
    reporting.setting("tensorflow", "float32, graph mode, unknown batch; milliseconds")
    table = reporting.Table(
        "model",
        "inputs",
        "kbn",
        "Keras",
        "Keras / kbn",
        "without batch norm",
        "share of batch norm: kbn",
        "Keras",
        "outputs differ by",
        "Keras' own, inputs rounded otherwise",
    )
    rng = np.random.default_rng(0)
    for name, (make, shape) in (QUICK_MODELS if options.quick else MODELS).items():
        keras.utils.set_random_seed(0)
        models = variants(make())
        x = keras.ops.convert_to_tensor(rng.normal(size=shape), "float32")
        y = keras.ops.convert_to_tensor(rng.integers(0, CLASSES, shape[0]), "int32")
        differ, moved = differences(models, x)
        if not differ < max(1e-4, 10 * moved):
            raise SystemExit(
                f"{name}: kbn's outputs differ from Keras' by {differ:.1e}, Keras' own "
                f"with inputs rounded otherwise by {moved:.1e}"
            )
        functions = {n: training_step(model) for n, model in models.items()}
        repeats = 1 if options.quick or len(shape) > 2 else 5
        times = timing.interleaved(functions, x, y, rounds=rounds, repeats=repeats)
        bare = timing.ratio(times["none"], times["Keras"]).median
        ours = timing.ratio(times["none"], times["kbn"]).median
        table.row(
            name,
            reporting.name_of(shape),
            *(f"{median(times[n]):.1f}" for n in ("kbn", "Keras")),
            f"**{timing.ratio(times['Keras'], times['kbn'])}**",
            f"{median(times['none']):.1f}",
            *(f"{1 - share:.0%}" for share in (ours, bare)),
            f"{differ:.0e}",
            f"{moved:.0e}",
        )


if __name__ == "__main__":
    sys.exit(main())
