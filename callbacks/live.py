"""How a training goes, in one cell of a notebook that is drawn anew at each look."""

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from .log.logged import LoggedRun

SHARE = 0.05  # of the time that a training takes, for drawing


class LiveCell:
    """The output of one `fit`; nothing outside of a notebook."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._next = 0.0  # no sooner, in seconds

    def draw(self, logged: Callable[[], LoggedRun], *, is_last: bool = False) -> None:
        """Show the run as it is; not if that would take too much of its time."""
        began = time.monotonic()
        display = _display()
        if display is None or (began < self._next and not is_last):
            return
        from .report.page import part_of_a_page
        from .report.run_report import report_of
        from .report.story import live_story

        shown = display.HTML(part_of_a_page(live_story(report_of(logged()))))
        if self._handle is None:
            self._handle = display.display(shown, display_id=True)
        else:
            self._handle.update(shown)
        ended = time.monotonic()
        self._next = ended + (ended - began) / SHARE


def _display() -> Any:
    """IPython's display, if this runs in a kernel; IPython itself is never imported."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return (
        importlib.import_module("IPython.display") if hasattr(shell, "kernel") else None
    )
