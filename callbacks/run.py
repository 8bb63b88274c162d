"""What a monitor keeps of each model that it watches."""

import os
import re
import weakref
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from . import probe
from .layout import Layout
from .optimizer_scalars import OptimizerScalars
from .steps import Steps
from .weights import Weights
from .writer import EventWriter


class Run:
    """The log of one model, and what was met of it: over all of its fits."""

    def __init__(
        self,
        model: Any,
        directory: Path,
        name: str,
        watch: Collection[str],
        select: probe.Select,
        sample_size: int,
    ) -> None:
        self.name = name  # of its subdirectory, empty for the first
        self.steps = Steps()
        self.writer = EventWriter(directory)
        self.layout = Layout()
        self.optimizers = OptimizerScalars()
        self.weights = Weights(watch, select, sample_size)
        self.twin: Any = None
        self.has_hyperparameters = False
        self._model = weakref.ref(model)

    def is_of(self, model: Any) -> bool:
        """Whether it is this model's."""
        return self._model() is model

    @property
    def is_over(self) -> bool:
        """Whether its model is gone."""
        return self._model() is None


class Runs:
    """One run for each model: the first in `log_dir` itself, others below it."""

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self._log_dir = Path(log_dir)
        self._runs: list[Run] = []
        # Keras' own TensorBoard callback writes to these.
        self._names = {"train", "validation"}
        self._has_first = False

    def __deepcopy__(self, memo: Any) -> "Runs":
        """The same: a tuner copies its callbacks for each model, with one log_dir."""
        return self

    def of(self, model: Any, make: Callable[[Any, Path, str], Run]) -> Run:
        """The run of this model; `make(model, directory, name)` for a new one."""
        for run in self._runs:
            if run.is_of(model):
                return run
        # Twins keep their models alive.
        for run in self._runs:
            run.twin = None
        self._runs = [run for run in self._runs if not run.is_over]
        if not self._has_first:
            # Fixed now: a training may change the working directory.
            self._log_dir = self._log_dir.absolute()
        name = self._new_name(model) if self._has_first else ""
        self._has_first = True
        self._runs.append(make(model, self._log_dir / name, name))
        return self._runs[-1]

    def _new_name(self, model: Any) -> str:
        name = re.sub(r"[^\w.+-]", "_", str(probe.attribute(model, "name"))).strip(".")
        names = [*self._names, name or "model"]
        (*_, new) = probe.unique_names((x, None) for x in names)
        self._names.add(new)
        return new
