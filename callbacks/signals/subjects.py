"""What signals are computed of: what one look read of one thing in a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np

from .guide import Guide
from .statistics import Summary

Array: TypeAlias = np.ndarray[Any, Any]
# What a look reads of every tensor of a subject, beside the rows of its signals.
SUMMARY, MOMENTS, SCALAR = "summary", "moments", "scalar"


class Moments(NamedTuple):
    """Of each channel; mean, biased variance: (C,) float64."""

    elements: float
    mean: Array
    variance: Array


@dataclass(frozen=True)
class Subject:
    """A named thing, and what was read of it.

    `reads`: what a look reads of its tensor in any case. `watch`: what in the monitor's
    `watch` asks for it. `rows`: by the tag of a signal, (replicas, n).
    `is_one_of_many`: a model has as many of them as it has layers, or variables.
    """

    is_one_of_many: ClassVar[bool] = False
    reads: ClassVar[str | None] = None
    watch: ClassVar[str] = ""
    name: str
    rows: Mapping[str, Array] = field(default_factory=dict, kw_only=True)

    @property
    def key(self) -> str:
        """Tells it from all other subjects of a look."""
        return f"{type(self).__name__}:{self.name}"

    def having(self, fields: Mapping[str, Any]) -> Self:
        """A copy with these fields: `dataclasses.replace` takes five times as long."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self))
        vars(copy).update(fields)
        return copy


@dataclass(frozen=True)
class Output(Subject):
    """What a layer gave in one call: `name`, `name#1` for its second call.

    `activation`: a row of `model.activations`, None if the layer ends with no function
    that is known. `is_final`: whether it is an output of the model.
    """

    is_one_of_many = True
    reads = SUMMARY
    watch = "activations"
    layer: str
    activation: Any = None
    unit_axis: int = -1
    is_final: bool = False
    summary: Summary | None = None


@dataclass(frozen=True)
class Entering(Subject):
    """What entered an activation function in one call, by the layer that has it.

    `is_noisy`: its moments differ from batch to batch: no batch norm gave it, and the
    look before had another batch. `earlier`: its row, (replicas, 2 + 2 units), of then.
    """

    is_one_of_many = True
    watch = "activations"
    layer: str
    unit_axis: int = -1
    is_noisy: bool = True
    earlier: Array | None = None


@dataclass(frozen=True)
class Input(Subject):
    """What the model was given in the looked-at step: one array of x, by its name.

    `is_whole`: its type is one of whole numbers. `validation`: the row of `skew` of the
    data that `fit` validates on, (1, 2 + 2 columns); None until they are known.
    """

    is_one_of_many = True
    reads = SUMMARY
    watch = "activations"
    is_whole: bool = False
    summary: Summary | None = None
    validation: Array | None = None


@dataclass(frozen=True)
class Target(Input):
    """What the model is to give in the looked-at step: one array of y, by its name."""


@dataclass(frozen=True)
class Gradient(Subject):
    """The gradient by one variable; `path#1` when an optimizer was applied again.

    `is_kernel`: of a trainable weight of two and more dimensions. `is_of_rows`: of a
    table of which the step took rows, by indices. `call`: number of the call of an
    optimizer that it was given to, in the step.
    """

    is_one_of_many = True
    reads = SUMMARY
    watch = "gradients"
    path: str
    is_kernel: bool = False
    is_of_rows: bool = False
    call: int = 0
    summary: Summary | None = None

    @property
    def is_again(self) -> bool:
        """Whether it is of a second application in the same step."""
        return self.name != self.path


@dataclass(frozen=True)
class NormInput(Subject):
    """What one call of a batch norm normalized, in training and without a mask.

    `batch`: its moments; `moving_mean`, `moving_variance`, `gamma`: (C,), after the
    step; gamma is None where the layer has none.
    """

    is_one_of_many = True
    reads = MOMENTS
    watch = "batch_norm"
    layer: str
    axes: tuple[int, ...]
    epsilon: float = 0.0
    batch: Moments | None = None
    moving_mean: Array | None = None
    moving_variance: Array | None = None
    gamma: Array | None = None


@dataclass(frozen=True)
class NormWeight(Subject):
    """One variable of a batch norm: gamma, beta, moving_mean or moving_variance."""

    is_one_of_many = True
    reads = SUMMARY
    watch = "batch_norm"
    part: str
    summary: Summary | None = None

    @property
    def key(self) -> str:
        """Tells it from all other subjects of a look."""
        return f"{type(self).__name__}:{self.name}/{self.part}"


@dataclass(frozen=True)
class NormStatistics(Subject):
    """The moving statistics of a batch norm after the step, and what they began with.

    `moving`, `start`: mean and variance, (2, C), now and when they were first met.
    `share`: of the start in them; None where that is not known. `updates`: how often
    the looked-at call moved them, None where it did not train the layer either.
    """

    is_one_of_many = True
    watch = "batch_norm"
    moving: Array | None = None
    start: Array | None = None
    share: float | None = None
    updates: int | None = None


