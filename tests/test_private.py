"""Names that no framework promises: is each still there, and what if it is not?"""

import contextlib
import importlib.util
import sys
import types

import keras
import numpy as np
import pytest

from kbn.private import Moved
from kbn.private import keras as private

BACKEND = keras.backend.backend()
on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="of Keras on TensorFlow"
)


class Nested(keras.layers.Layer):
    """Holds layers in a list and a dictionary, one of them twice."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dropout(0.5, name="first")
        self.rest = [keras.layers.Dense(2, name="second"), self.first]
        self.named = {"third": keras.Sequential([keras.layers.ReLU(name="inner")])}
        self.scale = self.add_weight(shape=(), name="scale")
        self.shift = self.add_weight(shape=(), name="shift", trainable=False)
        self.noise = keras.random.SeedGenerator(1)

    def call(self, x):
        return x


def validated():
    """A model as it is while `fit` validates it."""
    model, found = keras.Sequential([keras.layers.Dense(1)]), []
    model.compile("sgd", "mse")
    note = keras.callbacks.LambdaCallback()
    note.on_test_begin = lambda logs=None: found.append(model._eval_epoch_iterator)
    x, y = np.ones((4, 3)), np.ones((4, 1))
    model.fit(x, y, verbose=0, validation_data=(x, y), callbacks=[note])
    return types.SimpleNamespace(_eval_epoch_iterator=found[0])


@pytest.fixture(scope="module")
def given():
    """{what it is: an object of Keras'}."""
    inputs = keras.Input((3,), name="inputs")
    hidden = keras.layers.Dense(2, name="hidden")
    model = keras.Model(inputs, keras.ops.relu(hidden(inputs)))
    model.compile("adam", "mse")
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    return {
        "nested": Nested(),
        "layer": hidden,
        "tracker": hidden._tracker,
        "variable": hidden.kernel,
        "model": model,
        "sequential": keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]),
        "optimizer": model.optimizer,
        "masked": keras.layers.Masking()(np.zeros((2, 3, 1))),
        "validated": validated(),
    }


# (function of kbn.private.keras, what it is given, a private name that it needs)
NEEDED = [
    ("layers_in", "nested", "_flatten_layers"),
    ("own_variables", "nested", "_trainable_variables"),
    ("own_variables", "nested", "_non_trainable_variables"),
    ("own_seeds", "nested", "_seed_generators"),
    ("unlocked", "layer", "_tracker"),
    ("unlocked", "layer", "_lock_state"),
    ("unlocked", "layer", "_post_build"),
    ("untrack", "layer", "_untrack_variable"),
    ("wrapped_build", "layer", "_open_name_scope"),
    ("wrapped_build", "layer", "_parent_path"),
    ("wrapped_build", "layer", "_lock_state"),
    ("wrapped_build", "layer", "_post_build"),
    ("functional", "sequential", "_functional"),
    ("nodes_by_depth", "model", "_nodes_by_depth"),
]
# Those that have an answer without it.
WANTED = [
    ("direct_layers", "nested", "_layers"),
    ("wrapped_build", "layer", "_path"),
    ("wrapped_build", "layer", "_build_shapes_dict"),
    ("forget_build_shapes", "layer", "_build_shapes_dict"),
    ("rename", "layer", "_path"),
    ("rename", "variable", "_path"),
    ("rename", "variable", "_name"),
    ("compile_settings", "model", "_compile_config"),
    ("compiled_losses", "model", "_compile_loss"),
    ("optimizer_variables", "optimizer", "_trainable_variables"),
    ("mask_of", "masked", "_keras_mask"),
    ("validation_inputs", "validated", "_eval_epoch_iterator"),
    *([("track_on_torch", "layer", "_track_variables")] * (BACKEND == "torch")),
]
MORE = {
    "layers_in": [True],
    "untrack": [None],
    "wrapped_build": [keras.layers.Dense],
    "rename": ["path", "name"],
}


class Without:
    """An object that lacks one name."""

    def __init__(self, thing, name):
        self.__dict__["thing"] = thing
        self.__dict__["lacking"] = name

    def __getattr__(self, name):
        if name == self.lacking:
            raise AttributeError(name)
        return getattr(self.thing, name)


@pytest.mark.parametrize(("function", "what", "name"), [*NEEDED, *WANTED])
def test_keras_still_has_the_name(given, function, what, name):
    assert hasattr(given[what], name), (
        f"Keras {keras.__version__} has no {type(given[what]).__name__}.{name}, which "
        f"kbn.private.keras.{function} goes by"
    )


