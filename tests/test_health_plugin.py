"""kbn_tensorboard, the tab "Health": it must never keep TensorBoard from working."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest
from test_report import check_page, dead, record, write
from werkzeug.test import Client

from kbn.callbacks.log.records import run_value
from kbn.callbacks.log.writer import EventWriter

PLUGIN = importlib.util.find_spec("kbn_tensorboard").origin


def load():
    spec = importlib.util.spec_from_file_location("kbn_tensorboard", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(logdir, spec=""):
    flags = types.SimpleNamespace(logdir_spec=spec)
    context = types.SimpleNamespace(logdir=str(logdir), flags=flags)
    return load().HealthPlugin(context)


def get(plugin, route, **query):
    return Client(plugin.get_plugin_apps()[route]).get("/", query_string=query)


def runs(plugin):
    return json.loads(get(plugin, "/runs").text)


def test_tab_shows_the_page_of_the_report(tmp_path):
    write(tmp_path / "a", ill=[dead("second")])
    plugin = made(tmp_path)
    assert plugin.is_active()
    assert plugin.frontend_metadata().tab_name == "Health"
    assert runs(plugin)["runs"] == ["a"]
    reply = get(plugin, "/page")
    assert "script-src 'self'" in reply.headers["Content-Security-Policy"]
    checker = check_page(reply.text)
    assert "dead_relu in second, since step 3" in "".join(checker.text)


def test_runs_are_chosen_by_name(tmp_path):
    for name in "abc":
        write(tmp_path / name)
    plugin = made(tmp_path)
    assert runs(plugin)["runs"] == ["a", "b", "c"]
    assert "3 runs compared" in get(plugin, "/page").text
    assert "2 runs compared" in get(plugin, "/page", run=["a", "c"]).text
    assert "<h1>b</h1>" in get(plugin, "/page", run="b").text
    assert "3 runs compared" in get(plugin, "/page", run="gone").text


def test_state_changes_with_the_log_and_so_does_the_page(tmp_path):
    write(tmp_path)
    plugin = made(tmp_path)
    before, page = runs(plugin)["state"], get(plugin, "/page").text
    assert runs(plugin)["state"] == before
    assert get(plugin, "/page").text == page
    write(tmp_path / "more")
    assert runs(plugin)["state"] != before
    assert "2 runs compared" in get(plugin, "/page").text


def test_the_tab_says_which_trainings_go_on(tmp_path):
    for name in ("ended", "going", "killed"):
        write(tmp_path / name)
        if name != "ended":
            log = EventWriter(tmp_path / name)
            log.open()
            log.write_values(5, [run_value(record(["first"]) | {"is_running": True})])
    for file in (tmp_path / "killed").iterdir():
        os.utime(file, (0, 0))
    plugin = made(tmp_path)
    get(plugin, "/page")
    assert runs(plugin)["training"] == ["going"]


def test_logdir_spec_names_its_directories(tmp_path):
    for name in "ab":
        write(tmp_path / name)
    plugin = made("", f"mine:{tmp_path / 'a'},other:{tmp_path / 'b'}")
    assert runs(plugin)["runs"] == ["mine/a", "other/b"]


@pytest.mark.parametrize("place", ["", "missing", "gs://bucket/logs", "others"])
def test_tab_is_inactive_without_a_log_of_ours(tmp_path, place):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "events.out.tfevents.1.host").write_bytes(b"x")
    logdir = tmp_path / place if place in ("missing", "others") else place
    plugin = made(logdir)
    assert plugin.is_active() is False
    assert "There is no log" in get(plugin, "/page").text
    assert runs(plugin)["runs"] == []


@pytest.mark.parametrize("content", [b"", b"broken" * 99])
def test_a_broken_event_file_is_told_in_the_tab(tmp_path, content):
    (tmp_path / "events.out.tfevents.1.2.host.3.kbn").write_bytes(content)
    plugin = made(tmp_path)
    assert plugin.is_active()
    reply = get(plugin, "/page")
    assert reply.status_code == 200
    assert "What could not be read" in reply.text


def test_an_error_is_told_in_the_tab(tmp_path, monkeypatch):
    write(tmp_path)
    plugin = made(tmp_path)

    def fail(*arguments):
        raise RuntimeError("<broken>")

    monkeypatch.setattr(plugin, "_found", fail)
    assert "RuntimeError(&#x27;&lt;broken&gt;&#x27;)" in get(plugin, "/page").text
    assert "<broken>" in runs(plugin)["error"]


def test_the_script_is_served(tmp_path):
    reply = get(made(tmp_path), "/index.js")
    assert reply.mimetype == "application/javascript"
    assert "export function render()" in reply.text


HIDDEN = """
import json, sys
hidden = set(sys.argv[4:])
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util, types
spec = importlib.util.spec_from_file_location("kbn_tensorboard", sys.argv[1])
before = {name.split(".")[0] for name in sys.modules}
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import tensorboard.plugins.base_plugin
loaded = {name.split(".")[0] for name in sys.modules} - before
from werkzeug.test import Client
flags = types.SimpleNamespace(logdir_spec="")
plugin = module.HealthPlugin(types.SimpleNamespace(logdir=sys.argv[2], flags=flags))
page = Client(plugin.get_plugin_apps()["/page"]).get("/").text
json.dump({"loaded": sorted(loaded), "page": page, "active": plugin.is_active(),
           "frameworks": sorted({"keras", "tensorflow", "kbn"} & {*sys.modules})},
          sys.stdout)
"""


def hide(directory, *names):
    run = subprocess.run(
        [sys.executable, "-c", HIDDEN, PLUGIN, str(directory), "-", *names],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_tab_works_without_keras_tensorflow_and_kbn(tmp_path):
    write(tmp_path)
    found = hide(tmp_path, "keras", "tensorflow")
    assert found["active"]
    assert found["frameworks"] == []
    assert "Healthy at the end of 5 steps" in found["page"]


def test_tab_says_what_it_lacks(tmp_path):
    write(tmp_path)
    found = hide(tmp_path, "numpy")
    assert found["active"]
    assert "This tab lacks something to work with: " in found["page"]
    assert "numpy" in found["page"]


def test_load_imports_nothing_heavy(tmp_path):
    heavy = {"numpy", "werkzeug", "google", "keras", "tensorflow", "kbn"}
    assert not heavy & {*hide(tmp_path)["loaded"]}


def test_it_is_installed_as_a_module_of_its_own():
    (found,) = importlib.metadata.entry_points(
        group="tensorboard_plugins", name="kbn_health"
    )
    assert found.value == "kbn_tensorboard:HealthPlugin"
    assert found.load().plugin_name == "kbn_health"
