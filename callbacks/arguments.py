"""The rules that the monitor's arguments keep, checked when it is made."""

import os
import re
from collections.abc import Iterable
from typing import Any

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
    if "://" in str(log_dir):
        refuse("log_dir", log_dir, "log_dir must be a local directory, not a URL.")
    is_count = isinstance(log_freq, int) and not isinstance(log_freq, bool)
    if (
        log_freq != "epoch"
        and not callable(log_freq)
        and (not is_count or log_freq < 1)
    ):
        refuse(
            "log_freq",
            log_freq,
            'log_freq must be "epoch", an integer from 1 (steps), or a function '
            "step -> bool.",
        )
    is_list = isinstance(watch, Iterable) and not isinstance(watch, str)
    if not is_list or not set(watch) <= set(WATCHABLE):
        refuse("watch", watch, f"watch must be a tuple of some of {WATCHABLE}.")
    check_layers(layers, "TrainingMonitor")
    is_count = isinstance(sample_size, int) and not isinstance(sample_size, bool)
    if not is_count or sample_size < 1:
        refuse("sample_size", sample_size, "sample_size must be an integer from 1.")


def check_layers(layers: Any, function: str) -> None:
    """Raise a ValueError if `layers`, an argument of `function`, selects none."""
    rule = "layers must be a regular expression, a function layer -> bool, or None."
    if isinstance(layers, str):
        try:
            re.compile(layers)
        except re.error as error:
            rule = f"layers is no regular expression: {error}."
            _refuse(function, "layers", layers, rule)
    elif layers is not None and not callable(layers):
        _refuse(function, "layers", layers, rule)


def _refuse(function: str, argument: str, value: Any, rule: str) -> None:
    raise ValueError(f"{function}({argument}={value!r}): {rule}")
