"""How far is a training step from float64 when the mean is large?

Prints, for every shape and mean, the largest error of the output, of the moving
variance (relative) and of the gradient (relative, in norm), of kbn and of Keras, beside
the limit. Exits 1 if kbn misses one. Arguments: the modes, by default all of them.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import keras
import numpy as np

import kbn
from tests import oracle, running
from tests.cases import MODES

SHAPES = [
    ((4096, 8), -1),
    ((65536, 8), -1),
    ((32, 28, 28, 16), -1),
    ((32, 16, 28, 28), 1),
    ((256, 1024), -1),
    ((16, 8, 8, 8, 16), -1),
    ((8, 4, 8, 4, 8, 16), -1),
]
# mean: (output and moving variance, gradient)
LIMITS = {0.0: (2e-5, 1e-4), 1e2: (5e-4, 1e-4), 1e4: (1e-4, 1e-3), 1e6: (1e-3, 1e-3)}


def errors(cls, mode, shape, axis, mean):
    """Largest error of y, relative error of the variance, of dx, dgamma and dbeta."""
    rng = np.random.default_rng(0)
    x = np.asarray(rng.normal(size=shape) + mean, "float32")
    dy = np.asarray(rng.normal(size=shape), "float32")
    layer = cls(axis=axis, momentum=0.0)
    outcome = running.Runner(layer, mode, True, shape)(x, dy)
    exact = oracle.normalize(x, 1.0, 0.0, axis, layer.epsilon, dy.astype("f8"))
    variance = running.array(layer.moving_variance.value)

    def distance(got, wanted):
        return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)

    return (
        np.abs(outcome.y - exact.y).max(),
        np.abs(variance / exact.variance - 1).max(),
        max(
            distance(outcome.dx, exact.dx),
            distance(outcome.dgamma, exact.dgamma),
            distance(outcome.dbeta, exact.dbeta),
        ),
    )


def main():
    missed = 0
    print(f"backend {keras.backend.backend()}, float32, standard deviation 1")
    names = ("y", "variance", "gradient")
    head = "".join(f"{n + ' kbn':>14}{'Keras':>9}{'limit':>9}" for n in names)
    print(f"{'mode':8}{'shape':24}{'mean':>8}{head}")
    for mode in sys.argv[1:] or [m for m in MODES if m != "unknown-sizes"]:
        for shape, axis in SHAPES:
            for mean, (limit, gradient_limit) in LIMITS.items():
                ours = errors(kbn.BatchNorm, mode, shape, axis, mean)
                theirs = errors(
                    keras.layers.BatchNormalization, mode, shape, axis, mean
                )
                limits = (limit, limit, gradient_limit)
                late = any(not a <= b for a, b in zip(ours, limits, strict=True))
                missed += late
                row = "".join(
                    f"{a:14.1e}{b:9.1e}{c:9.0e}"
                    for a, b, c in zip(ours, theirs, limits, strict=True)
                )
                print(f"{mode:8}{shape!s:24}{mean:8.0e}{row}{'  MISSED' * late}")
    print(f"{missed} limits missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
