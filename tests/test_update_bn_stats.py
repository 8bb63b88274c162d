"""Population statistics against float64 NumPy on the data as a whole."""

import contextlib
import itertools

import keras
import numpy as np
import pytest

import kbn
from kbn.surgery import batches, statistics
from tests.models_with_batch_norm import (
    FEATURES,
    LAYERS,
    SITUATIONS,
    Situation,
    data,
    norms,
    values,
)

BACKEND = keras.backend.backend()
both_layers = pytest.mark.parametrize("layer", LAYERS)
both_modes = pytest.mark.parametrize("exact", [False, True], ids=["one pass", "exact"])
RANDOM = (
    keras.layers.Dropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout2D,
    keras.layers.RandomFlip,
)
SIZES = [7, 1, 7, 9, 7]  # of the batches; XLA takes a second for each new one
MANY = SITUATIONS if BACKEND != "jax" else SITUATIONS[::5]


def update(model, x, **options):
    kbn.update_bn_stats(model, x, verbose=0, **options)


def cut(x, sizes=SIZES):
    """Batches of those sizes, each in a tuple: a list of arrays is several inputs."""
    ends = np.cumsum(sizes)
    assert ends[-1] == len(x)
    return [(batch,) for batch in np.split(x, ends[:-1])]


@contextlib.contextmanager
def heard(model):
    """What each batch norm is given: the second, independent way to see it."""
    inputs = {}
    with contextlib.ExitStack() as stack:
        for layer in norms(model):
            seen = inputs.setdefault(id(layer), [])

            def call(x, *args, seen=seen, call=layer.call, **kwargs):
                seen.append(np.float64(keras.ops.convert_to_numpy(x)))
                return call(x, *args, **kwargs)

            object.__setattr__(layer, "call", call)
            stack.callback(object.__delattr__, layer, "call")
        yield inputs


def population(layer, given):
    """Mean and variance per channel of all that a layer was given, in float64."""
    rows = [np.moveaxis(x, layer.axis, -1) for x in given]
    rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in rows])
    return rows.mean(axis=0), rows.var(axis=0)


def assert_population(model, inputs, rtol=1e-4):
    for layer in norms(model):
        mean, variance = population(layer, inputs[id(layer)])
        ours = values([layer.moving_mean, layer.moving_variance])
        room = rtol * np.sqrt(variance + layer.epsilon)
        assert np.all(np.abs(ours[0] - mean) <= room), (layer.name, ours[0], mean)
        np.testing.assert_allclose(ours[1], variance, rtol=rtol, atol=1e-6)


def without_noise(model):
    """Make its random layers hand on what they are given."""
    for layer in model._flatten_layers():
        if isinstance(layer, RANDOM):
            object.__setattr__(layer, "call", lambda x, training=None: x)
    return model


@pytest.mark.parametrize("situation", MANY, ids=str)
def test_one_pass_pools_what_training_without_noise_gives(situation):
    x, _ = data(sum(SIZES))
    model, twin = situation.model(), without_noise(situation.model())
    update(model, cut(x))
    with heard(twin) as inputs:
        for (batch,) in cut(x):
            twin(batch, training=True)
    for layer, other in zip(norms(model), norms(twin), strict=True):
        inputs[id(layer)] = inputs.pop(id(other))
    assert_population(model, inputs)


@pytest.mark.parametrize("situation", MANY, ids=str)
def test_exact_pools_what_inference_gives(situation):
    x, _ = data(sum(SIZES))
    model = situation.model()
    update(model, cut(x), exact=True)
    with heard(model) as inputs:
        model(x, training=False)  # all at once: the batches leave no trace
    assert_population(model, inputs)


def test_exact_takes_no_more_passes_than_batch_norms_in_a_row():
    x, _ = data(sum(SIZES))
    for kind, most in (("branches", 2), ("sequential", 3))[: 1 + (BACKEND != "jax")]:
        read = []
        source = Listed(cut(x), read)
        update(Situation(kind, "kbn").model(), source, exact=True)
        assert len(read) <= (most + 1) * len(SIZES)  # one to see that nothing moves


