"""The defects of Keras 3.15.1's batch normalization, and those that kbn shares.

`DEFECTS` is the table, with the version in which one is gone; its probes are in
`tests.defect_numbers` and `tests.defect_training`. Their truth is float64 NumPy, never
one of the two layers.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras

from tests import defect_numbers as numbers
from tests import defect_training as training

# Versions of Keras that every probe has looked at.
LOOKED_AT = {"3.14.0", "3.15.1", "3.16.0.dev2026102704"}
BACKEND = keras.backend.backend()
T, J, P = "tensorflow", "jax", "torch"
EVERY = (T, J, P)

Probe = Callable[[type], tuple[str, bool]]


def is_reached(version):
    """Whether what is installed is this version or a later one: "keras 3.16"."""
    package, first = version.split()
    installed = importlib.import_module(package).__version__
    has, wanted = (
        [int(part) for part in one.split(".")[:2]] for one in (installed, first)
    )
    return has >= wanted


@dataclass(frozen=True)
class Finding:
    """What a probe saw of a layer class, and whether that is the defect."""

    seen: str
    defective: bool
    exception: Exception | None = None


def measure(probe, cls):
    """The probe's finding; a crash is one too."""
    try:
        return Finding(*probe(cls))
    except Exception as exception:
        return Finding(type(exception).__name__, True, exception)


@dataclass(frozen=True)
class Defect:
    """`backends`: where Keras 3.15.1 has it; `probed`: where it can be looked for.

    `since`, `gone`: the first version that has it, if 3.14 has not, and the first that
    has it no more, each a package and its version.
    """

    number: int
    what: str
    probe: Probe
    backends: tuple = EVERY
    probed: tuple = EVERY
    since: str = "keras 3.14"
    gone: str = ""

    @property
    def id(self):
        return f"D{self.number:02}"

    @property
    def is_in_keras(self):
        """Whether the Keras that is installed has it on this backend."""
        if BACKEND not in self.backends or not is_reached(self.since):
            return False
        return not (self.gone and is_reached(self.gone))

    @property
    def shared(self):
        """Why kbn has it too, on this backend; or None."""
        shared = SHARED.get(self.number)
        here = shared and BACKEND in self.backends and BACKEND in shared.backends
        return shared if here else None


@dataclass(frozen=True)
class Shared:
    """Why kbn has a defect as Keras has it, and what `holds` all the same."""

    verdict: str
    reason: str
    holds: str
    probe: Probe
    backends: tuple = EVERY


DEFECTS = [
    Defect(1, "an empty replica: NaN in fit", training.empty_replica, (T,), (T,)),
    Defect(2, "statistics of replica 0", training.unaggregated_statistics, (T,), (T,)),
    Defect(
        3, "synchronized variance cancels", training.synchronized_variance, (T,), (T,)
    ),
    Defect(4, "synchronized with a mask", training.synchronized_mask, (T,), (T,)),
    Defect(5, "one-pass variance cancels", numbers.one_pass_variance, (P,)),
    Defect(6, "empty batch", numbers.empty_batch),
    Defect(7, "fully masked batch", numbers.fully_masked_batch),
    Defect(8, "one NaN or Inf stays for ever", numbers.non_finite_batch),
    Defect(9, "statistics of a skipped step", numbers.skipped_step),
    Defect(10, "mask with one channel", numbers.mask_of_one_channel),
    Defect(11, "mask over time of (N, C, T)", numbers.mask_of_time_channels_first),
    Defect(12, "mask that broadcasts", numbers.mask_that_broadcasts),
    Defect(13, "mask of weights", numbers.mask_weights, since="keras 3.15"),
    Defect(14, "float32 cast to float16: inf", numbers.float32_into_float16),
    Defect(15, "float32 cast to 16 bits: digits", numbers.autocast_statistics),
    Defect(16, "16-bit average stalls", numbers.stalled_average),
    # JAX computes in float64 only when the whole process is told to.
    Defect(17, "float64 in float32", numbers.float64_layer, (P,), (T, P)),
    Defect(18, "mean summed naively", numbers.naive_mean, (T,)),
    Defect(19, "inference cancels", numbers.inference_cancels, (T, J)),
    # On JAX a layer cannot be called eagerly in keras.remat.
    Defect(20, "remat updates twice", training.rematerialized, (T, P), (T, P)),
    Defect(21, "RematScope fails", training.remat_scope, (T, J)),
    Defect(22, "TimeDistributed: T updates", training.time_distributed),
    Defect(23, "accumulation: N updates", training.accumulated_gradients),
    Defect(24, "biased variance of small batches", numbers.small_batch_variance),
    Defect(25, "axis: refusals, [3]", numbers.bad_axis),
    Defect(26, "momentum out of range", numbers.bad_momentum, gone="keras 3.16"),
    Defect(27, "epsilon out of range", numbers.bad_epsilon),
    Defect(28, "renorm's arguments", numbers.bad_renorm),
    Defect(29, "inputs of rank 1", numbers.rank_1, (P,)),
    Defect(30, "Keras 2 config; training a tensor", training.keras_2_habits),
    Defect(31, "synchronized on JAX", training.synchronized_on_jax, (J,), (J,)),
    # tf.nn.moments takes its mean's derivative into account since 2.22:
    # https://github.com/tensorflow/tensorflow/blob/v2.22.0-rc0/tensorflow/python/ops/nn_impl.py
    Defect(
        *(32, "second derivatives in x", numbers.second_derivatives, (T,), (T,)),
        gone="tensorflow 2.22",
    ),
]
HERE = [defect for defect in DEFECTS if BACKEND in defect.probed]

ON_PURPOSE, OUTSIDE = "kept on purpose", "outside the layer"
SHARED = {
    13: Shared(
        ON_PURPOSE,
        "a mask says present or not, as everywhere in Keras",
        "non-zero means present",
        partial(numbers.mask_weights, weighted=False),
    ),
    19: Shared(
        ON_PURPOSE,
        "TFLite folds x * s + t into the layer before it",
        "it is backward stable",
        numbers.inference_is_backward_stable,
        (T,),
    ),
    20: Shared(
        OUTSIDE,
        "keras.remat runs the layer twice and does not say so",
        "momentum ** (1 / 2) makes it one update",
        partial(training.rematerialized, power=1 / 2),
    ),
    21: Shared(
        OUTSIDE,
        "keras.RematScope fails with other layers too",
        "so with Dropout in its place",
        training.remat_scope_of_dropout,
    ),
    22: Shared(
        OUTSIDE,
        "TimeDistributed calls the layer once a time step",
        "without it the time steps are one batch",
        partial(training.time_distributed, wrapped=False),
    ),
    23: Shared(
        OUTSIDE,
        "the layer is called once for each accumulated batch",
        "momentum ** (1 / N) makes it one update",
        partial(training.accumulated_gradients, power=1 / 4),
    ),
    24: Shared(
        ON_PURPOSE,
        "the biased variance is Keras' default",
        "unbiased=True",
        numbers.unbiased_variance,
    ),
}
