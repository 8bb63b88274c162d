"""What Keras 3.15 tells only in private: to be merged into kbn.private.keras."""

from typing import Any


def _attribute(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def direct_layers(parent: Any) -> list[Any] | None:
    """The layers that a layer keeps, those in lists and dictionaries too."""
    layers = _attribute(parent, "_layers")
    return list(layers) if isinstance(layers, list | tuple) else None


def optimizer_variables(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for."""
    return list(_attribute(optimizer, "_trainable_variables") or ())


def compiled_trainable_state(model: Any) -> dict[Any, bool] | None:
    """Which layers were trainable when the model was compiled."""
    state = _attribute(model, "_compiled_trainable_state")
    return state if isinstance(state, dict) else None


def traced_functions(train_function: Any) -> list[Any]:
    """The functions of TensorFlow in the closure that Keras makes; the outer first."""
    import tensorflow as tf

    cells = getattr(train_function, "__closure__", None) or ()
    found = [
        cell.cell_contents
        for cell in cells
        if isinstance(cell.cell_contents, tf.types.experimental.PolymorphicFunction)
    ]
    return sorted(
        found, key=lambda x: x.python_function.__name__ != "multi_step_on_iterator"
    )