def call(function, thing, stack):
    made = getattr(private, function)(thing, *MORE.get(function, []))
    if isinstance(made, contextlib.AbstractContextManager):
        stack.enter_context(made)


@pytest.mark.parametrize(("function", "what", "name"), NEEDED)
def test_without_the_name_it_says_so_and_does_nothing(given, function, what, name):
    lacking = Without(given[what], name)
    kind = f"keras {keras.__version__}: Without has no {name}, which kbn needs here"
    with contextlib.ExitStack() as stack, pytest.raises(Moved, match=kind):
        call(function, lacking, stack)
    assert given["layer"]._tracker.locked


@pytest.mark.parametrize(
    ("function", "what", "name", "answer"),
    [
        ("direct_layers", "nested", "_layers", None),
        ("compile_settings", "model", "_compile_config", None),
        ("compiled_losses", "model", "_compile_loss", None),
        ("optimizer_variables", "optimizer", "_trainable_variables", []),
        ("validation_inputs", "validated", "_eval_epoch_iterator", None),
    ],
)
def test_without_the_name_there_is_another_answer(given, function, what, name, answer):
    assert getattr(private, function)(Without(given[what], name)) == answer
    assert getattr(private, function)(given[what]) != answer


@pytest.mark.filterwarnings("ignore:The object being serialized includes a")
def test_lambdas_are_read_within():
    saved = keras.saving.serialize_keras_object(lambda x: x + 1)
    with private.unsafe_deserialization():
        assert keras.saving.deserialize_keras_object(saved)(1) == 2
    with pytest.raises(ValueError, match="lambda"):
        keras.saving.deserialize_keras_object(saved)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a")
def test_without_the_switch_keras_refuses_lambdas(monkeypatch):
    saved = keras.saving.serialize_keras_object(lambda x: x + 1)
    with monkeypatch.context() as gone:
        gone.setitem(sys.modules, "keras.src.saving.serialization_lib", None)
        scope = private.unsafe_deserialization()
    with scope, pytest.raises(ValueError, match="lambda"):
        keras.saving.deserialize_keras_object(saved)


@on_tensorflow
def test_traced_functions_of_a_training_function():
    model = keras.Sequential([keras.layers.Dense(1)])
    names = []
    for eager in (False, True):
        model.compile("sgd", "mse", run_eagerly=eager)
        model.make_train_function(force=True)
        functions = private.traced_functions(model.train_function)
        names.append([function.python_function.__name__ for function in functions])
    # Keras 3.16 calls the second by itself, if `steps_per_execution` is 1.
    assert names == [["multi_step_on_iterator", "one_step_on_data"], []], (
        f"Keras {keras.__version__} has another function that takes the iterator"
    )


@on_tensorflow
def test_the_traced_function_that_takes_the_iterator_comes_first():
    import tensorflow as tf

    def multi_step_on_iterator(iterator):
        return iterator

    by_batch, outer = (
        tf.function(lambda batch: batch),
        tf.function(multi_step_on_iterator),
    )

    def train_function(iterator):
        return by_batch(outer(iterator))

    assert private.traced_functions(train_function) == [outer, by_batch]


@on_tensorflow
def test_function_of_somebody_else_has_no_traced_functions():
    assert private.traced_functions(object()) == []
    assert private.traced_functions(lambda iterator: {}) == []


@on_tensorflow
def test_scratch_graph_is_known_from_a_training_graph():
    import tensorflow as tf

    graphs = []

    class Where(keras.layers.Layer):
        def call(self, x):
            graphs.append(tf.compat.v1.get_default_graph())
            return x

    keras.Model(inputs := keras.Input((3,)), Where()(inputs))
    assert [private.is_scratch(graph) for graph in graphs] == [True], (
        f"Keras {keras.__version__} calls layers in a graph of another name: "
        f"{graphs[0].name}"
    )
    tf.function(Where())(tf.ones((2, 3)))
    assert not private.is_scratch(graphs[1])
    assert not private.is_scratch(types.SimpleNamespace(name=None))


def test_seed_is_the_one_that_was_set():
    keras.utils.set_random_seed(41)
    assert private.random_seed() == 41, (
        f"Keras {keras.__version__} keeps its seed elsewhere"
    )


