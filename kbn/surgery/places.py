"""The layers of a model behind which a batch norm fits, and those that a user picks."""

import re
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from kbn.surgery import absorb
from kbn.surgery.exchange import Ours, Theirs
from kbn.surgery.graph import Call, Layer
from kbn.surgery.wiring import Wiring

NORMALIZATIONS = (
    Ours,
    Theirs,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)


def chosen(model: Any, where: Any) -> list[Layer]:
    """The layers that `where` picks, one or more."""
    wiring = Wiring(model)
    reasons: dict[Layer, str] = {}
    for call in wiring.calls:
        layer = call.layer
        if type(layer) in absorb.TAKERS and layer.quantization_mode is None:
            reasons[layer] = reasons.get(layer) or _reason(wiring, call)
    named = {wiring.names[layer]: layer for layer in reasons}
    if isinstance(where, list | tuple | set):
        if unknown := [name for name in where if name not in named]:
            known = _listed([*named]) or "none"
            raise ValueError(
                f"insert_batch_norm(where={where!r}): {unknown[0]!r} is no Dense layer "
                f"or convolution of '{model.name}', which has {known}."
            )
        picked = [layer for name, layer in named.items() if name in where]
    else:
        picks = _picker(where)
        picked = [
            layer
            for name, layer in named.items()
            if not reasons[layer] and picks(name, layer)
        ]
    if not picked:
        left = [
            f"'{name}' {reasons[layer] or 'is not picked'}"
            for name, layer in named.items()
        ]
        raise ValueError(
            f"insert_batch_norm(where={where!r}): there is no place for a batch norm "
            f"in '{model.name}': {_listed(left) or 'it has no such layer'}."
        )
    return picked


def _picker(where: Any) -> Callable[[str, Layer], bool]:
    """Whether `where` picks a layer, by its name and itself."""
    rule = "where must be a regular expression, a list of names, a function or None."
    if where is None:
        return lambda name, layer: True
    if isinstance(where, str):
        try:
            pattern = re.compile(where)
        except re.error as error:
            rule = f"where is no regular expression: {error}."
        else:
            return lambda name, layer: pattern.search(name) is not None
    elif callable(where) and not isinstance(where, keras.layers.Layer):
        return lambda name, layer: bool(where(layer))
    raise ValueError(f"insert_batch_norm(where={where!r}): {rule}")


def _reason(wiring: Wiring, call: Call) -> str:
    """Why the layer of a call is left alone; empty where it is not."""
    if not call.layer.trainable:
        return "is frozen"
    left, met = [call], {call}
    reason = ""
    while left:
        for tensor in left.pop().outputs:
            for reader in wiring.readers(tensor):
                if reader is None:
                    return "gives an output"
                if isinstance(reader.layer, NORMALIZATIONS):
                    reason = "is normalized already"
                elif reader not in met and not getattr(reader.layer, "weights", []):
                    left.append(reader)
                    met.add(reader)
    return reason


def _listed(parts: list[str]) -> str:
    rest = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    return ", ".join(parts[:8]) + rest
