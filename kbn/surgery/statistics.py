"""Population statistics: batch norms that fit the weights and the data as they are."""

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from kbn import arguments, folding, kernels
from kbn.kernels.arithmetic import along, at_least_one, wide_dtype
from kbn.layer import BatchNormalization
from kbn.surgery import forward, graph
from kbn.surgery.batches import Batches, Inputs
from kbn.surgery.freeze import (
    KERAS,
    Layer,
    Model,
    Variable,
    batch_norms,
    describe,
    is_frozen,
    leaves,
    require,
)
from kbn.surgery.population import Population

# (which batch norm, count, mean, offset of the mean, variance)
Note: TypeAlias = tuple[int, Any, Any, Any, Any]


def update_bn_stats(
    model: Model,
    data: Any,
    steps: int | None = None,
    exact: bool = False,
    *,
    batch_size: int = 32,
    verbose: Any = 1,
) -> None:
    """Set the moving statistics of `model` to those of the population, `data`.

    For each channel, over all elements x that its batch norm is given in all batches::

        moving_mean     <- sum(x) / n
        moving_variance <- sum((x - moving_mean)^2) / n

    so a batch counts by its elements, and the variance has the part between batches.
    The batches' moments are merged in float64. `unbiased=True` divides by n - 1. Masked
    elements do not enter, as in training; neither does a channel of a batch that is not
    finite, with a warning. With `renorm=True`, `moving_stddev` follows, while
    `renorm_mean` and `renorm_stddev`, which only training reads, stay; with
    `momentum=None`, `num_batches_tracked` is the number of batches, and with
    `warmup=True` the warm-up is over.

    The model runs in inference mode: no dropout, no noise, no augmentation. Only batch
    norms use the batch's statistics, and of these only such as do so in training: one
    that is frozen, or called with `training=False`, is left alone. A layer that is
    called several times pools over all its calls. With several replicas or workers,
    this is the computation of one: give it the whole data.

    Whatever happens, nothing else has changed in the end: momenta, training flags,
    weights, random seeds, metrics, the states of recurrent layers. An exception or
    Ctrl-C leaves the moving statistics, too, as they were.

    Args:
        model: A model or layer, compiled or not. Its batch norms may be Keras' or ours.
        data: Arrays: x, a list or a dictionary of several inputs, or a tuple (x, y);
            or what gives batches x or (x, y): a `tf.data.Dataset`, a `PyDataset`, a
            torch `DataLoader`, a generator. y and sample weights are ignored. A data
            set that shuffles anew each time it is read does so here as well.
        steps: How many batches to read. None: all.
        exact: False: one pass. Every batch norm hands on what it normalized by the
            batch's own statistics, as in training, so later layers see the noise of the
            batches: of 32 samples, variances were off by 3 % after two untrained layers
            and by 30 % after ten, against 1e-7 with True. True: later layers see what
            inference will give them. After the first pass every batch norm uses the
            statistics found so far, and the data are read again until none moves by
            more than 1e-5 deviations. Each pass makes at least one more layer exact, so
            at most as many follow as there are batch norms in a row; ten dense layers
            took 11 in all. False is the default because one pass costs about an epoch
            of inference, however deep the model, and can read a stream.
        batch_size: Of arrays.
        verbose: 1 shows a progress bar for each pass, 2 a line, 0 nothing.

    Raises:
        ValueError: `model` is none, or has no batch norm, or only frozen ones; `data`
            has no element, or never ends and `steps` is None; `exact=True` and `data`
            can be read only once.

    Example:
        >>> import keras, kbn, numpy as np
        >>> model = keras.Sequential([keras.Input((1,)), kbn.BatchNorm()])
        >>> x = np.float32([[1], [2], [3], [6]])
        >>> kbn.update_bn_stats(model, x, batch_size=3, verbose=0)
        >>> np.ravel(model.layers[0].get_weights()[2:])
        array([3. , 3.5], dtype=float32)

    Reference:
        Wu & Johnson (2021), "Rethinking 'Batch' in BatchNorm", section 3,
        https://arxiv.org/abs/2105.07576.
    """
    swapped = isinstance(data, keras.layers.Layer)
    hint = " Did you mean update_bn_stats(model, data)?" if swapped else ""
    graph.require_layer(model, "update_bn_stats", hint)
    Update(model, data, steps, exact, batch_size=batch_size, verbose=verbose)()


def seen_in_inference(model: Model, norms: list[Layer], data: Any) -> list[Population]:
    """What `norms` are given over `data` while all batch norms use what they have."""
    batches = Batches(data, 32, None)
    with _kept(model):
        found = Pass(model, norms, True)(iter(batches), batches.size, 0)
    _warn_of_non_finite(norms, found)
    return found


