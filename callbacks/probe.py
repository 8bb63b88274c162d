"""What there is to look at in a model, and how to see it without leaving a trace."""

import collections
import contextlib
import functools
import inspect
import itertools
import operator
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
# Attributes in which Keras and TensorFlow keep what other attributes hold.
TRACKING = ("_self_", "_tracker", "_layers", "_metrics", "_operations")
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def named_layers(model: Any, select: Select = None) -> dict[str, Layer]:
    """Every layer and operation below the model, nested ones included, by unique name.

    The name is the layer's own where no other layer has it, else its path. `select`:
    a regular expression to be found in the name, a function of the layer, or None.
    """
    found: dict[int, Layer] = {}

    def visit(parent: Layer) -> None:
        for child in children(parent):
            if id(child) not in found and child is not model:
                found[id(child)] = child
                visit(child)

    visit(model)
    layers = [x for x in found.values() if not isinstance(x, keras.layers.InputLayer)]
    names = [_name(layer) for layer in layers]
    met = collections.Counter(names)
    named = unique_names(
        (name if met[name] == 1 else _path(layer), layer)
        for name, layer in zip(names, layers, strict=True)
    )
    return {
        name: layer for name, layer in named.items() if _selected(select, name, layer)
    }


def attribute(thing: Any, name: str, otherwise: Any = None) -> Any:
    """An attribute of a user's object; `otherwise` where it is not to be had."""
    try:
        return getattr(thing, name, otherwise)
    except Exception:  # a property may raise what it likes, and that is no news
        return otherwise


def _items(thing: Any, name: str) -> list[Any]:
    """What an attribute lists: it may as well be something else of the same name."""
    listed = attribute(thing, name)
    return list(listed) if isinstance(listed, list | tuple) else []


def children(parent: Layer) -> list[Layer]:
    """The layers and operations that a layer or model holds."""
    if attribute(parent, LAYERS) is None:
        layers = [v for k, v in vars(parent).items() if not k.startswith("_")]
        layers += _items(parent, "layers")
    else:
        layers = _items(parent, LAYERS)
    layers += _items(parent, "operations")
    return [x for x in layers if isinstance(x, keras.Operation)]


def _name(layer: Layer) -> str:
    name = attribute(layer, "name")
    return name if isinstance(name, str) and name else type(layer).__name__.lower()


def _path(layer: Layer) -> str:
    path = attribute(layer, "path")
    return path if isinstance(path, str) and path else _name(layer)


def _selected(select: Select, name: str, layer: Layer) -> bool:
    if select is None:
        return True
    if isinstance(select, str):
        return re.search(select, name) is not None
    return bool(select(layer))


def named_weights(model: Any, select: Select = None) -> dict[str, Variable]:
    """The model's weights by `variable.path`, made unique; those of selected layers."""
    named = unique_names((weight.path, weight) for weight in _weights(model))
    if select is None:
        return named
    layers = named_layers(model, select).values()
    wanted = {id(weight) for x in layers for weight in _weights(x)}
    return {path: weight for path, weight in named.items() if id(weight) in wanted}


def _weights(layer: Layer) -> list[Variable]:
    return [x for x in _items(layer, "weights") if isinstance(x, keras.Variable)]


def batch_norms(model: Any, select: Select = None) -> dict[str, dict[str, Variable]]:
    """gamma, beta, moving_mean, moving_variance of each batch norm, those that exist.

    Known by its moving statistics, so that it may be Keras' layer, ours or another.
    """
    found = {}
    for name, layer in named_layers(model, select).items():
        parts = {part: attribute(layer, part) for part in BATCH_NORM}
        weights = {k: v for k, v in parts.items() if isinstance(v, keras.Variable)}
        if weights.keys() >= {"moving_mean", "moving_variance"}:
            found[name] = weights
    return found


def axes(batch_norm: Layer) -> list[int]:
    """The channel axes of a batch norm: Keras' has one, ours may have several."""
    axis = attribute(batch_norm, "axis", -1)
    listed = axis if isinstance(axis, list | tuple) else [axis]
    return [operator.index(one) for one in listed]


