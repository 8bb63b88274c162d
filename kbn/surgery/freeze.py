"""Freezing: batch norms that keep their statistics while the model trains."""

import contextlib
import warnings
from typing import Any

import keras
import numpy as np

from kbn.layer import BatchNormalization
from kbn.surgery import exchange, forward, graph

Layer = Any
Model = Any
Variable = Any

KERAS = keras.layers.BatchNormalization


def freeze_batch_norm(model: Model, train_affine: bool = False) -> Model:
    """Freeze the statistics of every batch norm in `model`, nested ones included.

    In training as in inference, from now on::

        y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta

    and the moving statistics stay as they are, bit for bit. It holds for Keras' batch
    norms and for ours, and survives saving and loading.

    A compiled model need not be compiled again: what Keras has traced for it is made
    anew, and where the trainable weights changed, so is the optimizer, from its config,
    with its state for the weights that stay. That is done for `model` itself. A model
    around it, or a training step of your own, has to be compiled or traced again; a
    warning names the `tf.function`s in `model` that have been traced.

    Args:
        model: A model or layer: sequential, functional or subclassed. It is changed in
            place.
        train_affine: Whether gamma and beta are still trained. False: each batch norm
            gets `trainable=False`. True: each gets `freeze_statistics=True`, which only
            our layer has, so that Keras' batch norms become `kbn.BatchNorm`: the same
            objects, weights and names, in the same places. (`trainable=False` with a
            trainable gamma would do for a while, but Keras forgets it on saving.) In a
            part of the model that is itself frozen, they stay frozen with it.

    Returns:
        `model`.

    Raises:
        ValueError: There is no batch norm in `model`, or, with `train_affine=True`, one
            that is neither Keras' own class nor ours, or has arguments that ours
            refuses. Nothing has been changed then.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential(
        ...     [keras.Input((3,)), keras.layers.BatchNormalization()]
        ... )
        >>> model = kbn.freeze_batch_norm(model, train_affine=True)
        >>> y = model(keras.ops.full((4, 3), 5.0), training=True)
        >>> model.layers[0].get_weights()[2]
        array([0., 0., 0.], dtype=float32)
        >>> len(model.trainable_weights)
        2
    """
    norms = require(model, "freeze_batch_norm")
    before = list(model.trainable_variables)
    if train_affine:
        # All templates first: where one is refused, nothing has been changed.
        templates = [_ours(layer) for layer, _ in norms]
        for (layer, _), template in zip(norms, templates, strict=True):
            if template is not None:
                exchange.become(layer, template)
    for layer, inside_frozen in norms:
        _set_freeze_statistics(layer, train_affine)
        layer.trainable = train_affine and not inside_frozen
    _follow(model, before)
    return model


def unfreeze_batch_norm(model: Model) -> Model:
    """Let every batch norm in `model` train again: its statistics, gamma and beta.

    The way back from `kbn.freeze_batch_norm`, also for a model that was saved and
    loaded since. A batch norm inside a part of the model that is itself frozen
    (`part.trainable` is False) stays frozen with it. Batch norms that became ours stay
    ours. As for a compiled model, see `kbn.freeze_batch_norm`.

    Args:
        model: A model or layer, which is changed in place.

    Returns:
        `model`.

    Raises:
        ValueError: There is no batch norm in `model`.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential([keras.Input((3,)), kbn.BatchNorm(momentum=0.0)])
        >>> model = kbn.unfreeze_batch_norm(kbn.freeze_batch_norm(model))
        >>> y = model(keras.ops.full((4, 3), 5.0), training=True)
        >>> model.layers[0].get_weights()[2]
        array([5., 5., 5.], dtype=float32)
    """
    norms = require(model, "unfreeze_batch_norm")
    before = list(model.trainable_variables)
    for layer, inside_frozen in norms:
        _set_freeze_statistics(layer, False)
        if not inside_frozen:
            layer.trainable = True
    _follow(model, before)
    return model


def batch_norms(model: Model) -> list[tuple[Layer, bool]]:
    """Every batch norm in `model`, and whether a layer around it is frozen."""
    found: dict[int, tuple[Layer, bool]] = {}
    visited: set[int] = set()

    def visit(layer: Layer, frozen: bool) -> None:
        if id(layer) in visited:
            return
        visited.add(id(layer))
        if isinstance(layer, KERAS | BatchNormalization):
            found[id(layer)] = layer, frozen
        for child in graph.children(layer):
            visit(child, frozen or not layer.trainable)

    visit(model, False)
    return list(found.values())


