"""What targets say: guessing, outputs that do not fit, sorted data, rare classes.

Families, each a table: losses, outputs, data sets.
"""

import math
import re

import keras
import numpy as np
import pytest
from sklearn import datasets

from kbn.callbacks import TrainingMonitor
from kbn.callbacks.signals import targets as signals
from kbn.callbacks.signals.subjects import Head
from kbn.callbacks.watch import targets
from kbn.callbacks.watch.targets import HeadReader, Supervision

BACKEND = keras.backend.backend()
layers, losses = keras.layers, keras.losses
SPARSE, ONE_HOT = "sparse_categorical_crossentropy", "categorical_crossentropy"
OURS = {"not_learning", "output_mismatch", "target_scale", "class_imbalance"}
OURS |= {"not_shuffled", "overfit"}


def doubling(step):
    """Looks at steps 1, 2, 4, ..., and at every 32nd."""
    return step & (step - 1) == 0 or step % 32 == 0


# --- what guessing gives ---

RNG = np.random.default_rng(0)
LABELS = RNG.choice(4, 600, p=[0.5, 0.25, 0.15, 0.1])
SHARES = np.bincount(LABELS) / len(LABELS)
ENTROPY = -(SHARES * np.log(SHARES)).sum()
YES = (RNG.random((600, 1)) < 0.2).astype("float32")
P = YES.mean()
BINARY_ENTROPY = -(P * np.log(P) + (1 - P) * np.log(1 - P))
MANY = (RNG.random((600, 3)) < [0.1, 0.5, 0.8]).astype("float32")
Q = MANY.mean(0)
NUMBERS = RNG.gamma(2.0, 3.0, (600, 2)).astype("float32")
PIXELS = RNG.choice(3, (40, 4, 4), p=[0.7, 0.2, 0.1])
PIXEL_SHARES = np.bincount(PIXELS.ravel()) / PIXELS.size
HOT = np.eye(4)[LABELS].astype("float32")
SMOOTH = 0.9 * SHARES + 0.1 / 4
LOG = np.log1p(NUMBERS)


def from_logits(kind, **more):
    return getattr(losses, kind)(from_logits=True, **more)


# name: (loss, targets, shape of an output, what guessing gives)
GUESSES = {
    "labels": (SPARSE, LABELS, (4,), ENTROPY),
    "one-hot": (ONE_HOT, HOT, (4,), ENTROPY),
    "logits": (from_logits("SparseCategoricalCrossentropy"), LABELS, (4,), ENTROPY),
    "smoothed": (
        losses.CategoricalCrossentropy(label_smoothing=0.1),
        HOT,
        (4,),
        -(SMOOTH * np.log(SMOOTH)).sum(),
    ),
    "pixels": (
        SPARSE,
        PIXELS,
        (4, 4, 3),
        -(PIXEL_SHARES * np.log(PIXEL_SHARES)).sum(),
    ),
    "yes or no": ("binary_crossentropy", YES, (1,), BINARY_ENTROPY),
    "yes or no, logits": (
        from_logits("BinaryCrossentropy"),
        YES,
        (1,),
        BINARY_ENTROPY,
    ),
    "several labels": (
        "binary_crossentropy",
        MANY,
        (3,),
        -(Q * np.log(Q) + (1 - Q) * np.log(1 - Q)).mean(),
    ),
    "mse": ("mse", NUMBERS, (2,), NUMBERS.var(0).mean()),
    "mae": (
        "mae",
        NUMBERS,
        (2,),
        np.abs(NUMBERS - np.median(NUMBERS, axis=0)).mean(),
    ),
    "msle": ("msle", NUMBERS, (2,), LOG.var(0).mean()),
    "poisson": (
        "poisson",
        NUMBERS,
        (2,),
        (NUMBERS.mean(0) * (1 - np.log(NUMBERS.mean(0)))).mean(),
    ),
    "few labels a class": (SPARSE, LABELS[:64], (4,), math.log(4)),
    "cosine": ("cosine_similarity", NUMBERS, (2,), None),
    "hinge": ("hinge", 2 * YES - 1, (1,), None),
    "focal": ("binary_focal_crossentropy", YES, (1,), None),
    "mape": ("mape", NUMBERS, (2,), None),
    "one's own": (lambda y, p: keras.ops.mean((y - p) ** 2, -1), NUMBERS, (2,), None),
}


