"""What optimizers tell: learning rates, loss scales and skipped steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from . import probe


class OptimizerScalars:
    """Of the optimizers that the last look saw applied, of several each by its name."""

    def __init__(self) -> None:
        self.steps = StepCount()
        self._applied = ["optimizer"]

    def begin_fit(self, model: Any, steps: int | None) -> None:
        """`steps` of an epoch, None if unknown."""
        found = probe.optimizers(model)
        self.steps.begin_fit(steps, {name: _steps_of(x) for name, x in found.items()})

    def saw_applied(self, names: Sequence[str]) -> None:
        """What a look saw applied; of none, the last ones count."""
        self._applied = list(names) or self._applied

    def iterations(self, model: Any, otherwise: int) -> int:
        """Steps of the first of them; `otherwise` for a model without optimizers."""
        applied = [*self._of(model).values()]
        return _steps_of(applied[0]) if applied else otherwise

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

    def _of(self, model: Any) -> dict[str, Any]:
        found = probe.optimizers(model)
        return {k: found[k] for k in self._applied if k in found} or found


class StepCount:
    """How many steps `fit` tried, and how many of them an optimizer did not apply."""

    def __init__(self) -> None:
        self._skipped: dict[str, int] = {}  # in all fits so far
        self.begin_fit(None, {})

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

    def add(self, steps: int) -> None:
        """A call of so many steps; the last call of an epoch may be cut short."""
        self._in_epoch += steps
        if self._steps is not None:
            self._in_epoch = min(self._in_epoch, self._steps)

    def skipped(self, optimizer: str, applied: int) -> int | None:
        """Steps of this optimizer that were tried and not applied; None: unknown."""
        if self._steps is None or optimizer not in self._applied:
            return None
        tried = self._tried + self._in_epoch
        skipped = tried - (applied - self._applied[optimizer])
        self._skipped[optimizer] = self._before.get(optimizer, 0) + skipped
        return self._skipped[optimizer]


def _steps_of(optimizer: Any) -> int:
    return int(probe.to_numpy(optimizer.iterations))
