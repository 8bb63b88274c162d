"""The configuration of a run, in words."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..log.logged import Entry, LoggedRun
from ..signals.record import Record

SETTINGS = (
    *("momentum", "nesterov", "weight_decay", "beta_1", "beta_2"),
    *("clipnorm", "global_clipnorm", "clipvalue"),
)

USUAL = {"beta_1": 0.9, "beta_2": 0.999}  # of which there is nothing to say


def configuration(run: LoggedRun) -> dict[str, dict[str, str]]:
    """{group: {name: value}} of what is known of a run."""
    known = run.record
    groups = {
        "model": _model(known),
        "training": _training(known),
        "log": {**_extent(run.entries), **_options(mapping(known.get("options")))},
        "versions": mapping(known.get("versions")),
    }
    return {
        group: {str(k): str(v) for k, v in values.items() if v not in (None, "")}
        for group, values in groups.items()
    }


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one: a log may hold anything."""
    return value if isinstance(value, Mapping) else {}


def duration(seconds: float) -> str:
    """A time in words: `3 min 20 s`."""
    if not 0 <= seconds < 1e9:
        return "of unknown length"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _model(known: Mapping[str, Any]) -> dict[str, Any]:
    model, layers = mapping(known.get("model")), Record(known).layers
    norms = Counter(
        str(layer.get("type"))
        for layer in layers
        if isinstance(layer, Mapping) and layer.get("batch_norm")
    )
    why = known.get("no_guess")
    frozen = [x["name"] for x in layers if x.get("weights") and not x.get("trainable")]
    kinds = ", ".join(f"{count} {kind}" for kind, count in norms.items())
    return {
        "name": model.get("name"),
        "type": model.get("type"),
        "parameters": _parameters(model, layers),
        "frozen layers": ", ".join(frozen) or None,
        "layers": len(layers) or None,
        "batch norm": kinds or ("none" if layers else None),
        "loss": model.get("loss"),
        "loss of guessing": f"not known: {why}" if why else None,
        "dtype policy": model.get("dtype_policy"),
    }


def _parameters(model: Mapping[str, Any], layers: Sequence[Any]) -> str | None:
    count = model.get("parameters")
    if not isinstance(count, int):
        return None
    parts = (model, *layers)
    weights = {x["path"]: x for part in parts for x in part.get("weights") or ()}
    trained = sum(math.prod(x["shape"]) for x in weights.values() if x.get("trainable"))
    return f"{count:,}" + (f", trained: {trained:,}" if weights else "")


def _training(known: Mapping[str, Any]) -> dict[str, Any]:
    fit = mapping(known.get("fit"))
    optimizers: dict[str, str] = {}
    for i, optimizer in enumerate(map(mapping, Record(known).optimizers)):
        which = f" {i + 1}" * bool(i)
        rate = optimizer.get("learning_rate")
        optimizers[f"optimizer{which}"] = _optimizer(optimizer)
        if isinstance(rate, float | int):
            optimizers[f"learning rate{which}"] = f"{rate:.4g}"
    return {
        "epochs": fit.get("epochs"),
        "steps of an epoch": fit.get("steps"),
        "batch size": fit.get("batch_size"),
        "seed": fit.get("seed"),
        "git commit": known.get("commit"),
        "device": known.get("device"),
        **mapping(known.get("hparams")),
        **optimizers,
    }


def _optimizer(optimizer: Mapping[str, Any]) -> str:
    parts = [str(optimizer.get("type") or "").rpartition(".")[2]]
    settings = mapping(optimizer.get("settings"))
    parts += [
        f"{name} {settings[name]}"
        for name in SETTINGS
        if settings.get(name) not in (None, 0, False, USUAL.get(name))
    ]
    parts += ["loss scaling"] if optimizer.get("loss_scaling") else []
    return ", ".join(filter(None, parts))


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    rules, watch = options.get("rules"), options.get("watch")
    return {
        "log_freq": options.get("log_freq"),
        "watch": ", ".join(map(str, watch)) if isinstance(watch, Sequence) else None,
        "layers": options.get("layers"),
        "rules": len(rules) if isinstance(rules, Sequence) else None,
    }


def _extent(entries: Sequence[Entry]) -> dict[str, Any]:
    if not entries:
        return {}
    first, last = entries[0], entries[-1]
    extent = {
        "snapshots": len({entry.step for entry in entries}),
        "steps": f"{first.step} to {last.step}",
    }
    try:
        began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(first.seconds))
    except (OverflowError, ValueError, OSError):  # a clock that was wrong
        return extent
    return {**extent, "time": f"{began}, {duration(last.seconds - first.seconds)}"}
