"""What one monitor wants of a model's training steps, and what it is told of each."""

from collections.abc import Collection
from typing import Any

from ..diagnostics import registry
from ..diagnostics.subjects import (
    SUMMARY,
    Gradient,
    Input,
    Loss,
    NormInput,
    Output,
    Subject,
)
from ..model.inventory import Inventory, Selection
from ..model.layers import Select
from .seen import Key, Seen, Trace, readings
from .twin_step import TwinStep

STEP = "_kbn_step"


class Twin:
    """What one monitor wants to see of a model's training steps, and sees of each."""

    def __init__(
        self,
        model: Any,
        train_function: Any,
        watch: Collection[str],
        select: Select,
        sample_size: int,
    ) -> None:
        self.hidden: set[str] = set()
        self.applied: list[str] = []
        # Whether the next step shows the loss of both modes.
        self.evaluates_next = False
        self.model = model
        self.watch = watch
        self.sample_size = sample_size
        self._train_function = train_function
        self._select = select
        self._step: TwinStep | None = None
        self._selection: Selection | None = None
        self._wanted: tuple[Any, Any, list[Subject]] = None, None, []

    def is_of(self, train_function: Any) -> bool:
        """Whether the model was not compiled again since: it has the same function."""
        return self._train_function is train_function

    @property
    def step(self) -> TwinStep:
        """The step that all who watch this model look at: tracing it is expensive.

        It is kept on the function that it is the twin of, and goes with it.
        """
        kept = getattr(self._train_function, "__dict__", {})
        self._step = kept.get(STEP, self._step)
        if self._step is None or self._step.model is not self.model:
            self._step = kept[STEP] = TwinStep(self.model)
        return self._step

    @property
    def wants_evaluation(self) -> bool:
        """Whether the next step shows the loss of both modes."""
        return self.evaluates_next and Loss.watch in self.watch

    def selection(self, inventory: Inventory) -> Selection:
        """What it looks at of the model as it is now."""
        if self._selection is None or self._selection.inventory is not inventory:
            self._selection = Selection(inventory, self._select)
        return self._selection

    def read(
        self, seen: Seen, inventory: Inventory
    ) -> tuple[list[Subject], dict[Key, Any]]:
        """The subjects that it wants of what a step saw, and rows, see `reading`."""
        self.applied = self.applied or seen.trace.applied
        try:
            return self._read(seen, self.selection(inventory))
        except Exception as error:  # a training is not to fail for its statistics
            self.hidden.add(f"statistics ({error!r})")
            return [], {}

    def _read(
        self, seen: Seen, selection: Selection
    ) -> tuple[list[Subject], dict[Key, Any]]:
        trace = seen.trace
        if self._wanted[0] is not trace or self._wanted[1] is not selection:
            self._wanted = trace, selection, self._wanted_of(trace, selection)
        subjects = self._wanted[2]
        evaluates, self.evaluates_next = self.wants_evaluation, False
        rows = seen.rows(subjects, self.sample_size)
        self.hidden |= {
            f"{_name(subject, what)} ({trace.failed[subject.key, what]!r})"
            for subject in subjects
            for what in readings(subject)
            if (subject.key, what) in trace.failed
        }
        return subjects, rows | seen.evaluated if evaluates else rows

    def _wanted_of(self, trace: Trace, selection: Selection) -> list[Subject]:
        """Its subjects that are wanted; notes which of those are hidden."""
        wants = {
            kind for kind in (Output, Gradient, NormInput) if kind.watch in self.watch
        }
        owners: dict[type, Collection[str]] = {
            Output: selection.layers,
            Gradient: selection.weights,
            NormInput: selection.batch_norms,
        }
        everything = {*selection.inventory.layers, *selection.optimizers}
        reach: set[str] = {*selection.layers} if Output in wants else set()
        reach |= {*selection.batch_norms} if NormInput in wants else set()
        reach |= {*selection.optimizers} if Gradient in wants else set()
        self.hidden |= {x for x in trace.hidden if x in reach or x not in everything}
        if Gradient in wants and not trace.applied:
            self.hidden.add("gradients (no optimizer was applied in its reach)")
        return [
            subject
            for subject in trace.subjects.values()
            if isinstance(subject, Loss)
            or (isinstance(subject, Input) and Input.watch in self.watch)
            or (type(subject) in wants and _owner(subject) in owners[type(subject)])
        ]


def _owner(subject: Any) -> str:
    """The layer or variable that it belongs to."""
    owner: str = subject.path if isinstance(subject, Gradient) else subject.layer
    return owner


def _name(subject: Subject, what: str) -> str:
    """What is read of a subject, for a user to read."""
    for one in registry.of(subject):
        if one.tag == what or (what == SUMMARY and one.is_histogram):
            return one.tag_of(subject.name)
    return f"{what} of {subject.name}".removesuffix(" of ")
