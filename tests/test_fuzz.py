"""Any sound arguments on any inputs: what the oracle says."""

import keras
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import kbn
from tests import oracle
from tests.cases import rounded
from tests.running import array

UNIT = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
# Sums of up to some hundred elements, and 16-bit outputs near a rounding edge.
UNITS = 64

fractions = st.one_of(st.floats(0.01, 0.99), st.sampled_from([0, 1, 0.5]))
bounds = st.fixed_dictionaries(
    {},
    optional={
        "rmin": st.floats(0, 1),
        "rmax": st.floats(1, 5),
        "dmax": st.floats(0, 5),
    },
)
SOUND = {
    "center": st.booleans(),
    "scale": st.booleans(),
    "momentum": st.one_of(fractions, st.none()),
    "epsilon": st.floats(1e-6, 1.0),
    "unbiased": st.booleans(),
    "warmup": st.booleans(),
    "virtual_batch_size": st.one_of(st.none(), st.integers(1, 5)),
    "renorm": st.booleans(),
    "renorm_clipping": st.one_of(st.none(), bounds),
    "renorm_momentum": fractions,
    "dtype": st.sampled_from(list(UNIT)),
}


@st.composite
def situations(draw):
    """Arguments, a shape and a mask."""
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    places = st.integers(-len(shape), len(shape) - 1)
    axis = draw(st.one_of(places, st.lists(places, min_size=1, max_size=3)))
    axes = {a % len(shape) for a in np.atleast_1d(axis)}
    if isinstance(axis, list):
        axis = sorted(axes)
    given = {"axis": axis, **draw(st.fixed_dictionaries({}, optional=SOUND))}
    if given.get("momentum", 0.99) in (None, 1):
        given.pop("warmup", None)
    if 0 in axes:
        given.pop("virtual_batch_size", None)
    return given, shape, draw(masks(shape))


@st.composite
def masks(draw, shape):
    """None, or a mask that fits, of any rank."""
    if draw(st.booleans()):
        return None
    rank = draw(st.integers(0, len(shape)))
    size = [draw(st.sampled_from([1, n, n])) for n in shape[:rank]]
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return np.asarray(np.random.default_rng(rank).random(size) < share)


def aligned(mask, shape):
    """The mask at the full shape: its dimensions are the leading ones."""
    if mask is None:
        return np.ones(shape, bool)
    rest = [1] * (len(shape) - mask.ndim)
    return np.broadcast_to(mask.reshape([*mask.shape, *rest]), shape)


def expected(layer, x, mask):
    """The first training step of a fresh layer, group by group."""
    axes = sorted(a % x.ndim for a in np.atleast_1d(layer.axis))
    order = [i for i in range(x.ndim) if i not in axes] + axes
    channels = int(np.prod([x.shape[i] for i in axes]))
    mask = aligned(mask, x.shape)
    y = np.zeros(x.shape)
    state = oracle.State(channels, layer.epsilon, 0.0, layer.renorm_clipping)
    if not layer.renorm:
        state.renorm = None
    size = layer.virtual_batch_size or max(len(x), 1)
    pooled = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        shape = [part.shape[i] for i in order]
        flat, kept = (
            np.transpose(a, order).reshape(part.size // max(channels, 1), channels)
            for a in (part, mask[start : start + size])
        )
        settings = flat, 1.0, 0.0, 1, layer.epsilon, np.ones(flat.shape), kept
        batch = oracle.normalize(*settings)
        batch = oracle.normalize(
            *settings, state.correction(batch.mean, batch.variance)
        )
        back = np.transpose(batch.y.reshape(shape), np.argsort(order))
        y[start : start + size] = back
        pooled.append((batch.count, batch.mean))
    count = np.sum([c for c, _ in pooled], 0)
    mean = np.sum([c * m for c, m in pooled], 0) / np.maximum(count, 1)
    return y, mean, count


@given(data=st.data())
def test_any_arguments_on_any_inputs(data):
    given_arguments, shape, mask = data.draw(situations())
    dtype = given_arguments.get("dtype", "float32")
    scales = [(1.0, 0.0), (1.0, 3.0), (0.0, 2.0)]
    if dtype == "float32":
        scales += [(1e-3, 5.0), (1e3, -1e4), (1.0, 1e5)]
    spread, mean = data.draw(st.sampled_from(scales))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    x = rounded(rng.normal(size=shape) * spread + mean, dtype)
    inputs = keras.ops.convert_to_tensor(x, dtype)

    layer = kbn.BatchNorm(**given_arguments)
    y = layer(inputs, training=True, mask=mask)
    assert np.isfinite(array(layer(inputs, training=False))).all()
    wanted, moving_mean, count = expected(layer, x, mask)
    got = array(y)
    assert np.isfinite(got).all()
    scale = max(1.0, np.abs(wanted).max(initial=0))
    np.testing.assert_allclose(got, wanted, atol=UNITS * UNIT[dtype] * scale, rtol=0)
    assert np.isfinite(array(layer.moving_variance.value)).all()
    if (not layer.momentum or layer.warmup) and not layer.unbiased:
        spoken = np.where(count > 0, moving_mean, 0)
        np.testing.assert_allclose(
            array(layer.moving_mean.value).ravel(), spoken, rtol=1e-5, atol=1e-5
        )