class Listed(keras.utils.PyDataset):
    """Batches, and a note of each that was read."""

    def __init__(self, parts, read=None, size=-1):
        super().__init__()
        self.parts, self.read, self.size = parts, [] if read is None else read, size

    @property
    def num_batches(self):
        return len(self.parts) if self.size == -1 else self.size

    def __getitem__(self, index):
        self.read.append(index)
        return self.parts[index % len(self.parts)]

    def on_epoch_end(self):
        raise AssertionError("a data set that is trained on would shuffle here")


# Everything a layer can be asked for, with the shape of its inputs.
VARIANTS = [
    ("rank 2", {}, (5,)),
    ("rank 3", {}, (4, 5)),
    ("rank 4", {}, (3, 4, 5)),
    ("rank 5", {}, (2, 3, 2, 5)),
    ("channels first", {"axis": 1}, (5, 3, 4)),
    ("no affine weights", {"center": False, "scale": False}, (5,)),
    ("large epsilon", {"epsilon": 0.5}, (5,)),
    ("momentum 0", {"momentum": 0.0}, (5,)),
    ("momentum 1", {"momentum": 1.0}, (5,)),
    ("renorm", {"renorm": True}, (5,)),
    ("clipped renorm", {"renorm": True, "renorm_clipping": {"rmax": 1.1}}, (5,)),
    ("float16", {"dtype": "mixed_float16"}, (5,)),
    ("bfloat16", {"dtype": "mixed_bfloat16"}, (3, 5)),
    ("unbiased", {"unbiased": True}, (5,)),
    ("cumulative", {"momentum": None}, (5,)),
    ("warmup", {"warmup": True}, (5,)),
    ("virtual batches", {"virtual_batch_size": 3}, (2, 5)),
    ("synchronized", {"synchronized": True}, (5,)),
    ("two axes", {"axis": [1, 3]}, (3, 2, 4)),
]
OURS_ONLY = ("unbiased", "cumulative", "warmup")
OURS_ONLY += ("virtual batches", "synchronized", "two axes")
VARIANTS = [
    pytest.param(layer, options, shape, id=f"{name}-{layer}")
    for name, options, shape in VARIANTS
    for layer in LAYERS
    if layer == "kbn" or name not in OURS_ONLY
]
# Means of the channels, in their deviations, and the design's limits for the relative
# error of the variance there.
MEANS = np.array([0.0, 1e2, 1e4, 1e6, 0.0])
LIMITS = np.array([2e-5, 5e-4, 1e-4, 1e-3, 2e-5])


@pytest.mark.parametrize(("layer", "options", "shape"), VARIANTS)
def test_every_kind_of_layer_gets_the_population(layer, options, shape):
    layer = LAYERS[layer](**options)
    model = keras.Sequential([keras.Input(shape), layer])
    axes = options.get("axis", -1)
    axes = [axes] if isinstance(axes, int) else axes
    axes = [axis % (len(shape) + 1) for axis in axes]
    x = np.random.default_rng(0).normal(size=(sum(SIZES), *shape))
    if 5 in shape and "16" not in str(options.get("dtype")):
        along = [5 if i == axes[0] else 1 for i in range(x.ndim)]
        x += MEANS.reshape(along)
    x = x.astype("float32")
    seen = np.float64(x)
    if "16" in str(options.get("dtype")) and not isinstance(layer, kbn.BatchNorm):
        narrow = keras.ops.cast(x, layer.compute_dtype)  # Keras casts before the call
        seen = np.float64(values([keras.ops.cast(narrow, "float32")])[0])
    before = values(layer.weights)
    update(model, cut(x))
    over = tuple(i for i in range(x.ndim) if i not in axes)
    mean, variance = np.ravel(seen.mean(axis=over)), np.ravel(seen.var(axis=over))
    elements = x.size / len(mean)
    if options.get("unbiased"):
        variance *= elements / (elements - 1)
    limits = LIMITS if len(mean) == 5 else 2e-5
    ours = values([layer.moving_mean, layer.moving_variance])
    np.testing.assert_allclose(np.ravel(ours[0]), mean, rtol=2e-7, atol=1e-6)
    assert np.all(np.abs(np.ravel(ours[1]) / variance - 1) < limits)
    if options.get("renorm"):
        (stddev,) = values([layer.moving_stddev])
        assert np.all(np.abs(stddev**2 / (variance + layer.epsilon) - 1) < limits)
    moving = ("moving_mean", "moving_variance", "moving_stddev")
    for variable, old in zip(layer.weights, before, strict=True):
        if variable.name == "num_batches_tracked":
            number = 991 if layer.warmup else len(SIZES)
            np.testing.assert_array_equal(values([variable])[0], [number] * 5)
        elif variable.name not in moving:
            np.testing.assert_array_equal(values([variable])[0], old)