def is_frozen(layer: Layer) -> bool:
    """Whether a batch norm is in inference mode even while the model trains."""
    fixed = attribute(layer, "freeze_statistics", False)  # which only ours has
    return bool(fixed) or not attribute(layer, "trainable", True)


def optimizers(model: Any) -> dict[str, Any]:
    """The model's optimizers by attribute, `optimizer` first: a GAN has two more.

    Those in lists and dictionaries by their place in it (`optimizers/generator`), those
    of models inside by the model (`generator/optimizer`).
    """
    places = [("optimizer", attribute(model, "optimizer"))]
    places += [(k, v) for k, v in vars(model).items()]
    for name, layer in named_layers(model).items():
        if isinstance(layer, keras.Model):
            inner = {"optimizer": attribute(layer, "optimizer"), **vars(layer)}
            places += [(f"{name}/{k}", v) for k, v in inner.items()]
    found: dict[int, tuple[str, Any]] = {}
    for place, value in places:
        if place.rpartition("/")[2].startswith(TRACKING):
            continue
        for name, one in _leaves(place, value):
            if isinstance(one, keras.optimizers.Optimizer):
                found.setdefault(id(one), (name, one))
    # The one that a LossScaleOptimizer holds is applied by it, not by the model.
    held = {id(attribute(x, "inner_optimizer")) for _, x in found.values()}
    return unique_names(pair for key, pair in found.items() if key not in held)


