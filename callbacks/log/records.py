"""JSON in a log, for readers without the model: the run record, and alerts."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboard.compat.proto import summary_pb2, types_pb2

from ..alerts.alert import Alert

RUN, ALERTS = "kbn/run", "kbn/alerts"  # tags
PLUGIN = "kbn"  # no plugin of TensorBoard's: it leaves these values alone
VERSIONED = ("keras", "tensorflow", "jax", "torch", "numpy", "tensorboard")


def run_value(record: Mapping[str, Any]) -> Any:
    """The run record as a value of a Summary proto."""
    return _value(RUN, record)


def run_in(value: Any) -> dict[str, Any] | None:
    """The run record in a value of a Summary proto; None if it holds something else."""
    record: dict[str, Any] | None = _content(RUN, value)
    return record


def alerts_value(alerts: Sequence[Alert]) -> Any:
    """Alerts that were raised or that ended, as a value of a Summary proto."""
    return _value(ALERTS, {"alerts": [alert.to_dict() for alert in alerts]})


def alerts_in(value: Any) -> list[Alert]:
    """The alerts in a value of a Summary proto; none if it holds something else."""
    known = _content(ALERTS, value, {"alerts": []})
    return [Alert.from_dict(one) for one in known["alerts"]]


def versions() -> dict[str, str]:
    """The versions of kbn, of Python and of the packages that are loaded."""
    # A nightly's package has another name than its module.
    loaded = {x: getattr(sys.modules.get(x), "__version__", None) for x in VERSIONED}
    found = {name: str(version) for name, version in loaded.items() if version}
    own = sys.modules["kbn"].__version__
    return {"kbn": own, "python": platform.python_version(), **found}


def commit() -> str | None:
    """What git has checked out in the working directory; None without git."""
    command = ("git", "rev-parse", "HEAD")
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):  # there is no git, or it hangs
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def string_value(tag: str, content: bytes, metadata: Any) -> Any:
    """A value of a Summary proto that holds one string."""
    metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    value = summary_pb2.Summary.Value(tag=tag, metadata=metadata)
    value.tensor.dtype = types_pb2.DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(content)
    return value


def _value(tag: str, known: Mapping[str, Any]) -> Any:
    metadata = summary_pb2.SummaryMetadata()
    metadata.plugin_data.plugin_name = PLUGIN
    text = json.dumps({"format": 1, **known}, allow_nan=False, default=_plain)
    return string_value(tag, text.encode(), metadata)


def _content(tag: str, value: Any, otherwise: Any = None) -> Any:
    if value.tag != tag or value.metadata.plugin_data.plugin_name != PLUGIN:
        return otherwise
    return json.loads(value.tensor.string_val[0])


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python: shapes and seeds may be such."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"not for JSON: {value!r}")
