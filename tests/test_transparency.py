"""Watching changes no bit: the matrix of `transparency.py`, with and without a monitor.

Every weight, moving statistic, seed, metric and optimizer variable, on every replica,
and the history of the losses are compared by their bits after two epochs from one seed.
Below the matrix: what belongs to a traced function or to Python, and kinds of data.
"""

import contextlib
import logging
import random

import keras
import numpy as np
import pytest

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.watch.inventory import Inventory
from tests import transparency, watched_models
from tests.event_files import read_log
from tests.transparency import BACKEND, Case
from tests.watched_models import BATCH, ROWS

if BACKEND == "tensorflow":
    import tensorflow as tf

    from tests.replicas import two_replicas

needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's")

STEPS = -(-ROWS // BATCH)  # per epoch, the last one short
CASES = transparency.cases()
SHORT = transparency.short_cases()
MATRIX = [
    pytest.param(case, marks=[] if case in SHORT else pytest.mark.long)
    for case in (*CASES, *transparency.further_cases())
]
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
    batches = list(batches_of(arrays))
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
        "unknown-length": lambda: {"x": of_unknown_length(arrays), **once},
        "validation": lambda: {**in_arrays, "validation_split": 0.3},
        "class-weight": lambda: {**in_arrays, "class_weight": {0: 1.0, 1: 2.0, 2: 3.0}},
        "sample-weight": lambda: {
            **in_arrays,
            "sample_weight": {name: weight for name in y}
            if isinstance(y, dict)
            else weight,
        },
    }[data]()


def batches_of(arrays):
    for start in range(0, ROWS, BATCH):
        yield keras.tree.map_structure(lambda x: x[start : start + BATCH], arrays)  # noqa: B023


def of_unknown_length(arrays):
    if BACKEND != "tensorflow":
        return batches_of(arrays)  # Keras learns it at the end of the first epoch
    whole = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
    return whole.filter(lambda *_: True)


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
        values = getattr(value, "values", None)  # of torch, a method
        for replica, one in enumerate(values if isinstance(values, tuple) else [value]):
            path = f"{number}: {variable.path}, replica {replica}"
            arrays[path] = keras.ops.convert_to_numpy(one)
    return arrays


def assert_same_bits(arrays, expected):
    """Of {path: array}."""
    for path, array in arrays.items():
        array, other = np.atleast_1d(array), np.atleast_1d(expected[path])
        if np.issubdtype(array.dtype, np.floating):
            # A NaN is a NaN: its sign is that of the operand which came first.
            both = np.isnan(array) & np.isnan(other)
            array, other = np.where(both, 0, array), np.where(both, 0, other)
        bits = f"u{array.dtype.itemsize}"  # as values, -0.0 equals 0.0
        np.testing.assert_array_equal(array.view(bits), other.view(bits), err_msg=path)


@pytest.mark.parametrize("case", MATRIX, ids=str)
def test_watching_changes_no_bit(case, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "kbn.callbacks")  # test_monitor: what it says
    monitor = TrainingMonitor(tmp_path, **transparency.LOOKS[case.looks])
    refusal = transparency.refusal(case)
    if refusal:
        for callbacks in ([], [monitor]):
            with pytest.raises(refusal.error, match=rf"(?s){refusal.message}"):
                train(case, callbacks)
        return
    expected, losses = train(case, [])
    arrays, watched_losses = train(case, [monitor])
    arrays |= {name: np.array(x) for name, x in watched_losses.items()}
    expected |= {name: np.array(x) for name, x in losses.items()}
    assert arrays.keys() == expected.keys()
    assert_same_bits(arrays, expected)
    looked_at = {tag.split("/")[0] for tag in read_log(tmp_path)}
    assert {*monitor.watch} - {"batch_norm"} <= looked_at


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