@both_layers
@both_modes
def test_masked_elements_do_not_enter(layer, exact):
    x = np.random.default_rng(0).normal(size=(9, 4, 3)).astype("float32") + 2
    present = np.random.default_rng(1).random((9, 4)) > 0.4
    present[6:] = False  # a batch with nothing in it
    x[~present] = 0
    model = keras.Sequential(
        [keras.Input((4, 3)), keras.layers.Masking(), LAYERS[layer](), LAYERS[layer]()]
    )
    update(model, x, batch_size=3, exact=exact)
    first = norms(model)[0]
    mean, variance = x[present].astype("f8").mean(0), x[present].astype("f8").var(0)
    ours = values([first.moving_mean, first.moving_variance])
    np.testing.assert_allclose(ours[0], mean, rtol=1e-6)
    np.testing.assert_allclose(ours[1], variance, rtol=1e-5)


# --- data


def two_inputs():
    a, b = keras.Input((FEATURES,), name="a"), keras.Input((2,), name="b")
    y = kbn.BatchNorm()(keras.layers.Concatenate()([a, b]))
    return keras.Model({"a": a, "b": b}, y), {"a": data(20)[0], "b": data(20)[0][:, :2]}


def one_input():
    return keras.Sequential([keras.Input((FEATURES,)), kbn.BatchNorm()]), data(20)[0]


def parts(x, size=6):
    """Batches of x, whatever it is made of."""
    for start in range(0, 20, size):
        rows = np.s_[start : start + size]
        yield keras.tree.map_structure(lambda a, rows=rows: a[rows], x)


def with_labels(x):
    return ((batch, np.zeros(1)) for batch in parts(x))


def tensorflow_data(x, labels):
    tf = pytest.importorskip("tensorflow")
    tensors = (x, np.zeros(20)) if labels else x
    return tf.data.Dataset.from_tensor_slices(tensors).batch(6)


def torch_loader(x, labels):
    torch = pytest.importorskip("torch")
    if isinstance(x, dict):
        rows = [{k: v[i] for k, v in x.items()} for i in range(20)]
    else:
        rows = list(x)
    rows = [(row, 0) for row in rows] if labels else rows
    return torch.utils.data.DataLoader(rows, batch_size=6)


class Frame:
    """As a table of pandas is: rows by iloc, columns by name."""

    def __init__(self, x):
        self.x, self.shape, self.iloc = x, x.shape, self

    def __getitem__(self, key):
        if isinstance(key, str):
            raise KeyError(key)
        return Frame(self.x[key])

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype)


SOURCES = {
    "array": lambda x: x,
    "tensor": lambda x: keras.tree.map_structure(keras.ops.convert_to_tensor, x),
    "x and y": lambda x: (x, np.zeros(20)),
    "x, y and weights": lambda x: (x, np.zeros(20), np.ones(20)),
    "only x in a tuple": lambda x: (x,),
    "list of batches": lambda x: list(with_labels(x)),
    "tuple of batches": lambda x: tuple(with_labels(x)),
    "generator": lambda x: parts(x),
    "generator with labels": with_labels,
    "PyDataset": lambda x: Listed(list(parts(x))),
    "PyDataset with labels": lambda x: Listed(list(with_labels(x))),
    "tf.data": lambda x: tensorflow_data(x, labels=False),
    "tf.data with labels": lambda x: tensorflow_data(x, labels=True),
    "tf.data without length": lambda x: tensorflow_data(x, False).filter(
        lambda _: True
    ),
    "DataLoader": lambda x: torch_loader(x, labels=False),
    "DataLoader with labels": lambda x: torch_loader(x, labels=True),
    "table": lambda x: keras.tree.map_structure(Frame, x),
}