def leaves(model: Model) -> list[Layer]:
    """The layers below `model`, and itself, that hold no other layer."""
    return [x for x in graph.descendants(model) if not graph.children(x)]


def is_frozen(layer: Layer) -> bool:
    """Whether a batch norm leaves its statistics alone while the model trains."""
    return not layer.trainable or getattr(layer, "freeze_statistics", False)


def describe(model: Model) -> str:
    """The model in an error message."""
    return f"{type(model).__name__} {getattr(model, 'name', '')!r}"


def require(model: Model, function: str) -> list[tuple[Layer, bool]]:
    """`batch_norms(model)`, of which there must be one, for a public function."""
    graph.require_layer(model, function)
    found = batch_norms(model)
    if not found:
        built = getattr(model, "built", True)
        remedy = "" if built else " It is not built yet: call it on a batch first."
        raise ValueError(f"There is no batch norm in {describe(model)}.{remedy}")
    return found


def _ours(layer: Layer) -> BatchNormalization | None:
    """A layer of ours with the arguments of Keras' `layer`; None if that is ours."""
    if isinstance(layer, BatchNormalization):
        return None
    if type(layer) is not KERAS:
        raise ValueError(
            f"{describe(layer)} is a subclass of keras.layers.BatchNormalization: it "
            "cannot become a kbn.BatchNorm, which train_affine=True needs. Derive it "
            "from kbn.BatchNorm, or freeze with train_affine=False."
        )
    return exchange.counterpart(layer, BatchNormalization)


def _set_freeze_statistics(layer: Layer, value: bool) -> None:
    if isinstance(layer, BatchNormalization):
        layer.freeze_statistics = value


def _follow(model: Model, before: list[Variable]) -> None:
    """Have what Keras compiled for `model` see its layers as they are now.

    before: what `model.trainable_variables` was.
    """
    if list(map(id, model.trainable_variables)) != list(map(id, before)):
        _renew_optimizer(model, before)
    if functions := forward.traced(model):
        warnings.warn(
            f"{', '.join(functions)}: a tf.function that was traced goes on with the "
            "batch norms as they were. Trace it again: make a new tf.function of its "
            "python_function, or the model anew.",
            stacklevel=3,
        )
    for name in ("train", "test", "predict"):
        if getattr(model, f"{name}_function", None) is not None:
            getattr(model, f"make_{name}_function")(force=True)


def _renew_optimizer(model: Model, before: list[Variable]) -> None:
    """An optimizer knows the weights that it was built for, so make it anew for these.

    On JAX it must be built for the trainable weights, no more, no less: else `fit`
    raises in its first step, and leaves the model without the values of its weights.
    """
    old = getattr(model, "optimizer", None)
    if not isinstance(old, keras.optimizers.Optimizer) or not old.built:
        return
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else contextlib.nullcontext():
        try:
            # The twin has the old one's variables, in their order, and the new one's
            # paths; the old one's own depend on where it was built.
            new, twin = _copy(old, model.trainable_variables), _copy(old, before)
            shapes = [[v.shape for v in x.variables] for x in (old, twin)]
            if shapes[0] != shapes[1]:
                raise ValueError("it was built for other weights")
        except Exception as error:  # a class of the user's may raise what it likes
            warnings.warn(
                f"The trainable weights of {describe(model)} have changed, and its "
                f"optimizer cannot be made anew ({error}). Compile the model again, "
                "with a new optimizer, before you fit it.",
                stacklevel=4,
            )
            return
    paths = (variable.path for variable in twin.variables)
    state = dict(zip(paths, old.variables, strict=True))
    for variable in new.variables:
        if variable.path in state:
            # A copy: JAX gives the new one's memory away in `fit`.
            kept = keras.ops.convert_to_numpy(state[variable.path])
            variable.assign(np.array(kept))
    model.optimizer = new


def _copy(optimizer: Any, variables: list[Variable]) -> Any:
    copy = type(optimizer).from_config(optimizer.get_config())
    copy.build(variables)
    return copy
