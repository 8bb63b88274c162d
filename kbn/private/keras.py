"""The private names of Keras that kbn uses, as Keras 3.14 to 3.16 have them.

The lines named below are those of
https://github.com/keras-team/keras/tree/v3.15.1/keras/src
"""

import contextlib
import functools
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras

from kbn.private import required

_needed = functools.partial(required, framework="keras", known="3.14 to 3.16")


def direct_layers(parent: Any) -> list[Any] | None:
    """The layers that a layer holds, those in lists and dictionaries too.

    None where Keras does not say.
    """
    layers = getattr(parent, "_layers", None)  # layers/layer.py#L391
    if layers is None:
        return None
    # A user's class may have something else of that name.
    return list(layers) if isinstance(layers, list | tuple) else []


def layers_in(layer: Any, deep: bool) -> list[Any]:
    """The layers that `layer` holds, each once; `deep`: itself and all below."""
    flatten = _needed(layer, "_flatten_layers")  # layers/layer.py#L1708
    return list(dict.fromkeys(flatten(include_self=deep, recursive=deep)))


def own_variables(layer: Any) -> list[Any]:
    """The variables of `layer` that are none of its sublayers'."""
    trainable = _needed(layer, "_trainable_variables")  # layers/layer.py#L389
    return [*trainable, *_needed(layer, "_non_trainable_variables")]


def own_seeds(layer: Any) -> list[Any]:
    """The states of the seed generators of `layer` that are none of its sublayers'."""
    generators = _needed(layer, "_seed_generators")  # layers/layer.py#L393
    return [generator.state for generator in generators]


@contextlib.contextmanager
def unlocked(layer: Any) -> Iterator[None]:
    """Let a layer that is built track what is set."""
    unlock = _needed(_needed(layer, "_tracker"), "unlock")  # layers/layer.py#L252
    lock, finish = _needed(layer, "_lock_state"), _needed(layer, "_post_build")
    unlock()
    try:
        yield
    finally:
        lock()
        finish()


def untrack(layer: Any, variable: Any) -> None:
    """Have `layer` forget one of its variables."""
    _needed(layer, "_untrack_variable")(variable)  # layers/layer.py#L1505


def wrapped_build(layer: Any, cls: Any) -> Any:
    """`cls.build` of `layer`, as Keras wraps it in a layer that it makes.

    For a layer whose class changes: Keras wrapped the method of the old one.
    """
    method = types.MethodType(cls.build, layer)
    # `Layer.__new__`, layers/layer.py#L221
    _needed(layer, "_parent_path")
    open_scope = _needed(layer, "_open_name_scope")
    lock, finish = _needed(layer, "_lock_state"), _needed(layer, "_post_build")

    @functools.wraps(method)
    def build(*args: Any, **kwargs: Any) -> None:
        with open_scope():
            layer._path = "/".join(filter(None, (layer._parent_path, layer.name)))
            method(*args, **kwargs)
        bound = inspect.signature(method).bind(*args, **kwargs)
        layer._build_shapes_dict = bound.arguments
        layer.built = True
        finish()
        lock()

    return build


def forget_build_shapes(layer: Any) -> None:
    """Have a saved model build `layer` when it sees its inputs, whatever their rank.

    Without the name, it is built for inputs of the rank that it has seen.
    """
    layer._build_shapes_dict = None  # layers/layer.py#L470


def rename(thing: Any, path: str, name: str | None = None) -> None:
    """Give a layer or a variable another path, and a variable another name.

    Without the names, they keep those that they were made with.
    """
    if hasattr(thing, "_path"):  # layers/layer.py#L417
        thing._path = path
    if name is not None and hasattr(thing, "_name"):  # backend/common/variables.py#L147
        thing._name = name


def track_on_torch(layer: Any) -> None:
    """List the parameters of `layer` anew, by their paths; only torch has a list."""
    if hasattr(layer, "_track_variables"):  # backend/torch/layer.py#L21
        layer._track_variables()


