"""What the HParams tab compares runs by: known without asking the user."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboard.plugins.hparams import summary_v2

from . import probe


def hyperparameters(
    model: Any, fit: Mapping[str, Any]
) -> dict[str, bool | float | str]:
    """Of a built model; `fit`: the `params` that Keras gives a callback."""
    optimizer = probe.attribute(model, "optimizer")  # none before it is compiled
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    layers = probe.named_layers(model)
    kinds = {_kind(layers[name]) for name in probe.batch_norms(model)}
    known: dict[str, bool | float | str] = {
        "batch_norm": bool(kinds),
        "batch_norm_kind": ", ".join(sorted(kinds)) or "none",
        "parameters": sum(int(np.prod(w.shape)) for w in model.weights),
    }
    if inner is not None:
        rate = probe.to_numpy(optimizer.learning_rate)
        known |= {
            "optimizer": type(inner).__name__,
            # Of a float32, the digits that somebody wrote.
            "learning_rate": float(str(np.float32(rate))),
        }
    for name in ("epochs", "steps"):
        if isinstance(fit.get(name), int):
            known[name] = fit[name]
    return known


def _kind(layer: Any) -> str:
    return f"{type(layer).__module__.split('.')[0]}.{type(layer).__name__}"


def hyperparameter_values(
    known: Mapping[str, bool | float | str], metrics: Sequence[str]
) -> list[Any]:
    """They, and the scalar tags to show beside them, as values of a Summary proto."""
    config = summary_v2.hparams_config_pb(
        hparams=[summary_v2.HParam(name) for name in known],
        # Without a list, the tab has a column for each of hundreds of scalars.
        metrics=[summary_v2.Metric(tag) for tag in metrics],
    )
    return [*config.value, *summary_v2.hparams_pb(dict(known)).value]
