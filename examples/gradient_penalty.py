"""A gradient penalty (WGAN-GP) through batch norm needs right second derivatives.

The penalty is the squared distance of the norm of d critic / d x from 1 (Gulrajani et
al., 2017). Its gradient differentiates a gradient, so it needs the second derivatives
of every layer of the critic. Those of `keras.layers.BatchNormalization` in training are
wrong on TensorFlow before 2.22; those of `kbn.BatchNorm` agree with finite differences
in float64.

    python examples/gradient_penalty.py
"""

import command
import keras
import numpy as np
import tensorflow as tf

import kbn


def critic(norm_class):
    """Two dense layers with batch norm between them, in float64, the same each time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((5,), dtype="float64"),
            keras.layers.Dense(8, dtype="float64"),
            norm_class(dtype="float64"),
            keras.layers.Activation("tanh", dtype="float64"),
            keras.layers.Dense(1, dtype="float64"),
        ]
    )


def penalty(model, x):
    """mean((|d critic / d x| - 1)^2)."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = tf.reduce_sum(model(x, training=True))
    slopes = tape.gradient(score, x)
    norms = tf.sqrt(tf.reduce_sum(slopes**2, axis=1))
    return tf.reduce_mean((norms - 1) ** 2)


def gradient(model, x):
    """Of the penalty in the first kernel, as training computes it."""
    kernel = model.layers[0].kernel.value
    with tf.GradientTape() as tape:
        loss = penalty(model, x)
    return tape.gradient(loss, kernel).numpy()


def finite_differences(model, x, step=1e-6):
    """The same by central differences, which need first derivatives only."""
    kernel = model.layers[0].kernel
    start = kernel.numpy()
    found = np.empty_like(start)
    for place in np.ndindex(start.shape):
        moved = np.zeros_like(start)
        moved[place] = step
        kernel.assign(start + moved)
        above = penalty(model, x)
        kernel.assign(start - moved)
        found[place] = (above - penalty(model, x)) / (2 * step)
    kernel.assign(start)
    return found


def main():
    """Print how far each layer's gradient of the penalty is from the truth."""
    command.parser(__doc__).parse_args()
    x = tf.constant(np.random.default_rng(0).normal(size=(16, 5)))
    layers = {
        "keras.layers.BatchNormalization": keras.layers.BatchNormalization,
        "kbn.BatchNorm": kbn.BatchNorm,
    }
    print("gradient of the penalty in the first kernel, beside finite differences:")
    for name, layer in layers.items():
        model = critic(layer)
        truth = finite_differences(model, x)
        error = np.abs(gradient(model, x) - truth).max()
        print(f"{name:32} off by {error:.1e} of {np.abs(truth).max():.2f}")


if __name__ == "__main__":
    main()
