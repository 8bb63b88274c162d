"""Alerts in a log: a record for readers, and a table in TensorBoard's Text tab."""

import json
from collections.abc import Sequence
from typing import Any

from tensorboard.compat.proto import summary_pb2, types_pb2
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.util.tensor_util import make_tensor_proto

from ..alerts.alert import Alert
from .run_record import PLUGIN

TAG = "kbn/alerts"
TEXT = "health/report"
FORMAT = 1


def value_of(alerts: Sequence[Alert]) -> Any:
    """Alerts that were raised or that ended, as a value of a Summary proto."""
    value = summary_pb2.Summary.Value(tag=TAG)
    value.metadata.plugin_data.plugin_name = PLUGIN
    value.metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    value.tensor.dtype = types_pb2.DT_STRING
    value.tensor.tensor_shape.SetInParent()
    known = {"format": FORMAT, "alerts": [alert.to_dict() for alert in alerts]}
    value.tensor.string_val.append(json.dumps(known, allow_nan=False).encode())
    return value


def alerts_in(value: Any) -> list[Alert]:
    """The alerts that a value of a Summary proto holds; none if it is another."""
    if value.tag != TAG or value.metadata.plugin_data.plugin_name != PLUGIN:
        return []
    known = json.loads(value.tensor.string_val[0])
    return [Alert.from_dict(one) for one in known["alerts"]]


def text_of(alerts: Sequence[Alert]) -> Any:
    """All alerts up to now, as Markdown: the open ones first, the newest on top."""
    metadata = text_metadata.create_summary_metadata(
        display_name="Alerts",
        description="What is wrong with this training, and what to try.",
    )
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    text = make_tensor_proto(markdown(alerts).encode())
    return summary_pb2.Summary.Value(tag=TEXT, metadata=metadata, tensor=text)


def markdown(alerts: Sequence[Alert]) -> str:
    """A table of what, where, since when, and what to try."""
    newest = sorted(alerts, key=lambda alert: (not alert.is_open, -alert.step))
    rows = ["| level | alert | where | since | what it means, what to try |"]
    rows += ["|---|---|---|---|---|"]
    for alert in newest:
        more = f" and {alert.others} more" if alert.others else ""
        epoch = "" if alert.epoch is None else f", epoch {alert.epoch}"
        ending = f", {alert.ending}" if alert.ending else ""
        cells = (
            f"**{alert.level}**" if alert.is_open else alert.level,
            alert.rule,
            f"`{alert.where}`{more}",
            f"step {alert.step}{epoch}{ending}",
            alert.message,
        )
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows)
