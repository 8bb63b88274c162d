"""Watching changes no bit: the matrix of `transparency.py`, with and without a monitor.

Every weight, moving statistic, seed, metric and optimizer variable, on every replica,
and the history of the losses are compared by their bits after two epochs from one seed.
Where they are not the same, `transparency.BOUNDED` has the bound and the reason. Below
the matrix: whatever oneDNN fuses, and state that belongs to a traced function.
"""

import contextlib
import itertools
import logging

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the other backends have no twin", allow_module_level=True)

import tensorflow as tf

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.model.inventory import Inventory
from tests import transparency, watched_models
from tests.event_files import read_log
from tests.replicas import two_replicas
from tests.transparency import Case
from tests.watched_models import BATCH, ROWS

STEPS = -(-ROWS // BATCH)  # per epoch, the last one short
CASES = transparency.cases()
# Keras' own, watched or not: of unknown-length data, and of the end of a generator.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data")


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def data_arguments(data, x, y):
    """The arguments of `fit` that say what to train on."""
    x_tuple = tuple(x) if isinstance(x, list) else x
    arrays = (x_tuple,) if y is None else (x_tuple, y)
    whole = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
    batches = list(whole.as_numpy_iterator())
    once = {"shuffle": False}  # not that Keras could
    in_arrays = {"x": x, "y": y, "batch_size": BATCH}
    weight = np.linspace(0.5, 2, ROWS).astype("float32")
    return {
        "arrays": lambda: in_arrays,
        "generator": lambda: {
            "x": (batch for batch in [*batches, *batches]),
            "steps_per_epoch": STEPS,
            **once,
        },
        "py-dataset": lambda: {"x": Batches(batches)},
        "unknown-length": lambda: {"x": whole.filter(lambda *_: True), **once},
        "validation": lambda: {**in_arrays, "validation_split": 0.3},
        "class-weight": lambda: {**in_arrays, "class_weight": {0: 1.0, 1: 2.0, 2: 3.0}},
        "sample-weight": lambda: {
            **in_arrays,
            "sample_weight": {name: weight for name in y}
            if isinstance(y, dict)
            else weight,
        },
    }[data]()


def train(case, callbacks):
    """The state of everything after two epochs, and the history."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(case.precision)
    is_mirrored = case.execution.startswith("mirrored")
    scope = two_replicas().scope() if is_mirrored else contextlib.nullcontext()
    with scope:
        model, x, y = watched_models.KINDS[case.kind](
            optimizer=transparency.OPTIMIZERS[case.optimizer](),
            **transparency.EXECUTIONS[case.execution],
        )
    arguments = data_arguments(case.data, x, y)
    history = model.fit(**arguments, epochs=2, verbose=0, callbacks=callbacks)
    return state(model), history.history


def state(model):
    """{path: array} of every variable, on every replica."""
    variables = [*model.variables, *model.metrics_variables]
    for optimizer in Inventory(model).optimizers.values():
        variables += optimizer.variables
    arrays = {}
    for number, variable in enumerate(variables):
        value = variable.value
        is_spread = isinstance(value, tf.distribute.DistributedValues)
        for replica, one in enumerate(value.values if is_spread else [value]):
            path = f"{number}: {variable.path}, replica {replica}"
            arrays[path] = keras.ops.convert_to_numpy(one)
    return arrays


def assert_same_bits(array, expected, path=""):
    array, expected = np.atleast_1d(array), np.atleast_1d(expected)
    if np.issubdtype(array.dtype, np.floating):
        # A NaN is a NaN: its sign is that of the operand which came first.
        both = np.isnan(array) & np.isnan(expected)
        array, expected = np.where(both, 0, array), np.where(both, 0, expected)
    bits = f"u{array.dtype.itemsize}"  # as values, -0.0 equals 0.0
    np.testing.assert_array_equal(array.view(bits), expected.view(bits), err_msg=path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_watching_changes_no_bit(case, tmp_path, record_property, caplog):
    caplog.set_level(logging.ERROR, "kbn.callbacks")  # test_monitor: what it says
    verdict = "failing"
    try:
        monitor = TrainingMonitor(tmp_path, **transparency.LOOKS[case.looks])
        refusal = transparency.refusal(case)
        if refusal:
            for callbacks in ([], [monitor]):
                with pytest.raises(refusal.error, match=rf"(?s){refusal.message}"):
                    train(case, callbacks)
            verdict = "that Keras cannot train"
            return
        expected, losses = train(case, [])
        arrays, watched_losses = train(case, [monitor])
        arrays |= {name: np.array(x) for name, x in watched_losses.items()}
        expected |= {name: np.array(x) for name, x in losses.items()}
        bound = transparency.bound(case)
        assert arrays.keys() == expected.keys()
        for path, array in arrays.items():
            if bound is None:
                assert_same_bits(array, expected[path], path)
            else:
                limit = bound.limit * np.abs(expected[path]).max(initial=1)
                np.testing.assert_allclose(array, expected[path], rtol=0, atol=limit)
        looked_at = {tag.split("/")[0] for tag in read_log(tmp_path)}
        assert {*monitor.watch} - {"batch_norm"} <= looked_at
        verdict = "bounded" if bound else "bit-identical"
    finally:
        record_property("transparency", verdict)


# Each layer that a library call of oneDNN can take an activation into, and its inputs.
CONTRACTIONS = {
    "dense": (lambda **k: keras.layers.Dense(7, **k), (12,)),
    "dense-without-bias": (
        lambda **k: keras.layers.Dense(7, use_bias=False, **k),
        (5,),
    ),
    "einsum": (
        lambda **k: keras.layers.EinsumDense("abc,cd->abd", (4, 5), **k),
        (4, 6),
    ),
    "conv1d": (lambda **k: keras.layers.Conv1D(4, 3, **k), (9, 2)),
    "conv2d": (lambda **k: keras.layers.Conv2D(4, 3, **k), (6, 6, 2)),
    "conv3d": (lambda **k: keras.layers.Conv3D(3, 2, **k), (4, 4, 4, 2)),
    "depthwise": (lambda **k: keras.layers.DepthwiseConv2D(3, **k), (6, 6, 3)),
    "separable": (lambda **k: keras.layers.SeparableConv2D(4, 3, **k), (6, 6, 3)),
    "transposed": (lambda **k: keras.layers.Conv2DTranspose(3, 3, **k), (4, 4, 2)),
}
ACTIVATIONS = "tanh sigmoid elu relu relu6 leaky_relu gelu silu mish softplus selu"
ACTIVATIONS = [*ACTIVATIONS.split(), "softsign", "hard_sigmoid", "log_sigmoid"]


def followed(contraction, is_frozen, without=()):
    """A branch for each activation, which follows the layer, then a sum of two."""
    make, shape = CONTRACTIONS[contraction]
    inputs, ends = keras.Input(shape), []
    for name in ACTIVATIONS:
        if name in without:
            continue
        x = make(name=f"before_{name}", trainable=not is_frozen)(inputs)
        y = keras.layers.Activation(name, name=name)(x)
        z = make(name=f"added_{name}", trainable=not is_frozen)(inputs)
        y = keras.layers.Activation(name, name=f"{name}2")(y + z)
        ends.append(keras.layers.Flatten()(y))
    outputs = keras.layers.Dense(3)(keras.layers.Concatenate()(ends))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.002, momentum=0.9), "mse")
    return model, watched_models.rows(*shape), watched_models.rows(3, seed=3)


# Trained and frozen in turn; KBN_TRANSPARENCY=full: each in both.
FUSED = [*itertools.product(CONTRACTIONS, ("trained", "frozen"))]
FUSED = FUSED if transparency.IS_FULL else FUSED[::3] + FUSED[4::6]


@pytest.mark.parametrize(("contraction", "state_of"), FUSED)
def test_a_fused_activation_keeps_its_bits(contraction, state_of, tmp_path):
    # Issue 11, item 6: what oneDNN computes in one call, it did not if it was read.
    def trained(callbacks, without=()):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, x, y = followed(contraction, state_of == "frozen", without)
        fit = {"batch_size": BATCH, "epochs": 3, "verbose": 0}
        model.fit(x, y, callbacks=callbacks, **fit)
        return state(model)

    without = ()
    try:
        expected = trained([])
    except tf.errors.UnimplementedError as error:
        # TensorFlow 2.21 with oneDNN merges a sum and a mish into what it has not.
        if "Fusion is not implemented: [BiasAdd,Add,Mish]" not in error.message:
            raise
        without = ("mish",)
        expected = trained([], without)
    arrays = trained([TrainingMonitor(tmp_path, log_freq=1)], without)
    for path, array in arrays.items():
        assert np.isfinite(array).all()
        assert_same_bits(array, expected[path], path)
    seen = {tag for tag in read_log(tmp_path) if tag.startswith("activations/")}
    assert len(seen) > 4 * (len(ACTIVATIONS) - len(without))


class Counting(keras.layers.Layer):
    """Scales by a factor that a Python function makes anew in each call."""

    def __init__(self):
        super().__init__(name="counting")
        self.calls = 0

    def call(self, x):
        return x * tf.ensure_shape(tf.numpy_function(self.next, [], "float32"), ())

    def next(self):
        self.calls += 1
        return np.float32(1 + self.calls % 7 / 10)


class Noisy(keras.layers.Layer):
    """Noise of `tf.random`, whose state belongs to a traced function."""

    def call(self, x):
        return x + tf.random.normal(tf.shape(x), stddev=0.1)


def stateful(layer, monitors, **options):
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, name="hidden")
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((6,)), hidden, norm, layer])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse", **options)
    x, y = watched_models.rows(6), watched_models.rows(1, seed=3)
    fit = {"batch_size": BATCH, "epochs": 3, "verbose": 0}
    history = model.fit(x, y, callbacks=monitors, **fit)
    return state(model), history.history["loss"]


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
def test_a_python_function_is_called_as_often_as_unwatched(eager, tmp_path):
    # Issue 11, item 6. The loss of both modes would be one more call: it is left out.
    free, watched = Counting(), Counting()
    expected, _ = stateful(free, [], run_eagerly=eager)
    monitor = TrainingMonitor(tmp_path, log_freq=2)
    arrays, _ = stateful(watched, [monitor], run_eagerly=eager)
    assert watched.calls == free.calls
    for path, array in arrays.items():
        assert_same_bits(array, expected[path], path)


@pytest.mark.parametrize("looks", ["none", "some"])
def test_random_numbers_of_tensorflows_own_are_others_in_a_look(looks, tmp_path):
    # Issue 11, item 6: not curable, for a look is a function with a counter of its own.
    expected, losses = stateful(Noisy(), [])
    due = (lambda step: False) if looks == "none" else 2
    arrays, watched = stateful(Noisy(), [TrainingMonitor(tmp_path, log_freq=due)])
    if looks == "none":
        for path, array in arrays.items():
            assert_same_bits(array, expected[path], path)
    # Noise of the same size: the losses differ by less than it does.
    np.testing.assert_allclose(watched, losses, rtol=0.1)


def test_the_matrix_meets_every_pair_of_modes():
    assert {case.kind for case in CASES} == set(watched_models.KINDS)
    levels = [
        ("graph", "eager", "steps-2", "steps-3", "mirrored"),
        transparency.PRECISIONS,
        tuple(transparency.OPTIMIZERS),
        transparency.DATA,
        tuple(transparency.LOOKS),
    ]
    trained = [case for case in CASES if not transparency.refusal(case)]
    for i, one in enumerate(levels):
        for j, other in enumerate(levels[:i]):
            met = {(case[j + 1], case[i + 1]) for case in trained}
            missed = {(a, b) for a in other for b in one} - met
            cannot = {("mirrored", "accumulation"), ("mirrored", "ema")}
            varies = {tuple(where.values()) for where in transparency.KERAS_VARIES}
            assert missed <= cannot | varies


def test_a_difference_of_one_bit_is_found():
    array = np.array([0.0, 1.0], "float32")
    assert_same_bits(array, array.copy())
    with pytest.raises(AssertionError):
        assert_same_bits(array, np.array([-0.0, 1.0], "float32"))
    with pytest.raises(AssertionError):
        assert_same_bits(array, np.nextafter(array, 2))
    assert Case("gan", "eager", data="generator").__str__() == "gan-eager-generator"
