"""How a training step is looked at: one protocol, a module for each backend.

On a step that is due, a *probe* tells what can be seen of the step, and the training
function that Keras made trains, untouched, on the same batch. So watching changes no
bit of a training, whatever the backend compiles.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..signals.own import Function
from ..signals.subjects import Subject
from .backend import backend as backend
from .layers import Select
from .optimizers import Applied
from .targets import Supervision

Key = tuple[str, str]  # (key of a subject, what is read of it)


@dataclass(frozen=True)
class Asked:
    """What a monitor wants to see: see `TrainingMonitor`."""

    watch: Collection[str]
    select: Select
    sample_size: int
    signals: tuple[Function, ...] = ()


@dataclass
class Seen:
    """What a probe saw of one step.

    `rows`: see `signals.reading`. `applied`: calls of optimizers; `knows_applied`:
    whether those are all. `batch_size`: examples on all replicas, None if the batch
    does not tell. `reported`: the loss that the step returns. `knows_batches`: whether
    the batch of any step is known afterwards, should its loss become NaN. `own`: what
    signals of the user's own returned, by name; `failed`: what they raised instead.
    `supervision`: what the step's loss was given, None if that was not seen.
    """

    subjects: list[Subject] = field(default_factory=list)
    rows: Mapping[Key, Any] = field(default_factory=dict)
    applied: list[Applied] = field(default_factory=list)
    knows_applied: bool = False
    reported: float | None = None
    batch_size: int | None = None
    knows_batches: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    supervision: Supervision | None = None


class Probe(Protocol):
    """Looks at the steps of one training function of Keras, on one backend.

    `function`: what trains. `data_ends`: exceptions by which a call says that there was
    no batch left.
    """

    function: Callable[..., Any]
    data_ends: tuple[type[BaseException], ...]

    def steps(self, *given: Any) -> int:
        """How many training steps such a call takes at most; 0: it is none of `fit`."""

    def attach(self, *given: Any) -> None:
        """Let the model have the weights that a call is given."""

    def settle(self, returned: Any) -> None:
        """Let the model have the weights that a call returned."""

    def record(
        self, given: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], "Recorded | None"]:
        """What to call with instead, to know the batch afterwards; None: unknown."""

    def look(
        self, evaluates: bool, notes: Callable[[], None], *given: Any
    ) -> tuple[Any, Seen]:
        """What the call returns, and what was seen of its first step.

        `evaluates`: also the loss of the batch in evaluation mode. `notes()`: to be
        called where the call builds weights, before it trains them.
        """

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """Of what a call returned, what it reports: `loss` and metrics."""

    def number(self, loss: Any, waits: bool) -> float | None:
        """A loss; None if its device has not computed it, and it is not waited for.

        May raise an AttributeError, TypeError or ValueError: it is no number.
        """

    def close(self) -> None:
        """Leave the model as if it had not been watched."""


class Recorded:
    """An iterator of batches that knows which it has given last."""

    __slots__ = ("_batches", "last")

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.last: Any = None

    def __iter__(self) -> "Recorded":
        return self

    def __next__(self) -> Any:
        """The next batch."""
        self.last = next(self._batches)
        return self.last
