"""Activation functions: which one a layer ends with, and when its outputs are sick."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ..signals.activations import dead_units
from ..signals.data import skew
from ..signals.shift import activation_shift
from ..signals.subjects import Entering, Output, Subject, Target
from .layers import attribute

INF = math.inf


@dataclass(frozen=True)
class Activation:
    """Where an activation function is flat: what kbn knows of it.

    `rest`: its output, to within `within`, for all inputs beyond one end, where its
    gradient is 0; there a unit is dead. `flat`: below the first and above the second
    output its gradient is nearly 0, but healthy units come back.
    """

    name: str
    rest: float | None = None
    within: float = 0.0
    flat: tuple[float, float] | None = None


# A new activation function is a row; those of `keras.activations` that are not here
# are flat nowhere. A test computes them all.
ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("relu", 0.0),
        Activation("relu6", 0.0, flat=(-INF, 5.999)),
        Activation("hard_silu", 0.0),
        Activation("silu", 0.0, within=1e-6),
        Activation("mish", 0.0, within=1e-6),
        Activation("gelu", 0.0, within=1e-6),
        Activation("sparse_plus", 0.0),
        Activation("threshold", 0.0),
        Activation("hard_shrink", 0.0),
        Activation("soft_shrink", 0.0),
        Activation("tanh", flat=(-0.99, 0.99)),
        Activation("hard_tanh", flat=(-0.999, 0.999)),
        Activation("softsign", flat=(-0.99, 0.99)),
        Activation("sigmoid", flat=(0.01, 0.99)),
        Activation("hard_sigmoid", flat=(0.01, 0.99)),
        Activation("sparse_sigmoid", flat=(0.01, 0.99)),
        Activation("log_sigmoid", flat=(-INF, -0.01)),
        Activation("softplus", flat=(0.001, INF)),
        Activation("squareplus", flat=(0.001, INF)),
        Activation("elu", flat=(-0.99, INF)),
        Activation("celu", flat=(-0.99, INF)),
        Activation("selu", flat=(-1.74, INF)),
    )
}
# Operations of a functional model, which Keras does not make public: `HardTanh`.
_OPERATIONS = {name.replace("_", ""): name for name in ACTIVATIONS}
# Those of Keras whose output is `activation(...)`. A user's own layer may do anything
# after its activation, and so does an LSTM.
_ENDS_WITH_ACTIVATION = (
    keras.layers.Activation,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_ACTIVATIONS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
)


def activation_of(layer: Any) -> Activation | None:
    """What gives the layer's output; None for a function of which nothing is known.

    Leaky ReLUs, in any of their forms, are not known: they neither die nor saturate.
    """
    if isinstance(layer, _ENDS_WITH_ACTIVATION):
        return _of_function(attribute(layer, "activation"))
    if isinstance(layer, keras.layers.ReLU):
        return _relu(layer)
    if isinstance(layer, keras.layers.ELU):
        return _elu(layer)
    if isinstance(layer, keras.Layer):
        return None
    name = _OPERATIONS.get(type(layer).__name__.lower(), "")
    with_settings = {"relu": _relu, "elu": _elu, "threshold": _threshold}
    return with_settings.get(name, lambda _: ACTIVATIONS.get(name))(layer)


def entered_by(layer: Any) -> list[str]:
    """By which method its inputs enter its activation function, if it has one."""
    if isinstance(layer, _ENDS_WITH_ACTIVATION):
        known = _of_function(attribute(layer, "activation"))
        is_linear = known is None or known.name in ("linear", "softmax")
        return [] if is_linear else ["activation"]
    is_function = isinstance(layer, _ACTIVATIONS) or activation_of(layer) is not None
    return ["call"] if is_function else []


def _of_function(function: Any) -> Activation | None:
    if isinstance(function, keras.Operation):  # a layer as the argument `activation`
        return activation_of(function)
    # keras.activations.relu with a slope hides in a lambda: another name.
    name = attribute(function, "__name__")
    return ACTIVATIONS.get(name, Activation(name)) if isinstance(name, str) else None


def _relu(layer: Any) -> Activation | None:
    slope, top = attribute(layer, "negative_slope"), attribute(layer, "max_value")
    flat = None if top is None else (-INF, 0.999 * float(top))
    rest = None if slope is not None and np.any(slope) else 0.0
    known = rest is not None or flat is not None
    return Activation("relu", rest, flat=flat) if known else None


def _elu(layer: Any) -> Activation:
    return Activation("elu", flat=(-0.99 * float(attribute(layer, "alpha", 1)), INF))


def _threshold(layer: Any) -> Activation:
    return Activation("threshold", float(attribute(layer, "default_value", 0)))


def unit_axis(layer: Any) -> int:
    """Axis of the layer's output on which its units lie, where the layer tells."""
    return 1 if attribute(layer, "data_format") == "channels_first" else -1


