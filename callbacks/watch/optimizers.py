"""Optimizers: their parts, loss scaling, steps and what a monitor reads of them."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from ..signals.subjects import Optimizer
from .layers import Layer, attribute, unique_names
from .tensors import to_numpy

# Gives each variable to one of several optimizers; Keras 3.14 has none.
MULTI_OPTIMIZER = getattr(keras.optimizers, "MultiOptimizer", ())


class Applied(NamedTuple):
    """One call of an optimizer's `apply`: its name, and the paths that it was given."""

    optimizer: str
    paths: tuple[str, ...]


# Attributes in which Keras and TensorFlow keep what other attributes hold.
TRACKING = (
    "_self_",
    "_tracker",
    "_layers",
    "_metrics",
    "_operations",
    "_nodes",
    "_compiled_trainable_state",
)


def find(model: Any, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """The model's optimizers by attribute, `optimizer` first: a GAN has two more.

    Those in lists and dictionaries by their place in it (`optimizers/generator`), those
    of models among the layers by the model (`generator/optimizer`).
    """
    places = [("optimizer", attribute(model, "optimizer"))]
    places += [(k, v) for k, v in vars(model).items()]
    for name, layer in layers.items():
        if isinstance(layer, keras.Model):
            inner = {"optimizer": attribute(layer, "optimizer"), **vars(layer)}
            places += [(f"{name}/{k}", v) for k, v in inner.items()]
    found: dict[int, tuple[str, Any]] = {}
    kinds = dict, list, tuple, keras.optimizers.Optimizer
    for place, value in places:
        if not isinstance(value, kinds):
            continue
        if place.rpartition("/")[2].startswith(TRACKING):
            continue
        for name, one in _leaves(place, value):
            if isinstance(one, keras.optimizers.Optimizer):
                found.setdefault(id(one), (name, one))
    # One inside another is applied by that one, not by the model.
    held = {id(part) for _, x in found.values() for part in _within(x)}
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


def _scales_anew(optimizer: Any) -> bool:
    """Whether it finds its scale, and leaves out steps that are not finite."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def loss_scale(optimizer: Any) -> Any:
    """The factor in the gradients that `apply` is given now: a number or a tensor.

    None for 1.
    """
    if not _scales_anew(optimizer):
        return attribute(optimizer, "loss_scale_factor")
    # Its inner optimizer unscales inside a condition, and no tensor leaves that.
    if not optimizer.built:
        return optimizer.initial_scale
    return keras.ops.convert_to_tensor(optimizer.dynamic_scale)


def inner_of(optimizer: Any) -> Any:
    """The optimizer that this one applies by: itself but for a `LossScaleOptimizer`."""
    is_outer = _scales_anew(optimizer)
    return attribute(optimizer, "inner_optimizer", optimizer) if is_outer else optimizer


def parts_of(name: str, optimizer: Any) -> dict[str, Any]:
    """Those that update the weights, and have a learning rate and settings, by name.

    Of a `MultiOptimizer` each of its optimizers (`optimizer/adam`), which a function
    that chooses them gives it only at the first step; `inner_of` of any other.
    """
    inner = inner_of(optimizer)
    if not isinstance(inner, MULTI_OPTIMIZER):
        return {name: inner}
    return unique_names((f"{name}/{_given_name(x)}", x) for x in inner.optimizers)


def _given_name(optimizer: Any) -> str:
    """Its name, without the number by which Keras counts them in a process."""
    kind, _, number = optimizer.name.rpartition("_")
    is_counted = kind.replace("_", "") == type(optimizer).__name__.lower()
    return kind if is_counted and number.isdecimal() else str(optimizer.name)


def _within(optimizer: Any) -> list[Any]:
    """Those that it applies."""
    parts = [inner_of(optimizer), *parts_of("", optimizer).values()]
    return [x for x in parts if x is not optimizer]


def unscaled(gradient: Any, scale: Any) -> Any:
    """Of a loss that was multiplied by `scale`, None for 1; float32 or wider then."""
    if scale is None:
        return gradient
    dtype = keras.backend.standardize_dtype(gradient.dtype)
    wide = "float64" if dtype == "float64" else "float32"
    return keras.ops.cast(gradient, wide) / keras.ops.cast(scale, wide)


def steps_taken(optimizer: Any) -> int:
    """Its `iterations`; 0 of a user's own that counts otherwise."""
    try:
        return int(to_numpy(optimizer.iterations))
    except Exception:
        return 0


def _taken(found: Mapping[str, Any]) -> dict[str, int]:
    return {name: steps_taken(optimizer) for name, optimizer in found.items()}


class OptimizerReader:
    """Of the optimizers that a training applies, of several each by its name.

    Those are the ones that a look saw applied, and those whose `iterations` advance: a
    model may have others, such as the default one of a bare `compile`.
    """

    def __init__(self) -> None:
        self.steps = StepCount()
        self._seen: list[str] = []  # applied, in the order of the step
        # By path: the optimizer that was given it, and in which call of the step.
        self.of_weight: dict[str, tuple[str, int]] = {}
        self._began: dict[str, int] = {}
        self._clock: str | None = None

    def begin_fit(self, found: Mapping[str, Any], steps: int | None) -> int:
        """Right before its first step: the iterations so far.

        `found`: the optimizers by name; `steps` of an epoch, None if unknown.
        """
        self._began = _taken(found)
        self.steps.begin_fit(steps, self._began)
        if self._clock in self._began:
            return self._began[self._clock]
        return max(self._began.values(), default=0)

    def saw_applied(self, calls: Sequence[Applied]) -> None:
        """What a look saw applied; of none, the last ones count."""
        self._seen = [*dict.fromkeys(x.optimizer for x in calls)] or self._seen
        for number, call in enumerate(calls):
            for path in call.paths:
                self.of_weight.setdefault(path, (call.optimizer, number))

    def iterations(self, found: Mapping[str, Any]) -> int | None:
        """Steps of the optimizer that the training goes by; None if none is known."""
        taken = _taken(found)
        moved = self._moved(taken)
        if self._clock not in (moved or found):
            first = [x for x in self._seen if x in found] or sorted(
                moved, key=lambda name: (name != "optimizer", -moved[name])
            )
            self._clock = first[0] if first else None
        return None if self._clock is None else taken[self._clock]

    def read(
        self, found: Mapping[str, Any], *, after_each_step: bool
    ) -> list[Optimizer]:
        """Those that are applied; skipped steps only where every step was counted.

        Of a `MultiOptimizer` its parts, the first of which has what they share.
        """
        told: list[Optimizer] = []
        for whole, optimizer in self.applied(found).items():
            scale = _logged_scale(optimizer)
            skipped = self._skipped(whole, optimizer) if after_each_step else None
            for name, part in parts_of(whole, optimizer).items():
                rate = float(to_numpy(part.learning_rate))
                told.append(Optimizer(name, False, rate, scale, skipped))
                scale = skipped = None
        return [dataclasses.replace(x, is_only=len(told) == 1) for x in told]

    def _skipped(self, name: str, optimizer: Any) -> int | None:
        if not _scales_anew(optimizer):
            return None
        if inner_of(optimizer).gradient_accumulation_steps:
            return None
        return self.steps.skipped(name, steps_taken(optimizer))

    def _moved(self, taken: Mapping[str, int]) -> dict[str, int]:
        """How many steps each took in this fit, those that took any."""
        moved = {k: steps - self._began.get(k, 0) for k, steps in taken.items()}
        return {name: steps for name, steps in moved.items() if steps}

    def applied(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those of them that are; all while none is known to be."""
        applied = dict.fromkeys([*self._seen, *self._moved(_taken(found))])
        return {k: found[k] for k in applied if k in found} or found


def _logged_scale(optimizer: Any) -> float | None:
    is_known = _scales_anew(optimizer) and optimizer.built
    return float(to_numpy(optimizer.dynamic_scale)) if is_known else None


class StepCount:
    """How many steps `fit` tried, and how many of them an optimizer did not apply."""

    def __init__(self) -> None:
        self._skipped: dict[str, int] = {}  # in all fits so far
        self.begin_fit(None, {})

    @property
    def is_known(self) -> bool:
        """Whether `fit` knows how many steps an epoch has."""
        return self._steps is not None

    def begin_fit(self, steps: int | None, applied: Mapping[str, int]) -> None:
        """`steps` of an epoch, None if unknown; `applied` so far by each optimizer."""
        self._steps = steps
        self._applied = dict(applied)
        self._before = dict(self._skipped)
        self._tried = self._in_epoch = 0

    def begin_epoch(self) -> None:
        """Another epoch of `fit`."""
        self._tried += self._in_epoch
        self._in_epoch = 0

    def add(self, steps: int) -> int:
        """A call of so many steps; how many it is: the last of an epoch is short."""
        before = self._in_epoch
        self._in_epoch += steps
        if self._steps is not None:
            self._in_epoch = min(self._in_epoch, self._steps)
        return self._in_epoch - before

    def skipped(self, optimizer: str, applied: int) -> int | None:
        """Steps of this optimizer that were tried and not applied; None: unknown."""
        if self._steps is None or optimizer not in self._applied:
            return None
        tried = self._tried + self._in_epoch
        # More than were tried: another callback has loaded an optimizer's state.
        self._applied[optimizer] = max(self._applied[optimizer], applied - tried)
        skipped = tried - (applied - self._applied[optimizer])
        self._skipped[optimizer] = self._before.get(optimizer, 0) + skipped
        return self._skipped[optimizer]
