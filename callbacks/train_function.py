"""What stands in for `model.train_function` while a fit is watched."""

from collections.abc import Callable
from typing import Any

from .batches import DATA_ENDS, ITERATORS, take_batch
from .twin import Rows, Twin


class WatchedFunction:
    """Stands in for `model.train_function` while one `fit` runs.

    A step that is not due is the original, one Python call later. `is_due(steps)` is
    asked once per call; `look(rows, applied)` is told what the twin saw, after a step.
    """

    def __init__(
        self,
        model: Any,
        is_due: Callable[[int], bool],
        look: Callable[[Rows, list[str]], None],
        say: Callable[[str], None],
    ) -> None:
        self.original = model.train_function
        while isinstance(self.original, WatchedFunction) and self.original.is_over:
            self.original = self.original.original
        self.twin: Twin | None = None
        self._model = model
        self._is_due = is_due
        self._look = look
        self._say = say
        self._removed = False
        self._fit = _current_fit(model)
        model.train_function = self

    @property
    def is_over(self) -> bool:
        """Whether its fit has ended, be it by an exception in some other callback."""
        return self._removed or _current_fit(self._model) is not self._fit

    def remove(self) -> None:
        """Leave the model as it was before."""
        self._removed = True
        if self._model.train_function is self:
            self._model.train_function = self.original

    def __call__(self, iterator: Any) -> Any:
        """Train as the original does."""
        if self.is_over:
            self.remove()
        # `train_on_batch` calls with a generator: it is no step of this fit.
        if self._removed or not isinstance(iterator, ITERATORS):
            return self.original(iterator)
        try:
            if not self._is_due(self._model.steps_per_execution):
                return self.original(iterator)
            return self._watched_step(iterator)
        except DATA_ENDS:
            raise
        except BaseException:
            self.remove()
            raise

    def _watched_step(self, iterator: Any) -> Any:
        if self.twin is None:
            logs = self.original(iterator)
            self._look({}, [])
            return logs
        batch = take_batch(iterator)
        if batch is None:
            # The original has to see the end itself: tried on an exhausted iterator, it
            # still advances the seeds of dropout.
            return self.original(iterator)
        twin = self.twin
        logs, rows = twin(batch)
        self._tell_what_is_hidden(twin, rows)
        self._look(rows, twin.applied)
        for _ in range(self._model.steps_per_execution - 1):
            batch = take_batch(iterator)
            if batch is None:
                break
            logs = twin.unseen(batch)
        return logs

    def _tell_what_is_hidden(self, twin: Twin, rows: Rows) -> None:
        if not rows and not twin.applied:
            self.twin = None
            self._say(
                f"sees no gradients and activations of {self._model.name!r}: its "
                "train_step keeps them in a tf.function of its own. It logs metrics, "
                "weights and batch norm; without that decorator it logs all."
            )
        elif twin.hidden:
            self._say(
                f"cannot see all of {self._model.name!r}: tensors inside loops, "
                "conditions and nested functions cannot leave them. It leaves out "
                f"{', '.join(sorted(twin.hidden))}."
            )


def _current_fit(model: Any) -> Any:
    """An object that each `fit` makes anew: the parameters of its History."""
    return getattr(getattr(model, "history", None), "params", None)
