"""How far is a training step from float64 when the mean is large?

Prints, for every mode and mean, the largest error of the output, of the moving variance
(relative) and of the gradient (relative, in norm) over the shapes, of kbn and of Keras,
beside the limit. Batches of more than a million elements a channel have rows of their
own: there kbn may be as wrong as Keras. Exits 1 if kbn misses a limit. Arguments: the
modes, by default all of them.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import keras
import numpy as np
import reporting
import steps

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
LARGE_SHAPES = [((32, 224, 224, 3), -1)]
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


def worst(cls, mode, shapes, mean):
    """The largest errors over the shapes; NaN if there is one."""
    found = [errors(cls, mode, shape, axis, mean) for shape, axis in shapes]
    return np.max(found, axis=0)


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument(
        "modes",
        nargs="*",
        type=reporting.one_of(MODES),
        metavar="mode",
        help=f"of {', '.join(MODES)}; all but unknown-sizes",
    )
    options = parser.parse_args(arguments)
    modes = options.modes or [m for m in MODES if m != "unknown-sizes"]
    groups = {"up to a million": SHAPES, "more": LARGE_SHAPES}
    if options.quick:
        modes, groups = modes[:1], {"up to a million": SHAPES[:1]}
    reporting.setting(steps.package(), "float32, standard deviation 1")
    table = reporting.Table(
        "mode",
        "elements a channel",
        "mean",
        *(
            head
            for kind in ("output", "variance", "gradient")
            for head in (f"{kind}: kbn", "Keras", "limit")
        ),
    )
    missed = 0
    for group, shapes in groups.items():
        for mean, (limit, gradient_limit) in LIMITS.items():
            largest, met = [], {}
            for mode in modes:
                ours, theirs = (
                    worst(cls, mode, shapes, mean)
                    for cls in (kbn.BatchNorm, keras.layers.BatchNormalization)
                )
                limits = [limit, limit, gradient_limit]
                if shapes is LARGE_SHAPES:
                    limits = np.fmax(limits, theirs)
                rows = list(zip(ours, theirs, limits, strict=True))
                met[mode] = all(a <= c for a, _, c in rows)
                largest.append(ours)
                cells = (f"{value:.1e}" for row in rows for value in row)
                table.row(mode, group, f"{mean:g}", *cells)
            missed += list(met.values()).count(False)
            y, variance, gradient = np.max(largest, axis=0)
            or_keras = " or Keras' own" if shapes is LARGE_SHAPES else ""
            reporting.hold(
                f"error at mean {mean:g}, {group} elements a channel, "
                f"{steps.BACKEND}: output, variance, gradient",
                f"at most {limit:.0e}, {limit:.0e}, {gradient_limit:.0e}{or_keras}",
                f"{y:.1e}, {variance:.1e}, {gradient:.1e}",
                reporting.verdict(met),
            )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
