"""Batch norms inserted into a model that has none, before the activations."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from kbn.layer import BatchNormalization
from kbn.momentum import fitting_momentum
from kbn.surgery import absorb, batches, compiling, copying, graph, statistics
from kbn.surgery.exchange import Ours, Theirs
from kbn.surgery.graph import Call, Layer, Wiring
from kbn.surgery.remaking import from_config


def insert_batch_norm(
    model: Any,
    where: Any = None,
    *,
    steps_per_epoch: int | None = None,
    like_before: Any = None,
    **arguments: Any,
) -> Any:
    """A copy of `model` with a `kbn.BatchNorm` between each layer and its activation.

    y = activation(z), with z = layer(x) of a Dense layer or a convolution, becomes
    y = activation(norm(z)), and a z without activation norm(z). An activation that is
    an argument of the layer becomes a layer of its own: "dense" is followed by
    "dense_bn" and "dense_activation". All weights are kept bit for bit, and so are
    biases, which beta makes superfluous. `model` stays as it is.

    Left alone is a layer that gives an output of the model or of one that is called
    several times, one whose values are normalized already (in both cases, with nothing
    that has weights in between), and one that is frozen. So are quantized layers,
    subclasses of Keras' layers and what lies inside of other layers. A layer that is
    called several times has one batch norm, which is called as often.

    Args:
        model: A sequential or functional model, with any models nested in it, built.
        where: Behind which layers. None: wherever it fits. A regular expression to be
            found in the name, or a function layer -> bool, picks some of these. A list
            of names is taken at its word: behind these, outputs and frozen layers too.
            In nested models a name is a path, "model/layer".
        steps_per_epoch: Training steps in an epoch, which set the momentum: the highest
            of 0.99, 0.98, 0.95, 0.9, 0.8, 0.7 and 0.5 that leaves at most 7.5 % of the
            statistics' start after an epoch, 0.9 for 25 steps.
        like_before: Data: arrays, or what gives a finite number of batches, as for
            `kbn.update_bn_stats`. For each channel of z over all data, the moving
            statistics become its mean and variance, and gamma and beta undo the
            normalization: gamma = sqrt(variance + epsilon), beta = mean. In inference
            each batch norm is then the identity up to rounding, for any inputs; in
            training it is near it, as a batch's statistics are near those of the data.
            That fails where a channel is constant in the data: there gamma is
            sqrt(epsilon), and a batch that makes it vary is scaled down. None: gamma
            is 1 and beta 0, so the outputs change, and training has what batch norm
            gives it.
        **arguments: Those of `kbn.BatchNorm`, such as `momentum` or `epsilon`.

    Returns:
        The copy, compiled as `model` is, with its optimizer started anew.

    Raises:
        ValueError: `model` is subclassed or not built, or a layer cannot be copied;
            `where` picks nothing, which says why each layer was left, or names what is
            no such layer; an epoch has fewer than 4 steps, or `momentum` is given too;
            `like_before` has no data, or lacks gamma or beta.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential([
        ...     keras.Input((64,)),
        ...     keras.layers.Dense(32, activation="sigmoid", name="hidden"),
        ...     keras.layers.Dense(10, activation="softmax", name="out"),
        ... ])
        >>> normed = kbn.insert_batch_norm(model, steps_per_epoch=25)
        >>> [layer.name for layer in normed.layers]
        ['hidden', 'hidden_bn', 'hidden_activation', 'out']
        >>> normed.get_layer("hidden_bn").momentum
        0.9

    Reference:
        Ioffe & Szegedy (2015), section 3, https://arxiv.org/abs/1502.03167: before the
        activation, and gamma and beta can "represent the identity transform".
    """
    graph.require_graph(
        model,
        "insert_batch_norm",
        " In a class of your own, give the layer no activation, and call a "
        "kbn.BatchNorm on what it gives and the activation on that.",
    )
    if steps_per_epoch is not None:
        if "momentum" in arguments:
            raise ValueError("Give steps_per_epoch or momentum, not both.")
        arguments["momentum"] = _momentum(steps_per_epoch)
    if isinstance(like_before, bool):
        raise ValueError(
            f"like_before={like_before} is no data. Did you mean like_before=x, with "
            "inputs of the model?"
        )
    if like_before is not None and not (
        arguments.get("scale", True) and arguments.get("center", True)
    ):
        raise ValueError("like_before needs gamma and beta: scale=True, center=True.")
    taken = {layer.name for layer in graph.descendants(model)}
    behind: dict[Layer, list[Layer]] = {}
    changes: dict[Layer, dict[str, Any]] = {}
    for layer in chosen(model, where):
        axis = 1 if getattr(layer, "data_format", "") == "channels_first" else -1
        name, policy = _free(f"{layer.name}_bn", taken), layer.dtype_policy
        norm = BatchNormalization(axis, name=name, dtype=policy, **arguments)
        behind[layer] = [norm]
        if layer.activation is not keras.activations.linear:
            name = _free(f"{layer.name}_activation", taken)
            behind[layer].append(_activation(layer, name))
            changes[layer] = {"activation": None, "activity_regularizer": None}
    twin, twins = copying.copy(model, changes, plain=True, behind=behind)
    for layer in changes:
        copying.take_state(layer, twins[layer])
        if isinstance(layer.activation, keras.layers.Layer) and layer.activation.built:
            behind[layer][1].set_weights(layer.activation.get_weights())  # PReLU's
    if like_before is not None:
        _set_identity(twin, [norm for norm, *_ in behind.values()], like_before)
    compiling.compile_like(model, twin, None)
    return twin


def _momentum(steps_per_epoch: int) -> float:
    """The momentum that renews the statistics within an epoch."""
    steps = batches.whole("steps_per_epoch", steps_per_epoch)
    fitting = fitting_momentum(steps)
    if fitting is None:
        raise ValueError(
            f"An epoch of {steps} steps is too short for any momentum: use smaller "
            "batches, or give momentum=0.5 and kbn.callbacks.UpdateBatchNormStats to "
            "fit."
        )
    return fitting


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with a number if it is taken; it is taken from now on."""
    names = (f"{name}_{i}" if i else name for i in itertools.count())
    free = next(one for one in names if one not in taken)
    taken.add(free)
    return free


def _activation(layer: Layer, name: str) -> Layer:
    """A layer that does what the activation in `layer` does."""
    given = layer.activation
    regularizer = layer.activity_regularizer
    if isinstance(given, keras.layers.Layer):
        return from_config(given, name=name, activity_regularizer=regularizer)
    policy = layer.dtype_policy
    return layers.Activation(
        given, name=name, dtype=policy, activity_regularizer=regularizer
    )


def _set_identity(model: Any, norms: list[Layer], data: Any) -> None:
    """Give batch norms the statistics of their inputs, and what undoes them."""

    def undo() -> None:
        for norm in norms:
            norm.gamma.assign(ops.sqrt(norm.moving_variance + norm.epsilon))
            norm.beta.assign(graph.value(norm.moving_mean))

    undo()  # so that all see what they would without the others
    for norm, seen in zip(
        norms, statistics.seen_in_inference(model, norms, data), strict=True
    ):
        seen.assign(norm)
    undo()


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
