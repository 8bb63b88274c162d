"""When a monitor looks: what its argument `log_freq` means."""

from collections.abc import Callable
from typing import TypeAlias

OnStep: TypeAlias = Callable[[int], object]  # a user's: step -> whether to look
# (the steps of a call, how many of them were before the first that was watched, the
# last one looked at, whether the call is the first of its epoch, whether no look was
# taken in the epoch) -> whether to look at the call
Schedule: TypeAlias = Callable[[range, int, int, bool, bool], bool]
LONG = 32  # steps without a look, after which an epoch begins with one


def schedule_of(log_freq: str | int | OnStep) -> Schedule:
    """Whether to look at a call, by a `log_freq` that was checked."""
    if log_freq == "auto":
        return _by_itself
    if log_freq == "epoch":
        return lambda steps, before, looked, is_first, is_new: is_new
    if callable(log_freq):
        return lambda steps, *others: any(map(log_freq, steps))
    every = int(log_freq)
    return lambda steps, *others: (steps.stop - 1) // every > (steps.start - 1) // every


def _by_itself(
    steps: range, before: int, looked: int, is_first: bool, is_new: bool
) -> bool:
    """Steps 1, 2, 4, 8, ..., and the first of an epoch long after the last look."""
    if is_first and steps.start - looked >= LONG:
        return True
    # There is a power of two from n to m if m has more binary digits than n - 1.
    n, m = steps.start - before, steps.stop - 1 - before
    return m.bit_length() > (n - 1).bit_length()
