"""How a monitor speaks to its user: below the progress bar, and each warning once."""

import logging
from collections.abc import Callable

import numpy as np

# Logged, not warned: under `python -W error` a warning would end the training.
_log = logging.getLogger(__name__)


class Voice:
    """Says each thing once.

    `is_bar_open`: Keras shows a progress bar, whose line has not ended. `is_silent`:
    another process speaks, of those that train together.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self.is_bar_open = self.is_silent = False

    def begin_line(self) -> None:
        """End the line of the progress bar: Keras draws it anew below."""
        if self.is_bar_open:
            self.is_bar_open = False
            print(flush=True)

    def say(self, message: str, about: str | None = None) -> None:
        """Log a warning; of what it is about, only the first."""
        about = about or message
        if about not in self._said and not self.is_silent:
            self._said.add(about)
            self.begin_line()
            space = "" if message.startswith("(") else " "
            _log.warning("TrainingMonitor%s%s", space, message)

    def try_to(self, act: Callable[[], None], what: str) -> None:
        """Act; whatever that raises is said, and the training goes on.

        NumPy does not warn meanwhile: of Inf - Inf an alert tells.
        """
        try:
            with np.errstate(all="ignore"):
                act()
        except Exception as error:  # a training is not to fail for its statistics
            self.say(f"could not {what}: {error!r}. Training goes on.", what)
