"""Which step it is: for the schedule, and for TensorBoard."""

STUCK = 10  # steps tried in a row, none of which the optimizer has taken


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
