"""kbn.check: what it finds before a training, what it lets pass, and what it leaves."""

import random

import keras
import numpy as np
import pytest
from keras import layers, ops

import kbn
from kbn.callbacks.alerts.follow import Follower
from kbn.callbacks.check import examples, rules
from kbn.callbacks.check.labels import faults
from kbn.callbacks.check.lines import Check, Line
from kbn.callbacks.watch.targets import Supervision, progress

BACKEND = keras.backend.backend()
SPARSE = "sparse_categorical_crossentropy"
rng = np.random.default_rng(0)
X = rng.normal(size=(192, 6)).astype("float32")
Y = (X[:, :3].argmax(axis=1)).astype("int64")  # 3 classes
NUMBERS = X[:, :1] + 2 * X[:, 1:2]


def model(*inner, last="softmax", units=3, loss=SPARSE, shape=(6,), optimizer=None):
    made = keras.Sequential([keras.Input(shape), *inner])
    made.add(layers.Dense(units, activation=last))
    made.compile(optimizer or keras.optimizers.Adam(1e-2), loss)
    return made


def hidden(**options):
    return layers.Dense(16, **{"activation": "relu", **options})


def names(found):
    """Rules of warnings and graver."""
    return {alert.rule for alert in found.alerts if alert.level != "info"}


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(3)


# --- what it finds ---


class Mixing(layers.Layer):
    """Takes the mean over the batch away, in evaluation too."""

    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)


class Cut(layers.Layer):
    """Lets no gradient pass."""

    def call(self, x):
        return ops.stop_gradient(x)


class Constant(layers.Layer):
    """Forgets its input."""

    def call(self, x):
        return 0 * x + 1


def not_a_number(y, y_pred):
    return ops.log(0 * y_pred[:, 0] - 1)


def with_nan(x):
    x = np.array(x, "float32")
    x[100].reshape(-1)[0] = np.nan
    return x


def small(loss="mse", **options):
    return lambda: model(hidden(), last=None, units=1, loss=loss, **options)


# (rule, line, model), and x, y where they are others
SICK = {
    "softmax left out": ("output_mismatch", "targets", lambda: model(last=None)),
    "NaN in one input": ("non_finite_data", "data", lambda: model(), with_nan(X), Y),
    "NaN in one target": ("non_finite_data", "data", small(), X, with_nan(NUMBERS)),
    "targets around 1e3": ("target_scale", "targets", small(), X, NUMBERS + 1e3),
    "weights of 0": (
        "poor_init",
        "weights",
        lambda: model(hidden(kernel_initializer="zeros")),
    ),
    "a loss that is NaN": (
        "non_finite",
        "gradients",
        lambda: model(hidden(), loss=not_a_number),
    ),
    "no gradient passes": (
        "unchanged_weight",
        "gradients",
        lambda: model(hidden(), Cut()),
    ),
    "the input is lost": (
        "ignores_input",
        "inputs",
        lambda: model(Constant(), hidden()),
    ),
    "examples mix": (
        "mixed_examples",
        "examples",
        lambda: model(hidden(), Mixing(), hidden()),
    ),
    "labels that nothing tells apart": (
        "not_by_heart",
        "by heart",
        lambda: model(hidden()),
        np.repeat(X[:1], 192, axis=0) + 1e-4 * X,
        Y,
    ),
    "Adam at 1e-6": (
        "learning_rate_too_low",
        "first steps",
        lambda: model(hidden(), optimizer=keras.optimizers.Adam(1e-6)),
    ),
    "batch norm at 0.999": (
        "bn_stats_cold",
        "batch norm",
        lambda: model(
            layers.Dense(16),
            layers.BatchNormalization(momentum=0.999),
            layers.Activation("relu"),
        ),
        0.1 * X + 1,
        Y,
    ),
    "batch norm, batches of 1": (
        "bn_small_batch",
        "batch norm",
        lambda: model(layers.Dense(16), layers.BatchNormalization(momentum=0.9)),
    ),
}
SHORT = {"softmax left out", "no gradient passes", "examples mix"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in SHORT else pytest.mark.long) for x in SICK],
)
def test_mistake_is_found_and_named(name):
    rule, place, build, *given = SICK[name]
    size = 1 if name.endswith("batches of 1") else 32
    found = kbn.check(build(), *(given or (X, Y)), batch_size=size, verbose=0)
    assert rule in names(found), str(found)
    (line,) = [one for one in found.lines if one.name == place]
    assert line.status == "failed"
    assert rule in {alert.rule for alert in line.alerts}
    assert not found.ok
    (alert,) = [one for one in line.alerts if one.rule == rule]
    assert alert.remedy is not None
    assert alert.remedy in found.remedies


