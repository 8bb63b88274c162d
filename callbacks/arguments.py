"""The rules that the monitor's arguments keep, checked when it is made."""

import difflib
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .sinks import Sink

USUAL = ("weights", "gradients", "activations", "batch_norm")
WATCHABLE = (*USUAL, "quantiles")


def check(
    log_dir: Any, log_freq: Any, watch: Any, layers: Any, sample_size: Any
) -> None:
    """Raise a ValueError that names the argument, its value and the rule it breaks."""

    def refuse(argument: str, value: Any, rule: str) -> None:
        _refuse("TrainingMonitor", argument, value, rule)

    if not isinstance(log_dir, str | os.PathLike) or not str(log_dir):
        refuse("log_dir", log_dir, "log_dir must be the path of a directory.")
    # A Path makes gs:/bucket of gs://bucket.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(log_dir)):
        refuse("log_dir", log_dir, "log_dir must be a local directory, not a URL.")
    is_word = isinstance(log_freq, str) and log_freq in ("auto", "epoch")
    if not is_word and not callable(log_freq) and not _is_count(log_freq):
        rule = 'log_freq must be "auto", "epoch", an integer from 1 (steps), or a '
        refuse("log_freq", log_freq, f"{rule}function step -> bool.")
    is_list = isinstance(watch, Iterable) and not isinstance(watch, str)
    if not is_list or any(name not in WATCHABLE for name in watch):
        refuse("watch", watch, f"watch must be a tuple of some of {WATCHABLE}.")
    check_layers(layers, "TrainingMonitor")
    if not _is_count(sample_size):
        refuse("sample_size", sample_size, "sample_size must be an integer from 1.")


def check_homes(hparams: Any, on_look: Any) -> None:
    """Raise a ValueError if they are not what `TrainingMonitor` takes."""
    rule = "hparams must be a dictionary of names to booleans, numbers and strings"
    if hparams is not None:
        if not isinstance(hparams, Mapping):
            _refuse("TrainingMonitor", "hparams", hparams, f"{rule}.")
        for name, value in hparams.items():
            value = plain(value)
            is_number = isinstance(value, bool | int | float | str)
            if not isinstance(name, str) or not name or not is_number:
                wrong = f"{rule}, not {name!r}: {value!r}."
                _refuse("TrainingMonitor", "hparams", hparams, wrong)
            if isinstance(value, float) and not math.isfinite(value):
                wrong = f"{rule}; {name!r} is not finite."
                _refuse("TrainingMonitor", "hparams", hparams, wrong)
    is_sink = isinstance(on_look, Sink)
    if on_look is not None and not is_sink and not callable(on_look):
        rule = "on_look must be a function of (step, {tag: value}), a Sink, or None."
        _refuse("TrainingMonitor", "on_look", on_look, rule)


def plain(value: Any) -> Any:
    """Of a number or string of NumPy, that of Python; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise a TypeError for the first argument given, with the one that was meant."""
    names = list(known)
    for name, value in given.items():
        near = difflib.get_close_matches(name, names, 1)
        raise TypeError(
            f"TrainingMonitor({name}={value!r}): there is no argument {name}. "
            + (
                f"Did you mean {near[0]}={value!r}?"
                if near
                else f"There are: {', '.join(names)}."
            )
        )


def listed(watch: Any) -> Any:
    """A generator as a tuple, to be read more than once; a string stays one."""
    is_list = isinstance(watch, Iterable) and not isinstance(watch, str)
    return tuple(watch) if is_list else watch


def _is_count(value: Any) -> bool:
    """Whether it is an integer from 1, Python's or NumPy's."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and value >= 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean ...?`, or nothing if no known name is like it."""
    (*near,) = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_layers(layers: Any, function: str) -> None:
    """Raise a ValueError if `layers`, an argument of `function`, selects none."""
    rule = "layers must be a regular expression, a function layer -> bool, or None."
    if isinstance(layers, str):
        try:
            re.compile(layers)
        except re.error as error:
            rule = f"layers is no regular expression: {error}."
            _refuse(function, "layers", layers, rule)
    # A layer is callable, but what it returns selects nothing.
    elif layers is not None and (not callable(layers) or hasattr(layers, "get_config")):
        _refuse(function, "layers", layers, rule)


def _refuse(function: str, argument: str, value: Any, rule: str) -> None:
    raise ValueError(f"{function}({argument}={value!r}): {rule}")