class Activity:
    """Which units were active over the last looks.

    A unit that is 0 for one batch need not be for the next. So what a look says of dead
    units is of at least `LOOKS` batches, and `EXAMPLES` examples, as far as they were
    seen. A batch with one target for all, as of sorted data, tells of one class only:
    it is left out. And what entered activation functions at the look before.
    """

    LOOKS, EXAMPLES = 3, 64

    def __init__(self) -> None:
        # Moments of units and of inputs at the look before.
        self._earlier: dict[str, Any] = {}
        self._inputs: dict[str, Any] = {}
        self._rows: dict[str, deque[Any]] = {}  # (replicas, 1 + units) of each look

    def over_looks(
        self, subjects: Sequence[Subject], batch_size: int | None
    ) -> list[Subject]:
        """The subjects of a look, their counts of units those of the last looks."""
        targets = [x.summary for x in subjects if isinstance(x, Target) and x.summary]
        is_same = self._is_same_batch(subjects)
        is_one = bool(targets) and all(x.minimum == x.maximum for x in targets)
        looks = max(self.LOOKS, -(-self.EXAMPLES // (batch_size or self.EXAMPLES)))
        found = []
        for subject in subjects:
            if isinstance(subject, Entering) and not is_one:
                subject = self._since_before(subject, is_same)
            row = subject.rows.get(dead_units.tag)
            if isinstance(subject, Output) and row is not None:
                rows = {k: x for k, x in subject.rows.items() if k != dead_units.tag}
                if not is_one:
                    kept = self._kept(subject.key, row, looks)
                    rows[dead_units.tag] = np.concatenate([*kept])
                subject = subject.having({"rows": rows})
            found.append(subject)
        return found

    def _since_before(self, subject: Entering, is_same: bool) -> Entering:
        earlier = self._earlier.get(subject.key)
        self._earlier[subject.key] = subject.rows.get(activation_shift.tag)
        is_noisy = subject.is_noisy and not is_same
        return subject.having({"earlier": earlier, "is_noisy": is_noisy})

    def _is_same_batch(self, subjects: Sequence[Subject]) -> bool:
        """Whether the inputs have the moments that they had at the look before.

        With a seed, Keras on TensorFlow gives the same batches in every epoch.
        """
        now = {x.key: x.rows[skew.tag] for x in subjects if skew.tag in x.rows}
        before, self._inputs = self._inputs, now
        return (
            bool(now)
            and now.keys() == before.keys()
            and all(
                now[k].shape == before[k].shape
                and np.allclose(now[k], before[k], 1e-9, 0)
                for k in now
            )
        )

    def _kept(self, key: str, row: Any, looks: int) -> deque[Any]:
        kept = self._rows.get(key)
        if kept is None or kept[-1].shape[1:] != row.shape[1:] or kept.maxlen != looks:
            kept = self._rows[key] = deque(maxlen=looks)
        kept.append(row)
        return kept