def functional(model: Any) -> Any:
    """The functional model that runs a sequential one; None: it has no inputs yet."""
    return _needed(model, "_functional")  # models/sequential.py#L235


def nodes_by_depth(function: Any) -> dict[int, list[Any]]:
    """The nodes of a graph; those that give its outputs are at depth 0.

    A node has `operation`, `is_input`, `outputs`, and `arguments` with `args`,
    `kwargs` and `keras_tensors`: ops/node.py, ops/symbolic_arguments.py.
    """
    nodes: dict[int, list[Any]] = _needed(function, "_nodes_by_depth")
    return nodes  # ops/function.py#L82


def compile_settings(model: Any) -> dict[str, Any] | None:
    """The arguments of `compile`, as objects; None where Keras keeps none.

    `get_compile_config()` gives them as configs, which a function of the user's own,
    unregistered, does not survive.
    """
    config = getattr(model, "_compile_config", None)  # trainers/trainer.py#L227
    return None if config is None else dict(config.config)


class CompiledLoss(NamedTuple):
    """One loss of a model: `path` to its output in y_pred, `weight` None for 1."""

    path: tuple[Any, ...]
    loss: Any
    weight: float | None
    name: str


def compiled_losses(model: Any) -> list[CompiledLoss] | None:
    """The losses that `compile` was given, as objects, once a batch was met.

    None before, and where Keras does not say.
    """
    compiled = getattr(model, "_compile_loss", None)  # trainers/trainer.py#L165
    # trainers/compile_utils.py#L465
    losses = getattr(compiled, "_flat_losses", None)
    return None if losses is None else [CompiledLoss(*one) for one in losses]


