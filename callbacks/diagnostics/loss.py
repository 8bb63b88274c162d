"""The loss and the metrics, and the loss in both modes."""

from .registry import Chart, Guide, diagnostic
from .subjects import BrokenLoss, Loss, Metric, Progress

_EPOCH = {"of": Metric, "given": lambda metric: (metric.value,)}
_LOSSES = Chart("Training", "loss")


@diagnostic(
    "epoch/loss", where=lambda metric: metric.name == "loss", chart=_LOSSES, **_EPOCH
)
def epoch_loss(value: float) -> float:
    """The loss that `fit` reports for the epoch.

    An average over the epoch, in which the weights moved.
    """
    return value


@diagnostic(
    "epoch/val_loss",
    where=lambda metric: metric.name == "val_loss",
    chart=_LOSSES,
    **_EPOCH,
)
def epoch_validation_loss(value: float) -> float:
    """The loss that `fit` reports for the validation data."""
    return value


@diagnostic(
    "epoch/<metric>",
    where=lambda metric: metric.name not in ("loss", "val_loss"),
    chart=Chart("Training", "metrics", r"^epoch/(?!(val_)?loss$)"),
    **_EPOCH,
)
def epoch_metric(value: float) -> float:
    """A metric that `fit` reports for the epoch, `val_` for validation.

    Training metrics are averages over the epoch, in which the weights moved.
    """
    return value


@diagnostic(
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


@diagnostic(
    "loss/train",
    of=Loss,
    given=lambda loss: None if loss.trained is None else (loss.trained,),
    chart=Chart("Training", "loss of the looked-at batch"),
)
def train_loss(trained: float) -> float:
    """The loss of the batch that was looked at, before the step.

    Where the step computes one loss of the batch as it came.
    """
    return trained


@diagnostic("epoch", of=Progress, given=lambda progress: (progress.epoch,))
def epoch(number: int) -> float:
    """Number of the epoch in its `fit`, from 1 as the progress bar counts."""
    return float(number)


@diagnostic(
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
    first look of an epoch, of models with either. A large one says that validation
    judges another network than the one that trains: moving statistics that lag behind
    (`batch_norm_gap`), or small batches. Dropout makes it negative.
    """
    return (evaluated - train) / abs(train) if train else None
