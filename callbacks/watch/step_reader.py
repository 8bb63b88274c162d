"""What a monitor wants to see of a step, and what a look reads of it, as arrays."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from ..signals.own import evaluate
from ..signals.subjects import (
    Entering,
    Gradient,
    Input,
    Loss,
    NormInput,
    Output,
    Prediction,
    Subject,
)
from . import probe
from .inventory import Contents, Inventory, Selection
from .notes import Notes, given_by, offered, whole_of
from .optimizers import unscaled
from .probe import Asked, Seen
from .reduction import Reduction, names_of
from .targets import Supervision
from .tensors import dense, dense_parts, is_readable

HASHED = 2**16  # numbers of an input that tell its batch from others


class Wishes:
    """What one monitor wants of a model's training steps; `hidden`: what it cannot see.

    All that is hidden is told once, see `hidden`.
    """

    def __init__(self, asked: Asked) -> None:
        self.hidden: set[str] = set()
        self._asked = asked
        self._kinds = {
            k for k in (Output, Entering, Gradient, NormInput) if k.watch in asked.watch
        }
        self._selection: Selection | None = None

    @property
    def wants_tensors(self) -> bool:
        """Whether it wants anything that only a training step shows."""
        return bool(self._kinds)

    def selection(self, inventory: Inventory) -> Selection:
        """What it looks at of the model as it is now."""
        if self._selection is None or self._selection.inventory is not inventory:
            self._selection = Selection(inventory, self._asked.select)
        return self._selection

    def granted(self, notes: Notes, inventory: Inventory) -> dict[str, Subject]:
        """The subjects that it wants, by key; notes which of those are hidden."""
        selection = self.selection(inventory)
        of_kind: dict[type, Collection[str]] = {
            Output: selection.layers,
            Entering: selection.layers,
            Gradient: selection.weights,
            NormInput: selection.batch_norms,
        }
        owners = {k: x if k in self._kinds else () for k, x in of_kind.items()}
        everything = {*inventory.layers, *inventory.optimizers}
        reach: set[str] = {*selection.layers} if Output in self._kinds else set()
        reach |= {*selection.batch_norms} if NormInput in self._kinds else set()
        reach |= {*selection.optimizers} if Gradient in self._kinds else set()
        self.hidden |= {x for x in notes.hidden if x in reach or x not in everything}
        if Gradient in self._kinds and not notes.applied:
            self.hidden.add("gradients (no optimizer was applied in its reach)")

        def is_wanted(subject: Subject) -> bool:
            if isinstance(subject, Prediction):
                return self.wants_inputs
            return isinstance(subject, Loss) or _owner(subject) in owners[type(subject)]

        return {key: one for key, one in notes.subjects.items() if is_wanted(one)}

    @property
    def wants_inputs(self) -> bool:
        """Whether it wants what the model is given."""
        return Input.watch in self._asked.watch

    @property
    def wants_evaluation(self) -> bool:
        """Whether it wants the loss of both modes."""
        return Loss.watch in self._asked.watch


def _owner(subject: Any) -> str:
    """The layer or variable that it belongs to."""
    owner: str = subject.path if isinstance(subject, Gradient) else subject.layer
    return owner


class StepReader:
    """Reads steps of one model, into a `Seen` of each."""

    def __init__(
        self, model: Any, asked: Asked, wishes: Wishes, contents: Contents
    ) -> None:
        self._model = model
        self._asked = asked
        self._wishes = wishes
        self._contents = contents
        self._host = probe.backend().host

    def read(
        self,
        batch: Any,
        reduction: Reduction,
        given: Mapping[str, Sequence[Any]],
        seen: Seen,
    ) -> None:
        """`given`: of each subject of `reduction`, what replicas gave."""
        subjects = {
            key: one
            for key, one in reduction.subjects.items()
            if not isinstance(one, Prediction)
        }
        arrays = {key: given[key] for key in subjects}
        host = self._host
        if self._wishes.wants_inputs:
            for subject, x in given_by(host.without_optionals(batch)):
                if all(map(self._is_readable, host.parts(x))):
                    subjects[subject.key] = subject
                    arrays[subject.key] = [host.array(one) for one in host.parts(x)]
        whole = reduction.of(subjects)
        seen.subjects = [*subjects.values()]
        seen.rows = whole.rows(arrays)
        self._wishes.hidden |= {
            f"{name} ({whole.failed[key]!r})"
            for key, name in names_of(whole.failed, subjects).items()
        }
        self._supervise(batch, reduction.subjects, given, seen)

    def read_eagerly(
        self, batch: Any, notes: Notes, weights: Mapping[str, Any], seen: Seen
    ) -> None:
        """Of a step that was noted while it ran; `weights`: before it."""
        inventory = self._contents.of(self._model)  # the step may have built layers
        granted = self._wishes.granted(notes, inventory)
        arrays = {}
        for key, subject in granted.items():
            replicas = [_dense(x) for x in notes.tensors[key]]
            if isinstance(subject, Gradient):
                replicas = [unscaled(whole_of(subject, replicas), notes.scales[key])]
            arrays[key] = [self._host.array(x) for x in replicas]
        self.tell_applied(notes, seen)
        if self._asked.signals:
            self._evaluate(notes, weights, seen)
        reduction = Reduction(granted, self._asked.sample_size)
        self.read(batch, reduction, arrays, seen)

    def tell_applied(self, notes: Notes, seen: Seen) -> None:
        """Which optimizers were applied, and whether those are all."""
        seen.applied = notes.applied
        hidden = notes.hidden & self._contents.latest(self._model).optimizers.keys()
        seen.knows_applied = bool(notes.applied) and not hidden

    def _evaluate(self, notes: Notes, weights: Mapping[str, Any], seen: Seen) -> None:
        """What signals of the user's own say of an eager step."""

        def whole(key: str) -> Any:
            x = whole_of(notes.subjects[key], [_dense(x) for x in notes.tensors[key]])
            return unscaled(x, notes.scales[key]) if key in notes.scales else x

        tensors = offered(notes, whole, weights)
        seen.own = evaluate(self._asked.signals, tensors, seen.failed)

    def _supervise(
        self,
        batch: Any,
        subjects: Mapping[str, Subject],
        given: Mapping[str, Sequence[Any]],
        seen: Seen,
    ) -> None:
        """Keep what the step's loss was given, where that can be read."""
        outputs = {
            one.path: np.concatenate([*given[key]])
            for key, one in subjects.items()
            if isinstance(one, Prediction)
            and all(isinstance(x, np.ndarray) and x.ndim for x in given[key])
        }
        host = self._host
        known = host.without_optionals(batch)
        x, y, weights = keras.utils.unpack_x_y_sample_weight(known)
        leaves = [part for x in tree.flatten((y, weights)) for part in host.parts(x)]
        if outputs and all(map(self._is_readable, leaves)):
            y, weights = tree.map_structure(self._whole_array, (y, weights))
            seen.supervision = Supervision(y, weights, outputs, self._hash_of(x))

    def batch_size(self, batch: Any) -> int | None:
        """Examples in a batch, on all replicas; None if it has none."""
        for x in tree.flatten(self._host.without_optionals(batch)):
            parts = self._host.parts(x)
            shapes: list[Any] = [getattr(part, "shape", ()) for part in parts]
            if shapes and all(map(len, shapes)):
                return sum(int(shape[0]) for shape in shapes)
        return None

    def _is_readable(self, x: Any) -> bool:
        return x is None or is_readable(self._host.tensor(x))

    def _hash_of(self, x: Any) -> int:
        """Of the first numbers of each input; an unreadable one counts for nothing."""
        firsts = [self._host.parts(leaf)[0] for leaf in tree.flatten(x)]
        readable = [one for one in firsts if one is not None and self._is_readable(one)]
        arrays = [self._host.array(one) for one in readable]
        return hash(tuple(array.reshape(-1)[:HASHED].tobytes() for array in arrays))

    def _whole_array(self, x: Any) -> Any:
        """Of all replicas."""
        if x is None:
            return None
        arrays = [self._host.array(part) for part in self._host.parts(x)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _dense(tensor: Any) -> Any:
    parts = dense_parts(tensor)
    return tensor if parts is None else dense(parts)