@pytest.mark.parametrize("make", [one_input, two_inputs])
@pytest.mark.parametrize("source", SOURCES)
def test_source_of_the_batches_does_not_matter(source, make):
    model, x = make()
    arrays = x if isinstance(x, dict) else {"x": x}
    update(model, SOURCES[source](x), batch_size=6)
    whole = np.float64(np.concatenate(list(arrays.values()), axis=1))
    layer = norms(model)[0]
    mean, variance = values([layer.moving_mean, layer.moving_variance])
    np.testing.assert_allclose(mean, whole.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, whole.var(0), rtol=1e-5)


def test_list_of_arrays_is_several_inputs():
    model, x = two_inputs()
    model = keras.Model(model.inputs, model.outputs)
    update(model, ([x["a"], x["b"]], np.zeros(20)))
    mean = norms(model)[0].get_weights()[2]
    np.testing.assert_allclose(mean, np.r_[x["a"].mean(0), x["b"].mean(0)], rtol=1e-5)


def endless():
    return itertools.cycle([np.ones((2, FEATURES), "float32"), data(3)[0]])


ENDLESS = {
    "generator": endless,
    "PyDataset": lambda: Listed(cut(data(31)[0]), size=None),
    "tf.data": lambda: tensorflow_data(data(20)[0], labels=False).repeat(),
}


@pytest.mark.parametrize("source", ENDLESS)
def test_data_without_end_need_steps(source, monkeypatch):
    monkeypatch.setattr(batches, "ENDLESS", 50)
    model, _ = one_input()
    before = values(model.weights)
    given = ENDLESS[source]()
    with pytest.raises(ValueError, match=r"[Ss]ay how many.* with steps="):
        update(model, given)
    for old, new in zip(before, values(model.weights), strict=True):
        np.testing.assert_array_equal(old, new)
    update(model, ENDLESS[source](), steps=5)
    assert model.get_weights()[2].any()


@pytest.mark.parametrize("source", ["array", "generator", "PyDataset"])
def test_steps_say_how_much_is_read(source):
    model, x = one_input()
    update(model, SOURCES[source](x), steps=2, batch_size=6)
    np.testing.assert_allclose(model.get_weights()[2], x[:12].mean(0), rtol=1e-5)
    with pytest.warns(UserWarning, match="`data` ended after 4 of steps=9 batches"):
        update(model, SOURCES[source](x), steps=9, batch_size=6)
    np.testing.assert_allclose(model.get_weights()[2], x.mean(0), rtol=1e-5)


REFUSED = [
    ("no data", lambda: np.zeros((0, FEATURES), "f4"), {}, "no batch in `data`"),
    ("no batch", lambda: [], {}, "no batch in `data`"),
    ("empty batches", lambda: [(np.zeros((0, FEATURES), "f4"),)], {}, "No element of"),
    ("number", lambda: 3, {}, "Expected `data` to be arrays, .* received int"),
    ("model", lambda: keras.layers.Dense(1), {}, "received Dense"),
    ("lengths", lambda: [np.zeros((3, 1)), np.zeros((4, 1))], {}, "received 3, 4"),
    (
        "steps 0",
        lambda: data(9)[0],
        {"steps": 0},
        "steps to be an integer from 1, .* 0",
    ),
    ("steps 1.5", lambda: data(9)[0], {"steps": 1.5}, "steps to be an integer"),
    ("batch size", lambda: data(9)[0], {"batch_size": -2}, "batch_size .* received -2"),
    ("exact once", lambda: endless(), {"exact": True, "steps": 2}, "only once"),
    ("four", lambda: [(data(9)[0],) * 4], {}, "Data is expected to be in format"),
]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [pytest.param(*rest, id=name) for name, *rest in REFUSED],
)
def test_data_that_make_no_sense_are_refused(given, options, message):
    model, _ = one_input()
    before = values(model.weights)
    with pytest.raises(ValueError, match=message):
        update(model, given(), **options)
    for old, new in zip(before, values(model.weights), strict=True):
        np.testing.assert_array_equal(old, new)


