"""What the probes of all backends have in common."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from ..signals.reading import EVALUATED
from ..signals.subjects import Input, Loss, Target
from .calls import CallLog
from .inventory import Contents
from .layers import weights_of
from .probe import Asked, Seen
from .step_reader import StepReader, Wishes

# Kept on the training function, and gone with it: tracing and compiling are expensive.
PROBE = "_kbn_probe"


def leaving(call_log: CallLog) -> contextlib.AbstractContextManager[None]:
    """See `probe.backend`: all can be had as it is."""
    return contextlib.nullcontext()


class Looker:
    """The part of a `probe.Probe` that is of no backend.

    `within`: what keeps a step's tensors where they cannot be noted, and how to have
    all, for a user to read; `places`: out of which tensors cannot leave.
    """

    function: Callable[..., Any]
    within = "a function of its own"
    places = "loops, conditions and nested functions"

    def __init__(
        self, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> None:
        self._model = model
        self._asked = asked
        self._say = say
        self._contents = contents
        self._wishes = Wishes(asked)
        self._reader = StepReader(model, asked, self._wishes, contents)
        self._is_blind = not (self._wishes.wants_tensors or asked.signals)

    @classmethod
    def kept(
        cls, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> Self:
        """The probe of a model's training function: an earlier fit's, if it can be."""
        kept = getattr(model.train_function, PROBE, None)
        if isinstance(kept, cls) and kept.is_for(asked, contents):
            kept.open()
            return kept
        made = cls(model, asked, contents, say)
        with contextlib.suppress(AttributeError):  # a user's own function, of any kind
            setattr(made.function, PROBE, made)
        return made

    def is_for(self, asked: Asked, contents: Contents) -> bool:
        """Whether it looks at what is asked."""
        return asked == self._asked and contents is self._contents

    def open(self) -> None:
        """Look again, at another fit."""

    def close(self) -> None:
        """Nothing was changed."""

    def attach(self, *given: Any) -> None:
        """Nothing to do: the model has its weights at any time."""

    def settle(self, returned: Any) -> None:
        """See `attach`."""

    def losses(self, returned: Any) -> Mapping[str, Any]:
        """The logs."""
        return returned if isinstance(returned, dict) else {}

    def _begin(self, notes: Callable[[], None]) -> None:
        """A look begins; `notes`: see `probe.Probe.look`."""
        self._notes = notes
        self._known = len(self._contents.latest(self._model).weights)

    def _note_what_is_built(self) -> None:
        """What a trace or a forward pass has built is noted before it is trained."""
        known, self._known = self._known, len(weights_of(self._model))
        if known != self._known:
            self._notes()

    def _try_to(self, act: Callable[[], None]) -> None:
        try:
            with np.errstate(all="ignore"):  # as `telling.Voice`
                act()
        except Exception as error:  # the training goes on with the batch that was taken
            self._is_blind = True
            self._say(
                f"cannot see gradients and activations of {self._model.name!r}: "
                f"{error!r}. It logs metrics, weights and batch norm."
            )

    def _finished(self, returned: Any, seen: Seen, evaluated: Any) -> tuple[Any, Seen]:
        """A look is over; `evaluated`: see `LossEvaluation`."""
        if evaluated is not None:
            row = np.asarray(evaluated, np.float64)
            seen.rows = {**seen.rows, (Loss("").key, EVALUATED): row}
        self._tell_what_is_hidden(seen)
        return returned, seen

    def _tell_what_is_hidden(self, seen: Seen) -> None:
        saw = any(not isinstance(x, Input | Target) for x in seen.subjects)
        if self._is_blind:
            return
        if not saw and not seen.applied:
            self._is_blind = True
            self._say(
                f"sees no gradients and activations of {self._model.name!r}: its "
                f"train_step keeps them in {self.within}"
            )
        elif self._wishes.hidden:
            self._say(
                f"cannot see all of {self._model.name!r}: tensors inside {self.places} "
                "cannot leave them. It leaves out "
                f"{', '.join(sorted(self._wishes.hidden))}."
            )