class Update:
    """`update_bn_stats` to be called again and again: what it traced, it keeps."""

    def __init__(
        self,
        model: Model,
        data: Any,
        steps: int | None = None,
        exact: bool = False,
        *,
        batch_size: int = 32,
        verbose: Any = 0,
    ) -> None:
        self._batches = Batches(data, batch_size, steps)
        if exact and self._batches.is_iterator:
            raise ValueError(
                "exact=True reads `data` several times, and a "
                f"{type(data).__name__} can be read only once. Give the arrays or the "
                "data set that it reads, or exact=False."
            )
        self._model, self._exact, self._verbose = model, exact, verbose
        self._passes: tuple[Any, dict[bool, Pass]] = (None, {})

    def require_again(self) -> None:
        """Refuse data that a second call would find at their end."""
        if self._batches.is_iterator and not self._batches.steps:
            raise ValueError(
                "`data` is read again and again, and an iterator can be read only "
                "once. Give the data set that it reads, or steps=... if it never ends."
            )

    def __call__(self) -> list[tuple[Variable, Any]]:
        """Read the data, set the statistics; returns what they were."""
        model = self._model
        with _kept(model) as keep:
            batches = iter(self._batches)
            first = next(batches, None)
            if first is None:
                raise ValueError("There is no batch in `data`.")
            if not model.built or not all(x.built for x, _ in batch_norms(model)):
                model(first, training=False)
            found_norms = require(model, "update_bn_stats")
            norms = [layer for layer, _ in found_norms if not is_frozen(layer)]
            if not norms:
                raise ValueError(
                    f"Every batch norm in {describe(model)} is frozen: its statistics "
                    "are not to change. kbn.unfreeze_batch_norm(model) lets them."
                )
            found = self._run(norms, False, itertools.chain([first], batches))
            for _ in norms if self._exact else ():
                last = found
                found = self._run(norms, True, iter(self._batches))
                if all(map(Population.is_near, found, last)):
                    break
            before = keep(
                variable
                for layer, population in zip(norms, found, strict=True)
                for variable in population.variables(layer)
            )
        _warn_of_non_finite(norms, found)
        self._passes[1][False].warn_of_unseen(found)
        return before

    def _run(
        self, norms: list[Layer], fixed: bool, batches: Iterator[Inputs]
    ) -> list[Population]:
        """One pass. The statistics it found, which the layers have then."""
        key = [id(layer) for layer in norms]
        if self._passes[0] != key:
            self._passes = key, {}
        kept = self._passes[1]
        if fixed not in kept:
            kept[fixed] = Pass(self._model, norms, fixed)
        found = kept[fixed](batches, self._batches.size, self._verbose)
        for layer, population in zip(norms, found, strict=True):
            population.assign(layer)
        return found


class _Inference(int):
    """`training`, as false as False, but known from a False that a model insists on."""


INFERENCE = _Inference(0)


