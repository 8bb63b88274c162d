"""The run record: what readers of a log need to know of the run, without its model."""

import json
import platform
import sys
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import summary_pb2, types_pb2

TAG = "kbn/run"
PLUGIN = "kbn"  # no plugin of TensorBoard's: it leaves the record alone
FORMAT = 1
VERSIONED = ("keras", "tensorflow", "jax", "torch", "numpy", "tensorboard")


def value_of(record: Mapping[str, Any]) -> Any:
    """The record as a value of a Summary proto."""
    value = summary_pb2.Summary.Value(tag=TAG)
    value.metadata.plugin_data.plugin_name = PLUGIN
    value.metadata.data_class = summary_pb2.DATA_CLASS_TENSOR
    value.tensor.dtype = types_pb2.DT_STRING
    value.tensor.tensor_shape.SetInParent()
    text = json.dumps({"format": FORMAT, **record}, allow_nan=False)
    value.tensor.string_val.append(text.encode())
    return value


def record_of(value: Any) -> dict[str, Any] | None:
    """The record that a value of a Summary proto is; None if it is something else."""
    if value.tag != TAG or value.metadata.plugin_data.plugin_name != PLUGIN:
        return None
    record: dict[str, Any] = json.loads(value.tensor.string_val[0])
    return record


def versions() -> dict[str, str]:
    """Of what a run depends on, where it is loaded."""
    # A nightly's package has another name than its module.
    loaded = {x: getattr(sys.modules.get(x), "__version__", None) for x in VERSIONED}
    found = {name: str(version) for name, version in loaded.items() if version}
    own = sys.modules["kbn"].__version__
    return {"kbn": own, "python": platform.python_version(), **found}
