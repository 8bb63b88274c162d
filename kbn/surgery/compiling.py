"""Compiles the copy of a model as the model is, with its optimizer's state."""

import logging
from typing import Any

import keras

from kbn.private import keras as private
from kbn.surgery import graph, remaking
from kbn.surgery.graph import Layer

_log = logging.getLogger(__name__)


def compile_like(model: Any, twin: Any, layers: dict[Layer, Layer] | None) -> None:
    """Compile `twin` as `model` is compiled, if it is.

    layers: {layer of `model`: layer of `twin`}; the optimizer's state of their
    variables comes along. None: the optimizer starts anew. What cannot come along is
    said in a warning of this module's logger.
    """
    if not getattr(model, "compiled", False):
        return
    is_own = type(model).compile is not keras.Model.compile
    settings = None if is_own else private.compile_settings(model)
    if settings is None:
        _log.warning(
            "The copy of '%s' is not compiled: its compile() is its own.", model.name
        )
        return
    try:
        settings = {name: copied(value) for name, value in settings.items()}
        twin.compile(**settings)
    except Exception as error:
        _log.warning("The copy of '%s' is not compiled: %s.", model.name, error)
        return
    if layers is not None and model.optimizer is not None and model.optimizer.built:
        _carry_state(model, twin, layers)


def forget_functions(model: Layer) -> None:
    """Have the compiled functions of the models in `model` made anew at the next step.

    They are traces of layers as they were.
    """
    for layer in graph.descendants(model):
        if isinstance(layer, keras.Model):
            layer.train_function = None
            layer.test_function = None
            layer.predict_function = None


def copied(value: Any) -> Any:
    """`value` with optimizers and metrics made anew; what has no state is shared.

    The config of a loss may lack its arguments, as that of Keras 3.15.1's Huber does.
    """
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    if not isinstance(value, keras.optimizers.Optimizer | keras.Metric):
        return value
    with remaking.readable_config(value):
        return type(value).from_config(value.get_config())


def _carry_state(model: Any, twin: Any, layers: dict[Layer, Layer]) -> None:
    """Give the optimizer of `twin` the state that the one of `model` has."""
    twins = {
        id(given): made
        for layer, other in layers.items()
        # Those that train come first; a counter may have gone.
        for given, made in zip(
            private.own_variables(layer), private.own_variables(other), strict=False
        )
    }
    theirs, ours = model.optimizer, twin.optimizer
    variables = private.optimizer_variables(theirs)
    is_known = bool(variables) or not model.trainable_variables
    if not is_known or any(id(variable) not in twins for variable in variables):
        _log.warning(
            "The optimizer of the copy of '%s' starts anew: the one given was built "
            "for other variables than the model's.",
            model.name,
        )
        return
    ours.build([twins[id(variable)] for variable in variables])
    for given, made in zip(theirs.variables, ours.variables, strict=True):
        made.assign(graph.value(given))