class Insisting(keras.Model):
    """It calls its batch norm in inference, whatever it is told."""

    def __init__(self, also=False, layer=kbn.BatchNorm):
        super().__init__()
        self.norm = layer(name="norm")
        self.other = layer() if also else None

    def call(self, x, training=None):
        x = self.norm(x, training=False)
        return self.other(x, training=training) if self.other else x


def test_reason_is_that_the_model_insists_on_inference():
    x, _ = data(5)
    with pytest.raises(ValueError, match=r"'insist.*calls 'norm' with training=False"):
        update(Insisting(), x)
    with pytest.raises(ValueError, match=r"batch norm: the batches are empty, masked"):
        update(Insisting(also=True), np.full((3, FEATURES), np.nan, "f4"))


class Unused(Insisting):
    def call(self, x, training=None):
        return x


def test_reason_is_that_nothing_calls_a_batch_norm():
    model = Unused()
    model.norm.build((None, FEATURES))
    with pytest.raises(ValueError, match=r"'unused.*' calls none of its batch norms\."):
        update(model, data(5)[0])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's")
@pytest.mark.parametrize("called", [False, True])
def test_reason_is_a_function_that_was_traced_before(called):
    import tensorflow as tf

    class Traced(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = kbn.BatchNorm()

        @tf.function
        def call(self, x, training=None):
            return self.norm(x, training=training)

    model, (x, _) = Traced(), data(5)
    if called:
        model(x, training=False)
    reason = r"'call' of Traced 'traced' is a tf.function that was traced before"
    with pytest.raises(ValueError, match=reason):
        update(model, x)
    seen, before = kbn.BatchNorm(), values(model.norm.weights)
    message = f"keep their statistics: {model.norm.name}; {reason}"
    with pytest.warns(UserWarning, match=message):
        update(keras.Sequential([keras.Input((FEATURES,)), seen, model]), x)
    np.testing.assert_allclose(values(seen.weights)[2], x.mean(0), rtol=1e-5)
    for value, old in zip(values(model.norm.weights), before, strict=True):
        np.testing.assert_array_equal(value, old)


# --- what stays as it was


def everything(model):
    """All state: weights, seeds, metrics, optimizer, flags, momenta, overrides."""
    variables = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    flags = [
        (x.trainable, getattr(x, "momentum", 0), "call" in vars(x))
        for x in model._flatten_layers()
    ]
    return {
        id(v): value for v, value in zip(variables, values(variables), strict=True)
    }, flags


class Broken(Exception):
    pass


@both_modes
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize(
    "situation", [Situation("sequential", "Keras"), Situation("held", "kbn")], ids=str
)
def test_exception_leaves_everything_as_it_was(situation, error, exact):
    x, y = data(16)
    model = situation.model()
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=BACKEND != "jax")
    model.train_on_batch(x, y)
    before, flags = everything(model)
    read = []

    class Source(Listed):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            if len(read) == (7 if exact else 3):  # in the second pass, if there is one
                raise error
            return batch

    with pytest.raises(error):
        update(model, Source(cut(x, [4] * 4), read), exact=exact)
    after, now = everything(model)
    assert flags == now
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


@both_modes
@pytest.mark.parametrize(
    "situation", [Situation("nested", "Keras"), Situation("images", "kbn")], ids=str
)
def test_only_statistics_change(situation, exact):
    x, y = data(16)
    model = situation.model()
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=BACKEND != "jax")
    model.train_on_batch(x, y)
    before, flags = everything(model)
    update(model, x, exact=exact, batch_size=8)
    after, now = everything(model)
    assert flags == now
    moving = {id(w) for layer in norms(model) for w in layer.non_trainable_weights}
    for name, value in before.items():
        assert np.array_equal(after[name], value) is (name not in moving)


