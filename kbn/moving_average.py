"""What enters the moving statistics, and when nothing may."""

from typing import Any

from keras import ops

Tensor = Any


def update(variable: Any, value: Tensor, momentum: float, enters: Tensor) -> None:
    """Move `variable` to momentum * variable + (1 - momentum) * value, where `enters`.

    `value` and `enters`: the shape of `variable`, (C,). Where `enters` is False the
    variable keeps its value, bit for bit.
    """
    old = ops.convert_to_tensor(variable)
    value = ops.cast(value, old.dtype)
    new = old * momentum + value * (1.0 - momentum)
    variable.assign(ops.where(enters, new, old))


def may_enter(mean: Tensor, variance: Tensor, count: Tensor) -> Tensor:
    """Per channel: whether the statistics of a batch may enter. All of shape (C,).

    Not those of a batch without elements, which are no statistics; not those that are
    NaN or infinite, which would stay in the average for ever.
    """
    return (count > 0) & ops.isfinite(mean) & ops.isfinite(variance)
