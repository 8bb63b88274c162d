"""What layers give: distributions, dead and saturated units."""

from typing import Any

import numpy as np

from . import rows
from .registry import Chart, Guide, diagnostic
from .statistics import Summary
from .subjects import Array, Input, Output, Target


@diagnostic(
    "activations/<layer>",
    of=Output,
    given=lambda output: (output.summary,),
    is_histogram=True,
)
def activations(summary: Summary) -> Summary:
    """What the layer gave in the looked-at step.

    `#1`, `#2` for further calls of the same layer, `/0`, `/1` for several outputs.
    """
    return summary


def _active(x: Any, output: Output) -> Any:
    return rows.active_row(x, output.unit_axis)


def _counts_of_units(output: Output) -> tuple[Array, float]:
    replicas = output.rows["health/dead_units/<layer>"]  # (replicas, 1 + units)
    return replicas[:, 1:].sum(axis=0), float(replicas[:, 0].sum())


@diagnostic(
    "health/dead_units/<layer>",
    of=Output,
    where=lambda output: output.activation is not None and output.activation.dies,
    row=_active,
    given=_counts_of_units,
    unit="share of units, 0 to 1",
    guide=Guide(healthy=(0, 0.2), sick=(None, 0.7)),
    source="the 1 % of SageMaker Debugger's DeadRelu rule",
    chart=Chart("Health", "dead units"),
)
def dead_units(active: Array, elements: float) -> float:
    """Share of a ReLU's units that are non-zero in less than 1 % of batch x space.

    Layers that end in a ReLU or ReLU6, not leaky ones. A unit is a channel: the last
    axis, or axis 1 of a convolution with `channels_first`. A dead unit passes no
    gradient. Where most are dead, try a lower learning rate or batch norm.

    active: (units,), how many of each unit's `elements` are not zero.
    """
    return float(np.mean(active < 0.01 * elements))


def _saturated(x: Any, output: Output) -> Any:
    low, high = output.activation.flat
    return rows.outside_row(x, low, high)


def _counts(output: Output) -> tuple[float, float]:
    elements, outside = output.rows["health/saturated/<layer>"].sum(axis=0)
    return float(outside), float(elements)


@diagnostic(
    "health/saturated/<layer>",
    of=Output,
    where=lambda output: (
        output.activation is not None
        and output.activation.flat is not None
        and not output.is_final
    ),
    row=_saturated,
    given=_counts,
    unit="share of outputs, 0 to 1",
    guide=Guide(healthy=(0, 0.01), sick=(None, 0.6)),
    chart=Chart("Health", "saturated units"),
)
def saturated(outside: float, elements: float) -> float | None:
    """Share of a tanh's or sigmoid's outputs that lie on its flat ends.

    |a| > 0.99 of tanh and softsign, a < 0.01 or a > 0.99 of sigmoid and hard sigmoid,
    in layers whose output is not the model's. There the gradient is nearly 0, and the
    layer hardly learns.
    """
    return outside / elements if elements else None


@diagnostic(
    "activation_std/<layer>",
    of=Output,
    given=lambda output: output.summary and (output.summary,),
    unit="that of the output",
    guide=Guide(healthy=(0.1, 10)),
    source="layer-sequential unit variance, https://arxiv.org/abs/1511.06422",
    chart=Chart("Health", "standard deviation of the outputs"),
)
def activation_std(summary: Summary) -> float | None:
    """Standard deviation of all elements that the layer gave.

    It should stay near 1 from layer to layer; where it grows or shrinks from one to the
    next, the initial weights are too large or too small.
    """
    return summary.std if summary.count else None


@diagnostic(
    "inputs/<name>/mean",
    of=Input,
    given=lambda given: given.summary and (given.summary,),
    unit="that of the input",
    guide=Guide(healthy=(-1, 1), sick=(-10, 10)),
    source="DLCheck",
    chart=Chart("Health", "mean of the inputs"),
)
def input_mean(summary: Summary) -> float | None:
    """Mean of what the model was given in the looked-at step, over all elements.

    Far from 0, the first layer works on an offset: subtract it.
    """
    return summary.mean if summary.count else None


@diagnostic(
    "inputs/<name>/std",
    of=Input,
    given=lambda given: given.summary and (given.summary,),
    unit="that of the input",
    guide=Guide(healthy=(0.1, 10), sick=(None, 100)),
    source="DLCheck",
    chart=Chart("Health", "standard deviation of the inputs"),
)
def input_std(summary: Summary) -> float | None:
    """Standard deviation of what the model was given, over all elements."""
    return summary.std if summary.count else None


def _count_of_non_finite(given: Input) -> tuple[int] | None:
    count = given.summary.non_finite if given.summary else 0
    return (count,) if count else None


@diagnostic(
    "health/non_finite/inputs/<name>",
    of=Input,
    given=_count_of_non_finite,
    unit="elements",
    chart=Chart("Health", "NaN and Inf", r"^health/non_finite/"),
)
def non_finite_inputs(count: int) -> float:
    """How many elements of what the model was given are NaN or Inf, if any are."""
    return float(count)


@diagnostic(
    "health/non_finite/targets/<name>",
    of=Target,
    given=_count_of_non_finite,
    unit="elements",
    chart=Chart("Health", "NaN and Inf", r"^health/non_finite/"),
)
def non_finite_targets(count: int) -> float:
    """How many elements of what the model is to give are NaN or Inf, if any are."""
    return float(count)