def test_seeds_that_keras_draws_where_it_is_given_none_are_put_back():
    def drawn():
        return keras.ops.convert_to_numpy(keras.random.uniform((2,)))

    keras.utils.set_random_seed(41)
    with private.global_seeds_kept():
        first = drawn()
    keras.utils.set_random_seed(41)
    assert (drawn() == first).all(), f"Keras {keras.__version__} keeps them elsewhere"
    with private.global_seeds_kept():
        second = drawn()
    assert (drawn() == second).all()
    assert (second != first).all()


def fresh(module):
    """A module of kbn.private, imported anew under another name."""
    origin = importlib.util.find_spec(f"kbn.private.{module}").origin
    spec = importlib.util.spec_from_file_location("fresh", origin)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@on_tensorflow
def test_tensorflow_still_tells_of_xla_and_onednn():
    import tensorflow as tf

    from kbn.private import tensorflow as private

    version = tf.__version__
    assert private.is_built_for_xla is not private._cannot_tell, (
        f"TensorFlow {version} has moved control_flow_util.GraphOrParentsInXlaContext"
    )
    assert private.is_onednn_enabled is not private._has_none, (
        f"TensorFlow {version} has moved _pywrap_util_port.IsMklEnabled"
    )
    seen = []

    def ask(x):
        graph = tf.compat.v1.get_default_graph()
        seen.append(bool(private.is_built_for_xla(graph)))
        return x

    for compiled in (True, False):
        tf.function(ask, jit_compile=compiled)(1.0)
    assert seen == [True, False]
    assert private.is_onednn_enabled() in (True, False)


@on_tensorflow
def test_without_tensorflows_names_every_graph_is_taken_for_xlas(monkeypatch):
    for name in ("ops.control_flow_util", "util._pywrap_util_port"):
        monkeypatch.setitem(sys.modules, f"tensorflow.python.{name}", None)
    private = fresh("tensorflow")
    assert private.is_built_for_xla(None) is True
    assert private.is_onednn_enabled() is False


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_still_tells_who_sees_a_call():
    import torch
    from torch.autograd import forward_ad

    from kbn.private import torch as private

    assert private.is_transformed is not private._cannot_tell, (
        f"torch {torch.__version__} has moved a name of torch._C or forward_ad"
    )
    assert private.is_transformed() is False
    seen = []
    torch.func.vmap(lambda x: seen.append(private.is_transformed()) or x)(torch.ones(2))
    with forward_ad.dual_level():
        seen.append(private.is_transformed())
    with torch.overrides.BaseTorchFunctionMode():
        seen.append(private.is_transformed())
    with torch.utils._python_dispatch.TorchDispatchMode():
        seen.append(private.is_transformed())
    assert seen == [True] * 4


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_still_tells_of_a_backward_pass():
    import torch
    from torch.utils.checkpoint import checkpoint

    from kbn.private import torch as private

    seen = []
    x = torch.ones(2, requires_grad=True)

    def twice(x):
        seen.append(private.is_in_backward())
        return x.sin()

    checkpoint(twice, x, use_reentrant=False).sum().backward()
    assert seen == [False, True], f"torch {torch.__version__} has moved the name"


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_still_tells_its_hooks():
    import torch

    from kbn.private import torch as private

    module = torch.nn.BatchNorm1d(2)
    assert private.hooks(module) == []
    kinds = {"forward_pre", "forward", "full_backward_pre", "full_backward"}
    for kind in kinds:
        getattr(module, f"register_{kind}_hook")(lambda *_: None)
    assert {f"full_{x}" if "back" in x else x for x in private.hooks(module)} == kinds
    assert private.hooks(object()) == []


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
@pytest.mark.parametrize(
    "name",
    [
        "torch._C._are_functorch_transforms_active",
        "torch._C._len_torch_dispatch_stack",
        "torch._C._len_torch_function_stack",
        "torch.autograd.forward_ad._current_level",
    ],
)
def test_without_a_name_of_torchs_every_call_is_taken_for_a_transformed_one(
    monkeypatch, name
):
    with monkeypatch.context() as gone:
        gone.delattr(name)
        private = fresh("torch")
    assert private.is_transformed() is True


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_jax_still_tells_in_which_trace_a_tracer_lives():
    import jax

    from kbn.private.jax import trace_of

    assert trace_of(jax.numpy.ones(2)) is None
    assert trace_of(object()) is None
    for transform in (jax.jit, jax.vmap, jax.grad):
        seen = []
        x = jax.numpy.ones(3) if transform is jax.vmap else jax.numpy.ones(())
        transform(lambda x: seen.append(trace_of(x)) or x.sum())(x)  # noqa: B023
        assert seen[0] is not None, f"JAX {jax.__version__} has moved Tracer._trace"


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_jax_still_tells_where_the_caller_is():
    import jax

    from kbn.private.jax import trace_here

    here, seen = trace_here(), []
    assert here == trace_here()
    jax.jit(lambda x: seen.append(trace_here()) or x)(1.0)
    jax.grad(lambda x: seen.append(trace_here()) or x)(1.0)
    assert here not in seen
    assert seen[0] != seen[1]


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_the_step_that_a_training_function_on_jax_makes():
    import jax

    for jit_compile in (True, False):
        for steps in (1, 2):
            model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
            how = {"jit_compile": jit_compile, "steps_per_execution": steps}
            model.compile("sgd", "mse", **how)
            model.make_train_function()
            step = private.jax_train_step(model.train_function)
            assert isinstance(step, jax.stages.Wrapped) is jit_compile
            assert getattr(step, "__wrapped__", step) == model.train_step
    assert private.jax_train_step(lambda state, iterator: model.train_step) is None
    assert private.jax_train_step(len) is None


