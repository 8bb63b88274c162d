"""kbn.BatchNorm against the float64 oracle and against Keras' own layer.

Everything a user can see is compared: output, d/dx, d/dgamma, d/dbeta, the moving
statistics after several steps, dtypes. The tolerance is Keras' own error: ours may be
at most twice that, on the same inputs, or a few units in the last place.
"""

import keras
import numpy as np
import pytest
from keras.layers import BatchNormalization as KerasBatchNorm

import kbn
from tests import oracle, running
from tests.cases import CASES, MODES

STEPS = 3
UNITS = 16  # in the last place of the largest value: where Keras happens to be exact
LAST_PLACE = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10}
LAST_PLACE["bfloat16"] = 2.0**-7


def compute(cls, case, drawn):
    """The last of STEPS calls, and the moving statistics after it."""
    x, dy, gamma, beta, masks = drawn
    is_ours = cls is kbn.BatchNorm
    layer = cls(**(case.own_arguments if is_ours else case.arguments))
    layer.build(case.shape)
    rng = np.random.default_rng(case.number)
    start = {"gamma": gamma, "beta": beta}
    if case.call != "training":  # not the initial statistics
        start["moving_mean"] = rng.normal(size=case.channels) + case.mean
        start["moving_variance"] = rng.uniform(0.5, 2, case.channels)
    for name, value in start.items():
        if getattr(layer, name) is not None:
            getattr(layer, name).assign(value)
    layer.trainable = case.call != "frozen"
    training = case.call != "inference"
    rank = None if case.mask is None else masks[0].ndim
    runner = running.Runner(layer, case.mode, training, case.shape, rank)
    for step in range(STEPS if case.call == "training" else 1):
        outcome = runner(x[step], dy[step], masks[step])
    names = ["moving_mean", "moving_variance"]
    if case.renorm is not None:
        names += ["renorm_mean", "renorm_stddev", "moving_stddev"]
    if is_ours and case.average != "moving":
        names.append("num_batches_tracked")
    moving = {n: running.array(getattr(layer, n).value) for n in names}
    return layer, outcome, moving


def expect(case, drawn, layer):
    """The same by the oracle. Inference uses the layer's own statistics."""
    x, dy, gamma, beta, masks = drawn
    gamma = gamma if case.scale else np.ones(case.channels)
    beta = beta if case.center else np.zeros(case.channels)
    momentum, warmup = layer.momentum, getattr(layer, "warmup", False)
    state = oracle.State(
        case.channels, layer.epsilon, momentum, case.renorm, 0.8, warmup
    )
    settings = gamma, beta, case.axis, layer.epsilon
    if case.call == "training":
        for step in range(STEPS):
            mask = case.full_mask(masks[step])
            batch = oracle.normalize(x[step], *settings, dy[step], mask)
            correction = state.correction(batch.mean, batch.variance)
            batch = oracle.normalize(x[step], *settings, dy[step], mask, correction)
            state.update(batch)
        return batch, state
    for name in ("moving_mean", "moving_variance"):
        setattr(state, name, running.array(getattr(layer, name).value))
    statistics = state.moving_mean, state.moving_variance
    return oracle.normalize_fixed(x[0], *statistics, *settings, dy[0]), state


def errors(case, drawn, cls):
    """{quantity: (largest error, largest magnitude, dtype)} of `cls`."""
    layer, outcome, moving = compute(cls, case, drawn)
    batch, state = expect(case, drawn, layer)
    found = {
        "y": (outcome.y, batch.y, outcome.dtype),
        "dx": (outcome.dx, batch.dx, outcome.dtype),
    }
    affine = keras.backend.standardize_dtype(layer.moving_mean.dtype)
    # Sums over the batch: their magnitude is that of the sum of the magnitudes.
    dy = np.abs(drawn[1]).max() * batch.y.size / case.channels
    if case.scale and case.call != "frozen":
        found["dgamma"] = (outcome.dgamma, batch.dgamma, affine, dy)
    if case.center and case.call != "frozen":
        found["dbeta"] = (outcome.dbeta, batch.dbeta, affine, dy)
    for name, value in moving.items():
        if name == "num_batches_tracked":
            np.testing.assert_array_equal(value, state.batches)
        else:
            found[name] = (value, getattr(state, name), affine)
    result = {}
    for name, (got, wanted, dtype, *magnitude) in found.items():
        assert got.shape == wanted.shape, (name, got.shape, wanted.shape)
        assert np.isfinite(got).all(), name
        scale = max([1.0, *magnitude, np.abs(wanted).max(initial=0)])
        result[name] = (np.abs(got - wanted).max(initial=0), scale, dtype)
    return layer, outcome, result


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_parity(case):
    drawn = case.draw(STEPS)
    layer, outcome, ours = errors(case, drawn, kbn.BatchNorm)
    theirs = {}
    if case.keras_can:
        keras_layer, keras_outcome, theirs = errors(case, drawn, KerasBatchNorm)
        assert outcome.dtype == keras_outcome.dtype
        counter = [] if case.average == "moving" else [layer.num_batches_tracked]
        expected = [(w.name, w.shape) for w in [*keras_layer.weights, *counter]]
        assert [(w.name, w.shape) for w in layer.weights] == expected
        own = {"warmup"} if case.average == "warmup" else set()
        assert layer.get_config().keys() == keras_layer.get_config().keys() | own
    compute_dtype = layer.compute_dtype
    for name, (error, scale, dtype) in ours.items():
        # A 16-bit output is compared by its own last place, what is made of 16-bit
        # inputs in float32 by float32's.
        narrow = dtype if name in ("y", "dx") else affine_dtype(compute_dtype)
        unit = LAST_PLACE[narrow] * scale
        if case.mean:  # x itself is only so exact
            unit *= 1 + case.mean
        allowed = max(2 * theirs[name][0] if theirs else 0, UNITS * unit)
        np.testing.assert_array_less(error, allowed + 1e-300, err_msg=name)


def affine_dtype(compute_dtype):
    return "float64" if compute_dtype == "float64" else "float32"


def test_every_value_of_every_dimension_is_compared_with_keras():
    compared = [case for case in CASES if case.keras_can]
    assert len(compared) > len(CASES) / 3
    assert {case.mode for case in compared} == set(MODES)
    assert {case.call for case in compared} == {"training", "inference", "frozen"}
    assert {len(case.shape) for case in compared} == {2, 3, 4, 5, 6}
