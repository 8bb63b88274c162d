"""Which layers a model calls, in which order, and what each call gives."""

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import keras

from kbn.private import keras as private

from .activations import entered_by
from .inventory import BatchNorm
from .layers import Layer, Variable, attribute
from .optimizers import Applied, loss_scale
from .tensors import is_readable

Tensor: TypeAlias = Any
Weights: TypeAlias = Callable[[], Mapping[str, Variable]]
AGAIN = object()  # where a forward pass runs once more: see `CallLog`


class CallLog:
    """Tensors by name, and the calls that applied an optimizer.

    `graph()` says where the caller is: None if eager. Only what happens in the graph of
    its birth can be noted; what happens in `AGAIN` was noted before.
    `scale(optimizer)`: what to note of the factor in gradients; by default the factor
    itself, for which a graph gets an op. `before_apply()`: right before the first
    optimizer is applied. `keep(tensor)`: what to note of it; later ops may write to it.
    """

    def __init__(
        self,
        graph: Callable[[], Any],
        scale: Callable[[Any], Any] | None = None,
        before_apply: Callable[[], None] = lambda: None,
        keep: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        self._graph = graph
        self.before_apply = before_apply
        self.keep = keep
        self.scale = scale or loss_scale
        self._here = graph()
        self.activations: dict[str, tuple[Tensor, str]] = {}  # with its layer's name
        self._given: dict[str, Any] = {}  # each activation as the layer gave it
        self._first: dict[str, str] = {}  # the call that gave the same tensor before
        self._calls: dict[int, str] = {}  # that call, by the tensor's identity
        # What entered functions, with their layer, and the one that gave it, if known.
        self.entering: dict[str, tuple[Tensor, str, str]] = {}
        self.masked: set[str] = set()  # layers that were given a tensor with a mask
        self.norm_inputs: dict[str, tuple[Tensor, str]] = {}  # in training, unmasked
        self.outputs: list[Tensor] = []  # of the whole model
        # With what they are of, and y_pred.
        self.losses: list[tuple[Tensor, list[Tensor], Any]] = []
        # With the loss scale, and the number of the call in `applied`.
        self.gradients: dict[str, tuple[Tensor, Any, int]] = {}
        self.applied: list[Applied] = []
        self.hidden: set[str] = set()
        self.looped: frozenset[str] = frozenset()  # called once for each step of time
        self.is_applying = False  # by a pure function, which calls `apply` in its turn
        self._numbers: dict[tuple[str, str], int] = {}

    @property
    def is_here(self) -> bool:
        """Whether what happens now can be noted: see `reaches`."""
        return self._graph() is self._here

    def reaches(self, name: str) -> bool:
        """Whether what `name` does now can be noted; if not, notes that it cannot.

        A tensor born inside a loop, a condition or a nested function cannot leave it;
        where a loop is one of Python, its tensors would be as many as steps of time.
        """
        if self.is_here:
            if name in self.looped:
                self.hidden.add(name)
            return name not in self.looped
        # While a layer is built, Keras calls it in a scratch graph: no call to miss.
        here = self._graph()
        if here is not AGAIN and not private.is_scratch(here):
            self.hidden.add(name)
        return False

    def note_activation(self, call: str, name: str, tensor: Tensor) -> None:
        """What a call of a layer of this name gave."""
        self._first[call] = self._giver(tensor) or call
        self.activations[call] = self.keep(tensor), name
        self._given[call] = weakref.ref(tensor)
        self._calls[id(tensor)] = self._first[call]

    def note_entering(self, call: str, name: str, tensor: Tensor) -> None:
        """What entered the activation function of a layer of this name."""
        giver = self._giver(tensor)
        kept, known = self.activations[giver] if giver else (self.keep(tensor), "")
        self.entering[call] = kept, name, known

    def _giver(self, tensor: Tensor) -> str | None:
        """The first call that gave this tensor; identities are given again."""
        call = self._calls.get(id(tensor))
        return call if call is not None and self._given[call]() is tensor else None

    def giving(self, tensors: Iterable[Tensor]) -> set[str]:
        """The calls that gave one of these, themselves."""
        return self._like({self._giver(tensor) for tensor in tensors})

    def giving_as(self, names: Collection[str]) -> set[str]:
        """The calls that gave what layers of these names gave, themselves."""
        activations = self.activations.items()
        return self._like(
            {self._first[call] for call, (_, name) in activations if name in names}
        )

    def _like(self, calls: Collection[str | None]) -> set[str]:
        return {call for call, first in self._first.items() if first in calls}

    def tensors(self) -> dict[int, Tensor]:
        """All that were noted so far, by identity."""
        known = self._noted.values()
        return {id(x): x for x in keras.tree.flatten([*known]) if is_readable(x)}

    def exchange(self, tensors: Mapping[int, Tensor]) -> None:
        """Note these in the place of those of that identity."""
        noted = keras.tree.map_structure(lambda x: tensors.get(id(x), x), self._noted)
        losses = zip(self.losses, noted.pop("losses"), strict=True)
        self.losses = [(loss, of, y_pred) for (_, of, _), (loss, y_pred) in losses]
        vars(self).update(noted)
        for call, (tensor, _) in self.activations.items():
            self._given[call] = weakref.ref(tensor)
            self._calls[id(tensor)] = self._first[call]

    @property
    def _noted(self) -> dict[str, Any]:
        """But for what losses are of: that was there before."""
        names = ("activations", "entering", "norm_inputs", "outputs", "gradients")
        losses = [(loss, y_pred) for loss, _, y_pred in self.losses]
        return {name: getattr(self, name) for name in names} | {"losses": losses}

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


class Called(NamedTuple):
    """A method, what it was called with, and what it gave: None if that is to come."""

    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any = None

    def given(self, *names: str) -> dict[str, Any]:
        """The arguments by name, those by place by these names."""
        return dict(zip(names, self.args, strict=False)) | self.kwargs

    def bound(self) -> dict[str, Any]:
        """The arguments by the names that the method has for them."""
        return inspect.signature(self.method).bind(*self.args, **self.kwargs).arguments


Note: TypeAlias = Callable[[CallLog, Called], None]


@contextlib.contextmanager
def seeing(
    layers: Mapping[str, Layer],
    optimizers: Mapping[str, Any],
    weights: Weights,
    call_log: Callable[[], CallLog | None],
    norms: Mapping[str, BatchNorm] | None = None,
    model: Any = None,
) -> Iterator[None]:
    """Note the outputs of layers and the gradients given to optimizers, for a while.

    `call_log()` says where to note: None for nowhere. `weights` is asked when gradients
    arrive: a model may be built only then. Of `norms` the inputs are noted, of `model`
    the outputs and the losses it computes. Whatever a note raises, the call goes on.
    """
    notes: list[tuple[Any, str, Note]] = [
        (layer, "call", functools.partial(_note_outputs, name))
        for name, layer in layers.items()
    ]
    notes += [
        (layer, method, functools.partial(_note_entering, name))
        for name, layer in layers.items()
        for method in entered_by(layer)
    ]
    notes += [
        (norm.layer, "call", functools.partial(_note_norm, name, norm))
        for name, norm in (norms or {}).items()
    ]
    if model is not None:
        notes.append((model, "call", _note_model))
        notes.append((model, "compute_loss", _note_loss))
    for name, x in optimizers.items():
        for method, apply in APPLIES.items():
            notes.append((x, method, functools.partial(apply, name, x, weights)))
    with contextlib.ExitStack() as restore:
        for instance, method, note in notes:
            restore.callback(_override(instance, method, note, call_log))
        yield


def _note_outputs(name: str, seen: CallLog, called: Called) -> None:
    tensors = [x for x in keras.tree.flatten(called.outputs) if is_readable(x)]
    if tensors and seen.reaches(name):
        given = keras.tree.flatten((called.args, called.kwargs))
        if any(private.mask_of(x) is not None for x in given):
            seen.masked.add(name)
        call = seen.number(name)
        for index, tensor in enumerate(tensors):
            part = f"{call}/{index}" if len(tensors) > 1 else call
            seen.note_activation(part, name, tensor)


def _note_entering(name: str, seen: CallLog, called: Called) -> None:
    given = next(iter([*called.args, *called.kwargs.values()]), None)
    if is_readable(given) and seen.reaches(name):
        seen.note_entering(seen.number(name, "entering"), name, given)


def _note_norm(name: str, norm: BatchNorm, seen: CallLog, called: Called) -> None:
    given = called.given("inputs", "training", "mask")
    inputs = given.get("inputs")
    if is_readable(inputs) and seen.reaches(name):
        call = seen.number(name, "norm")
        is_training = given.get("training") is True and not norm.is_frozen
        if is_training and given.get("mask") is None:
            seen.norm_inputs[call] = (seen.keep(inputs), name)


def _note_model(seen: CallLog, called: Called) -> None:
    if seen.is_here:
        seen.outputs += keras.tree.flatten(called.outputs)


def _note_loss(seen: CallLog, called: Called) -> None:
    given = called.bound()
    if seen.is_here and {"x", "y"} <= given.keys():
        parts = [given.get(name) for name in ("x", "y", "sample_weight")]
        of = [leaf for leaf in keras.tree.flatten(parts) if leaf is not None]
        outputs = keras.tree.map_structure(
            lambda x: seen.keep(x) if is_readable(x) else x, given.get("y_pred")
        )
        seen.losses.append((seen.keep(called.outputs), of, outputs))


def _note_gradients(
    name: str, optimizer: Any, weights: Weights, seen: CallLog, called: Called
) -> None:
    given = called.given("grads", "trainable_variables")
    if seen.is_applying or not seen.reaches(name):
        return
    if not seen.applied:
        seen.before_apply()
    # Without a list, an optimizer goes by the one that it was built with.
    variables = given.get("trainable_variables") or private.optimizer_variables(
        optimizer
    )
    paths = {id(weight): path for path, weight in weights().items()}
    scale = seen.scale(optimizer)
    variables = list(variables)
    known = [paths[id(x)] for x in variables if id(x) in paths]
    seen.applied.append(Applied(name, tuple(known)))
    for gradient, variable in zip(given["grads"], variables, strict=False):
        path = paths.get(id(variable))
        # Of a variable of float8's scaling, it is the new value.
        is_value = attribute(variable, "overwrite_with_gradient", False)
        if gradient is not None and path is not None and not is_value:
            call = len(seen.applied) - 1
            kept = seen.keep(gradient)
            seen.gradients[seen.number(path)] = (kept, scale, call)


def _note_pure_gradients(
    name: str, optimizer: Any, weights: Weights, seen: CallLog, called: Called
) -> None:
    given = called.bound()
    values = zip(optimizer.variables, given["optimizer_variables"], strict=True)
    with keras.StatelessScope([*values]):  # in which its scale is that of the step
        grads = called._replace(args=(given["grads"],), kwargs={})
        _note_gradients(name, optimizer, weights, seen, grads)
    seen.is_applying = True


# What applies an optimizer, noted before it changes the loss scale. The pure one, of
# JAX, calls the other, but for a `LossScaleOptimizer`, whose is inside a condition.
APPLIES = {"apply": _note_gradients, "stateless_apply": _note_pure_gradients}


def _override(
    instance: Any, name: str, note: Note, call_log: Callable[[], CallLog | None]
) -> Callable[[], None]:
    """Note what a method is given and gives; returns what puts the old state back.

    A user's own method may take any arguments: they are handed on as they came.
    """
    method = attribute(instance, name)
    if not callable(method):
        return lambda: None

    @functools.wraps(method, updated=())
    def noted_method(*args: Any, **kwargs: Any) -> Any:
        seen = call_log()
        if seen is None:
            return method(*args, **kwargs)
        what = f"{name} of {attribute(instance, 'name')}"
        if name not in APPLIES:
            outputs = method(*args, **kwargs)
            called = Called(method, args, kwargs, outputs)
            seen.try_to(lambda: note(seen, called), what)
            return outputs
        # A zip is read once.
        args = tuple(list(x) if isinstance(x, Iterator) else x for x in args)
        seen.try_to(lambda: note(seen, Called(method, args, kwargs)), what)
        try:
            return method(*args, **kwargs)
        finally:
            seen.is_applying = False

    own = vars(instance)
    is_own, before = name in own, own.get(name)
    try:  # past Keras' tracking
        object.__setattr__(instance, name, noted_method)
    except AttributeError:  # it has no dictionary, or a property in its place
        return lambda: None

    def restore() -> None:
        if own.get(name) is not noted_method:
            return  # somebody else's, set meanwhile
        if is_own:
            object.__setattr__(instance, name, before)
        else:
            object.__delattr__(instance, name)

    return restore
