"""What optimizers tell: learning rates, loss scales and skipped steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from . import probe


class OptimizerScalars:
    """Of the optimizers that a training applies, of several each by its name.

    Those are the ones that a look saw applied, and those whose `iterations` advance: a
    model may have others, such as the default one of a bare `compile`.
    """

    def __init__(self) -> None:
        self.steps = StepCount()
        self._seen: list[str] = []  # applied, in the order of the step
        self._began: dict[str, int] = {}
        self._clock: str | None = None
        self._found: dict[str, Any] | None = None  # of this look, see `look_again`

    def look_again(self) -> None:
        """Forget which optimizers there are: a callback may have changed them."""
        self._found = None

    def begin_fit(self, model: Any, steps: int | None) -> int:
        """Right before its first step: the iterations so far.

        `steps` of an epoch, None if unknown.
        """
        self.look_again()
        found = self._all(model)
        self._began = {name: _steps_of(x) for name, x in found.items()}
        self.steps.begin_fit(steps, self._began)
        if self._clock in self._began:
            return self._began[self._clock]
        return max(self._began.values(), default=0)

    def saw_applied(self, names: Sequence[str]) -> None:
        """What a look saw applied; of none, the last ones count."""
        self._seen = list(names) or self._seen

    def iterations(self, model: Any) -> int | None:
        """Steps of the optimizer that the training goes by; None if none is known."""
        found = self._all(model)
        moved = self._moved(found)
        if self._clock not in (moved or found):
            first = [x for x in self._seen if x in found] or sorted(
                moved, key=lambda name: (name != "optimizer", -moved[name])
            )
            self._clock = first[0] if first else None
        return None if self._clock is None else _steps_of(found[self._clock])

    def read(self, model: Any, *, after_each_step: bool) -> dict[str, float]:
        """The scalars by tag; skipped steps only where every step was counted."""
        optimizers = self._of(model)
        rates = {k: probe.to_numpy(x.learning_rate) for k, x in optimizers.items()}
        scaled = {
            name: optimizer
            for name, optimizer in optimizers.items()
            if isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        }
        scales = {
            k: probe.to_numpy(x.dynamic_scale) for k, x in scaled.items() if x.built
        }
        skipped = {
            name: self.steps.skipped(name, _steps_of(optimizer))
            for name, optimizer in scaled.items()
            if after_each_step
            and not optimizer.inner_optimizer.gradient_accumulation_steps
        }
        by_tag = {
            "learning_rate": rates,
            "loss_scale": scales,
            "skipped_steps": {k: v for k, v in skipped.items() if v is not None},
        }
        return {
            f"{tag}/{name}" if len(optimizers) > 1 else tag: float(value)
            for tag, values in by_tag.items()
            for name, value in values.items()
        }

    def _moved(self, found: Mapping[str, Any]) -> dict[str, int]:
        """How many steps each took in this fit, those that took any."""
        taken = {k: _steps_of(x) - self._began.get(k, 0) for k, x in found.items()}
        return {name: steps for name, steps in taken.items() if steps}

    def _all(self, model: Any) -> dict[str, Any]:
        if self._found is None:
            self._found = probe.optimizers(model)
        return self._found

    def _of(self, model: Any) -> dict[str, Any]:
        found = self._all(model)
        applied = dict.fromkeys([*self._seen, *self._moved(found)])
        return {k: found[k] for k in applied if k in found} or found


class StepCount:
    """How many steps `fit` tried, and how many of them an optimizer did not apply."""

    def __init__(self) -> None:
        self._skipped: dict[str, int] = {}  # in all fits so far
        self.begin_fit(None, {})

    @property
    def is_known(self) -> bool:
        """Whether `fit` knows how many steps an epoch has."""
        return self._steps is not None

    def begin_fit(self, steps: int | None, applied: Mapping[str, int]) -> None:
        """`steps` of an epoch, None if unknown; `applied` so far by each optimizer."""
        self._steps = steps
        self._applied = dict(applied)
        self._before = dict(self._skipped)
        self._tried = self._in_epoch = 0

    def begin_epoch(self) -> None:
        """Another epoch of `fit`."""
        self._tried += self._in_epoch
        self._in_epoch = 0

    def add(self, steps: int) -> int:
        """A call of so many steps; how many it is: the last of an epoch is short."""
        before = self._in_epoch
        self._in_epoch += steps
        if self._steps is not None:
            self._in_epoch = min(self._in_epoch, self._steps)
        return self._in_epoch - before

    def skipped(self, optimizer: str, applied: int) -> int | None:
        """Steps of this optimizer that were tried and not applied; None: unknown."""
        if self._steps is None or optimizer not in self._applied:
            return None
        tried = self._tried + self._in_epoch
        # More than were tried: another callback has loaded an optimizer's state.
        self._applied[optimizer] = max(self._applied[optimizer], applied - tried)
        skipped = tried - (applied - self._applied[optimizer])
        self._skipped[optimizer] = self._before.get(optimizer, 0) + skipped
        return self._skipped[optimizer]


def steps_taken(model: Any) -> int:
    """By all of its optimizers together."""
    return sum(map(_steps_of, probe.optimizers(model).values()))


def _steps_of(optimizer: Any) -> int:
    try:
        return int(probe.to_numpy(optimizer.iterations))
    except Exception:  # a user's own optimizer may count otherwise
        return 0