def _leaves(name: str, value: Any, depth: int = 3) -> Iterator[tuple[str, Any]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield name, value
    # A list of a million numbers is data, and no place for optimizers.
    for key, one in itertools.islice(items, 1000 if depth else 0):
        yield from _leaves(f"{name}/{key}", one, depth - 1)


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

    def try_to(self, note: Callable[[], None], what: str) -> None:
        """Note something; whatever that meets, the training is not to notice."""
        try:
            note()
        except Exception as error:
            self.hidden.add(f"{what} ({error!r})")

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
    notes: list[tuple[Any, str, Note]] = [
        (layer, "call", functools.partial(_note_outputs, name))
        for name, layer in layers.items()
    ]
    notes += [
        (layer, "call", functools.partial(_note_norm, name, layer))
        for name, layer in (norms or {}).items()
    ]
    if model is not None:
        notes.append((model, "call", _note_model))
        notes.append((model, "compute_loss", _note_loss))
    notes += [
        (x, "apply", functools.partial(_note_gradients, name, x, weights))
        for name, x in appliers.items()
    ]
    with contextlib.ExitStack() as restore:
        for instance, method, note in notes:
            restore.callback(_override(instance, method, note, sight))
        yield


# (sight, method, args, kwargs, what it returned)
Note: TypeAlias = Callable[[Sight, Callable[..., Any], Any, Any, Any], None]


def _override(
    instance: Any, name: str, note: Note, sight: Callable[[], Sight | None]
) -> Callable[[], None]:
    """Note what a method is given and gives; returns what puts the old state back.

    A user's own method may take any arguments: they are handed on as they came.
    """
    method = attribute(instance, name)
    if not callable(method):
        return lambda: None

    @functools.wraps(method, updated=())
    def watched_method(*args: Any, **kwargs: Any) -> Any:
        seen = sight()
        if seen is None:
            return method(*args, **kwargs)
        what = f"{name} of {attribute(instance, 'name')}"
        outputs = None
        if name == "apply":  # which changes the loss scale; and a zip is read once
            args = tuple(list(x) if isinstance(x, Iterator) else x for x in args)
        else:
            outputs = method(*args, **kwargs)
        seen.try_to(lambda: note(seen, method, args, kwargs, outputs), what)
        return method(*args, **kwargs) if name == "apply" else outputs

    own = vars(instance)
    is_own, before = name in own, own.get(name)
    try:  # past Keras' tracking
        object.__setattr__(instance, name, watched_method)
    except AttributeError:  # it has no dictionary, or a property in its place
        return lambda: None

    def restore() -> None:
        if own.get(name) is not watched_method:
            return  # somebody else's, set meanwhile
        if is_own:
            object.__setattr__(instance, name, before)
        else:
            object.__delattr__(instance, name)

    return restore


def _note_outputs(
    name: str, seen: Sight, method: Any, args: Any, kwargs: Any, outputs: Any
) -> None:
    tensors = [x for x in keras.tree.flatten(outputs) if _is_numeric(x)]
    if tensors and seen.reaches(name):
        tag = seen.number(name)
        for index, tensor in enumerate(tensors):
            part = f"{tag}/{index}" if len(tensors) > 1 else tag
            seen.activations[part] = (tensor, name)


def _note_norm(
    name: str,
    layer: Layer,
    seen: Sight,
    method: Any,
    args: Any,
    kwargs: Any,
    outputs: Any,
) -> None:
    given = dict(zip(("inputs", "training", "mask"), args, strict=False)) | kwargs
    inputs = given.get("inputs")
    if _is_numeric(inputs) and seen.reaches(name):
        tag = seen.number(name, "norm")
        is_training = given.get("training") is True and not is_frozen(layer)
        if is_training and given.get("mask") is None:
            seen.norm_inputs[tag] = (inputs, name)


def _note_model(seen: Sight, method: Any, args: Any, kwargs: Any, outputs: Any) -> None:
    if seen.is_here:
        seen.outputs += keras.tree.flatten(outputs)


def _note_loss(seen: Sight, method: Any, args: Any, kwargs: Any, loss: Any) -> None:
    given = inspect.signature(method).bind(*args, **kwargs).arguments
    if seen.is_here and {"x", "y"} <= given.keys():
        parts = [given.get(name) for name in ("x", "y", "sample_weight")]
        of = [leaf for leaf in keras.tree.flatten(parts) if leaf is not None]
        seen.losses.append((loss, of))


def _note_gradients(
    name: str,
    optimizer: Any,
    weights: Callable[[], Mapping[str, Variable]],
    seen: Sight,
    method: Any,
    args: Any,
    kwargs: Any,
    outputs: Any,
) -> None:
    given = dict(zip(("grads", "trainable_variables"), args, strict=False)) | kwargs
    if not seen.reaches(name):
        return
    seen.applied.append(name)
    # Without a list, an optimizer goes by the one that it was built with.
    variables = given.get("trainable_variables") or optimizer._trainable_variables
    paths = {id(weight): path for path, weight in weights().items()}
    scale = _loss_scale(optimizer)
    for gradient, variable in zip(given["grads"], variables, strict=False):
        path = paths.get(id(variable))
        if gradient is not None and path is not None:
            seen.gradients[seen.number(path)] = (gradient, scale)


def unscaled(gradient: Tensor, scale: Any) -> Tensor:
    """Of a loss that was multiplied by `scale`, None for 1; float32 or wider then."""
    if scale is None:
        return gradient
    dtype = keras.backend.standardize_dtype(gradient.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    return keras.ops.cast(gradient, wide) / keras.ops.cast(scale, wide)


def _loss_scale(optimizer: Any) -> Any:
    """What `optimizer.scale_loss` multiplied the loss, and so the gradients, by."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # Its inner optimizer unscales inside a condition, whence no tensor can leave.
        if not optimizer.built:
            return optimizer.initial_scale
        return keras.ops.convert_to_tensor(optimizer.dynamic_scale)
    return attribute(optimizer, "loss_scale_factor")


def _is_numeric(x: Any) -> bool:
    # Sparse and ragged tensors, which have `values`, have no shape to look at; on torch
    # all tensors have them, as a method, and those of Keras' builds nothing in them.
    if not keras.ops.is_tensor(x) or getattr(x, "is_meta", False):
        return False
    if not callable(getattr(x, "values", len)):
        return False
    dtype = getattr(x.dtype, "name", str(x.dtype)).removeprefix("torch.")
    return dtype.startswith(("float", "bfloat", "int", "uint"))