def stateful(layer, *fits, **options):
    """The state after a fit with each of these lists of callbacks, and the losses."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(8, name="hidden")
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((6,)), hidden, norm, layer])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse", **options)
    x, y = watched_models.rows(6), watched_models.rows(1, seed=3)
    fit = {"batch_size": BATCH, "epochs": 3, "verbose": 0}
    for monitors in fits:
        history = model.fit(x, y, callbacks=monitors, **fit)
    return state(model), history.history["loss"]


@needs_tensorflow
def test_a_python_function_called_eagerly_is_called_as_often(tmp_path):
    free, watched = Counting(), Counting()
    expected, _ = stateful(free, [], run_eagerly=True)
    monitor = TrainingMonitor(tmp_path, log_freq=2)
    arrays, _ = stateful(watched, [monitor], run_eagerly=True)
    assert watched.calls == free.calls
    assert_same_bits(arrays, expected)


@needs_tensorflow
def test_a_python_function_in_the_graph_is_called_once_more_at_a_look(tmp_path):
    # The one thing that can tell: its result reaches what is shown.
    free, watched = Counting(), Counting()
    stateful(free, [])
    monitor = TrainingMonitor(tmp_path, log_freq=4)
    stateful(watched, [monitor])
    assert watched.calls == free.calls + len(monitor.history["loss/train"][0])


class Drawing(keras.layers.Layer):
    """A Python function in the graph that draws from the process's generators."""

    def call(self, x):
        noise = tf.numpy_function(self.draw, [], "float32")
        return x + tf.ensure_shape(noise, (8,))

    def draw(self):
        return np.float32(np.random.normal(size=8) + random.random())


class Tracing(keras.layers.Layer):
    """What it computes is what its Python was when it was traced."""

    def __init__(self):
        super().__init__()
        self.traces, self.factor, self.seen = 0, 1.0, None

    def call(self, x):
        self.traces += 1
        self.factor *= 0.9
        self.seen = x
        return x * self.factor


class Generating(keras.layers.Layer):
    """Noise of a `tf.random.Generator`, which is a variable."""

    def __init__(self):
        super().__init__()
        self.generator = tf.random.Generator.from_seed(3)

    def call(self, x):
        return x + self.generator.normal(tf.shape(x), stddev=0.1)


class Twice(keras.layers.Layer):
    """Draws twice from one seed generator, and writes to a variable of its own."""

    def build(self, shape):
        self.seeds = keras.random.SeedGenerator(7)
        self.steps = self.add_weight(shape=(), trainable=False)

    def call(self, x):
        for _ in range(2):
            x = keras.random.dropout(x, 0.2, seed=self.seeds)
            self.steps.assign_add(1.0)
        return x * (1 + self.steps * 0.01)


class Printing(keras.layers.Layer):
    def call(self, x):
        tf.print("printed", output_stream="file://" + self.file)
        return x


KINDS = (Tracing, Twice)
if BACKEND == "tensorflow":
    KINDS += (Noisy, Drawing, Generating)
STATEFUL = {x.__name__: x for x in KINDS}
MODES = {"graph": {}, "xla": {"jit_compile": True}, "steps-2": {}, "eager": {}}
MODES["steps-2"] = {"steps_per_execution": 2}
MODES["eager"] = {"run_eagerly": True}
MODES = {name: MODES[name] for name in MODES if name in transparency.EXECUTIONS}


