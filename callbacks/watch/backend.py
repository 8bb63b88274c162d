"""The module of what differs from backend to backend."""

import importlib
from types import ModuleType

import keras


def backend() -> ModuleType:
    """The module of the backend that Keras runs on.

    Each has `make(model, asked, contents, say)`, which returns a Probe;
    `as_array(variable)`, an array, without a copy where that can be;
    `is_first_process()`, whether this one writes and speaks, of several that train;
    `scratch_graph()`, where Keras calls layers only to build them; `leaving(call_log)`,
    while which what is noted can be had afterwards, wherever it can be at all;
    `device()`, on what it computes, in words; and `host`, what tells its tensors and
    batches from arrays: see `tensors`.
    """
    name = keras.backend.backend()
    return importlib.import_module(f".{name}", __package__)
