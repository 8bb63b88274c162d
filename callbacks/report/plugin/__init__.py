"""TensorBoard's tab "Health": the report of the runs below its log directory, live.

Installed as `kbn_tensorboard`, beside kbn and not in it: `import kbn` imports Keras,
which takes seconds, and a plugin that fails to import keeps TensorBoard from starting.
So only Python's own library and TensorBoard's base class are imported here; the rest is
imported when the tab is opened, and the tab says what fails there.
"""

import hashlib
import html
import json
import threading
import time
from pathlib import Path
from typing import Any

from tensorboard.plugins import base_plugin

from kbn_light import load

FILES = "events.out.tfevents.*.kbn"  # that `TrainingMonitor` writes
FRESH = 1800  # seconds: what was not written for so long was killed
NO_LOG = "There is no log of kbn's TrainingMonitor in this directory yet."


class HealthPlugin(base_plugin.TBPlugin):
    """The tab. `context`: TensorBoard's, of which only the log directory is used."""

    plugin_name = "kbn_health"

    def __init__(self, context: Any) -> None:
        self._places = _places(context)
        self._is_active = False
        self._lock = threading.Lock()
        self._state: Any = None  # of the logs that the last page was made from
        self._html = ""
        self._unended: set[str] = set()  # runs on that page that have not ended

    def get_plugin_apps(self) -> dict[str, Any]:
        """{route: WSGI application}."""
        return {"/index.js": self._script, "/runs": self._runs, "/page": self._page}

    def is_active(self) -> bool:
        """Whether there is something to show; kept, once there is."""
        try:
            self._is_active = self._is_active or any(
                any(place.rglob(FILES)) for place in self._places.values()
            )
        except OSError:  # a directory that vanishes while it is walked
            return False
        return self._is_active

    def frontend_metadata(self) -> Any:
        """The name of the tab, and its script."""
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Health", disable_reload=True
        )

    # --- WSGI applications ---

    def _script(self, environ: Any, start: Any) -> Any:
        content = Path(__file__).with_name("index.js").read_text(encoding="utf-8")
        return _respond(environ, start, content, "application/javascript")

    def _runs(self, environ: Any, start: Any) -> Any:
        """Names of runs, and a state that changes when something is logged."""
        try:
            runs = self._found()
            state = hashlib.sha256(repr(_signatures(runs)).encode()).hexdigest()
            training = [x for x in runs if x in self._unended and _is_fresh(runs[x])]
            known = {"runs": [*runs], "state": state, "training": training}
        except Exception as error:  # TensorBoard is to live on, whatever it is
            known = {"runs": [], "state": "", "training": [], "error": _reason(error)}
        return _respond(environ, start, json.dumps(known), "application/json")

    def _page(self, environ: Any, start: Any) -> Any:
        """The report of the runs that are asked for by `?run=`, else of all."""
        try:
            from werkzeug import wrappers

            asked = wrappers.Request(environ).args.getlist("run")
            content = self._report(asked)
        except Exception as error:  # as above
            content = _message(_reason(error))
        return _respond(environ, start, content, "text/html")

    # --- the report ---

    def _found(self) -> dict[str, Path]:
        """{name: directory} of all runs."""
        reader = load("kbn.callbacks.log.reader")
        found: dict[str, Path] = {}
        for name, place in self._places.items():
            for run in reader.find_runs(place):
                inner = run.relative_to(place).as_posix()
                own = place.name if inner == "." else inner
                found["/".join(filter(None, (name, own)))] = run
        return found

    def _report(self, asked: list[str]) -> str:
        runs = self._found()
        chosen = {name: runs[name] for name in asked if name in runs} or runs
        if not chosen:
            return _message(NO_LOG)
        with self._lock:  # one reading at a time, however many windows are open
            state = _signatures(chosen)
            if self._state != state:
                read = load("kbn.callbacks.log.reader").read_run
                logged = [read(run, name) for name, run in chosen.items()]
                self._unended = {x.name for x in logged if x.record.get("is_running")}
                report = load("kbn.callbacks.report.report").Report(logged)
                self._html, self._state = report.to_html(), state
            return self._html


def _signatures(runs: dict[str, Path]) -> Any:
    signature = load("kbn.callbacks.log.reader").signature
    return [(name, signature(run)) for name, run in runs.items()]


def _is_fresh(run: Path) -> bool:
    """Whether something was logged there not long ago."""
    return any(time.time() - x.stat().st_mtime < FRESH for x in run.glob(FILES))


def _places(context: Any) -> dict[str, Path]:
    """{name: directory} of --logdir, or of --logdir_spec; nothing of a URL."""
    spec = str(getattr(getattr(context, "flags", None), "logdir_spec", "") or "")
    named = [part.rpartition(":")[::2] for part in spec.split(",") if part]
    named = named or [("", str(getattr(context, "logdir", "") or ""))]
    return {
        name: Path(place).expanduser()
        for name, place in named
        if place and "://" not in place
    }


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"This tab lacks something to work with: {error}."
    return f"This log could not be shown: {error!r}."


def _message(text: str) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><style>'
        ":root{color-scheme:light dark}body{font:16px system-ui,sans-serif;margin:2em}"
        f"</style></head><body><p>{html.escape(text)}</p></body></html>"
    )


def _respond(environ: Any, start: Any, content: str, kind: str) -> Any:
    from tensorboard.backend import http_util
    from werkzeug import wrappers

    response = http_util.Respond(wrappers.Request(environ), content, kind)
    return response(environ, start)
