"""Keras' batch norms in a model become kbn's, or kbn's become Keras'."""

import logging
from typing import Any

from kbn.surgery import compiling, copying, exchange, graph
from kbn.surgery.exchange import Ours, Theirs
from kbn.surgery.remaking import uncopied

_log = logging.getLogger(__name__)


def convert_batch_norm(model: Any, back: bool = False, in_place: bool = False) -> Any:
    """A copy of `model` in which every batch norm of Keras is a `kbn.BatchNorm`.

    y = model(x) stays the same, in training and in inference, up to rounding; so do
    names, weights, what is trainable, dtype policies, regularizers, constraints, and
    the settings of `compile`. The copy shares no weight with `model`, which stays as it
    is. Where `model` was trained, the copy's optimizer goes on from its state; where
    it cannot, a warning of the logger `kbn.surgery` says so.

    Args:
        model: A sequential or functional model, built or not, with branches, shared
            layers and nested models. Layers of your own in it are copied by their
            configs. With `in_place=True`, any Keras model or layer, a subclassed model
            too, wherever it keeps its layers.
        back: Whether kbn's become Keras' instead.
        in_place: Whether `model` itself is converted, which needs no config. It keeps
            its optimizer and stays compiled; the next step traces anew.

    Returns:
        The copy, or `model` with `in_place=True`. Subclasses of either layer are left
        as they are, and named by the logger; so is a layer that loses `warmup=True` on
        the way back. A subclassed model that is loaded from a file has what its code
        makes, so it is to be converted again.

    Raises:
        ValueError: `model` is subclassed or a layer, and `in_place` is False; or a
            layer cannot be copied, or the other batch norm cannot have its
            arguments: with `back=True`, several axes, `momentum=None`, `unbiased`,
            `virtual_batch_size` and, but on TensorFlow, `synchronized`. The layer is
            named, and nothing is converted.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential(
        ...     [keras.Input((3,)), keras.layers.BatchNormalization(name="norm")]
        ... )
        >>> converted = kbn.convert_batch_norm(model)
        >>> isinstance(converted.get_layer("norm"), kbn.BatchNorm)
        True
        >>> isinstance(model.get_layer("norm"), kbn.BatchNorm)
        False
    """
    graph.require_layer(model, "convert_batch_norm")
    old, new = (Ours, Theirs) if back else (Theirs, Ours)
    # Whatever is refused is refused before anything is made.
    others = _counterparts(model, old, new)
    if in_place:
        _check_weights(model, others)
        for layer, other in others.items():
            exchange.become(layer, other)
        compiling.forget_functions(model)
        return model
    try:
        if not graph.has_graph(model):
            raise uncopied(model, "its calls are in code of its own")
        twin, layers = copying.copy(model)
    except ValueError as error:
        raise ValueError(
            f"{error} convert_batch_norm(model, in_place=True) converts the model "
            "itself and needs no copy."
        ) from error
    for layer, other in others.items():
        exchange.become(layers[layer], other)
    compiling.compile_like(model, twin, layers)
    return twin


def _counterparts(model: Any, old: Any, new: Any) -> dict[Any, Any]:
    """{batch norm of the class `old` in `model`: its counterpart of the other}."""
    found: dict[Any, Any] = {}
    for layer in graph.descendants(model):
        if type(layer) is old:
            found[layer] = exchange.counterpart(layer, new)
        elif isinstance(layer, old):
            _log.warning(
                "'%s' is left as it is: %s is a class of its own.",
                layer.name,
                type(layer).__name__,
            )
    return found


def _check_weights(model: Any, others: dict[Any, Any]) -> None:
    """An optimizer that is built knows the weights in hand and no others."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or not optimizer.built:
        return
    for layer, other in others.items():
        if not exchange.keeps_weights(layer, other):
            raise ValueError(
                f"Layer '{layer.name}' cannot be converted in place: its weights of "
                f"{layer.weights[0].dtype} are made anew in {other.weights[0].dtype}, "
                "and the optimizer is built for the old ones. Convert a copy, or "
                "compile the model anew first."
            )
