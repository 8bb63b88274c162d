"""What there is to look at in a model, and how to see it without leaving a trace."""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

Layer: TypeAlias = Any  # keras.Operation: layers, and operations such as keras.ops.relu
Variable: TypeAlias = Any
Tensor: TypeAlias = Any
Select: TypeAlias = str | Callable[[Layer], bool] | None

# Private in Keras (3.15), but only it knows the layers that a layer keeps in lists or
# dictionaries. Without it we go by the attributes and by a model's `layers`.
LAYERS = "_layers"


def named_layers(model: Any, select: Select = None) -> dict[str, Layer]:
    """Every layer and operation below the model, nested ones included, by unique name.

    The name is the layer's own where no other layer has it, else its path. `select`:
    a regular expression to be found in the name, a function of the layer, or None.
    """
    found: dict[int, Layer] = {}

    def visit(parent: Layer) -> None:
        for child in _children(parent):
            if id(child) not in found and child is not model:
                found[id(child)] = child
                visit(child)

    visit(model)
    layers = [x for x in found.values() if not isinstance(x, keras.layers.InputLayer)]
    names = [layer.name for layer in layers]
    named = unique_names(
        (
            name if names.count(name) == 1 else getattr(layer, "path", None) or name,
            layer,
        )
        for name, layer in zip(names, layers, strict=True)
    )
    return {
        name: layer for name, layer in named.items() if _selected(select, name, layer)
    }


def _children(parent: Layer) -> list[Layer]:
    layers = getattr(parent, LAYERS, None)
    if layers is None:
        attributes = [v for k, v in vars(parent).items() if not k.startswith("_")]
        layers = [x for x in attributes if isinstance(x, keras.layers.Layer)]
        layers += getattr(parent, "layers", [])
    return [*layers, *getattr(parent, "operations", [])]


def _selected(select: Select, name: str, layer: Layer) -> bool:
    if select is None:
        return True
    if isinstance(select, str):
        return re.search(select, name) is not None
    return bool(select(layer))


def named_weights(model: Any, select: Select = None) -> dict[str, Variable]:
    """The model's weights by `variable.path`, made unique; those of selected layers."""
    named = unique_names((weight.path, weight) for weight in model.weights)
    if select is None:
        return named
    layers = named_layers(model, select).values()
    wanted = {id(weight) for x in layers for weight in getattr(x, "weights", [])}
    return {path: weight for path, weight in named.items() if id(weight) in wanted}


def batch_norms(model: Any, select: Select = None) -> dict[str, dict[str, Variable]]:
    """gamma, beta, moving_mean, moving_variance of each batch norm, those that exist.

    Known by its moving statistics, so that it may be Keras' layer, ours or another.
    """
    found = {}
    for name, layer in named_layers(model, select).items():
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        weights = {part: getattr(layer, part, None) for part in parts}
        if (
            weights["moving_mean"] is not None
            and weights["moving_variance"] is not None
        ):
            found[name] = {k: v for k, v in weights.items() if v is not None}
    return found


def axes(batch_norm: Layer) -> list[int]:
    """The channel axes of a batch norm: Keras' has one, ours may have several."""
    axis = getattr(batch_norm, "axis", -1)
    return [axis] if isinstance(axis, int) else list(axis)


def optimizers(model: Any) -> dict[str, Any]:
    """The model's optimizers by attribute, `optimizer` first: a GAN has two more."""
    found = {"optimizer": model.optimizer} if model.optimizer is not None else {}
    for name, value in vars(model).items():
        is_new = all(value is not known for known in found.values())
        if isinstance(value, keras.optimizers.Optimizer) and is_new:
            found[name] = value
    return found


