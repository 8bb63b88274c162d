"""Transformations of TensorFlow; see `tests.transformations`."""

import copy
import pickle
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

from tests.transformations import Table, draw

TABLE = Table()
row = TABLE.modes
SHAPE = (6, 3)


def built(layer_class, shape=SHAPE, **arguments):
    """A layer whose weights are not those it starts with."""
    layer = layer_class(**arguments)
    layer.build(shape)
    start = draw((4, shape[layer.axis]), seed=7)
    rest = layer.get_weights()[4:]  # the counter of a warm-up
    layer.set_weights([*np.abs(start[:2]), start[2], 1 + np.abs(start[3]), *rest])
    return layer


def statistics(layer):
    return [tf.identity(v.value) for v in layer.non_trainable_variables]


def weights(layer):
    return [v.value for v in layer.trainable_variables]


def cubed(layer, training, x, **options):
    return tf.reduce_sum(layer(x, training=training, **options) ** 3)


def gradients(layer, training, x, **options):
    """Of a loss, in x and the weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = cubed(layer, training, x, **options)
    return tape.gradient(loss, [x, *weights(layer)])


# --- graphs ---

SIZES = {"known": SHAPE, "unknown sizes": (None, None, 4, 3)}


def example(shape):
    return tf.constant(draw([n or 5 for n in shape]))


@row("persistent tape traced first, compiled later", inference=True)
def _(layer_class, training):
    layer = built(layer_class)

    @tf.function(input_signature=[tf.TensorSpec(SHAPE)])
    def inner(x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = layer(x, training=training)
            losses = tf.reduce_sum(y**3), tf.reduce_sum(y**4)
        return [tape.gradient(loss, [x, *weights(layer)]) for loss in losses]

    inner.get_concrete_function()
    return tf.function(inner, jit_compile=True)(example(SHAPE))


for _name, _shape in SIZES.items():
    for _jit in (False, True):

        @row(f"tf.function{' under XLA' if _jit else ''}, {_name}", inference=True)
        def _(layer_class, training, shape=_shape, jit=_jit):
            layer = built(layer_class, shape)
            spec = tf.TensorSpec(shape)
            step = tf.function(
                lambda x: gradients(layer, training, x),
                input_signature=[spec],
                jit_compile=jit,
            )
            return step(example(shape)), statistics(layer)

    # In training, Keras' layer cannot: it assigns.
    @TABLE.row(f"tf.vectorized_map of a gradient, {_name}, inference")
    def _(layer_class, shape=_shape):
        layer = built(layer_class, shape)
        x = tf.stack([example(shape), 2 * example(shape) + 1])
        one = tf.function(
            lambda x: gradients(layer, False, x)[0],
            input_signature=[tf.TensorSpec(shape)],
        )
        return tf.vectorized_map(one, x)

    @row(f"jacobian, {_name}")
    def _(layer_class, training, shape=_shape):
        layer = built(layer_class, shape)

        @tf.function(input_signature=[tf.TensorSpec(shape)])
        def jacobian(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=training)
                few = tf.reshape(y, (-1,))[:4]
            return tape.jacobian(few, x)

        return jacobian(example(shape))

    @row(f"forward mode, {_name}")
    def _(layer_class, training, shape=_shape):
        layer, x = built(layer_class, shape), example(shape)

        @tf.function(input_signature=[tf.TensorSpec(shape)])
        def pushed(x):
            with tf.autodiff.ForwardAccumulator(x, tf.sin(x)) as accumulator:
                y = layer(x, training=training)
            return accumulator.jvp(y)

        return pushed(x)


@TABLE.row("second order in the weights")
def _(layer_class):
    layer, x = built(layer_class), example(SHAPE)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = cubed(layer, True, x)
        first = inner.gradient(loss, weights(layer))
        norm = tf.add_n([tf.reduce_sum(g**2) for g in first])
    return outer.gradient(norm, weights(layer))


def through(layer, run):
    """Of a traced step that calls the layer in `run`: its gradients, and statistics."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(run(x) ** 3)
        return tape.gradient(loss, [x, *weights(layer)])

    return step(example(SHAPE)), statistics(layer)


