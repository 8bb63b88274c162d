"""What stands in for `model.train_function` while a fit is watched."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .probe import Probe, Recorded, Seen

LATEST = 16  # calls after which a loss is waited for where nothing ends for it


@dataclass(eq=False)
class Watcher:
    """A monitor, as the stand-in knows it.

    `begins(steps)`: right before each call of so many steps; whether to look at it.
    `notes()`: right before one that is looked at, and where that builds weights.
    `ends()`: there was no such step, the data had ended. `looks(seen)`: after one that
    is looked at. `breaks(batch, late)`: the loss became NaN or Inf so many calls before
    the last one, with this batch, None if it is not known. `fails(batch)`: the call has
    raised an error. `follows()`: the model has another training function.
    """

    begins: Callable[[int], bool]
    notes: Callable[[], None]
    ends: Callable[[], None]
    looks: Callable[[Seen], None]
    breaks: Callable[[Any, int], None]
    fails: Callable[[Any], None]
    follows: Callable[[], None]
    waits: bool = False


class WatchedFunction:
    """Stands in for `model.train_function` while one `fit` runs.

    A step that is not due is the original, one Python call later.
    """

    def __init__(self, model: Any, probe: Probe, watcher: Watcher) -> None:
        self.original = probe.function
        self.evaluates_next = True
        self._model = model
        self._probe = probe
        self._watcher: Watcher | None = watcher
        self._fit = _current_fit(model)
        self._is_fit = False
        self._has_begun = False
        self._losses = Losses(probe.number, 1 if watcher.waits else LATEST)
        model.train_function = self
        # Past Keras' tracking: another callback may compile the model again.
        object.__setattr__(model, "make_train_function", self._made_anew)

    @property
    def is_of_a_running_fit(self) -> bool:
        """Whether `fit` calls it; of a loop written by hand that is not known."""
        return not self.is_over and self._fit is not None

    @property
    def is_over(self) -> bool:
        """Whether its fit has ended, be it by an exception in some other callback."""
        return self._watcher is None or _current_fit(self._model) is not self._fit

    def remove(self) -> None:
        """Leave the model as it was before."""
        self._watcher = None
        self._probe.close()
        if self._model.train_function is self:
            self._model.train_function = self.original
        if vars(self._model).get("make_train_function") == self._made_anew:
            object.__delattr__(self._model, "make_train_function")

    def _made_anew(self, force: bool = False) -> Any:
        """Stands for the model's `make_train_function`."""
        if self.is_over:
            self.remove()
        made = type(self._model).make_train_function(self._model, force=force)
        if self._watcher is not None and self._model.train_function is not self:
            self._watcher.follows()
        return made

    def end_epoch(self) -> None:
        """Check the losses that were not known yet."""
        if not self.is_over:
            self._tell(self._losses.all())
            self._losses.start_anew()

    @property
    def _is_early(self) -> bool:
        """Whether the call is the 1st, 2nd, 4th, 8th, ... of the fit."""
        calls = self._losses.calls + 1
        return calls & (calls - 1) == 0

    def _tell(self, broken: "Broken | None") -> None:
        if broken is not None and self._watcher is not None:
            batch = None if broken.recorded is None else broken.recorded.last
            self._watcher.breaks(batch, self._losses.calls - broken.call)

    def __call__(self, *given: Any) -> Any:
        """Train as the original does."""
        watcher = self._watcher
        if watcher is None or _current_fit(self._model) is not self._fit:
            self.remove()
            return self.original(*given)
        steps = self._probe.steps(*given)
        if steps:
            self._is_fit = True
        elif self._is_fit:
            # Of a loop written by hand: another callback makes it within this `fit`.
            return self.original(*given)
        given, recorded = self._probe.record(given)
        try:
            returned = self._train(watcher, steps or 1, given, recorded)
        except self._probe.data_ends:
            watcher.ends()
            raise
        except BaseException as error:
            self.remove()
            if isinstance(error, Exception):
                watcher.fails(None if recorded is None else recorded.last)
            raise
        broken = self._losses.add(self._probe.losses(returned), recorded)
        if broken is not None:
            self._probe.settle(returned)
            self._tell(broken)
        return returned

    def _train(
        self,
        watcher: Watcher,
        steps: int,
        given: tuple[Any, ...],
        recorded: Recorded | None,
    ) -> Any:
        """One call of the original, looked at if that is due."""
        if not self._has_begun:
            self._has_begun = True
            self._probe.attach(*given)
        if not watcher.begins(steps):
            return self.original(*given)
        self._probe.attach(*given)
        self._tell(self._losses.all())
        watcher.notes()
        look = self._probe.look
        evaluates = self.evaluates_next or self._is_early
        returned, seen = look(evaluates, watcher.notes, *given)
        self.evaluates_next = False
        seen.reported = self._losses.reported(self._probe.losses(returned))
        seen.knows_batches = recorded is not None
        watcher.looks(seen)
        return returned


