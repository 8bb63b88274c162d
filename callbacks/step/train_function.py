"""What stands in for `model.train_function` while a fit is watched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..diagnostics.subjects import Input
from ..model.inventory import Contents, Inventory
from ..model.optimizers import steps_taken
from .batches import DATA_ENDS, ITERATORS, Batches, batch_size, without_optionals
from .trainable import Traced
from .twin import Twin


@dataclass(eq=False)
class Watcher:
    """One monitor, as the stand-in knows it.

    `begin(steps)` is called once before each call of so many steps, and returns whether
    to look at it; `undo` is told if the data had ended before it. `look(subjects, rows,
    applied)` is told, after a step, what `twin` saw of it. Without a twin, it looks at
    what can be had from outside.
    """

    begin: Callable[[int], bool]
    look: Callable[..., None]
    say: Callable[..., None]
    twin: Twin | None
    undo: Callable[[], None]
    batch_size: int | None = None  # of the first batch that was looked at


class WatchedFunction:
    """Stands in for `model.train_function` while one `fit` runs.

    One for all monitors of that fit. A step that is not due for any is the original,
    one Python call later; one that is due for several is one step that all look at.
    """

    def __init__(self, model: Any, original: Any) -> None:
        self.original = original
        self.watchers: list[Watcher] = []
        self._model = model
        self._contents = Contents()
        self._fit = _current_fit(model)
        self._is_fit = False
        self._traced: Traced | None = None
        model.train_function = self

    @property
    def is_over(self) -> bool:
        """Whether its fit has ended, be it by an exception in some other callback."""
        return not self.watchers or _current_fit(self._model) is not self._fit

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher; without any, leave the model as it was before."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)
        if not self.watchers and self._model.train_function is self:
            self._model.train_function = self.original

    def __call__(self, iterator: Any) -> Any:
        """Train as the original does."""
        if self.is_over:
            self._remove_all()
        is_fit = isinstance(iterator, ITERATORS)
        self._is_fit |= is_fit
        # `train_on_batch` calls with a generator: a step of a loop written by hand, but
        # none of a `fit` in which another callback calls it.
        if not self.watchers or self._is_fit > is_fit:
            return self.original(iterator)
        if self._traced is None:
            self._traced = Traced(self._model, self.original, iterator)
        steps = self._model.steps_per_execution if is_fit else 1
        try:
            due = [watcher for watcher in self.watchers if watcher.begin(steps)]
            if due:
                return self._watched_step(iterator, due)
            return self._unwatched_step(iterator)
        except DATA_ENDS:
            for watcher in self.watchers:
                watcher.undo()
            raise
        except BaseException:
            self._remove_all()
            raise

    def _remove_all(self) -> None:
        for watcher in list(self.watchers):
            self.remove(watcher)

    def _unwatched_step(self, iterator: Any) -> Any:
        assert self._traced is not None, "set by the first call"
        return self._traced.call(iterator)

    def _watched_step(self, iterator: Any, due: list[Watcher]) -> Any:
        assert self._traced is not None, "set by the first call"
        twins = [watcher.twin for watcher in due if watcher.twin is not None]
        if not twins:
            return self._blind_step(iterator, due)
        batches = Batches(iterator)
        try:
            step = twins[0].step
            # For all, due or not: one trace shows what any of them wants.
            everyone = [w.twin for w in self.watchers if w.twin is not None]
            inventory = self._contents.of(self._model)
            with self._traced.state_in_force():
                step.prepare(batches.spec(), everyone, inventory)
        except DATA_ENDS:
            raise
        except Exception as error:  # the training's own, the original raises as well
            if _is_half_made(self._contents.of(self._model)):
                raise  # on replicas, the original would wait for ever
            logs = self._blind_step(batches.rest(), due)
            self._give_up(due, error)
            return logs
        batch = batches.take()
        if batch is None:
            # The original has to see the end itself: tried on an exhausted iterator, it
            # still advances the seeds of dropout.
            return self._unwatched_step(iterator)
        for watcher in due:
            if watcher.batch_size is None:
                watcher.batch_size = batch_size(batch)
        optimizers = inventory.optimizers.values()
        before = sum(map(steps_taken, optimizers))
        try:
            logs, seen = step(batch, evaluates=any(t.wants_evaluation for t in twins))
        except DATA_ENDS:
            raise
        except Exception as error:
            if self._model.run_eagerly or sum(map(steps_taken, optimizers)) != before:
                raise
            # Nothing was trained yet: as above.
            logs = self._blind_step([without_optionals(batch)], due)
            self._give_up(due, error)
            return logs
        inventory = self._contents.of(self._model)  # the step may have built layers
        read = {twin: twin.read(seen, inventory) for twin in twins}
        del seen  # the tensors of the step, which are not to outlive it
        blind = [watcher for watcher in due if watcher.twin is None]
        for watcher in due:
            if watcher.twin is not None:
                twin = watcher.twin
                subjects, rows = read[twin]
                saw = any(not isinstance(x, Input) for x in subjects)
                self._tell_what_is_hidden(watcher, twin, saw)
                watcher.look(subjects, rows, twin.applied)
        for _ in range(batches.steps(self._model) - 1):
            batch = batches.take()
            if batch is None:
                break
            with self._traced.state_in_force():  # its first call is a trace
                logs = step.unseen(batch)
        for watcher in blind:  # as after the original: when all the steps are done
            watcher.look()
        return logs

    def _blind_step(self, iterator: Any, due: list[Watcher]) -> Any:
        logs = self._unwatched_step(iterator)
        for watcher in due:
            watcher.look()
        return logs

    def _give_up(self, due: list[Watcher], error: Exception) -> None:
        for watcher in due:
            if watcher.twin is not None:
                watcher.twin = None
                watcher.say(
                    f"cannot see gradients and activations of {self._model.name!r}: "
                    f"{error!r}. It logs metrics, weights and batch norm."
                )

    def _tell_what_is_hidden(self, watcher: Watcher, twin: Twin, saw: bool) -> None:
        if not saw and not twin.applied:
            watcher.twin = None
            watcher.say(
                f"sees no gradients and activations of {self._model.name!r}: its "
                "train_step keeps them in a tf.function of its own. It logs metrics, "
                "weights and batch norm; without that decorator it logs all."
            )
        elif twin.hidden:
            watcher.say(
                f"cannot see all of {self._model.name!r}: tensors inside loops, "
                "conditions and nested functions cannot leave them. It leaves out "
                f"{', '.join(sorted(twin.hidden))}."
            )


def stand_in(model: Any) -> WatchedFunction:
    """The one of the fit that runs, put in place if there is none."""
    current = model.train_function
    while isinstance(current, WatchedFunction) and current.is_over:
        current = current.original
    if isinstance(current, WatchedFunction):
        return current
    return WatchedFunction(model, current)


def _is_half_made(inventory: Inventory) -> bool:
    """Whether a failed trace has left variables of an optimizer without a value."""
    for optimizer in inventory.optimizers.values():
        for variable in optimizer.variables:
            parts = getattr(variable.value, "values", None) or [variable.value]
            if not all(bool(part.is_initialized()) for part in parts):
                return True
    return False


def _current_fit(model: Any) -> Any:
    """An object that each `fit` makes anew: the parameters of its History."""
    return getattr(getattr(model, "history", None), "params", None)