class Sampler(keras.layers.Layer):
    """Draws numbers in inference too, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seed)


def test_layers_with_state_of_their_own_do_not_notice():
    model = keras.Sequential([keras.Input((3, FEATURES), batch_size=4), Sampler()])
    model.add(keras.layers.SimpleRNN(4, stateful=True))
    model.add(kbn.BatchNorm())
    x = np.ones((12, 3, FEATURES), "float32")
    before = values(model.variables)
    update(model, x, batch_size=4)
    layer = model.layers[-1]
    for variable, old in zip(model.variables, before, strict=True):
        is_moving = variable.name.startswith("moving")
        assert np.array_equal(values([variable])[0], old) is not is_moving
    assert layer.moving_variance is not None


@both_layers
def test_frozen_batch_norm_is_left_alone(layer):
    model = Situation("sequential", layer).model()
    first = norms(model)[0]
    first.trainable = False
    before = values([first.moving_mean, first.moving_variance])
    update(model, data(20)[0])
    for old, new in zip(
        before, values([first.moving_mean, first.moving_variance]), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    kbn.freeze_batch_norm(model, train_affine=True)
    message = r"Every batch norm in Sequential .* is frozen.*kbn\.unfreeze_batch_norm"
    with pytest.raises(ValueError, match=message):
        update(model, data(20)[0])


@both_layers
def test_batch_norm_that_is_called_in_inference_is_left_alone(layer):
    model = Insisting(also=True, layer=LAYERS[layer])
    x, _ = data(20)
    update(model, x)
    fixed, moving = values([model.norm.moving_mean, model.other.moving_mean])
    np.testing.assert_array_equal(fixed, 0)
    expected = x.mean(0) / np.sqrt(1 + 1e-3)
    np.testing.assert_allclose(moving, expected, rtol=1e-5)


class Strict(keras.layers.Layer):
    """Asks whether `training is False`, as keras.layers.TorchModuleWrapper does."""

    def call(self, x, training=None):
        return x if training is False else x + 100


def test_layers_are_given_a_plain_false():
    model = keras.Sequential([keras.Input((FEATURES,)), Strict(), kbn.BatchNorm()])
    x, _ = data(20)
    update(model, x)
    np.testing.assert_allclose(model.get_weights()[2], x.mean(0), rtol=1e-5)


def test_statistics_that_are_not_finite_do_not_count():
    x, _ = data(20)
    bad = x.copy()
    bad[7, 2], bad[8, 0] = np.nan, np.inf
    model = keras.Sequential([keras.Input((FEATURES,)), kbn.BatchNorm(name="bn")])
    with pytest.warns(UserWarning, match=r"do not count there\. .*: bn \(2 of 6\)"):
        update(model, bad, batch_size=5)
    clean = np.delete(np.float64(x), np.s_[5:10], axis=0)
    mean, variance = model.get_weights()[2:]
    for channel, rows in ((0, clean), (1, np.float64(x)), (2, clean)):
        np.testing.assert_allclose(mean[channel], rows[:, channel].mean(), rtol=1e-5)
        np.testing.assert_allclose(variance[channel], rows[:, channel].var(), rtol=1e-5)


# --- where batch norms are called


class Cell(keras.layers.Layer):
    """Of a recurrent layer, with a batch norm in it."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.state_size = norm, FEATURES

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, states, training=None):
        y = self.norm(x, training=training)
        return y, [states[0] + y]