ONE_HOT = keras.utils.to_categorical(Y, 3)
CATEGORICAL = "categorical_crossentropy"
# (loss, units, targets, part of the message, part of the remedy)
MISFITS = {
    "labels from 1": (SPARSE, 3, Y + 1, "go from 1 to 3", "y - 1"),
    "a class too many": (SPARSE, 2, Y, "0 to 2", "3 units"),
    "labels below 0": (SPARSE, 3, Y - 1, "go from -1", "from 0"),
    "halves as labels": (SPARSE, 3, Y / 2, "0 to 1", "whole numbers"),
    "one-hot for sparse": (SPARSE, 3, ONE_HOT, "whole numbers", "argmax"),
    "sparse for one-hot": (CATEGORICAL, 3, Y, "one-hot", "to_categorical(y, 3)"),
    "another width": (CATEGORICAL, 4, ONE_HOT, "(3,)", SPARSE),
    "labels for numbers": ("mean_squared_error", 3, Y, "number by number", "one unit"),
    "three for one": ("mean_squared_error", 1, X[:, :3], "(3,)", "3 units"),
}
FITTING = {
    "sparse": (SPARSE, 3, Y),
    "sparse column": (SPARSE, 3, Y[:, None]),
    "floats that are labels": (SPARSE, 3, Y.astype("float32")),
    "one-hot": (CATEGORICAL, 3, ONE_HOT),
    "numbers": ("mean_squared_error", 1, NUMBERS),
    "numbers without axis": ("mean_squared_error", 1, NUMBERS[:, 0]),
    "several numbers": ("huber", 3, X[:, :3]),
    "two classes": ("binary_crossentropy", 1, Y == 1),
    "a loss of one's own": (None, 1, X[:, :3]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_targets_that_no_step_takes_are_told(name):
    loss, units, y, message, remedy = MISFITS[name]
    (fault,) = faults(loss, y, np.zeros((8, units)), None)
    assert message in fault.message
    assert remedy in fault.remedy.words


@pytest.mark.parametrize("name", FITTING)
def test_targets_that_fit_are_not(name):
    loss, units, y = FITTING[name]
    assert not [*faults(loss, y, np.zeros((8, units)), None)]


def test_ignored_label_is_no_fault():
    y = np.where(Y == 2, -1, Y)
    assert [*faults(SPARSE, y, np.zeros((8, 2)), None)]
    assert not [*faults(SPARSE, y, np.zeros((8, 2)), -1)]


@pytest.mark.parametrize(
    "name", ["labels from 1", "one-hot for sparse", "three for one"]
)
def test_misfit_is_a_line_and_nothing_is_trained(name):
    loss, units, y, message, _ = MISFITS[name]
    last = "softmax" if units > 1 else None
    found = kbn.check(model(last=last, units=units, loss=loss), X, y, verbose=0)
    assert names(found) == {"output_mismatch"}
    assert message in found.alerts[0].message
    skipped = [line for line in found.lines if line.status == "skipped"]
    assert {"first steps", "by heart"} < {line.name for line in skipped}


# --- what it lets pass ---


class Own(keras.Model):
    """A subclass whose step is its own."""

    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([layers.Dense(8, "relu"), layers.Dense(1)])

    def call(self, x):
        return self.inner(x)

    def train_step(self, *given):
        return super().train_step(*given)


def functional():
    left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
    x = hidden()(layers.Concatenate()([left, right]))
    ends = {
        "kind": layers.Dense(3, "softmax", name="kind")(x),
        "size": layers.Dense(1, name="size")(x),
    }
    made = keras.Model({"left": left, "right": right}, ends)
    made.compile("adam", {"kind": SPARSE, "size": "mse"})
    return made


def pictures():
    return model(
        layers.Reshape((6, 1)),
        layers.Conv1D(8, 3, padding="same"),
        layers.BatchNormalization(momentum=0.5),
        layers.Activation("relu"),
        layers.Dropout(0.2),
        layers.Flatten(),
    )


def fixed(size):
    inputs = keras.Input(batch_shape=(size, 6))
    made = keras.Model(inputs, layers.Dense(3, "softmax")(hidden()(inputs)))
    made.compile("adam", SPARSE)
    return made


def unbuilt():
    made = keras.Sequential([hidden(), layers.Dense(3, "softmax")])
    made.compile("adam", SPARSE)
    return made


def own():
    made = Own()
    made.compile("adam", "mse")
    return made


PARTS = {"left": X[:, :3], "right": X[:, 3:]}
TWO = {"kind": Y, "size": NUMBERS}
HEALTHY = {
    "dense": (lambda: model(hidden(), layers.Dropout(0.9)), X, Y),
    "unbuilt": (unbuilt, X, Y),
    "two outputs of two inputs": (functional, PARTS, TWO),
    "convolution, batch norm": (pictures, X, Y),
    "a step of its own": (own, X, NUMBERS),
    "penalties": (
        lambda: model(
            hidden(kernel_regularizer="l2"), hidden(activity_regularizer="l1")
        ),
        X,
        Y,
    ),
    "a batch of fixed size": (lambda: fixed(8), X, Y),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x == "dense" else pytest.mark.long) for x in HEALTHY],
)
def test_healthy_model_passes(name):
    build, x, y = HEALTHY[name]
    size = 8 if name == "a batch of fixed size" else 32
    found = kbn.check(build(), x, y, batch_size=size, verbose=0)
    assert found.ok, str(found)
    by_name = {line.name: line for line in found.lines}
    skips = name == "a step of its own"
    assert by_name["by heart"].status == ("skipped" if skips else "ok")
    assert by_name["first steps"].status == "ok"
    assert by_name["examples"].status == "ok"
    assert not skips or "step or loss of its own" in by_name["by heart"].text


