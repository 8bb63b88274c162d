"""What rules know of layers, of activations and of inputs: the families as tables."""

import math

import keras
import numpy as np
import pytest
from keras import activations, layers, ops

import kbn
from kbn.callbacks.signals import rows
from kbn.callbacks.signals.activations import dead_units
from kbn.callbacks.signals.data import columns_of
from kbn.callbacks.signals.record import Record
from kbn.callbacks.signals.statistics import summarize
from kbn.callbacks.signals.subjects import Output, Target
from kbn.callbacks.watch.activations import (
    ACTIVATIONS,
    Activation,
    Activity,
    activation_of,
)
from kbn.callbacks.watch.description import Met, describe
from kbn.callbacks.watch.inputs import first_of_each
from kbn.callbacks.watch.inventory import Inventory
from kbn.callbacks.watch.layers import kinds_of

RANDOM = np.random.default_rng(0)

# --- kinds ---

KINDS = {
    "Embedding": (5, 3),
    "Rescaling": (0.1,),
    "BatchNormalization": (),
    "SpatialDropout1D": (0.5,),
    "GRUCell": (2,),
    "Conv2D": (2, 3),
    "ReLU": (),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_what_its_subclass_is(kind):
    known = getattr(layers, kind)
    own = type("Own", (known,), {"__module__": "somebodys"})
    more = type("More", (own,), {})
    assert all(kind in kinds_of(one(*KINDS[kind])) for one in (known, own, more))
    record = Record({"layers": [{"name": "a", "is": kinds_of(more(*KINDS[kind]))}]})
    assert record.is_a(kind, "a#1")
    assert not record.is_a("InputLayer", "a")


def test_a_reversible_embedding_is_an_embedding():
    assert "Embedding" in kinds_of(layers.ReversibleEmbedding(5, 3))


def test_kbns_batch_norm_is_a_batch_norm_and_an_own_layer_is_nothing():
    assert kinds_of(kbn.BatchNorm()) == ["BatchNormalization"]
    assert kinds_of(type("Own", (layers.Layer,), {})()) == []


def test_tables_stand_in_the_record():
    class Tables(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(5, 3), name="table")
            self.kernel = self.add_weight(shape=(3, 2), name="kernel")

        def call(self, ids):
            return ops.take(self.table, ids, axis=0) @ self.kernel

    model = keras.Sequential([keras.Input((2,), dtype="int32"), Tables(name="tables")])
    path = model.layers[0].table.path
    record = Record(describe(model, Inventory(model), Met(tables={path})))
    assert record.is_table(path)
    assert not record.is_kernel(path)
    assert record.is_kernel(model.layers[0].kernel.path)


# --- flat ends ---

# Flat nowhere, or not a function of one number; exponential: it is the ratio of its
# outputs that counts, and that follows the input anywhere.
NONE_KNOWN = {"linear", "leaky_relu", "exponential", "tanh_shrink"}
NONE_KNOWN |= {"softmax", "log_softmax", "sparsemax", "glu"}
FUNCTIONS = {
    name: one
    for name, one in vars(activations).items()
    if callable(one) and name not in ("get", "serialize", "deserialize")
}


def slopes(function, x, by=1e-3):
    """Slope at x, by a difference over `2 * by`."""
    ends = (
        np.asarray(function(ops.convert_to_tensor(x + d)))
        for d in np.float32([by, -by])
    )
    above, below = (end.astype("float64") for end in ends)
    return (above - below) / (2 * by)


@pytest.mark.parametrize("name", sorted({*FUNCTIONS} - NONE_KNOWN))
def test_flat_ends_of_every_activation_of_keras(name):
    more = (1.0, 0.0) if name == "threshold" else ()
    function = lambda x: FUNCTIONS[name](x, *more)  # noqa: E731
    known = ACTIVATIONS[FUNCTIONS[name].__name__]
    far = np.float32(3000 if name == "squareplus" else 60)
    ends = np.array([-far, far], np.float32)
    if name in ("softsign",):
        ends *= 100
    values = np.asarray(function(ops.convert_to_tensor(ends)))
    is_flat = np.abs(slopes(function, ends, by=1.0)) < 1e-3
    if "shrink" in name:
        values, is_flat = np.asarray([0.0, 1.0]), [True, False]
    low, high = known.flat or (-math.inf, math.inf)
    at_rest = [
        known.rest is not None and abs(value - known.rest) <= known.within
        for value in values
    ]
    is_outside = (values < low) | (values > high)
    np.testing.assert_array_equal(at_rest | is_outside, is_flat)
    # What is taken for flat is so, but for a sliver before a corner.
    x = np.linspace(-20, 20, 4001, dtype=np.float32)
    given = np.asarray(function(ops.convert_to_tensor(x)))
    taken = (given < low) | (given > high)
    assert np.sum(np.abs(slopes(function, x)[taken]) > 0.05) <= 0.01 * taken.sum()


def test_activations_without_flat_ends_are_in_no_row():
    names = {FUNCTIONS[name].__name__ for name in NONE_KNOWN}
    assert not names & {*ACTIVATIONS}


FORMS = {
    "string": lambda name: layers.Activation(name),
    "function": lambda name: layers.Activation(getattr(activations, name)),
    "argument of Dense": lambda name: layers.Dense(2, activation=name),
    "argument of Conv": lambda name: layers.Conv1D(2, 1, activation=name),
    "a layer as argument": lambda name: layers.Dense(
        2, activation=layers.Activation(name)
    ),
    "subclass": lambda name: type("Own", (layers.Dense,), {})(2, activation=name),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", sorted({*ACTIVATIONS} - {"threshold"}))
def test_an_activation_is_known_in_every_form(form, name):
    assert activation_of(FORMS[form](name)) == ACTIVATIONS[name]


@pytest.mark.parametrize("name", sorted({*ACTIVATIONS} & {*dir(ops)}))
def test_an_activation_of_a_functional_model_is_known(name):
    inputs = keras.Input((3,))
    more = (1.0, 0.0) if name == "threshold" else ()
    model = keras.Model(inputs, getattr(ops, name)(inputs, *more))
    found = [activation_of(x) for x in Inventory(model).layers.values()]
    assert [x.name for x in found if x] == [name]


class Capped(layers.ReLU):
    pass


@pytest.mark.parametrize(
    ("layer", "known"),
    [
        (layers.ReLU(), Activation("relu", 0.0)),
        (Capped(6), Activation("relu", 0.0, flat=(-math.inf, 0.999 * 6))),
        (layers.ReLU(2, 0.1), Activation("relu", flat=(-math.inf, 0.999 * 2))),
        (layers.ReLU(negative_slope=0.1), None),
        (layers.ELU(2.0), Activation("elu", flat=(-0.99 * 2, math.inf))),
        (layers.LeakyReLU(), None),
        (layers.PReLU(), None),
        (layers.Softmax(), None),
    ],
)
def test_layers_with_an_end_of_their_own(layer, known):
    assert activation_of(layer) == known


@pytest.mark.parametrize("on", ["numpy", "tensorflow"])
@pytest.mark.parametrize("name", ["relu", "silu", "threshold"])
def test_units_at_rest_are_counted(on, name):
    known = Activation("threshold", -2.0) if name == "threshold" else ACTIVATIONS[name]
    x = RANDOM.normal(1, 0.1, (4, 5, 3)).astype("float32")
    x[..., 1] = known.rest + known.within / 2
    x[0, 0, 1] = 7
    if on == "tensorflow":
        x = pytest.importorskip("tensorflow").constant(x)
    row = rows.active_row(x, -1, known.rest, known.within)
    np.testing.assert_array_equal(row, [20, 20, 1, 20])


# --- dead units over several batches ---


def output(*active, elements=16):
    counts = np.array([[elements, *active]], np.float64)
    return Output("relu", "relu", rows={dead_units.tag: counts})


def dead(subjects):
    (found,) = [x for x in subjects if isinstance(x, Output)]
    return dead_units.of_subject(found)


def test_a_unit_that_is_active_in_another_batch_is_not_dead():
    activity = Activity()
    looks = [output(0, 9, 0), output(9, 0, 0), output(9, 9, 0)]
    shares = [dead(activity.over_looks([one], 32)) for one in looks]
    assert shares == [pytest.approx(x / 3) for x in (2, 1, 1)]


def test_a_unit_that_has_died_is_dead_after_three_looks():
    activity = Activity()
    looks = [output(9, 9), *[output(0, 9)] * 3]
    assert [dead(activity.over_looks([x], 32)) for x in looks] == [0, 0, 0, 0.5]


def test_small_batches_are_kept_until_there_are_64_examples():
    activity = Activity()
    looks = [output(1, elements=4), *[output(0, elements=4)] * 16]
    shares = [dead(activity.over_looks([x], 4)) for x in looks]
    assert shares == [0] * 16 + [1]


@pytest.mark.parametrize(("label", "share"), [([3, 3, 3], None), ([3, 3, 4], 0.5)])
def test_a_batch_of_one_class_tells_nothing_of_units(label, share):
    target = Target("y", summary=summarize(np.array(label), 3))
    assert dead(Activity().over_looks([target, output(0, 9)], 32)) == share


# --- what becomes of an input ---


class Own(layers.Layer):
    def call(self, x):
        return x / 255


class Calls(keras.Model):
    """No graph: its layers are called one by one."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return {}


def functional(make, *, dtype="float32", shape=(4, 4, 3)):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, make(inputs))


def backbone(*first):
    return keras.Sequential([keras.Input((4, 4, 3)), *first, layers.Conv2D(2, 1)])


def conv(**options):
    return layers.Conv2D(2, 1, name="conv", **options)


def chain(*parts):
    return lambda: keras.Sequential([keras.Input((4, 4, 3)), *parts])


AUGMENTATION = [
    lambda: layers.RandomRotation(0.1),
    lambda: layers.Resizing(4, 4),
    lambda: layers.Permute((1, 2, 3)),
    lambda: layers.ZeroPadding2D(1),
    lambda: layers.MaxPooling2D(2),
    lambda: layers.Dropout(0.1),
    lambda: layers.ReLU(),
]
SCALING = [
    lambda: layers.Rescaling(1 / 255),
    lambda: type("Half", (layers.Rescaling,), {})(0.5),
    lambda: layers.Normalization(),
    lambda: kbn.BatchNorm(),
    lambda: layers.GroupNormalization(3),
    lambda: layers.Activation("sigmoid"),
    lambda: layers.TimeDistributed(layers.Rescaling(0.5)),
]
FATES = {
    "kernel": [
        chain(conv()),
        *[chain(one(), conv()) for one in AUGMENTATION],
        chain(layers.Flatten(), layers.Dense(2)),
        chain(conv(activation="tanh"), layers.BatchNormalization()),
        chain(type("Mine", (layers.Conv2D,), {})(2, 1)),
        chain(layers.Reshape((16, 3)), layers.LSTM(2)),
        chain(layers.Reshape((16, 3)), layers.Bidirectional(layers.GRU(2))),
        chain(layers.TimeDistributed(layers.Dense(2))),
        lambda: functional(lambda x: backbone()(x)),
        lambda: functional(lambda x: conv()(ops.reshape(x, (-1, 4, 4, 3)))),
        lambda: functional(lambda x: conv()(x), dtype="uint8"),
        lambda: functional(lambda x: layers.Concatenate()([conv()(x), x * 0.1])),
        lambda: Calls(layers.RandomFlip(), conv()),
    ],
    "scaled": [
        *[chain(one(), conv()) for one in SCALING],
        *[chain(one(), layers.Rescaling(0.1), conv()) for one in AUGMENTATION],
        chain(conv(), layers.BatchNormalization()),
        chain(conv(activation="relu"), layers.MaxPooling2D(), kbn.BatchNorm()),
        lambda: functional(lambda x: backbone(layers.Rescaling(0.1))(x)),
        lambda: functional(
            lambda x: backbone()(functional(lambda y: layers.Rescaling(0.1)(y))(x))
        ),
        lambda: functional(lambda x: conv()(x / 255.0)),
        lambda: Calls(layers.RandomFlip(), layers.Rescaling(0.1), conv()),
    ],
    "index": [
        lambda: functional(layers.Embedding(9, 2), shape=(4,)),
        lambda: functional(type("T", (layers.Embedding,), {})(9, 2), shape=(4,)),
        lambda: functional(
            lambda x: ops.take(np.ones((9, 2)), x, axis=0), shape=(4,), dtype="int32"
        ),
        lambda: functional(
            lambda x: layers.Dense(2)(ops.one_hot(x, 9)), shape=(4,), dtype="int32"
        ),
        lambda: functional(
            lambda x: layers.Dense(2)(layers.CategoryEncoding(9)(x)), shape=(4,)
        ),
    ],
    "unknown": [
        chain(Own(), conv()),
        chain(layers.Lambda(lambda x: x / 255, output_shape=(4, 4, 3)), conv()),
        lambda: OwnStep([keras.Input((4, 4, 3)), conv()]),
        lambda: Calls(Own(), conv()),
    ],
}


@pytest.mark.parametrize(
    ("fate", "make"),
    [(fate, make) for fate, several in FATES.items() for make in several],
    ids=[f"{k}-{i}" for k, several in FATES.items() for i in range(len(several))],
)
def test_what_becomes_of_an_input(fate, make):
    model = make()
    layers_ = Inventory(model).layers
    if isinstance(model, Calls):
        model(np.zeros((2, 4, 4, 3)))
        layers_ = {layer.name: layer for layer in model.parts}
    found = first_of_each(model, {"x": False}, layers_)
    assert found["x"]["fate"] == fate
    if fate == "kernel":
        assert found["x"]["layer"] in layers_


def test_inputs_are_told_one_by_one():
    a, b, c = (keras.Input((3,), name=name) for name in "abc")
    tower = layers.Flatten()(layers.Embedding(9, 2)(c))
    both = layers.Concatenate()([tower, a, layers.Rescaling(0.1)(b)])
    outputs = layers.Dense(1, name="first")(both)
    known = {"a": "kernel", "b": "scaled", "c": "index"}
    for inputs in ({"c": c, "a": a, "b": b}, [a, b, c]):
        model = keras.Model(inputs, outputs)
        names = "abc" if isinstance(inputs, dict) else "012"
        given = dict.fromkeys(names, False)
        found = first_of_each(model, given, Inventory(model).layers)
        fates = [one["fate"] for one in found.values()]
        assert fates == [*known.values()]
        assert found[names[0]]["layer"] == "first"


def test_inputs_of_no_graph_are_told_of_only_where_there_is_one():
    parts = {"table": layers.Embedding(9, 2), "dense": layers.Dense(2)}
    parts["dense"].build((2, 2))

    def fates(**given):
        found = first_of_each(Calls(), given, parts)
        return [one["fate"] for one in found.values()]

    assert fates(ids=True) == ["unknown"]
    assert fates(ids=True, numbers=False) == ["unknown", "kernel"]
    assert fates(one=False, other=False) == ["unknown", "unknown"]


# --- columns ---

COLUMNS = {
    "alike": ([0, 1, 2], [1, 1, 1], (2, 2, 1, 0, 1.29)),
    "one is constant": ([0, 1e6, 0], [1, 0, 1], (1, 1e6, 0, 2 / 3, 7.07e5)),
    "one is huge": ([0, 0, 0], [1, 1e8, 1], (1, 0, 1e4, 2 / 3, 0)),
    "zeros at a border": ([0, 0, 5], [0, 0, 1], (2, 5, 1, 0, 5)),
    "all far from 0": ([100, 100], [1, 1], (0, 100, 1, 0, 100)),
    "nothing but constants": ([1, 1], [0, 0], (0, 1, 0, 0, math.nan)),
    "a NaN": ([math.nan, 2], [math.nan, 1], (1, 2, 1, 0, 2)),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_of_an_input(case):
    mean, variance, expected = COLUMNS[case]
    found = columns_of(8, np.array(mean, float), np.array(variance, float))
    np.testing.assert_allclose(found, expected, rtol=1e-2)


# --- trainings: what is said of inputs, and of a NaN among them ---


def table(columns=6, rows=96):
    x = RANDOM.normal(size=(rows, columns)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32")


def scaled(x):
    return x


def images(x):
    return 100 + 80 * x


def one_huge(x):
    return x * np.array([1, 1, 1e5, 1, 1, 1], "float32")


def one_constant(x):
    x = x.copy()
    x[:, 4] = 1e6
    return x


def watched(x, y, tmp_path, *first, optimizer="adam", log_freq="auto", epochs=2):
    keras.utils.set_random_seed(0)
    head = [layers.Dense(8, "relu", name="hidden"), layers.Dense(2, "softmax")]
    model = keras.Sequential([keras.Input(x.shape[1:]), *first, *head])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    monitor = kbn.callbacks.TrainingMonitor(tmp_path, log_freq=log_freq)
    fit = {"batch_size": 16, "epochs": epochs, "verbose": 0}
    model.fit(x, y, callbacks=[monitor], **fit)
    return monitor


@pytest.mark.parametrize("is_normalized", [False, True])
@pytest.mark.parametrize(
    ("change", "rate", "levels"),
    [
        (scaled, 0.0, set()),
        (scaled, 0.05, set()),
        (images, 0.0, {"info"}),
        (images, 0.05, {"warning"}),
        (one_huge, 0.0, {"warning"}),
        (one_constant, 0.0, {"warning"}),
    ],
)
def test_a_scale_is_a_warning_where_it_harms(
    change, rate, levels, is_normalized, tmp_path
):
    x, y = table()
    x = change(x)
    first = []
    if is_normalized:
        first, levels = [layers.Normalization()], set()
        first[0].adapt(x)
    optimizer = keras.optimizers.SGD(rate) if rate else "adam"
    monitor = watched(x, y, tmp_path, *first, optimizer=optimizer)
    found = [one for one in monitor.alerts if one.rule == "input_scale"]
    moved = monitor.history["update_ratio/sequential/hidden/kernel"][1]
    if change is images and not is_normalized and not any(moved):
        levels = {"warning"}  # its first outputs are 0 and 1: no gradient passes
    assert {one.level for one in found[-1:]} == levels
    number = {one_huge: 2, one_constant: 4}.get(change)
    if levels and number is not None:
        assert found[0].step == 1
        assert f"its largest column, {number}," in found[0].message
        dropped = f"Drop column {number}" in found[0].message
        assert dropped == (change is one_constant)


@pytest.mark.parametrize("part", ["inputs/x", "targets/y"])
@pytest.mark.parametrize("log_freq", ["epoch", 3])
def test_a_nan_in_the_data_is_found_when_it_comes_again(log_freq, part, tmp_path):
    x, y = table()
    y = y.astype("float32")
    (x if part == "inputs/x" else y[:, None])[50, 0] = math.nan
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu")])
    model.add(layers.BatchNormalization())  # whose statistics are not searched
    model.add(layers.Dense(1))
    model.compile("sgd", lambda y, p: ops.where(ops.isnan(p - y), 0.0, p - y) ** 2)
    monitor = kbn.callbacks.TrainingMonitor(tmp_path, log_freq=log_freq)
    # Weights that are NaN although the loss is finite.
    nan = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            model.layers[0].kernel.assign([[math.nan] * 8] * 6) if batch == 3 else None
        )
    )
    fit = {"batch_size": 16, "epochs": 3, "verbose": 0, "shuffle": False}
    model.fit(x, y, callbacks=[nan, monitor], **fit)
    (alert,) = [one for one in monitor.alerts if one.rule == "non_finite_data"]
    assert (alert.where, alert.step, alert.is_open) == (part[-1], 10, True)
    assert "1 element of the" in alert.message
    tag = f"health/non_finite/{part}"
    assert monitor.history[tag][0][0] == 10
    # Nothing else is written of the steps that were only searched.
    looked = {"epoch": {1, 7, 13}, 3: {3, 6, 9, 12, 15, 18}}[log_freq]
    assert {*monitor.history["inputs/x/mean"][0]} == looked


def test_data_without_a_nan_are_searched_for_two_epochs(tmp_path):
    x, y = table()
    keras.utils.set_random_seed(0)
    bias = keras.initializers.Constant(math.nan)
    head = layers.Dense(1, bias_initializer=bias)
    model = keras.Sequential([keras.Input((6,)), head])
    model.compile("sgd", lambda y, p: ops.where(ops.isnan(p), 0.0, p))
    monitor, searched = kbn.callbacks.TrainingMonitor(tmp_path), []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: searched.append(
            monitor._run.search.is_on
        )
    )
    fit = {"batch_size": 16, "epochs": 3, "verbose": 0}
    model.fit(x, y, callbacks=[monitor, note], **fit)
    assert not [one for one in monitor.alerts if one.rule == "non_finite_data"]
    assert searched == [*[True] * 12, *[False] * 6]
