"""Which of the subjects that were noted a monitor wants to see."""

from collections.abc import Collection
from typing import Any

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
from .inventory import Inventory, Selection
from .notes import Notes
from .probe import Asked


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