def test_keras_tells_where_it_only_asks_for_shapes():
    seen = []

    class Spy(keras.layers.Layer):
        def call(self, x):
            seen.append(private.symbolic_scope())
            return x

    Spy()(np.ones((2, 2)))
    Spy()(keras.Input((2,)))
    assert seen[0] is None
    if BACKEND != "tensorflow":  # which has a graph for it
        assert private.is_scratch(seen[1])


@on_tensorflow
def test_what_a_resource_handle_stands_for():
    import tensorflow as tf

    from kbn.private.tensorflow import dtype_behind

    for dtype in (tf.float32, tf.bfloat16, tf.int64):
        variable = tf.Variable(np.zeros(3), dtype=dtype)
        assert dtype_behind(variable.handle) == dtype
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    assert dtype_behind(table.resource_handle) is None
    assert dtype_behind(object()) is None


@on_tensorflow
def test_the_type_of_one_replicas_part():
    import tensorflow as tf

    from kbn.private.tensorflow import spec_of_replica
    from tests.replicas import two_replicas

    strategy = two_replicas()
    data = tf.data.Dataset.from_tensor_slices(np.zeros((8, 3), "float32")).batch(4)
    iterator = iter(strategy.experimental_distribute_dataset(data))
    spec = spec_of_replica(iterator.element_spec)
    assert isinstance(spec, tf.TensorSpec)
    assert spec.shape.as_list() == [None, 3]
    plain = tf.TensorSpec([2])
    assert spec_of_replica(plain) is plain


@on_tensorflow
def test_whether_a_training_function_was_traced():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    model.make_train_function()
    assert private.was_traced(model.train_function) is False
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    assert private.was_traced(model.train_function) is True
    model.compile("sgd", "mse", run_eagerly=True)
    model.make_train_function()
    assert private.was_traced(model.train_function) is False  # Keras' own still
    assert private.was_traced(lambda iterator: model.train_step(iterator)) is None
    assert private.was_traced(len) is None


def test_the_model_of_a_callback_is_held_as_it_is():
    callback = keras.callbacks.Callback()
    assert private.held_model(callback) is None
    callback.set_model("a model")
    assert private.held_model(callback) == "a model"


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere variables have values")
def test_a_state_of_the_trainer_becomes_the_models():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2)), np.ones((4, 1))
    seen = []

    def watched(state, iterator):
        private.attach_jax_state(model, state)
        logs, state = original(state, iterator)
        private.attach_jax_state(model, state)
        seen.append(np.array(model.weights[0].value))
        assert private.is_of_train_on_batch(iterator) == (len(seen) > 2)
        return logs, state

    model.make_train_function()
    original, model.train_function = model.train_function, watched
    model.fit(x, y, batch_size=2, verbose=0)
    np.testing.assert_array_equal(seen[-1], model.weights[0])
    model.train_on_batch(x, y)
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])


@on_tensorflow
def test_eager_seeds_of_tensorflow_are_kept():
    import tensorflow as tf

    from kbn.private.tensorflow import eager_seeds_kept

    tf.random.set_seed(1)
    expected = float(tf.random.uniform(()))
    tf.random.set_seed(1)
    with eager_seeds_kept():
        assert float(tf.random.uniform(())) != expected
    assert float(tf.random.uniform(())) == expected
