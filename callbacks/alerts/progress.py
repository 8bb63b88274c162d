"""How far a training has come: what excuses a measure that would be ill early on."""

from .view import View


def is_slowed(view: View) -> bool:
    """Whether a schedule has lowered the learning rate on purpose, or raises it still.

    Below a tenth of the largest so far, or above the one before.
    """
    rate, tag = view.learning_rate, "learning_rate"
    if rate is None or tag not in view:
        return False
    past = view.past(tag, last=1)
    return rate < 0.1 * (view.largest(tag) or 0) or bool(past and rate > past[0])


def has_learned(view: View) -> bool:
    """Whether the loss has fallen to less than half of the first."""
    for tag in ("loss/train", "epoch/loss"):
        first, past = view.first(tag), view.past(tag, last=1)
        loss = view.get(tag) if tag in view else next(iter(past), None)
        if loss is not None and first is not None and first > 0:
            return loss < 0.5 * first
    return False
