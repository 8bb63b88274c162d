"""A forward pass, compiled as far as the backend compiles anything."""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from kbn.surgery import graph

Step = Callable[[Any], Any]


def compiled(model: Any, step: Step) -> Step:
    """`step(x)`, which calls `model` and returns a list of tuples of tensors.

    It is run eagerly where the model is (`run_eagerly=True`), and on torch.
    """
    backend = keras.backend.backend()
    eager = getattr(model, "run_eagerly", False)
    if backend == "torch":
        import torch

        return torch.no_grad()(step)
    if eager or backend not in ("tensorflow", "jax"):
        return step
    return _tensorflow(step) if backend == "tensorflow" else _jax(model, step)


def _tensorflow(step: Step) -> Step:
    import tensorflow as tf

    inside: list[Any] = []

    def checked(x: Any) -> Any:
        graph = tf.compat.v1.get_default_graph()
        outputs = step(x)
        inside.extend(
            tensor
            for tensor in keras.tree.flatten(outputs)
            if isinstance(tensor, tf.Tensor) and tensor.graph is not graph
        )
        # A loop or a condition keeps its tensors to itself.
        return [] if inside else outputs

    traced = tf.function(checked, autograph=False, reduce_retracing=True)

    def run(x: Any) -> Any:
        outputs = [] if inside else traced(x)
        return step(x) if inside else outputs

    return run


def _jax(model: Any, step: Step) -> Step:
    import jax

    @jax.jit
    def pure(values: Any, x: Any) -> Any:
        mapping = zip(model.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(mapping)):
            return step(x)

    def run(x: Any) -> Any:
        try:
            return pure([variable.value for variable in model.variables], x)
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "A batch norm is called inside a loop of JAX (a recurrent layer, "
                "jax.lax.scan, ...), whose values cannot be seen from outside."
            ) from error

    return run


def traced(model: Any) -> list[str]:
    """The `tf.function`s of the user's own in `model` that have been traced, in words.

    They play back what their layers were, and call none of them again.
    """
    if keras.backend.backend() != "tensorflow":
        return []
    import tensorflow as tf

    kind = tf.types.experimental.PolymorphicFunction
    return [
        f"'{name}' of {type(layer).__name__} '{layer.name}'"
        for layer in graph.descendants(model)
        for name in sorted(
            {*vars(layer), *(x for c in type(layer).__mro__ for x in vars(c))}
        )
        if isinstance(inspect.getattr_static(layer, name, None), kind)
        and getattr(layer, name).experimental_get_tracing_count()
    ]