def unique_names(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary in which a name that was taken goes on as name_1, name_2."""
    named: dict[str, Any] = {}
    for name, value in pairs:
        unique, number = name, 0
        while unique in named:
            number += 1
            unique = f"{name}_{number}"
        named[unique] = value
    return named


def to_numpy(tensor: Any) -> Any:
    """A variable or tensor as an array."""
    if keras.backend.backend() == "tensorflow":
        # np.array(tf.Variable), in convert_to_numpy, warns: TensorFlow 2.21, NumPy 2.4.
        return np.asarray(tensor)
    return keras.ops.convert_to_numpy(tensor)


class Sight:
    """What one training step showed: tensors by name, and the optimizers it applied."""

    def __init__(self, graph: Callable[[], Any]) -> None:
        self._graph = graph
        self._here = graph()
        self.activations: dict[str, tuple[Tensor, str]] = {}  # with its layer's name
        self.norm_inputs: dict[str, tuple[Tensor, str]] = {}  # in training, unmasked
        self.outputs: list[Tensor] = []  # of the whole model
        self.losses: list[tuple[Tensor, list[Tensor]]] = []  # with what they are of
        self.gradients: dict[str, tuple[Tensor, Any]] = {}  # with its loss scale
        self.applied: list[str] = []
        self.hidden: set[str] = set()
        self._numbers: dict[tuple[str, str], int] = {}

    @property
    def is_here(self) -> bool:
        """Whether what happens now can be noted: see `reaches`."""
        return self._graph() is self._here

    def reaches(self, name: str) -> bool:
        """Whether what `name` does now can be noted; if not, notes that it cannot.

        A tensor born inside a loop, a condition or a nested function can not leave it.
        """
        if self.is_here:
            return True
        graph = self._graph()
        # While a layer is built, keras 3.x calls it in a graph of this name; that is
        # no call to miss. Were it renamed, layers built then would seem hidden.
        if not getattr(graph, "name", "").startswith("scratch_graph"):
            self.hidden.add(name)
        return False

    def number(self, name: str, kind: str = "") -> str:
        """`name`, then name#1, name#2; each kind of notes counts for itself."""
        number = self._numbers.get((kind, name), 0)
        self._numbers[kind, name] = number + 1
        return f"{name}#{number}" if number else name


@contextlib.contextmanager
def watched(
    layers: Mapping[str, Layer],
    appliers: Mapping[str, Any],
    weights: Callable[[], Mapping[str, Variable]],
    sight: Callable[[], Sight | None],
    norms: Mapping[str, Layer] | None = None,
    model: Any = None,
) -> Iterator[None]:
    """Override `layer.call` and `optimizer.apply` on the instances, for a while.

    `sight()` says where to note what is seen: None for nowhere. `weights` is asked
    when gradients arrive: a model may be built only then. Of `layers` the outputs are
    noted, of `norms` the inputs, of `model` the outputs and the losses it computes.
    """
    with contextlib.ExitStack() as restore:
        for name, layer in layers.items():
            call = _watched_call(name, layer.call, sight)
            restore.callback(_override(layer, "call", call))
        for name, layer in (norms or {}).items():
            call = _watched_norm(name, layer.call, sight)
            restore.callback(_override(layer, "call", call))
        if model is not None:
            call = _watched_outputs(model.call, sight)
            restore.callback(_override(model, "call", call))
            compute = _watched_loss(model.compute_loss, sight)
            restore.callback(_override(model, "compute_loss", compute))
        for name, optimizer in appliers.items():
            apply = _watched_apply(name, optimizer, weights, sight)
            restore.callback(_override(optimizer, "apply", apply))
        yield


def _override(instance: Any, name: str, value: Any) -> Callable[[], None]:
    """Set an attribute past Keras' tracking; returns what puts the old state back."""
    before = vars(instance).get(name)
    object.__setattr__(instance, name, value)
    if before is None:
        return lambda: object.__delattr__(instance, name)
    return lambda: object.__setattr__(instance, name, before)


def _watched_call(
    name: str, call: Callable[..., Any], sight: Callable[[], Sight | None]
) -> Callable[..., Any]:
    def watched_call(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        seen = sight()
        if seen is None:
            return outputs
        tensors = [x for x in keras.tree.flatten(outputs) if _is_numeric(x)]
        if tensors and seen.reaches(name):
            tag = seen.number(name)
            for index, tensor in enumerate(tensors):
                part = f"{tag}/{index}" if len(tensors) > 1 else tag
                seen.activations[part] = (tensor, name)
        return outputs

    return watched_call


def _watched_norm(
    name: str, call: Callable[..., Any], sight: Callable[[], Sight | None]
) -> Callable[..., Any]:
    def watched_norm(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen = sight()
        if seen is not None and _is_numeric(inputs) and seen.reaches(name):
            tag = seen.number(name, "norm")
            if kwargs.get("training") is True and kwargs.get("mask") is None:
                seen.norm_inputs[tag] = (inputs, name)
        return call(inputs, *args, **kwargs)

    return watched_norm


def _watched_outputs(
    call: Callable[..., Any], sight: Callable[[], Sight | None]
) -> Callable[..., Any]:
    def watched_outputs(*args: Any, **kwargs: Any) -> Any:
        outputs = call(*args, **kwargs)
        seen = sight()
        if seen is not None and seen.is_here:
            seen.outputs += keras.tree.flatten(outputs)
        return outputs

    return watched_outputs


def _watched_loss(
    compute: Callable[..., Any], sight: Callable[[], Sight | None]
) -> Callable[..., Any]:
    def watched_loss(
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        loss = compute(x, y, y_pred, sample_weight, **kwargs)
        seen = sight()
        if seen is not None and seen.is_here:
            of = [e for e in keras.tree.flatten((x, y, sample_weight)) if e is not None]
            seen.losses.append((loss, of))
        return loss

    return watched_loss


def _watched_apply(
    name: str,
    optimizer: Any,
    weights: Callable[[], Mapping[str, Variable]],
    sight: Callable[[], Sight | None],
) -> Callable[..., Any]:
    apply = optimizer.apply

    def watched_apply(grads: Any, trainable_variables: Any = None) -> Any:
        seen = sight()
        if seen is None:
            return apply(grads, trainable_variables)
        grads = list(grads)
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        if seen.reaches(name):
            seen.applied.append(name)
            scale = _loss_scale(optimizer)
            paths = {id(weight): path for path, weight in weights().items()}
            # Without a list, an optimizer goes by the one that it was built with.
            variables = trainable_variables or optimizer._trainable_variables
            for gradient, variable in zip(grads, variables, strict=False):
                path = paths.get(id(variable))
                if gradient is not None and path is not None:
                    seen.gradients[seen.number(path)] = (gradient, scale)
        return apply(grads, trainable_variables)

    return watched_apply


def _loss_scale(optimizer: Any) -> Any:
    """What `optimizer.scale_loss` multiplied the loss, and so the gradients, by."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # Its inner optimizer unscales inside a condition, whence no tensor can leave.
        if not optimizer.built:
            return optimizer.initial_scale
        return keras.ops.convert_to_tensor(optimizer.dynamic_scale)
    return getattr(optimizer, "loss_scale_factor", None)


def _is_numeric(x: Any) -> bool:
    # Sparse and ragged tensors, which have `values`, have no shape to look at; on torch
    # all tensors have them, as a method, and those of Keras' builds nothing in them.
    if not keras.ops.is_tensor(x) or getattr(x, "is_meta", False):
        return False
    if not callable(getattr(x, "values", len)):
        return False
    dtype = getattr(x.dtype, "name", str(x.dtype)).removeprefix("torch.")
    return dtype.startswith(("float", "bfloat", "int", "uint"))
