"""What the HParams tab compares runs by: known without asking the user."""

from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.plugins.hparams import summary_v2


def hyperparameters(record: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """Of a run record."""
    kinds = {x["type"] for x in record["layers"] if "batch_norm" in x}
    known: dict[str, bool | float | str] = {
        "batch_norm": bool(kinds),
        "batch_norm_kind": ", ".join(sorted(kinds)) or "none",
        "parameters": record["model"]["parameters"],
    }
    # Without one that `compile` was given, the first of the model's own.
    for optimizer in record["optimizers"][:1]:
        known["optimizer"] = optimizer["type"].rpartition(".")[2]
        known["learning_rate"] = optimizer["learning_rate"]
    for name in ("epochs", "steps"):
        if isinstance(record["fit"].get(name), int):
            known[name] = record["fit"][name]
    return known


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