@both_modes
def test_batch_norm_in_a_recurrent_cell(exact):
    x = np.random.default_rng(0).normal(3, 2, (9, 4, FEATURES)).astype("float32")
    layer = kbn.BatchNorm()
    model = keras.Sequential(
        [keras.Input((4, FEATURES)), keras.layers.RNN(Cell(layer))]
    )
    if BACKEND == "jax":
        with pytest.raises(ValueError, match="inside a loop of JAX"):
            update(model, x, exact=exact)
        return
    update(model, x, batch_size=4, exact=exact)
    mean, variance = values([layer.moving_mean, layer.moving_variance])
    # Keras calls a cell once more, to see what it gives.
    x = np.concatenate([x[:, :1], x], axis=1)
    np.testing.assert_allclose(mean, np.float64(x).mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(variance, np.float64(x).var((0, 1)), rtol=1e-4)


@both_layers
def test_batch_norm_in_time_distributed(layer):
    x = np.random.default_rng(0).normal(3, 2, (9, 4, FEATURES)).astype("float32")
    inner = LAYERS[layer]()
    model = keras.Sequential([keras.Input((4, FEATURES))])
    model.add(keras.layers.TimeDistributed(inner))
    update(model, x, batch_size=4)
    mean, variance = values([inner.moving_mean, inner.moving_variance])
    np.testing.assert_allclose(mean, np.float64(x).mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(variance, np.float64(x).var((0, 1)), rtol=1e-4)


class Shouting(keras.layers.BatchNormalization):
    """A user's own: it does more than Keras'."""

    def call(self, inputs, training=None, mask=None):
        return 10 * super().call(inputs, training=training, mask=mask)


@both_modes
def test_derived_batch_norm_keeps_its_own_call(exact):
    x, _ = data(20)
    model = keras.Sequential([keras.Input((FEATURES,)), Shouting(), kbn.BatchNorm()])
    update(model, x, exact=exact)
    variance = model.layers[1].get_weights()[3]
    np.testing.assert_allclose(variance, 100, rtol=0.05)


@pytest.mark.parametrize("kind", ["sequential", "subclassed", "layer"])
def test_model_that_is_not_built_yet(kind):
    x, _ = data(20)
    model = {
        "sequential": lambda: keras.Sequential([kbn.BatchNorm()]),
        "subclassed": lambda: Insisting(also=True),
        "layer": lambda: kbn.BatchNorm(),
    }[kind]()
    update(model, iter([x]))
    moving = norms(model)[-1].get_weights()[2]
    scale = np.sqrt(1 + 1e-3) if kind == "subclassed" else 1
    np.testing.assert_allclose(moving, x.mean(0) / scale, rtol=1e-5)


def test_source_may_use_the_model_itself():
    x, _ = data(20)
    model = Situation("sequential", "kbn").model()
    expected = model.predict(x, verbose=0)
    fresh = Situation("sequential", "kbn").model()

    def source():
        for batch in (x[:12], x[12:]):
            np.testing.assert_array_equal(fresh.predict(x, verbose=0), expected)
            yield batch

    update(fresh, source())
    update(model, [(x[:12],), (x[12:],)])
    np.testing.assert_array_equal(
        fresh.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_progress_bar(capsys):
    model, x = one_input()
    kbn.update_bn_stats(model, x, batch_size=6)
    assert "4/4" in capsys.readouterr().out
    kbn.update_bn_stats(model, parts(x), verbose=2)
    assert "4/4" in capsys.readouterr().out
    kbn.update_bn_stats(model, parts(x), verbose=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("eager", [False, True])
def test_model_is_traced_once_for_all_updates(eager):
    traced = []

    class Counts(keras.layers.Layer):
        def call(self, x):
            traced.append(1)
            return x

    model = keras.Sequential([keras.Input((FEATURES,)), Counts(), kbn.BatchNorm()])
    model.compile(run_eagerly=eager)
    again = statistics.Update(model, data(18)[0], batch_size=6)
    traced.clear()
    for _ in range(3):
        again()
    assert len(traced) == (9 if eager or BACKEND == "torch" else 1)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a strategy of TensorFlow")
def test_model_of_a_strategy():
    from tests.replicas import two_replicas

    with two_replicas().scope():
        model = keras.Sequential([keras.Input((FEATURES,)), kbn.BatchNorm()])
        model.compile("sgd", "mse")
    x, _ = data(20)
    update(model, x, batch_size=6)
    np.testing.assert_allclose(model.get_weights()[2], x.mean(0), rtol=1e-5)
    for replica in model.layers[0].moving_mean.value.values:
        np.testing.assert_allclose(replica.numpy(), x.mean(0), rtol=1e-5)
