"""One run for each model that a monitor watches."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .alerts.alert import Alert
from .alerts.follow import Follower
from .run import Run
from .watch.layers import attribute, unique_names


class Runs:
    """One run for each model: the first in `log_dir` itself, others below it."""

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        self._log_dir = Path(log_dir)
        self._runs: list[Run] = []
        # Keras' own TensorBoard callback writes to these.
        self._names = {"train", "validation"}
        self._has_first = False
        self._followers: list[Follower] = []
        self.directories: dict[str, Path] = {}  # of all runs so far, by name

    @property
    def alerts(self) -> list[Alert]:
        """Those of all runs, also of models that are gone."""
        return [alert for follower in self._followers for alert in follower.alerts]

    def __deepcopy__(self, memo: Any) -> "Runs":
        """The same: a tuner copies its callbacks for each model, with one log_dir."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: the alerts and where the logs are, and no model."""
        return {**self.__dict__, "_runs": []}

    def of(self, model: Any, make: Callable[[Any, Path, str], Run]) -> Run:
        """The run of this model; `make(model, directory, name)` for a new one."""
        for run in self._runs:
            if run.is_of(model):
                return run
        for run in self._runs:
            run.forget_tensors()
        self._runs = [run for run in self._runs if not run.is_over]
        if not self._has_first:
            # Fixed now: a training may change the working directory.
            self._log_dir = self._log_dir.absolute()
        name = self._new_name(model) if self._has_first else ""
        self._has_first = True
        self._runs.append(make(model, self._log_dir / name, name))
        self._followers.append(self._runs[-1].follower)
        self.directories[name] = self._log_dir / name
        return self._runs[-1]

    def _new_name(self, model: Any) -> str:
        name = re.sub(r"[^\w.+-]", "_", str(attribute(model, "name"))).strip(".")
        names = [*self._names, name or "model"]
        (*_, new) = unique_names((x, None) for x in names)
        self._names.add(new)
        return new