@row("tf.while_loop, gradient through it")
def _(layer_class, training):
    layer = built(layer_class)

    def run(y):
        for _ in tf.range(3):
            y = layer(y, training=training) * 1.5
        return y

    return through(layer, run)


@row("tf.cond, gradient through it")
def _(layer_class, training):
    layer = built(layer_class)

    def run(x):
        return tf.cond(
            tf.reduce_sum(x) > 0, lambda: layer(x, training=training), lambda: x
        )

    return through(layer, run)


@row("tf.recompute_grad")
def _(layer_class, training):
    layer, x = built(layer_class), example(SHAPE)
    again = tf.recompute_grad(lambda x: layer(x, training=training))
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(again(x) ** 3)
    return tape.gradient(loss, x)


@row("a graph of TensorFlow 1", inference=True)
def _(layer_class, training):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        layer = layer_class()
        x = v1.placeholder("float32", (None, 3))
        y = layer(x, training=training)
        gradient = v1.gradients(tf.reduce_sum(y**3), x)
        session.run(v1.global_variables_initializer())
        return session.run([y, *gradient], {x: draw(SHAPE)})


# --- checks ---


@row("enable_check_numerics")
def _(layer_class, training):
    return [
        checked(built(layer_class), training, **({"mask": mask} if masked else {}))
        for masked, mask in [(False, None), (True, np.arange(6) % 3 > 0)]
    ]


@TABLE.row("enable_check_numerics with renorm")
def _(layer_class):
    layer = layer_class(renorm=True, renorm_clipping={"rmax": 2.0, "dmax": 1.0})
    layer.build(SHAPE)
    return checked(layer, True)


def checked(layer, training, x=None, **options):
    x = example(SHAPE) if x is None else x
    tf.debugging.enable_check_numerics()
    try:
        step = tf.function(lambda x: gradients(layer, training, x, **options))
        return gradients(layer, training, x, **options), step(x)
    finally:
        tf.debugging.disable_check_numerics()


# --- inputs ---


@row("ragged inputs", inference=True)
def _(layer_class, training):
    layer = built(layer_class, (None, None, 3))
    flat = tf.constant(draw((7, 3)))
    x = tf.RaggedTensor.from_row_lengths(flat, [2, 4, 1])
    return layer(x, training=training).flat_values, statistics(layer)


# --- export and copies ---


def network(layer_class, shape=(3,)):
    model = keras.Sequential([keras.Input(shape), keras.layers.Dense(3), layer_class()])
    for i, v in enumerate(model.variables):
        v.assign(1 + np.abs(draw(v.shape, seed=i)))
    return model


@TABLE.row("SavedModel with a training step in it")
def _(layer_class):
    model, x = network(layer_class), example(SHAPE)

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.values = [v.value for v in model.variables]

        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def train(self, x):
            with tf.GradientTape() as tape:
                y = model(x, training=True)
                loss = tf.reduce_sum(y**3)
            slopes = tape.gradient(loss, [v.value for v in model.trainable_variables])
            for variable, slope in zip(model.trainable_variables, slopes, strict=True):
                variable.value.assign_sub(1e-3 * slope)
            return y

    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(Module(), folder)
        loaded = tf.saved_model.load(folder)
        return [loaded.train(x) for _ in range(3)]


def tflite(layer_class):
    model, x = network(layer_class), draw((1, 3))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"\s*Warning: tf.lite.Interpreter is deprecated"
        )
        model.export(folder, verbose=False)
        content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        run = tf.lite.Interpreter(model_content=content).get_signature_runner()
    (name,) = run.get_input_details()
    return list(run(**{name: x}).values())


# The converter of TensorFlow 2.16 ends the process, with Keras' layer too.
if not tf.__version__.startswith("2.16."):
    TABLE.row("TFLite, inference", is_long=True)(tflite)


@TABLE.row("deepcopy and pickle")
def _(layer_class):
    model, x = network(layer_class), draw(SHAPE)
    model(x, training=True)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    return [c(x, training=t) for c in copies for t in (True, False)]
