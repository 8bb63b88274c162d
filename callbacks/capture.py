"""What a model's layers give and its optimizers are given, around one call."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from kbn.private.jax import trace_of

from . import arguments
from .watch import probe
from .watch.calls import CallLog, seeing
from .watch.inventory import Inventory, Selection
from .watch.layers import Select
from .watch.optimizers import unscaled
from .watch.tensors import dense_parts

# What Keras compiles once and keeps: made anew, eager, while a capture is open.
FUNCTIONS = ("train_function", "test_function", "predict_function")


class Tensors(dict[str, Any]):
    """{name: tensor}; a KeyError names what there is."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(
            f"{name!r} was not seen.{arguments.did_you_mean(str(name), self)} "
            f"There are: {', '.join(self) or 'none'}."
        )


class Captured:
    """What a `capture` saw: `activations`, `gradients` and `hidden`.

    `activations`: {layer: tensor}, and layer#1, layer#2 for further calls; layer/0,
    layer/1 for a layer of several outputs. `gradients`: {variable.path: tensor}, as
    an optimizer was given them: of the whole loss, unscaled, before clipping. `hidden`:
    names of those whose tensors cannot leave the loop, the condition, the function or
    the transformation that they were computed in.
    """

    def __init__(self, call_log: CallLog) -> None:
        self._calls = call_log

    @property
    def activations(self) -> dict[str, Any]:
        """{layer: tensor}."""
        hidden = self.hidden
        seen = self._calls.activations
        return Tensors(
            {tag: x for tag, (x, name) in seen.items() if name not in hidden}
        )

    @property
    def gradients(self) -> dict[str, Any]:
        """{variable.path: tensor}, dense."""
        hidden = self.hidden
        seen = self._calls.gradients
        return Tensors(
            {
                # Dense: an embedding's is sparse.
                path: unscaled(keras.ops.convert_to_tensor(gradient), scale)
                for path, (gradient, scale, _) in seen.items()
                if path not in hidden
            }
        )

    @property
    def hidden(self) -> set[str]:
        """Names of what was there but cannot be had."""
        seen = [(name, x) for x, name in self._calls.activations.values()]
        seen += [(path, x) for path, (x, *_) in self._calls.gradients.items()]
        places = {id(place): place for _, x in seen for place in [_place(x)]}
        within = {id(place) for place in places.values() if _is_within(place, places)}
        return {name for name, x in seen if id(_place(x)) in within}


@contextlib.contextmanager
def capture(model: Any, layers: Select = None) -> Iterator[Captured]:
    """Record what the layers of a model return, and the gradients optimizers apply.

    Put it around any call of the model, or of a part of it: `model(x)`,
    `train_on_batch`, a loop of your own with `optimizer.apply`. While it is open, the
    model's own functions (`fit`, `train_on_batch`, `evaluate`, `predict` and so on) run
    eagerly; afterwards, and after an exception, the model is as it was. Example:

    >>> import keras, numpy as np, kbn
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
    >>> model.compile("sgd", "mse")
    >>> with kbn.capture(model) as seen:
    ...     y = model(np.ones((4, 3)))
    >>> tuple(seen.activations["out"].shape)
    (4, 2)
    >>> with kbn.capture(model) as seen:
    ...     loss = model.train_on_batch(np.ones((4, 3)), np.zeros((4, 2)))
    >>> sorted(path.split("/")[-1] for path in seen.gradients)
    ['bias', 'kernel']

    In a `tf.function` the tensors are those of its graph: open it inside, and return
    what you want to have::

        @tf.function
        def outputs(x):
            with kbn.capture(model) as seen:
                model(x)
            return seen.activations

    A function that was traced before runs as it was traced: nothing is seen of it.
    On JAX and torch it sees the same. Of what JAX differentiates it sees that which
    `jax.grad` and `jax.value_and_grad` do, called by these names.

    Args:
        model: A `keras.Model`, compiled or not.
        layers: Which layers' activations, and gradients of whose weights: a regular
            expression to be found in the name, or a function of the layer. None: all.

    Yields:
        A `Captured` with `activations`, `gradients` and `hidden`.

    Raises:
        TypeError: `model` is no `keras.Model`.
        ValueError: `layers` is not one of those.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"capture(model={model!r}) received a {type(model).__name__}, not a "
            "keras.Model. Pass the model whose layers you want to see."
        )
    arguments.check_layers(layers, "capture")
    call_log = CallLog(probe.backend().scratch_graph)
    selected = Selection(Inventory(model), layers)
    watching = seeing(
        selected.layers,
        selected.optimizers,
        # Taken then: a model may be built by the call.
        lambda: Selection(Inventory(model), layers).weights,
        lambda: call_log,
    )
    with _eager(model), probe.backend().leaving(call_log), watching:
        yield Captured(call_log)


@contextlib.contextmanager
def _eager(model: Any) -> Iterator[None]:
    # A model that is no Keras trainer's, or not yet, has not all of them.
    functions = {
        name: getattr(model, name) for name in FUNCTIONS if hasattr(model, name)
    }
    was_eager = model.run_eagerly
    try:
        for name in functions:
            setattr(model, name, None)
        model.run_eagerly = True
        yield
    finally:
        model.run_eagerly = was_eager
        for name, function in functions.items():
            setattr(model, name, function)


def _place(tensor: Any) -> Any:
    """The graph or JAX trace in which a tensor lives; None: it is an array."""
    tensor, *_ = dense_parts(tensor) or [tensor]
    graph = getattr(tensor, "graph", None)  # an AttributeError if eager
    return graph if graph is not None else trace_of(tensor)


def _is_within(place: Any, places: dict[int, Any]) -> bool:
    """Whether a tensor of this place is out of reach of the call that was captured."""
    if place is None:
        return False
    # TensorFlow's functions are FuncGraph itself, loops and conditions subclasses.
    if type(place).__name__ != "FuncGraph" or id(None) in places:
        return True
    outer = place.outer_graph
    while outer is not None:
        if id(outer) in places:
            return True
        outer = getattr(outer, "outer_graph", None)
    return False
