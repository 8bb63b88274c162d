"""Probes of a layer among others: replicas, rematerialization, wrappers, graphs.

Each takes a layer class and returns (what was seen, whether that is the defect). The
truth is float64 NumPy. `tests.defects` is the table of them.
"""

import keras
import numpy as np
from keras import ops

from tests.defect_numbers import (
    attempt,
    error,
    exact,
    keras_2_config,
    normal,
    relative,
    statistics,
    worst,
)
from tests.running import BACKEND, array


def on_replicas(cls, parts, masks=None, **arguments):
    """Each replica's output, moving mean and variance; its inputs are its `parts`."""
    import tensorflow as tf

    from tests.replicas import two_replicas

    strategy = two_replicas()
    with strategy.scope():
        layer = cls(momentum=0.0, **arguments)
        layer.build((None, parts[0].shape[-1]))

    def share(values):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group])
        )

    @tf.function
    def step(*inputs):
        def train(x, mask=None):
            return layer(x, training=True, mask=mask)

        return strategy.run(train, inputs)

    y = step(*[share(values) for values in (parts, masks) if values is not None])

    def local(value):
        return [v.numpy() for v in strategy.experimental_local_results(value)]

    return local(y), local(layer.moving_mean.value), local(layer.moving_variance.value)


def empty_replica(cls):
    """`fit` on 9 rows in batches of 8: the second replica's last batch has none."""
    from tests.replicas import two_replicas

    with two_replicas().scope():
        model = keras.Sequential([keras.Input((3,)), cls(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x = normal(9, 3)
    model.fit(x, x[:, :1], batch_size=8, shuffle=False, verbose=0)
    gamma, _, mean, _ = model.layers[0].get_weights()
    y = model.predict(x, verbose=0)
    finite = np.isfinite(gamma).all() and np.isfinite(y).all()
    wanted = 0.01 * 0.99 * x[:8].mean(0) + 0.01 * x[8]
    text = f"gamma {gamma[0]:.3g}, prediction {y[0, 0]:.3g}, mean {mean[1]:.2g}"
    return f"{text} for {wanted[1]:.2g}", not (finite and error(mean, wanted) <= 1e-6)


def unaggregated_statistics(cls):
    """One row of 0 and three of 10: every replica reads their weighted mean, 7.5."""
    parts = [np.zeros((1, 2), "float32"), np.full((3, 2), 10, "float32")]
    _, means, _ = on_replicas(cls, parts)
    text = ", ".join(f"{mean[0]:.3g}" for mean in means)
    return f"the replicas read {text}", error(np.array(means), 7.5) > 1e-5


def synchronized_variance(cls):
    """Two replicas of 512 rows: y and variance within the design's limits."""
    found = {}
    for mean in (1e2, 1e4):
        x = normal(1024, 3, mean=mean)
        y, _, variances = on_replicas(cls, [x[:512], x[512:]], synchronized=True)
        wanted = exact(x)
        found[f"{mean:.0e}:"] = max(
            error(np.concatenate(y), wanted.y),
            *(relative(v, wanted.variance) for v in variances),
        )
    text, defective = worst([5e-4, 1e-4], **found)
    return f"error at mean {text}", defective


def synchronized_mask(cls):
    """Replicas around 0 and 10, half of the rows masked, are one batch."""
    x = np.concatenate([normal(8, 2), normal(8, 2, mean=10.0)])
    mask = np.arange(16) % 2 == 0
    parts, masks = [x[:8], x[8:]], [mask[:8], mask[8:]]
    y, means, _ = on_replicas(cls, parts, masks, synchronized=True)
    wanted = exact(x, mask=mask[:, None])
    return worst(
        1e-5,
        y=error(np.concatenate(y), wanted.y),
        mean=error(np.array(means), wanted.mean),
    )


def synchronized_on_jax(cls):
    """A compiled step on a batch sharded over the devices, half 0 and half 10."""
    import jax

    devices = np.array(jax.devices()[:2])
    mesh = jax.sharding.Mesh(devices, ("batch",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    x = jax.device_put(np.repeat(np.float32([0, 10]), 4)[:, None], sharding)
    layer = attempt(cls, momentum=0.0, synchronized=True)
    if isinstance(layer, Exception):
        return type(layer).__name__, True
    layer.build((None, 1))
    weights = [
        [v.value for v in group]
        for group in (layer.trainable_variables, layer.non_trainable_variables)
    ]
    step = jax.jit(lambda *args: layer.stateless_call(*args, training=True)[1])
    mean, variance = (array(v)[0] for v in step(*weights, x))
    text = f"{len(devices)} devices: mean {mean:.3g}, variance {variance:.3g}"
    return text, abs(mean - 5) > 1e-5 or abs(variance - 25) > 1e-4


def rematerialized(cls, power=1):
    """One step on ones in keras.remat moves the mean by 1 - .9, though it runs twice.

    `power`: of the momentum .9. The square is what follows the layer in the block:
    torch reruns a block no further than the last tensor that it needs.
    """
    layer = cls(momentum=0.9**power)
    layer.build((None, 2))
    block = keras.remat(lambda x: ops.sum(ops.square(layer(x, training=True))))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.ones((8, 2))
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = block(x)
        tape.gradient(loss, x)
    else:
        block(ops.ones((8, 2)).requires_grad_()).backward()
    mean, _ = statistics(layer)
    return f"{mean[0]:.3g} for .1", error(mean, 0.1) > 1e-6


def remat_scope(cls):
    """A Sequential model built in a RematScope trains."""
    with keras.RematScope(mode="full"):
        model = keras.Sequential([keras.layers.Dense(4), cls(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = normal(8, 3)
    loss = attempt(model.fit, x, x[:, :1], verbose=0)
    if isinstance(loss, Exception):
        return type(loss).__name__, True
    return "trains", False


def remat_scope_of_dropout(_):
    """Dropout in the layer's place fails too: the cause is not in the layer."""
    seen, fails = remat_scope(lambda: keras.layers.Dropout(0.5))
    return seen, not fails


def time_distributed(cls, wrapped=True, power=1):
    """5 time steps of ones move the mean by 1 - .9 once. `power`: of that momentum."""
    layer = cls(momentum=0.9**power)
    around = keras.layers.TimeDistributed(layer) if wrapped else layer
    around(ops.ones((8, 5, 2)), training=True)
    mean, _ = statistics(layer)
    return f"{mean[0]:.3g} for .1", error(mean, 0.1) > 1e-6


def accumulated_gradients(cls, power=1):
    """One optimizer step of 4 batches of ones moves the mean by 1 - .9."""
    model = keras.Sequential([keras.Input((2,)), cls(momentum=0.9**power)])
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=4)
    model.compile(optimizer, "mse")
    for _ in range(4):
        model.train_on_batch(np.ones((8, 2)), np.zeros((8, 2)))
    mean, _ = statistics(model.layers[0])
    return f"{mean[0]:.3g} for .1", error(mean, 0.1) > 1e-6


def keras_2_habits(cls):
    """Configs of Keras 2 load; `training` may be a tensor in a graph."""
    text, defective = keras_2_config(cls)
    if BACKEND != "tensorflow":
        return text, defective
    import tensorflow as tf

    layer = cls(momentum=0.0)
    x = normal(8, 2, mean=3.0)
    layer.build(x.shape)
    step = tf.function(lambda training: layer(x, training=training))
    off = attempt(step, tf.constant(False))
    if isinstance(off, Exception):
        return f"{text}, tensor {type(off).__name__}", True
    unmoved = statistics(layer)
    on = step(tf.constant(True))
    wanted, fixed = exact(x), x / np.sqrt(1 + 1e-3)
    moved = statistics(layer)
    errors = {
        "off": max(error(off, fixed), error(unmoved[0], 0), error(unmoved[1], 1)),
        "on": max(error(on, wanted.y), error(moved[0], wanted.mean)),
    }
    errors, wrong = worst(1e-5, **errors)
    return f"{text}, tensor {errors}", defective or wrong
