"""After a NaN: the batch that made it, to train on again, and which others have one."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import tree

from ..signals.statistics import summarize
from ..signals.subjects import Input, Subject, Target
from ..signals.tensors import non_finite as non_finite_counts
from . import probe
from .targets import Supervision

COUNTS = non_finite_counts.key
UNKNOWN = 10_000  # steps, of an epoch whose length is not known
LARGEST_BYTES = 100_000_000  # of weights that are kept

REPLAY = '''\
"""Trains once more on the batch after which the loss was NaN or Inf, step {step}."""
import numpy as np
model = ...  # yours, built and compiled as for that training
kept = np.load({file!r})  # its variables are those after step {state_step}
for i, variable in enumerate(model.variables):
    variable.assign(kept[f"variables/{{i}}"]){none_kept}
print(model.train_on_batch({arguments}, return_dict=True))
'''


class Evidence:
    """The state of a model at the last look, for a batch that breaks it later."""

    def __init__(self) -> None:
        self._state: list[Any] = []
        self._step = 0

    def keep(self, model: Any, step: int) -> None:
        """Copy all variables, seeds too, if they take at most 100 MB."""
        variables = list(model.variables)
        size = sum(int(np.prod(x.shape)) * 4 for x in variables)
        self._state, self._step = [], step
        if size <= LARGEST_BYTES:
            array = probe.backend().as_array
            # Copied: the array may be the variable's own memory, which moves on.
            self._state = [np.array(array(x)) for x in variables]

    def save(self, directory: Path, step: int, batch: Any) -> None:
        """Write the batch, the state and a script of six lines that trains on them.

        `batch`: see `arrays_of`.
        """
        directory.mkdir(parents=True, exist_ok=True)
        kept = {f"variables/{i}": x for i, x in enumerate(self._state)}
        for name, part in named_parts(batch).items():
            for path, leaf in tree.flatten_with_path(part):
                if leaf is not None:
                    kept["/".join([name, *map(str, path)])] = leaf
        file = directory / "batch.npz"
        np.savez(file, **kept)
        arguments = ", ".join(
            f"{name}={_expression(part, name)}"
            for name, part in named_parts(batch).items()
        )
        text = REPLAY.format(
            step=step,
            file=str(file),
            state_step=self._step,
            arguments=arguments,
            none_kept="" if self._state else "  # none were kept: 100 MB at most",
        )
        (directory / "replay.py").write_text(text, encoding="utf-8")


def named_parts(batch: Any) -> dict[str, Any]:
    """x, y and sample_weight of a batch, those that it has."""
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    names = ("x", "y", "sample_weight")
    return {k: v for k, v in zip(names, parts, strict=False) if v is not None}


def non_finite(batch: Any) -> Mapping[tuple[str, str], tuple[int, int]]:
    """{(x or y, its name): (elements that are NaN or Inf, the first such example)}."""
    found = {}
    for part, structure in named_parts(batch).items():
        for path, leaf in tree.flatten_with_path(structure):
            array = np.asarray(leaf)
            if not array.ndim or array.dtype.kind in "iubOSU":
                continue
            count = summarize(array, 1).non_finite
            if count:
                rows = array.reshape(len(array), -1).astype(np.float64)
                first = int(np.argmin(np.isfinite(rows).all(axis=1)))
                name = "/".join(map(str, path)) or part
                found[part, name] = count, first
    return found


def arrays_of(batch: Any) -> Any:
    """A batch of arrays, whole, where processes have parts of it; None stays so."""
    host = probe.backend().host

    def array(leaf: Any) -> Any:
        # A backend may have no tensors of words.
        is_array = leaf is None or isinstance(leaf, np.ndarray)
        return leaf if is_array else host.array(leaf)

    return tree.map_structure(array, batch)


def _expression(structure: Any, name: str) -> str:
    """Python that builds a structure of arrays from what was kept of them."""
    if isinstance(structure, dict):
        parts = [(k, _expression(v, f"{name}/{k}")) for k, v in structure.items()]
        return f"{{{', '.join(f'{k!r}: {part}' for k, part in parts)}}}"
    if isinstance(structure, tuple | list):
        inner = (_expression(v, f"{name}/{i}") for i, v in enumerate(structure))
        return f"[{', '.join(inner)}]"
    return "None" if structure is None else f"kept[{name!r}]"


def broken_weights(given: Supervision | None) -> Sequence[Subject]:
    """A target named sample_weight, where the step's weights are not all finite."""
    leaves = tree.flatten(None if given is None else given.weights)
    found = [summarize(np.asarray(x), 1) for x in leaves if x is not None]
    return [Target("sample_weight", summary=x) for x in found if x.non_finite][:1]


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
