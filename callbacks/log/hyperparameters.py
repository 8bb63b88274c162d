"""The hyperparameters by which TensorBoard's HParams tab compares runs."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams import summary_v2


def hyperparameters(record: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """{name: value} from a run record: what kbn knows, and the user's own."""
    kinds = {x["type"] for x in record["layers"] if "batch_norm" in x}
    known: dict[str, bool | float | str] = {
        "batch_norm": ", ".join(sorted(kinds)) or "none",
        "parameters": record["model"]["parameters"],
    }
    # Without one that `compile` was given, the first of the model's own.
    for optimizer in record["optimizers"][:1]:
        known["optimizer"] = optimizer["type"].rpartition(".")[2]
        known["learning_rate"] = optimizer["learning_rate"]
    for name in ("epochs", "steps", "batch_size", "seed"):
        if isinstance(record["fit"].get(name), int):
            known[name] = record["fit"][name]
    if isinstance(record["model"].get("dtype_policy"), str):
        known["precision"] = record["model"]["dtype_policy"]
    return {**known, **record.get("hparams", {})}


def trial_of(directory: Path) -> str:
    """A name for the row of a run: without one, equal runs would share a row."""
    place = str(directory.absolute())
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{directory.name or 'run'}-{digest[:6]}"


# TensorBoard takes the columns of all runs from the configuration of one of them, and
# ticks the first five by their letters.
COLUMNS = (
    *("batch_norm", "batch_size", "epochs", "learning_rate", "optimizer"),
    *("parameters", "precision", "seed", "steps"),
)


def hyperparameter_values(
    known: Mapping[str, bool | float | str], metrics: Sequence[str], trial: str
) -> list[Any]:
    """A row of the HParams tab and its columns, as values of a Summary proto.

    `metrics`: scalar tags to show beside the hyperparameters. `trial`: the row's name.
    """
    own = [name for name in known if name not in COLUMNS]
    config = summary_v2.hparams_config_pb(
        hparams=[summary_v2.HParam(name) for name in (*own, *COLUMNS)],
        # Without a list, the tab has a column for each of hundreds of scalars.
        metrics=[summary_v2.Metric(tag) for tag in metrics],
    )
    return [*config.value, *summary_v2.hparams_pb(dict(known), trial_id=trial).value]
