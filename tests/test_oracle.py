"""The oracle is right: its gradients against finite differences in float64."""

import numpy as np
import pytest

from tests import oracle


def numerical(function, at, step=1e-6):
    gradient = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        gradient[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return gradient


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradients_match_finite_differences(axis, masked):
    rng = np.random.default_rng(axis)
    x, dy = rng.normal(size=(2, 3, 4, 5))
    gamma, beta = rng.normal(size=(2, x.shape[axis]))
    mask = rng.random((3, 4, 5)) < 0.7 if masked else None
    r, d = rng.random((2, x.shape[axis]))

    def loss(x=x, gamma=gamma, beta=beta):
        out = oracle.normalize(x, gamma, beta, axis, 1e-3, dy, mask, (r, d))
        return np.sum(out.y * dy)

    out = oracle.normalize(x, gamma, beta, axis, 1e-3, dy, mask, (r, d))
    np.testing.assert_allclose(out.dx, numerical(lambda v: loss(x=v), x), atol=1e-7)
    np.testing.assert_allclose(
        out.dgamma, numerical(lambda v: loss(gamma=v), gamma), atol=1e-7
    )
    np.testing.assert_allclose(
        out.dbeta, numerical(lambda v: loss(beta=v), beta), atol=1e-7
    )


def test_fixed_gradients_match_finite_differences():
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 3, 4))
    mean, gamma, beta = rng.normal(size=(3, 4))
    variance = rng.random(4)

    def run(x=x, gamma=gamma):
        return oracle.normalize_fixed(x, mean, variance, gamma, beta, 1, 1e-3, dy)

    out = run()
    for name, at in (("x", x), ("gamma", gamma)):
        expected = numerical(lambda v, n=name: np.sum(run(**{n: v}).y * dy), at)
        np.testing.assert_allclose(getattr(out, f"d{name}"), expected, atol=1e-7)


def test_statistics_match_numpy():
    x = np.random.default_rng(0).normal(size=(6, 5, 4))
    out = oracle.normalize(x, 1.0, 0.0, 1, 1e-3, np.ones_like(x))
    np.testing.assert_allclose(out.mean, x.mean((0, 2)))
    np.testing.assert_allclose(out.variance, x.var((0, 2)))
    assert out.count.tolist() == [24.0] * 5