class Squares(NamedTuple):
    """Sums of squares of a weight, or of a sample of it: how far it has moved."""

    change: float  # sum((now - before)^2)
    before: float  # sum(before^2)
    now: float  # sum(now^2)
    elements: float


@dataclass(frozen=True)
class Weight(Subject):
    """One variable after the step, by its path.

    `summary`: None of a batch norm's, which is a `NormWeight`. Of kernels, which are
    the trainable weights of two and more dimensions that an optimizer is given:
    `since_step`, `since_start`, how far they have moved in this step and since they
    were first met; `first`, the summary of then; `fan_in`, how many inputs a unit has.
    """

    is_one_of_many = True
    reads = SUMMARY
    watch = "weights"
    summary: Summary | None = None
    since_step: Squares | None = None
    since_start: Squares | None = None
    first: Summary | None = None
    fan_in: int = 1


@dataclass(frozen=True)
class Loss(Subject):
    """The loss of the looked-at step: of training, and in evaluation mode.

    `reported`: what the step returns as its loss, where that of its batch is not seen.
    """

    reads = SCALAR
    watch = "batch_norm"
    trained: float | None = None
    evaluated: float | None = None
    reported: float | None = None


@dataclass(frozen=True)
class Prediction(Subject):
    """What the model gave to its loss in the looked-at step, by its place in y_pred."""

    watch = "activations"
    path: tuple[Any, ...]


@dataclass(frozen=True)
class Head(Subject):
    """One output of the model beside its targets: see `signals.targets`.

    `targets`, `outputs`: of this look; classes as one-hot rows, and outputs as
    probabilities where the loss takes logits. `reach`: what the output's activation can
    give; `takes`: what its loss takes. Of all looks so far, `count` examples, `mean`
    and `variance` of the targets, of each number or class. `labels`: how many of each
    class, None if the targets are none; `clusters`: see `batch_effect`.
    """

    targets: Array
    outputs: Array
    reach: tuple[float, float] | None = None
    takes: tuple[float, float] | None = None
    count: int = 0
    mean: Array | None = None
    variance: Array | None = None
    labels: Array | None = None
    clusters: tuple[Array, int] | None = None


@dataclass(frozen=True)
class Guess(Subject):
    """The compiled loss of the best constant prediction, of one output or of all.

    `error`: standard error of the loss, by the targets that were seen.
    """

    loss: float
    error: float


@dataclass(frozen=True)
class Penalty(Subject):
    """What the regularizers of weights add to the loss."""

    value: float


@dataclass(frozen=True)
class BrokenLoss(Subject):
    """The loss that `fit` reports has become NaN or Inf."""


@dataclass(frozen=True)
class Own(Subject):
    """What a signal of the user's own returned, by the name of its function."""

    value: float


@dataclass(frozen=True)
class Optimizer(Subject):
    """What an optimizer tells. `is_only`: whether no other is applied."""

    is_only: bool
    learning_rate: float
    loss_scale: float | None = None
    skipped_steps: int | None = None


@dataclass(frozen=True)
class Progress(Subject):
    """Where the training is. `epoch`: of this `fit`, from 1 as its progress bar."""

    epoch: int


@dataclass(frozen=True)
class Pace(Subject):
    """The steps since the look before, and the seconds they took, this look's not.

    `memory`: the most of the host's that the process has held so far, in MiB.
    """

    steps: int
    seconds: float
    batch_size: int | None = None
    memory: float | None = None


@dataclass(frozen=True)
class OpenAlerts(Subject):
    """The open alerts of one level, which is its name."""

    count: int


# TensorBoard sorts tags by their letters, capitals first: the loss comes first.
EPOCH = "Epoch/"


@dataclass(frozen=True)
class Metric(Subject):
    """What `fit` reports at the end of an epoch, in tags that begin with EPOCH."""

    value: float


@dataclass(frozen=True)
class Histogram(Subject):
    """A histogram that the look shows, by its tag: scalars may follow from it."""

    is_one_of_many = True
    summary: Summary
    of: Subject


@dataclass(frozen=True)
class Layers(Subject):
    """One signal at all layers, or variables, of a look; the name is its own.

    `values`: by layer or variable. `guide`: the guide values of the signal.
    """

    guide: Guide | None = None
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Whole(Subject):
    """All that a look has seen, and `past(tag)`: the values of earlier looks.

    `scalars`: by tag, those of the signals before.
    """

    subjects: Sequence[Subject]
    scalars: Mapping[str, float]
    past: Callable[[str], Sequence[float]]
