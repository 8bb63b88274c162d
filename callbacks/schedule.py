"""Which step it is, and whether to look at it: what the argument `log_freq` means."""

from collections.abc import Callable
from typing import TypeAlias

OnStep: TypeAlias = Callable[[int], object]  # a user's: step -> whether to look
# (the steps of a call, how many of them were before the first that was watched, the
# last one looked at, whether the call is the first of its epoch, whether no look was
# taken in the epoch) -> whether to look at the call
Schedule: TypeAlias = Callable[[range, int, int, bool, bool], bool]
STUCK = 10  # steps tried in a row, none of which the optimizer has taken
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


class Steps:
    """Counts the steps of one model over all its fits.

    `count` is for the schedule: the training steps that were tried. What TensorBoard
    shows is `iterations` of an optimizer + an offset, and never less than before: a
    model that is compiled again starts from 0, and its curves go on. So they do while
    an optimizer skips step after step.
    """

    def __init__(self) -> None:
        self.count = 0
        self.looked = 0  # the last step that was looked at
        self.before: int | None = None  # steps before the first that was watched
        self._offset = 0
        self._shown = 0
        self._epoch_began = 0
        self._taken: int | None = None  # iterations when they moved last
        self._moved_at = 0  # and the count of then

    def begin_fit(self, iterations: int) -> bool:
        """Go on from there; whether the optimizer starts again from fewer steps."""
        starts_again = iterations + self._offset < self._shown
        if starts_again:
            self._offset = self._shown - iterations
        self.count = self._epoch_began = iterations + self._offset
        if self.before is None:
            self.before = self.looked = self.count
        return starts_again

    def begin_epoch(self, iterations: int | None, slack: int) -> None:
        """Count as the optimizer does, if it took about one step for each tried.

        `slack`: how many steps it may be ahead, where the end of the data counts.
        """
        self.meet(iterations, slack)
        self._epoch_began = self.count

    def meet(self, iterations: int | None, slack: int = 0) -> None:
        """As `begin_epoch`, within an epoch."""
        if iterations is None:
            return
        step = iterations + self._offset
        if self._epoch_began < step <= self.count + slack:
            self.count = step

    def show(self, iterations: int | None) -> int:
        """The step to write; None: no optimizer of the model's is known to step."""
        step = self.count if iterations is None else iterations + self._offset
        if iterations != self._taken:
            self._taken, self._moved_at = iterations, self.count
        is_stuck = self.count - self._moved_at > STUCK
        if iterations is not None and (step < self._shown or is_stuck):
            step = max(self.count, self._shown)
            self._offset = step - iterations
        self._shown = max(step, self._shown)
        return self._shown