def looks(loss, y, shape, size=60, weights=None):
    """What a reader says after looks at these targets, a model beside them."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(math.prod(shape))])
    model.add(layers.Reshape(shape))
    model.compile("sgd", loss)
    x = np.zeros((len(y), 3), "float32")
    model.train_on_batch(x[:4], y[:4])
    reader, found = HeadReader(), []
    has_logits = getattr(loss, "from_logits", False)
    for i in range(0, len(y) - 3, min(size, len(y) // 4)):
        rows = slice(i, i + min(size, len(y) // 4))
        given = None if weights is None else weights[rows]
        output = RNG.uniform(0.01, 1, (len(y[rows]), *shape)).astype("float32")
        output = (
            np.log(output) if has_logits else output / output.sum(-1, keepdims=True)
        )
        known = model.compute_loss(x[rows], y[rows], output, given)
        supervision = Supervision(y[rows], given, {(): output})
        found = reader.read(model, supervision, float(known))
    return {type(one).__name__: one for one in found}


@pytest.fixture
def asks_at_each_look(monkeypatch):
    monkeypatch.setattr(targets, "GROWN", 1.0)


@pytest.mark.usefixtures("asks_at_each_look")
@pytest.mark.parametrize("name", GUESSES)
def test_guess_is_the_loss_of_the_best_constant(name):
    if (name, BACKEND) == ("pixels", "torch"):
        pytest.skip("torch 2.13 raises there: grad_input must be contiguous")
    loss, y, shape, expected = GUESSES[name]
    found = looks(loss, y, shape)
    assert ("Guess" in found) == (expected is not None)
    if expected is not None:
        np.testing.assert_allclose(found["Guess"].loss, expected, rtol=1e-3)
        assert 0 <= found["Guess"].error < 0.2 * abs(expected) + 0.2


@pytest.mark.parametrize("name", ["huber", "log_cosh"])
def test_guess_without_a_closed_form_is_not_below_the_best(name):
    found = looks(name, NUMBERS, (2,))
    of = keras.losses.get(name)

    def loss(y, constant):
        of_each = of(y, np.full_like(y, constant))
        return keras.ops.convert_to_numpy(of_each).mean()

    constants = np.linspace(0, 20, 400)
    columns = NUMBERS[:, :1], NUMBERS[:, 1:]
    best = np.mean([min(loss(y, c) for c in constants) for y in columns])
    assert best * (1 - 1e-4) <= found["Guess"].loss < 1.05 * best


def test_guess_is_of_four_fifths_of_the_targets_at_least():
    found = looks(SPARSE, LABELS, (4,))["Guess"]
    assert abs(found.loss - ENTROPY) < found.error


@pytest.mark.usefixtures("asks_at_each_look")
def test_guess_has_the_weights_of_examples():
    weights = np.where(LABELS == 0, 1.0, 3.0).astype("float32")
    found = looks(SPARSE, LABELS, (4,), weights=weights)
    shares = np.bincount(LABELS, weights) / weights.sum()
    expected = -(weights * np.log(shares[LABELS])).mean()
    np.testing.assert_allclose(found["Guess"].loss, expected, rtol=1e-3)
    # The accuracy of the majority has no weights.
    np.testing.assert_allclose(found["Head"].labels, np.bincount(LABELS))


# --- batches that differ ---


def effect(batches, classes):
    """Of batches of labels."""
    counts = np.array([np.bincount(x, minlength=classes) for x in batches], float)
    squares = (counts**2 / counts.sum(1, keepdims=True)).sum(0)
    value = signals.batch_effect(counts.sum(0), squares, len(counts))
    return 0.0 if value is None else value


@pytest.mark.parametrize("size", [1, 2, 8, 32, 256])
@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("looks_", [2, 6, 40])
def test_shuffled_batches_do_not_differ(size, classes, looks_):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shares = rng.dirichlet(np.ones(classes))
        batches = [rng.choice(classes, size, p=shares) for _ in range(looks_)]
        assert effect(batches, classes) < 0.1


@pytest.mark.parametrize("size", [8, 32, 256])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_sorted_batches_differ(size, classes):
    batches = [np.full(size, i * classes // 6) for i in range(6)]
    assert effect(batches, classes) > 0.5


# --- outputs and targets that do not fit ---


def dense(*activations, units=10, shape=(64,)):
    *inner, last = activations
    return [
        keras.Input(shape),
        *(layers.Dense(32, activation=x) for x in inner),
        layers.Dense(units, activation=last),
    ]


def digits(rows=640):
    found = datasets.load_digits()
    order = np.random.default_rng(1).permutation(len(found.target))[:rows]
    return (found.data[order] / 16).astype("float32"), found.target[order]


def diabetes():
    found = datasets.load_diabetes()
    order = np.random.default_rng(1).permutation(len(found.data))
    x, y = found.data[order], found.target[order][:, None]
    x, y = ((part - part.mean(0)) / part.std(0) for part in (x, y))
    return x.astype("float32"), y.astype("float32")


def pixels():
    x, _ = digits()
    return x, x


def watch(tmp_path, model, data, epochs=1, validation=None, **fit):
    monitor = TrainingMonitor(tmp_path, log_freq=doubling)
    if validation is not None:
        fit["validation_data"] = validation
    model.fit(*data, epochs=epochs, verbose=0, callbacks=[monitor], **fit)
    return monitor


def told(monitor, *rules):
    """(rule, step) of what is told above info."""
    return [
        (alert.rule, alert.step)
        for alert in monitor.alerts
        if alert.rule in (rules or OURS) and alert.level != "info"
    ]


# Beside those of test_output_facts.py.
# name: (layers, loss, data, part of the message; None: it fits)
OUTPUTS = {
    "a custom layer without softmax": (
        lambda: [*dense("relu", "tanh"), layers.Rescaling(3.0)],
        SPARSE,
        digits,
        "are outside",
    ),
    "sigmoid for targets on both sides of 0": (
        lambda: dense("relu", "sigmoid", units=1, shape=(10,)),
        "mae",
        diabetes,
        "gives 0 to 1",
    ),
    "sigmoid for pixels": (
        lambda: dense("relu", "sigmoid", units=64),
        "mse",
        pixels,
        None,
    ),
}


@pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis")
@pytest.mark.parametrize("name", OUTPUTS)
def test_output_that_does_not_fit_is_told_at_step_one(name, tmp_path):
    make, loss, data, said = OUTPUTS[name]
    keras.utils.set_random_seed(0)
    model = keras.Sequential(make())
    model.compile("adam", loss)
    x, y = data()
    monitor = watch(tmp_path, model, (x[:128], y[:128]), epochs=2)
    found = [alert for alert in monitor.alerts if alert.rule == "output_mismatch"]
    if said is None:
        assert not found
    else:
        (alert,) = found
        assert (alert.level, alert.step, alert.is_open) == ("warning", 1, True)
        assert said in alert.message


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize("last", ["softmax", "custom"])
def test_softmax_for_logits_is_told_where_keras_does_not_undo_it(last, tmp_path):
    def own(x):  # no op of TensorFlow that Keras knows
        e = keras.ops.exp(x)
        return e / keras.ops.sum(e, axis=-1, keepdims=True)

    keras.utils.set_random_seed(0)
    activation = "softmax" if last == "softmax" else own
    model = keras.Sequential(dense("relu", activation))
    model.compile("adam", from_logits("SparseCategoricalCrossentropy"))
    monitor = watch(tmp_path, model, digits(128))
    assert monitor.history["loss/guess"][1][-1] == pytest.approx(math.log(10), 1e-3)
    # Keras' own is undone on TensorFlow; of one's own the name says nothing.
    is_told = last == "softmax" and BACKEND != "tensorflow"
    assert told(monitor, "output_mismatch") == [("output_mismatch", 1)] * is_told


# --- one's own steps, several outputs ---


class OwnStep(keras.Model):
    def train_step(self, *given):
        return super().train_step(*given)


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **more):
        return keras.ops.mean((y - y_pred) ** 2) + 1.0


class Adds(layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x**2) + 1.0)
        return x


def guessless(kind):
    inputs = x = keras.Input((10,))
    if kind is Adds:
        x, kind = Adds()(x), keras.Model
    return kind(inputs, layers.Dense(1)(x))


@pytest.mark.parametrize("kind", [OwnStep, OwnLoss, Adds])
def test_no_guess_where_the_loss_is_not_the_compiled_one(kind, tmp_path):
    model = guessless(kind)
    model.compile("sgd", "mse")
    monitor = watch(tmp_path, model, diabetes(), epochs=2)
    assert not any(tag.startswith("loss/guess") for tag in monitor.history)
    assert told(monitor) == []
    why = "alone" if kind is Adds else "of its own"
    text = tmp_path / "report.txt"
    monitor.report().save(text)
    words = " ".join(text.read_text().split())
    assert re.search(rf"loss of guessing\W+not known: [\w\s']*{why}", words)


@pytest.mark.parametrize("made", ["list", "dict"])
def test_each_of_several_outputs_has_its_guess(made, tmp_path):
    x, y = digits(640)
    inputs = keras.Input((64,))
    h = layers.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(1e-2))(inputs)
    zero = layers.Dense(10, "softmax", name="zero", kernel_initializer="zeros")
    zero.trainable = False
    outs = {"kind": layers.Dense(10, "softmax", name="kind")(h), "zero": zero(h)}
    weighed = {"kind": 2.0, "zero": 0.5}
    compiled = {"kind": SPARSE, "zero": ONE_HOT}
    targets = {"kind": y, "zero": np.eye(10)[y]}
    if made == "list":
        outs, targets = [*outs.values()], [*targets.values()]
        weighed, compiled = [*weighed.values()], [*compiled.values()]
    model = keras.Model(inputs, outs)
    model.compile(keras.optimizers.Adam(1e-2), compiled, loss_weights=weighed)
    monitor = watch(tmp_path, model, (x, targets), epochs=7)
    history = {tag: found[-1] for tag, (_, found) in monitor.history.items()}
    each = [history[f"targets/{name}/guess"] for name in ("kind", "zero")]
    np.testing.assert_allclose(each, math.log(10), rtol=0.02)
    assert history["loss/guess"] == pytest.approx(2 * each[0] + 0.5 * each[1], 1e-5)
    assert history["loss/penalty"] > 0
    (alert,) = [a for a in monitor.alerts if a.rule == "not_learning"]
    assert (alert.where, alert.epoch) == ("zero", 5)  # 100 steps


# --- what a head says ---


def head(**more):
    given = {"targets": np.zeros((4, 1)), "outputs": np.zeros((4, 1)), **more}
    return Head("y", **given)


@pytest.mark.parametrize(
    ("reach", "targets", "expected"),
    [
        ((0, 1), [0, 0.5, 1, 1], 0),
        ((0, 1), [0, 0.5, 1.02, 1], 0),  # by a tenth of the deviation
        ((-1, 1), [100, 150, 0, 200], 0.75),
        ((0, math.inf), [-1, 1, 2, -3], 0.5),
        ((0, 1), [math.nan, 5, 0, 0.5], 1 / 3),
    ],
)
def test_targets_out_of_reach_are_counted(reach, targets, expected):
    one = head(targets=np.array(targets, float), reach=reach)
    assert signals.out_of_reach.of_subject(one) == pytest.approx(expected)


def test_spread_of_outputs_is_of_examples():
    variance = np.array([4.0])
    same = head(outputs=np.ones((8, 1)), variance=variance)
    assert signals.output_spread.of_subject(same) == 0
    apart = head(outputs=np.array([[0.0], [2.0]]), variance=variance)
    assert signals.output_spread.of_subject(apart) == pytest.approx(0.5)
    # Of an image, from one to the next, not from pixel to pixel.
    images = np.tile(np.arange(6.0).reshape(1, 2, 3, 1), (5, 1, 1, 1))
    assert (
        signals.output_spread.of_subject(head(outputs=images, variance=variance)) == 0
    )


def test_batches_of_the_same_labels_are_counted_each(tmp_path):
    """Of a rare class most batches have none: they are batches all the same."""
    x = RNG.normal(size=(256, 3)).astype("float32")
    y = np.zeros((256, 1), "float32")
    y[5] = 1
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, "sigmoid")])
    model.compile("sgd", "binary_crossentropy")
    monitor = TrainingMonitor(tmp_path, log_freq=1)
    fit = {"batch_size": 32, "shuffle": False, "verbose": 0, "callbacks": [monitor]}
    model.fit(x, y, epochs=2, **fit)
    _, counts = monitor.history["targets/y/count"]
    assert counts == [*range(32, 257, 32), *[256] * 8]
    assert monitor.history["targets/y/share_of_largest"][1][-1] == pytest.approx(
        255 / 256
    )
