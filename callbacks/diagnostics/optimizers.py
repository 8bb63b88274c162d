"""What the optimizers tell."""

from .registry import Chart, diagnostic
from .subjects import Optimizer

_RATE = {
    "of": Optimizer,
    "given": lambda optimizer: (optimizer.learning_rate,),
    "chart": Chart("Training", "learning rate"),
}
_SCALE = {
    "of": Optimizer,
    "given": lambda optimizer: (
        None if optimizer.loss_scale is None else (optimizer.loss_scale,)
    ),
    "chart": Chart("Training", "loss scale"),
}
_SKIPPED = {
    "of": Optimizer,
    "given": lambda optimizer: (
        None if optimizer.skipped_steps is None else (optimizer.skipped_steps,)
    ),
    "unit": "steps",
    "chart": Chart("Training", "skipped steps"),
}


def _is_only(optimizer: Optimizer) -> bool:
    return optimizer.is_only


def _is_one_of_several(optimizer: Optimizer) -> bool:
    return not optimizer.is_only


@diagnostic(
    "learning_rate/<optimizer>",
    where=_is_one_of_several,
    description="Learning rate of one of several optimizers.",
    **_RATE,
)
@diagnostic("learning_rate", where=_is_only, **_RATE)
def learning_rate(rate: float) -> float:
    """Learning rate of the optimizer, schedules applied."""
    return rate


@diagnostic(
    "loss_scale/<optimizer>",
    where=_is_one_of_several,
    description="The loss scale of one of several optimizers.",
    **_SCALE,
)
@diagnostic("loss_scale", where=_is_only, **_SCALE)
def loss_scale(scale: float) -> float:
    """Factor by which LossScaleOptimizer multiplies the loss.

    After the step. It halves when a gradient is not finite and doubles after 2000
    (by default) steps that are; falling without end means that the gradients are
    not finite for another reason than the scale.
    """
    return scale


@diagnostic(
    "skipped_steps/<optimizer>",
    where=_is_one_of_several,
    description="The skipped steps of one of several optimizers.",
    **_SKIPPED,
)
@diagnostic("skipped_steps", where=_is_only, **_SKIPPED)
def skipped_steps(steps: int) -> float:
    """Steps so far that LossScaleOptimizer did not apply.

    Steps tried less steps applied, over all fits of this monitor, looked at or not. One
    in 2000 is how the scale finds its limit. Left out where `fit` does not know the
    number of steps in an epoch, and under gradient accumulation.
    """
    return float(steps)