@pytest.mark.long
def test_step_that_a_copy_cannot_make_is_a_line():
    class Odd(keras.Model):
        def __init__(self, names):
            super().__init__()
            self.names = {object(): x for x in names}

        def train_step(self, data):
            raise NotImplementedError

    made = Odd(["a"])
    made.compile("adam", "mse")
    found = kbn.check(made, X, Y, verbose=0)
    assert found.ok
    assert "not checked" in str(found)


# --- what it leaves ---


class Noisy(layers.Layer):
    """Draws from a generator of its own and from the global one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(5)

    def call(self, x, training=False):
        if not training:
            return x
        noise = keras.random.normal(ops.shape(x), seed=self.seeds)
        return x + 0.01 * noise


def state(made):
    held = [*made.variables, *made.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(one)) for one in held]


def draws():
    """The next number of each global generator; which it moves."""
    drawn = [random.random(), np.random.random()]
    drawn.append(float(keras.random.uniform(())))
    if BACKEND == "torch":
        import torch

        drawn.append(float(torch.rand(())))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        drawn.append(float(tf.random.uniform(())))
    return drawn


def trained():
    made = model(
        layers.Dense(8), layers.BatchNormalization(), Noisy(), layers.Dropout(0.3)
    )
    made.fit(X, Y, epochs=1, verbose=0)
    return made


def test_nothing_is_left_changed():
    made = trained()
    before, functions = state(made), (made.train_function, made.optimizer, made.loss)
    keras.utils.set_random_seed(11)
    expected = draws()
    keras.utils.set_random_seed(11)
    kbn.check(made, X, Y, verbose=0)
    assert draws() == expected
    assert functions == (made.train_function, made.optimizer, made.loss)
    for was, now in zip(before, state(made), strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.long
@pytest.mark.parametrize("checks", [trained, unbuilt], ids=["trained", "unbuilt"])
def test_training_goes_on_as_if_it_had_not_been_checked(checks):
    ends = []
    for is_checked in (False, True):
        keras.utils.set_random_seed(4)
        made = checks()
        if is_checked:
            kbn.check(made, X, Y, verbose=0)
        made.fit(X, Y, epochs=2, verbose=0)
        ends.append(state(made))
    for alone, checked in zip(*ends, strict=True):
        np.testing.assert_array_equal(alone, checked)


# --- what it takes ---


class Batches(keras.utils.PyDataset):
    """Six batches."""

    def __init__(self):
        super().__init__()
        self.ends = 0

    def __len__(self):
        return 6

    def __getitem__(self, index):
        part = slice(32 * index, 32 * index + 32)
        return X[part], Y[part]

    def on_epoch_end(self):
        self.ends += 1


def read(x, y=None, weights=None, size=32):
    return examples.read(x, y, weights, size, 4)


def test_arrays_are_read_in_another_order():
    given = read(X, Y)
    assert (len(given.batches), given.steps) == (4, 6)
    x, y, weights = given.batches[0]
    assert weights is None
    assert x.shape == (32, 6)
    rows = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in x]
    assert rows != sorted(rows)
    np.testing.assert_array_equal(y, Y[rows])


def test_few_examples_are_one_batch():
    given = read(X[:20], Y[:20], np.ones(20))
    assert [len(one) for one in given.batches[0]] == [20, 20, 20]
    assert (len(given.batches), given.steps) == (1, 1)


def test_data_set_is_read_by_its_batches():
    data = Batches()
    given = read(data)
    assert (len(given.batches), given.steps) == (4, 6)
    np.testing.assert_array_equal(given.batches[1][0], X[32:64])
    np.testing.assert_array_equal(given.few(40)[1], Y[:40])
    assert data.ends == 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data")
def test_dataset_of_tensorflow_is_read():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(48)
    given = read(data)
    assert (len(given.batches), given.steps) == (4, 4)
    np.testing.assert_array_equal(given.everything[1], Y)
    assert read(data.repeat()).steps is None


# (what it is given, what the error says)
REFUSED = {
    "no model": (lambda: kbn.check(X, Y), "received array"),
    "not compiled": (
        lambda: kbn.check(keras.Sequential([hidden()]), X, Y),
        "is not compiled",
    ),
    "two lengths": (lambda: kbn.check(model(), X, Y[:5]), r"\[192\].*\[5\]"),
    "nothing": (lambda: kbn.check(model(), X[:0], Y[:0]), "without an example"),
    "None": (lambda: kbn.check(model(), None, Y), "these lengths"),
    "a generator": (
        lambda: kbn.check(model(), (x for x in [(X, Y)])),
        "read only once",
    ),
    "y beside a data set": (lambda: kbn.check(model(), Batches(), Y), "gives .x, y."),
    "an empty data set": (lambda: kbn.check(model(), EMPTY), "without a batch"),
    "another width": (lambda: kbn.check(model(), X[:, :4], Y), r"shape \(32, 4\)"),
    "batches of 0": (lambda: kbn.check(model(), X, Y, batch_size=0), "received 0"),
    "batches of 1.5": (lambda: kbn.check(model(), X, Y, batch_size=1.5), "integer"),
}


class Empty(Batches):
    """None."""

    def __len__(self):
        return 0


EMPTY = Empty()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_checked_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


# --- its parts ---


@pytest.mark.parametrize(
    ("loss", "y", "guess", "best"),
    [
        ("mse", NUMBERS, np.full((192, 1), NUMBERS.mean()), NUMBERS),
        (SPARSE, Y, np.full((192, 3), 1 / 3), ONE_HOT),
        (CATEGORICAL, ONE_HOT, np.full((192, 3), 1 / 3), ONE_HOT),
        ("binary_crossentropy", 1.0 * ONE_HOT[:, :1], None, ONE_HOT[:, :1]),
        ("poisson", 1.0 * Y[:, None], np.full((192, 1), Y.mean()), 1.0 * Y[:, None]),
    ],
    ids=["mse", "sparse", "one-hot", "binary", "poisson"],
)
def test_progress_goes_from_the_guess_to_the_floor(loss, y, guess, best):
    units = best.shape[-1]
    made = model(units=units, last="softmax" if units > 1 else "sigmoid", loss=loss)
    made.train_on_batch(X[:8], y[:8])

    def share(output):
        given = Supervision(y, None, {(): output.astype("float32")})
        (course,) = progress(made, given).values()
        return course

    assert share(best).share == pytest.approx(1, abs=1e-3)
    assert share(best).is_known
    if guess is not None:
        assert share(guess).share == pytest.approx(0, abs=0.05)
        assert not share(guess).is_known


HEAD = {"name": "y", "loss": "mean_squared_error", "activation": "linear"}
TARGETS = {"targets/y/mean": 1000.0, "targets/y/std": 1.0}


@pytest.mark.parametrize(
    ("scalars", "rule", "kind"),
    [
        (
            {"loss/train": 50.0, "loss/guess": 2.3, "check/steps": 24.0},
            "start_loss",
            "ask",
        ),
        (
            {"loss/train": 1e6, "loss/guess": 1.0, "check/steps": 24.0, **TARGETS},
            "start_loss",
            "data",
        ),
        ({"check/spread": 0.0}, "ignores_input", "ask"),
        ({"check/mixed": 0.3}, "mixed_examples", "ask"),
        (
            {"check/by_heart/y": 0.4, "check/by_heart_steps": 500.0},
            "not_by_heart",
            "ask",
        ),
        ({"check/by_heart/y": 0.4, **TARGETS}, "target_scale", "data"),
        ({"check/unmoved/dense/bias": 0.0}, "unchanged_weight", "ask"),
    ],
)
def test_rule_of_the_check_alone(scalars, rule, kind):
    follower = Follower(rules.RULES)
    follower.record({"heads": [HEAD], "first_look": 0})
    follower.look(1, {"epoch": 1.0, **scalars})
    assert not follower.failures
    (alert,) = [one for one in follower.open if one.rule == rule]
    assert alert.remedy.kind == kind
    assert alert.title


def test_penalty_is_no_start_far_from_guessing():
    follower = Follower(rules.RULES)
    scalars = {"loss/train": 50.0, "loss/guess": 2.3, "check/steps": 24.0}
    follower.look(1, {"epoch": 1.0, "loss/penalty": 47.0, **scalars})
    assert not follower.open


def test_rules_of_the_check_have_names_of_their_own():
    found = [rule.name for rule in rules.RULES]
    assert len(found) == len({*found})
    assert {*rules.EFFECTS} <= {*found}


ALERT = kbn.callbacks.Alert(
    "dead_relu", "warning", "a", 4, 1, 0.7, 0.5, "Dead.", title="units are dead"
)


def test_check_is_a_table():
    lines = [
        Line("data", "ok", "x <64>"),
        Line("weights", "failed", "", (ALERT,)),
        Line("by heart", "skipped", "not checked: why"),
    ]
    found = Check("net", lines)
    assert not found.ok
    assert found.alerts == [ALERT]
    assert found.remedies == []
    assert str(found).splitlines() == [
        "net: 1 of 2 lines failed",
        "    ok  data      x <64>",
        "FAILED  weights   dead_relu: Dead.",
        "     -  by heart: not checked: why",
    ]
    shown = found._repr_html_()
    assert "x &lt;64&gt;" in shown
    assert "units are dead" in shown
    assert Check("net", lines[::2]).ok


def test_table_is_printed_unless_it_is_not_to_be(capsys):
    made = model(units=2)  # labels of 3 classes: nothing is trained
    found = kbn.check(made, X, Y)
    assert capsys.readouterr().out == f"{found}\n"
    kbn.check(made, X, Y, verbose=0)
    assert capsys.readouterr().out == ""
