"""What optimizers tell: learning rates, loss scales, skipped and counted steps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..diagnostics.subjects import Optimizer
from ..model.optimizers import inner_of, loss_scaling, parts_of, steps_taken
from ..model.tensors import to_numpy


class OptimizerReader:
    """Of the optimizers that a training applies, of several each by its name.

    Those are the ones that a look saw applied, and those whose `iterations` advance: a
    model may have others, such as the default one of a bare `compile`.
    """

    def __init__(self) -> None:
        self.steps = StepCount()
        self._seen: list[str] = []  # applied, in the order of the step
        self._began: dict[str, int] = {}
        self._clock: str | None = None

    def begin_fit(self, found: Mapping[str, Any], steps: int | None) -> int:
        """Right before its first step: the iterations so far.

        `found`: the optimizers by name; `steps` of an epoch, None if unknown.
        """
        self._began = {name: steps_taken(x) for name, x in found.items()}
        self.steps.begin_fit(steps, self._began)
        if self._clock in self._began:
            return self._began[self._clock]
        return max(self._began.values(), default=0)

    def saw_applied(self, names: Sequence[str]) -> None:
        """What a look saw applied; of none, the last ones count."""
        self._seen = list(names) or self._seen

    def iterations(self, found: Mapping[str, Any]) -> int | None:
        """Steps of the optimizer that the training goes by; None if none is known."""
        moved = self._moved(found)
        if self._clock not in (moved or found):
            first = [x for x in self._seen if x in found] or sorted(
                moved, key=lambda name: (name != "optimizer", -moved[name])
            )
            self._clock = first[0] if first else None
        return None if self._clock is None else steps_taken(found[self._clock])

    def read(
        self, found: Mapping[str, Any], *, after_each_step: bool
    ) -> list[Optimizer]:
        """Those that are applied; skipped steps only where every step was counted.

        Of a `MultiOptimizer` its parts, the first of which has what they share.
        """
        told: list[Optimizer] = []
        for whole, optimizer in self._applied(found).items():
            scale = _logged_scale(optimizer)
            skipped = self._skipped(whole, optimizer) if after_each_step else None
            for name, part in parts_of(whole, optimizer).items():
                rate = float(to_numpy(part.learning_rate))
                told.append(Optimizer(name, False, rate, scale, skipped))
                scale = skipped = None
        return [dataclasses.replace(x, is_only=len(told) == 1) for x in told]

    def _skipped(self, name: str, optimizer: Any) -> int | None:
        if not loss_scaling(optimizer).skips:
            return None
        if inner_of(optimizer).gradient_accumulation_steps:
            return None
        return self.steps.skipped(name, steps_taken(optimizer))

    def _moved(self, found: Mapping[str, Any]) -> dict[str, int]:
        """How many steps each took in this fit, those that took any."""
        taken = {k: steps_taken(x) - self._began.get(k, 0) for k, x in found.items()}
        return {name: steps for name, steps in taken.items() if steps}

    def _applied(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        applied = dict.fromkeys([*self._seen, *self._moved(found)])
        return {k: found[k] for k in applied if k in found} or found


def _logged_scale(optimizer: Any) -> float | None:
    scale = loss_scaling(optimizer).logged(optimizer)
    return None if scale is None else float(to_numpy(scale))


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