def optimizer_variables(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for; none where Keras does not say."""
    variables = getattr(optimizer, "_trainable_variables", None)
    return list(variables or ())  # optimizers/base_optimizer.py#L227


def traced_functions(train_function: Any) -> list[Any]:
    """The `tf.function`s that Keras' training function calls, outermost first.

    They are in its closure. There are none where it runs eagerly.
    """
    import tensorflow as tf

    kind = tf.types.experimental.PolymorphicFunction
    functions = [one for one in _held(train_function) if isinstance(one, kind)]
    return sorted(functions, key=lambda x: x.python_function.__name__ != OUTER)


OUTER = "multi_step_on_iterator"  # backend/tensorflow/trainer.py#L151


def _held(train_function: Any) -> list[Any]:
    cells = getattr(train_function, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells]
    return held + [
        getattr(x, "__wrapped__", None) for x in held
    ]  # of None for Optional


def hands_over_batches(model: Any) -> bool:
    """Whether the training function of `fit` takes a batch before its graph runs.

    Keras before 3.16 takes each in the graph, and so does a call of several steps.
    """
    # https://github.com/keras-team/keras/pull/23305, backend/tensorflow/trainer.py
    known = re.match(r"(\d+)\.(\d+)", keras.__version__)
    is_new = known is not None and (int(known[1]), int(known[2])) >= (3, 16)
    return is_new and model.steps_per_execution == 1


def was_traced(train_function: Any) -> bool | None:
    """Whether any of the `tf.function`s of Keras' training function has a trace.

    None of a function that is not Keras' own.
    """
    functions = traced_functions(train_function)
    if any(one.experimental_get_tracing_count() for one in functions):
        return True
    names = {getattr(x, "__name__", "") for x in _held(train_function)}
    return False if functions or OUTER in names else None


def jax_train_step(train_function: Any) -> Any:
    """The step that Keras' training function on JAX makes, jitted or not.

    None of a function that is not Keras' own.
    """
    code = getattr(train_function, "__code__", None)  # backend/jax/trainer.py#L218
    cells = getattr(train_function, "__closure__", None) or ()
    held = dict(zip(getattr(code, "co_freevars", ()), cells, strict=True))
    step = held.get("step_function")
    return None if step is None else step.cell_contents


def attach_jax_state(model: Any, state: Any) -> None:
    """Let a model's variables have the values of a state of its trainer on JAX.

    Within an epoch they have none. The trainer goes on with its own.
    """
    names = ("trainable", "non_trainable", "optimizer", "metrics")
    kinds = [f"{name}_variables" for name in names]  # backend/jax/trainer.py#L500
    model._jax_state = dict(zip(kinds, state, strict=True))
    was_synced = getattr(model, "_jax_state_synced", False)
    model._jax_state_synced = False
    model.jax_state_sync()
    model._jax_state_synced = was_synced


def is_of_train_on_batch(iterator: Any) -> bool:
    """Whether `train_on_batch` made this iterator of one batch: a generator of its own.

    Were it renamed, such a step within a `fit` would be taken for one of the `fit`.
    """
    code = getattr(iterator, "gi_code", None)  # backend/jax/trainer.py#L770
    return "train_on_batch" in getattr(code, "co_qualname", "")


def held_model(callback: Any) -> Any:
    """The model of a callback, as it is: `callback.model` syncs all of it on JAX."""
    return getattr(callback, "_model", None)  # callbacks/callback.py#L70


def validation_inputs(model: Any) -> Any:
    """What `fit` validates on, x; None where it is not arrays, or not made yet."""
    iterator = getattr(model, "_eval_epoch_iterator", None)
    adapter = getattr(iterator, "data_adapter", None)  # trainers/epoch_iterator.py#L80
    arrays = getattr(adapter, "_inputs", None)  # data_adapters/array_data_adapter.py
    return None if arrays is None else keras.utils.unpack_x_y_sample_weight(arrays)[0]


def symbolic_scope() -> Any:
    """The scope in which Keras calls layers only to learn what they would give.

    None elsewhere. Were it renamed, those would be taken for calls on JAX.
    """
    try:  # backend/common/symbolic_scope.py#L22
        from keras.src.backend.common.symbolic_scope import get_symbolic_scope
    except ImportError:
        return None
    return get_symbolic_scope()


def is_scratch(graph: Any) -> bool:
    """Whether Keras calls layers here only to learn what they would give.

    `graph`: of TensorFlow, or a `symbolic_scope`. Were it renamed, those would be taken
    for calls.
    """
    if isinstance(graph, keras.SymbolicScope):
        return True
    name = getattr(graph, "name", "")  # backend/tensorflow/core.py#L223
    return isinstance(name, str) and name.startswith("scratch_graph")


def mask_of(tensor: Any) -> Any:
    """The mask that Keras keeps with a tensor; None if it keeps none."""
    return getattr(tensor, "_keras_mask", None)  # backend/common/masking.py#L11


def random_seed() -> int | None:
    """The seed given to `keras.utils.set_random_seed`; None if it was not called."""
    try:  # utils/rng_utils.py#L73
        from keras.src.utils.rng_utils import get_random_seed
    except ImportError:
        return None
    seed = get_random_seed()
    return seed if isinstance(seed, int) else None


@contextlib.contextmanager
def global_seeds_kept() -> Iterator[None]:
    """Put back the seeds that `keras.random` draws where it is given none.

    Without the names, what is drawn meanwhile is drawn.
    """
    try:  # random/seed_generator.py#L11, backend/common/global_state.py
        from keras.src.backend.common import global_state
        from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR as NAME
    except ImportError:
        yield
        return
    generator = global_state.get_global_attribute(NAME)
    seed = None if generator is None else keras.ops.copy(generator.state)
    try:
        yield
    finally:
        global_state.set_global_attribute(NAME, generator)
        if generator is not None:
            generator.state.assign(seed)


def unsafe_deserialization() -> contextlib.AbstractContextManager[Any]:
    """Configs may hold lambdas within.

    The public switch has no way back. Without the class, Keras refuses a lambda and
    says so.
    """
    try:  # saving/serialization_lib.py#L74
        from keras.src.saving.serialization_lib import SafeModeScope
    except ImportError:
        return contextlib.nullcontext()
    return SafeModeScope(False)