class Broken(NamedTuple):
    """A loss that is NaN or Inf: number of its call, and its batch if it is known."""

    call: int
    recorded: Recorded | None


class Losses:
    """Finds the first loss that is not finite.

    A device computes a loss after the call has returned. So it is asked for when it is
    there, and waited for only once `latest` more calls were made; if it is not there,
    half as many pass until it is asked for again: asking takes time. `fit` reports the
    mean over an epoch: once it is NaN or Inf, it stays so.
    """

    def __init__(
        self, number: Callable[[Any, bool], float | None], latest: int
    ) -> None:
        self.calls = 0
        self._number = number
        self._latest = latest
        self._names: list[str] | None = None
        # Each with the number of its call, and what knows its batch.
        self._waiting: deque[tuple[Any, int, Recorded | None]] = deque()
        self._next = 0  # call after which they are asked for again
        self._is_broken = False

    def add(
        self, reported: Mapping[str, Any], recorded: Recorded | None
    ) -> Broken | None:
        """Add what a call reports; returns the first loss that is known to be bad."""
        self.calls += 1
        if self._names is None:
            self._names = [name for name in reported if "loss" in name]
        for name in self._names:
            self._waiting.append((reported.get(name), self.calls, recorded))
        if self.calls < self._next:
            return None
        return self._first(self.calls - self._latest)

    def reported(self, reported: Mapping[str, Any]) -> float | None:
        """The loss that a call reports, waited for; None: none, or it is not finite.

        `loss`, else the only one that has the word in its name: of a GAN's two, none.
        """
        losses = [reported[name] for name in reported if "loss" in name]
        if "loss" in reported or len(losses) == 1:
            try:
                loss = self._number(reported.get("loss", losses[0]), True)
                return loss if loss is not None and math.isfinite(loss) else None
            except (AttributeError, TypeError, ValueError):
                pass  # a user's step may report anything
        return None

    def all(self) -> Broken | None:
        """Wait for all losses; returns the first bad one."""
        return self._first(self.calls)

    def start_anew(self) -> None:
        """Forget that a loss was bad: the mean of the next epoch may be finite."""
        self._is_broken = False

    def _first(self, last: int) -> Broken | None:
        """The first bad loss; those of the calls up to the `last` are waited for."""
        found = None
        while self._waiting:
            loss, call, recorded = self._waiting[0]
            is_finite = self._is_finite(loss, call <= last)
            if is_finite is None:
                self._next = min(self.calls + self._latest // 2, call + self._latest)
                break
            self._waiting.popleft()
            if not is_finite and not self._is_broken:
                self._is_broken, found = True, Broken(call, recorded)
        return found

    def _is_finite(self, loss: Any, waits: bool) -> bool | None:
        """None: its device has not computed it, and it is not waited for."""
        try:
            number = self._number(loss, waits)
            return None if number is None else math.isfinite(number)
        except (AttributeError, TypeError, ValueError):
            return True  # a user's step may report anything


def _current_fit(model: Any) -> Any:
    """An object that each `fit` makes anew: the parameters of its History."""
    return getattr(getattr(model, "history", None), "params", None)