class Pass:
    """Runs the model over batches and sees what its batch norms are given.

    fixed: whether a batch norm hands on what it normalized by its moving statistics,
    or by those of the batch.
    """

    def __init__(self, model: Model, norms: list[Layer], fixed: bool) -> None:
        self._model, self._norms, self._fixed = model, norms, fixed
        self._notes: list[Note] = []
        self._called: dict[Layer, bool] = {}  # whether the model insisted on inference
        self._forward = forward.compiled(model, self._step)

    def __call__(
        self, batches: Iterable[Inputs], size: int | None, verbose: Any
    ) -> list[Population]:
        """The statistics of each batch norm over all batches."""
        found = [Population(layer) for layer in self._norms]
        bar = keras.utils.Progbar(size, verbose=verbose, unit_name="batch")
        number = 0
        for number, x in enumerate(batches, 1):
            # Not while the next batch is made: that may need the model as it is.
            with self._listening():
                notes = self._forward(x)
            for which, *moments in notes:
                found[int(which)].add(*map(ops.convert_to_numpy, moments))
            bar.update(number)
        if not number:
            raise ValueError("There is no batch in `data`.")
        bar.target = number  # which may have been unknown
        bar.update(number, finalize=True)
        if not any(population.enters().any() for population in found):
            why = self._why_nothing()
            raise ValueError(f"No element of `data` reached a batch norm: {why}")
        return found

    def _why_nothing(self) -> str:
        """The reason why no batch norm has got an element."""
        model, insisted = describe(self._model), [*self._called.values()]
        if insisted and all(insisted):
            names = ", ".join(f"'{layer.name}'" for layer in self._called)
            return (
                f"{model} calls {names} with training=False, whatever it is called "
                "with itself. Hand its `training` on."
            )
        if insisted:
            return "the batches are empty, masked or not finite."
        return self._why_unseen() or f"{model} calls none of its batch norms."

    def _why_unseen(self) -> str:
        if functions := forward.traced(self._model):
            return (
                f"{', '.join(functions)} is a tf.function that was traced before, and "
                "nobody can see what it gives its layers. Leave the decorator out: "
                "Keras compiles the model."
            )
        return ""

    def warn_of_unseen(self, found: list[Population]) -> None:
        """Name the batch norms that a traced function hides, while others are seen."""
        hidden = [
            layer.name
            for layer, population in zip(self._norms, found, strict=True)
            if not (population.count.any() or population.skipped.any())
            and not self._called.get(layer)
        ]
        if hidden and (why := self._why_unseen()):
            warnings.warn(
                f"Batch norms that keep their statistics: {', '.join(hidden)}; {why}",
                stacklevel=4,
            )

    def _step(self, x: Inputs) -> list[Note]:
        self._notes = []
        self._model(x, training=INFERENCE)
        return self._notes

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Override `layer.call` on the instances, for a while."""
        with contextlib.ExitStack() as stack:
            for which, layer in enumerate(self._norms):
                stack.enter_context(_override(layer, "call", self._heard(which, layer)))
                # Run again for a gradient, it would note tensors of an inner graph.
                remat = _override(
                    layer, "rematerialized_call", lambda call, *_, **__: call
                )
                stack.enter_context(remat)
            for layer in leaves(self._model):
                is_norm = isinstance(layer, KERAS | BatchNormalization)
                if not is_norm and "training" in layer.call_signature_parameters:
                    stack.enter_context(_override(layer, "call", _plain(layer.call)))
            yield

    def _heard(self, which: int, layer: Layer) -> Callable[..., Any]:
        own = type(layer).call not in (KERAS.call, BatchNormalization.call)
        call = layer.call
        signature = inspect.signature(call)

        def heard(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            training = given.arguments.get("training")
            insists = not training and training is not INFERENCE
            self._called[layer] = insists and self._called.get(layer, True)
            if insists:
                return call(*args, **kwargs)  # the model insists on it
            inputs, mask = given.args[0], given.arguments.get("mask")
            moments, y = _normalized(layer, inputs, mask)
            self._notes.append((which, *moments))
            if self._fixed or own:
                given.arguments["training"] = not self._fixed
                y = call(*given.args, **given.kwargs)
            return y

        return heard


def _normalized(layer: Layer, inputs: Any, mask: Any) -> tuple[Any, Any]:
    """(count, mean, offset, variance) of what a batch norm is given; its output.

    The batch's mean is `mean + offset`, which hold together twice the digits.
    """
    if isinstance(layer, BatchNormalization):
        x = layer._prepared(inputs)
    else:
        x = ops.cast(inputs, wide_dtype(inputs.dtype))
    axes = arguments.canonical_axes(layer.axis, x.shape)
    if mask is not None:
        mask = arguments.aligned_mask(mask, x.shape)
    folded = folding.fold(x, mask, axes, getattr(layer, "virtual_batch_size", None))
    x, mask, axis = folded.x, folded.mask, folded.axis
    gamma, beta = folded.tiled(layer.gamma), folded.tiled(layer.beta)
    y, mean, variance, count = kernels.normalize_batch(
        x, gamma, beta, axis, layer.epsilon, mask
    )
    centred = ops.cast(x, mean.dtype) - along(mean, axis, x)
    if mask is not None:
        centred = ops.where(mask, centred, ops.zeros_like(centred))
    others = [i for i in range(len(x.shape)) if i != axis]
    offset = ops.sum(centred, axis=others) / at_least_one(count)
    y = ops.cast(folded.unfold(y), layer.compute_dtype)
    return (count, mean, offset, variance), y


def _plain(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call` given a plain False: a layer may ask whether `training is False`."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        args = tuple(False if x is INFERENCE else x for x in args)
        kwargs = {k: False if x is INFERENCE else x for k, x in kwargs.items()}
        return call(*args, **kwargs)

    return plain


@contextlib.contextmanager
def _override(layer: Layer, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Set a method on the instance, past Keras' tracking; put back what was there."""
    had, before = name in vars(layer), vars(layer).get(name)
    object.__setattr__(layer, name, method)
    try:
        yield
    finally:
        if had:
            object.__setattr__(layer, name, before)
        else:
            object.__delattr__(layer, name)


Keep: TypeAlias = Callable[[Iterable[Variable]], list[tuple[Variable, Any]]]


@contextlib.contextmanager
def _kept(model: Model) -> Iterator[Keep]:
    """Put all of the model's state back at the end, but for what is to be kept.

    Gives a function that takes what to keep, and returns what it was. Weights that are
    trained are not looked after: nothing here changes them.
    """
    before: dict[int, tuple[Variable, Any]] = {}
    spared: list[tuple[Variable, Any]] = []
    for variable in [*model.variables, *getattr(model, "metrics_variables", [])]:
        if not variable.trainable:
            value = np.array(ops.convert_to_numpy(variable))
            before[id(variable)] = variable, value

    def keep(variables: Iterable[Variable]) -> list[tuple[Variable, Any]]:
        # One that was made meanwhile has no value of before.
        spared.extend(before.pop(id(v)) for v in variables if id(v) in before)
        return spared

    try:
        yield keep
    finally:
        for variable, value in before.values():
            variable.assign(value)


def _warn_of_non_finite(norms: list[Layer], found: list[Population]) -> None:
    skipped = [
        f"{layer.name} ({population.skipped.sum()} of {len(population.skipped)})"
        for layer, population in zip(norms, found, strict=True)
        if population.skipped.any()
    ]
    if skipped:
        warnings.warn(
            "Batches whose mean or variance in a channel is NaN or infinite do not "
            f"count there. Batch norms (and how many channels): {', '.join(skipped)}.",
            stacklevel=4,
        )