@pytest.mark.parametrize("before", ["new", "traced before"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", STATEFUL)
def test_state_of_a_function_or_of_python_keeps_its_bits(kind, mode, before, tmp_path):
    if mode == "xla" and kind in ("Drawing", "Generating", "Noisy"):
        pytest.skip("XLA has no Python functions, and draws other noise each time")

    def train(monitors):
        random.seed(0)
        layer = STATEFUL[kind]()
        first = [[]] if before == "traced before" else []
        return stateful(layer, *first, monitors, **MODES[mode]), layer

    (expected, losses), free = train([])
    (arrays, watched), layer = train([TrainingMonitor(tmp_path, log_freq=2)])
    assert arrays.keys() == expected.keys()
    assert_same_bits(arrays, expected)
    assert watched == losses
    if kind == "Tracing":
        assert (layer.traces, layer.factor) == (free.traces, free.factor)
    assert any(tag.startswith("gradients/") for tag in read_log(tmp_path))


@needs_tensorflow
def test_a_look_prints_nothing(tmp_path):
    lines = []
    for name, monitors in (("free", []), ("watched", [TrainingMonitor(tmp_path)])):
        layer = Printing()
        layer.file = str(tmp_path / f"{name}.txt")
        stateful(layer, monitors)
        lines.append((tmp_path / f"{name}.txt").read_text().count("printed"))
    assert lines[0] == lines[1] > 0


def ragged_model():
    inputs = keras.Input((None,), dtype="int32", ragged=True)
    x = keras.layers.Embedding(9, 4)(inputs)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(1)(x))


def sparse_model():
    inputs = keras.Input((6,), sparse=True)
    return keras.Model(inputs, keras.layers.Dense(1)(inputs))


def named_model():
    inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
    x = keras.layers.Concatenate()([inputs["right"], inputs["left"]])
    return keras.Model(inputs, keras.layers.Dense(1)(x))


class WithoutTargets(keras.Model):
    """Its data have no targets; its optional second input is None."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x, training=False):
        given, optional = x
        assert optional is None
        return self.dense(given)

    def train_step(self, data):
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(x, training=True) ** 2)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def optionals():
    for index in range(8):
        x = np.random.default_rng(index).normal(size=(5 - index % 2, 3))
        yield ((x.astype("float32"), None),)


# Keras on the other backends has no ragged tensors, and takes no None in a batch.
DATA_KINDS = ["named", *(["ragged", "sparse", "none"] * (BACKEND == "tensorflow"))]


def data_of(kind):
    x, y = watched_models.rows(6), watched_models.rows(1, seed=3)
    if kind == "ragged":
        lengths = 1 + np.arange(len(x)) % 5
        x = tf.RaggedTensor.from_row_lengths(np.arange(lengths.sum()) % 9, lengths)
    elif kind == "sparse":
        x = tf.sparse.from_dense(x * (x > 0))
    elif kind == "named":
        x = {"right": x[:, :3], "left": x[:, 3:]}
    elif kind == "none":
        return optionals()
    if BACKEND != "tensorflow":
        return Batches([*batches_of((x, y))])
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


@pytest.mark.parametrize("mode", [x for x in MODES if x != "xla"])
@pytest.mark.parametrize("kind", DATA_KINDS)
def test_data_of_every_kind_come_back_as_they_were(kind, mode, tmp_path):
    makes = {"ragged": ragged_model, "sparse": sparse_model, "named": named_model}

    def train(callbacks):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model = makes.get(kind, WithoutTargets)()
        model.compile("sgd", "mse", jit_compile=False, **MODES[mode])
        fit = {"epochs": 2, "verbose": 0, "shuffle": False, "steps_per_epoch": 4}
        model.fit(data_of(kind), callbacks=callbacks, **fit)
        return state(model)

    expected = train([])
    arrays = train([TrainingMonitor(tmp_path, log_freq=2)])
    assert_same_bits(arrays, expected)
    assert any(tag.startswith("gradients/") for tag in read_log(tmp_path))


USUAL = ("graph", "eager", "steps-2", "steps-3", "mirrored")


def test_the_matrix_meets_every_pair_of_modes():
    assert {case.kind for case in CASES} == set(watched_models.KINDS)
    levels = [
        [x for x in transparency.EXECUTIONS if x in USUAL],
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
    assert_same_bits({"": array}, {"": array.copy()})
    for other in (np.array([-0.0, 1.0], "float32"), np.nextafter(array, 2)):
        with pytest.raises(AssertionError):
            assert_same_bits({"": array}, {"": other})
    assert Case("gan", "eager", data="generator").__str__() == "gan-eager-generator"
