"""The loss and the metrics, how far training has come, and rules on it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from .optimizers import learning_rate
from .registry import Chart, Guide, signal
from .remedy import Remedy, change_rate
from .rule import Reading, Rule
from .subjects import EPOCH, BrokenLoss, Loss, Metric, Progress
from .view import View

NO_BETTER = 0.99  # of the loss of guessing: nothing was learned

_EPOCH = {"of": Metric, "given": lambda metric: (metric.value,)}
_LOSSES = Chart("Training", "loss")


def above(share: float) -> str:
    """How far one loss is above another: `12% above`, or `275 times`."""
    return f"{share:.0%} above" if share < 1 else f"{1 + share:.3g} times"


@signal(
    f"{EPOCH}loss", where=lambda metric: metric.name == "loss", chart=_LOSSES, **_EPOCH
)
def epoch_loss(value: float) -> float:
    """The loss that `fit` reports for the epoch.

    An average over the epoch, in which the weights moved.
    """
    return value


@signal(
    f"{EPOCH}val_loss",
    where=lambda metric: metric.name == "val_loss",
    chart=_LOSSES,
    **_EPOCH,
)
def epoch_validation_loss(value: float) -> float:
    """The loss that `fit` reports for the validation data."""
    return value


@signal(
    f"{EPOCH}<metric>",
    where=lambda metric: metric.name not in ("loss", "val_loss"),
    chart=Chart("Training", "metrics", rf"^{EPOCH}(?!(val_)?loss$)"),
    **_EPOCH,
)
def epoch_metric(value: float) -> float:
    """A metric that `fit` reports for the epoch, `val_` for validation.

    Training metrics are averages over the epoch, in which the weights moved.
    """
    return value


@signal(
    "health/non_finite/loss",
    of=BrokenLoss,
    given=lambda loss: (),
    unit="steps",
    chart=Chart("Health", "NaN and Inf", r"^health/non_finite/"),
)
def non_finite_loss() -> float:
    """1 at the step after which the loss that `fit` reports is NaN or Inf.

    The loss is checked at every step, whether it is looked at or not.
    """
    return 1.0


@signal(
    "loss/train",
    of=Loss,
    given=lambda loss: next(
        ((x,) for x in (loss.trained, loss.reported) if x is not None), None
    ),
    chart=Chart("Training", "loss of the looked-at batch"),
)
def train_loss(trained: float) -> float:
    """The loss of the batch that was looked at, before the step.

    Where the step computes one loss of the batch as it came. Else the `loss` that the
    step returns: of a `train_step` of one's own, which may be the mean over the epoch
    so far.
    """
    return trained


@signal("epoch", of=Progress, given=lambda progress: (progress.epoch,))
def epoch(number: int) -> float:
    """Number of the epoch in its `fit`, from 1 as the progress bar counts."""
    return float(number)


@signal(
    "loss_gap/train_eval",
    of=Loss,
    given=lambda loss: (
        None
        if loss.trained is None or loss.evaluated is None
        else (loss.trained, loss.evaluated)
    ),
    unit="share of the training loss",
    guide=Guide(healthy=(-0.1, 0.1), sick=(None, 0.5)),
    chart=Chart("Training beside evaluation", "loss gap, evaluation to training mode"),
)
def train_eval_gap(train: float, evaluated: float) -> float | None:
    """`(L_eval - L_train) / |L_train|`, same batch, same weights, before the step.

    L_train is the training step's own loss, L_eval that of one more forward pass with
    `training=False`: batch norm uses its moving statistics, dropout is off. At the
    first look of an epoch and at those of the steps 1, 2, 4, 8, ... of a fit, of models
    with either. A large one says that validation judges another network than the one
    that trains: moving statistics that lag behind (`batch_norm_gap`), or small batches.
    Dropout makes it negative.
    """
    return (evaluated - train) / abs(train) if train else None


def is_slowed(view: View) -> bool:
    """Whether a schedule has lowered the learning rate on purpose, or raises it still.

    Below a tenth of the largest so far, or above the one before.
    """
    rate = view.get(learning_rate)
    if rate is None:
        return False
    return rate < 0.1 * (view.largest(learning_rate) or 0) or is_rising(view)


def is_rising(view: View) -> bool:
    """Whether the learning rate is above the one before: it warms up.

    One that still does in the second half of the training is no warm-up.
    """
    past, now = view.past(learning_rate, last=1), view.get(learning_rate)
    if view.step > 0.5 * (view.record.planned_steps or math.inf):
        return False
    return now is not None and bool(past) and now > past[0]


def has_learned(view: View) -> bool:
    """Whether the loss has fallen to less than half of the first."""
    for tag in (train_loss, epoch_loss):
        first, loss = view.first(tag), view.newest(tag)
        if loss is not None and first is not None and first > 0:
            return loss < 0.5 * first
    return False


@dataclass(frozen=True)
class LossSpike(Rule):
    """The loss jumped.

    L / mean of the last `looks` above 1 + `jump`, and L above `floor` * the first loss:
    late in training one hard batch is ten times the mean of easy ones, and harmless.
    Of `loss/train`, and of `Epoch/loss` after three epochs.

    No unit. Source: Lightning's SpikeDetection (|L - mean_10| >= 2 mean_10, and not
    an improvement).
    """

    title: ClassVar = "the loss jumped"

    jump: float = 2.0
    floor: float = 1.0
    looks: int = 10

    reads: ClassVar = (train_loss, epoch_loss)
    keeps: ClassVar = {epoch_loss: 100, train_loss: 100}
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        tag = epoch_loss if epoch_loss in view else train_loss
        past = [x for x in view.past(tag, last=self.looks) if math.isfinite(x)]
        first = view.first(tag)
        if len(past) >= min(3, self.looks) and first is not None:
            usual = max(fmean(past) * (1 + self.jump), self.floor * first)
            if usual > 0:
                yield Reading("", view[tag], usual)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"The loss jumped to {reading.value:.3g}, more than {1 + self.jump:.2g} "
            "times its mean before and more than at the start. If it was one batch, "
            "look at its data."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A tenth of the learning rate."""
        return change_rate(view)
