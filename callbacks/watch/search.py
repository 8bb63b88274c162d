"""After a NaN in the weights: which of the batches that follow has one."""

from collections.abc import Iterable

from ..signals.subjects import Input, Subject, Target
from ..signals.tensors import non_finite

COUNTS = non_finite.key
UNKNOWN = 10_000  # steps, of an epoch whose length is not known


class Search:
    """Looks for NaN and Inf in the data, once weights are NaN and nobody knows why.

    The loss may stay finite and the batch is gone: but an example comes again in the
    next epoch. The training is lost, so a look at every step costs nothing more.

    `is_on`: whether every step is to be looked at. `is_alone`: whether the step is
    looked at for nothing else, and nothing else is to be written.
    """

    def __init__(self) -> None:
        self.is_on = self.is_alone = False
        self._is_over = False  # it begins once in a training
        self._left = 0

    def is_needed(self, scalars: Iterable[str]) -> bool:
        """Whether weights are not finite for the first time, and no data are."""
        kinds = {tag.split("/")[2] for tag in scalars if tag.startswith(COUNTS)}
        if kinds & {"inputs", "targets"}:
            self.end()
        return "weights" in kinds and not (self.is_on or self._is_over)

    def begin(self, steps: int | None) -> None:
        """Search to the end of the next epoch, of so many steps."""
        self.is_on, self._left = True, 2 * steps if steps else UNKNOWN

    def end(self) -> None:
        """The data are known to hold one, or to be clean."""
        self.is_on, self._is_over = False, True

    def saw(self, subjects: Iterable[Subject]) -> dict[str, int]:
        """What of a step's inputs and targets is not finite: `inputs/x`, how many."""
        found = {}
        for one in subjects:
            if isinstance(one, Input) and one.summary and one.summary.non_finite:
                kind = "targets" if isinstance(one, Target) else "inputs"
                found[f"{kind}/{one.name}"] = one.summary.non_finite
        self._left -= 1
        if found or self._left <= 0:
            self.end()
        return found
