"""kbn.callbacks.watch.pruned: a part of a traced function that changes nothing."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("graphs are TensorFlow's", allow_module_level=True)

import tensorflow as tf

from kbn.callbacks.watch.pruned import CannotBeRepeatedError, PrunedStep, arguments_of


def traced(step, *specs):
    """The FuncGraph of a step, and the names of what it notes, by key."""
    names = {}

    def noted(*given):
        names.update({key: x.name for key, x in step(*given).items()})

    function = tf.function(noted, autograph=False).get_concrete_function(*specs)
    return function, names


def pruned(step, *specs):
    function, names = traced(step, *specs)
    made = PrunedStep(function.graph, names, lambda tensors, more: tensors)
    return made, function


FLOAT = tf.TensorSpec([None, 3])


def test_updates_are_gone_where_nothing_needs_them():
    weight = tf.Variable(np.ones((3, 2), "float32"))
    count = tf.Variable(0)

    def step(x):
        y = x @ weight
        count.assign_add(1)
        weight.assign_sub(0.1 * weight)
        tf.print("not printed", output_stream="file:///nowhere/at/all")
        return {"y": y}

    made, function = pruned(step, FLOAT)
    x = np.arange(6, dtype="float32").reshape(2, 3)
    for _ in range(2):
        found = made([tf.constant(x)], None)
        np.testing.assert_allclose(found["y"], x @ np.ones((3, 2)))
    assert int(count) == 0
    np.testing.assert_array_equal(weight, np.ones((3, 2)))
    assert len(arguments_of(function.graph)) == 1


def assigned(variable, x):
    variable.assign_add(tf.reduce_sum(x) * tf.ones_like(variable))


def in_condition(variable, x):
    tf.cond(tf.reduce_sum(x) > 0, lambda: assigned(variable, x), lambda: None)


def in_case(variable, x):
    tf.switch_case(
        tf.constant(1), [lambda: None, lambda: assigned(variable, x), lambda: None]
    )


def in_loop(variable, x):
    def body(i):
        assigned(variable, x)
        return i + 1

    tf.while_loop(lambda i: i < 3, body, [tf.constant(0)])


def in_function(variable, x):
    tf.function(lambda: assigned(variable, x), autograph=False)()


def in_functions(variable, x):
    inner = tf.function(lambda: in_condition(variable, x), autograph=False)
    tf.function(lambda: in_loop(variable, x) or inner(), autograph=False)()


def scattered(variable, x):
    variable.scatter_nd_add([[0]], [tf.reduce_sum(x)])


WRITES = (assigned, in_condition, in_case, in_loop, in_function, in_functions)


@pytest.mark.parametrize("write", [*WRITES, scattered])
@pytest.mark.parametrize("reads_after", [True, False])
def test_what_is_written_before_a_reading_is_put_back(write, reads_after):
    written = tf.Variable([1.0, 2.0])
    only_read = tf.Variable([3.0, 4.0])

    def step(x):
        before = written + only_read
        write(written, x)
        return {"seen": written + 0.0 if reads_after else before}

    made, function = pruned(step, FLOAT)
    x = tf.ones((1, 3))
    found = made([x], None)["seen"].numpy()
    np.testing.assert_array_equal(written, [1.0, 2.0])
    np.testing.assert_array_equal(only_read, [3.0, 4.0])
    function(x)  # as the training runs it
    expected = written.numpy() if reads_after else np.array([4.0, 6.0])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("write", WRITES)
def test_what_is_only_read_in_functions_is_not_copied(write):
    written, only_read = tf.Variable([1.0]), tf.Variable([2.0])

    def step(x):
        write(written, x)
        reads = tf.function(lambda: only_read * 2.0 + tf.gather(only_read, [0]))
        y = tf.cond(x[0, 0] > 0, reads, lambda: only_read + 0.0)
        return {"seen": written + y}

    made, _ = pruned(step, FLOAT)
    assert len(made._written) == 1


def test_what_writes_to_no_variable_is_refused():
    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def step(x):
        table.insert([1], x[0, :1])
        return {"seen": table.lookup(tf.constant([1], tf.int64))}

    with pytest.raises(CannotBeRepeatedError, match="no variable"):
        pruned(step, FLOAT)


def test_a_table_that_is_read_is_no_hindrance():
    keys = tf.lookup.KeyValueTensorInitializer([1, 2], [10.0, 20.0], tf.int64)
    table = tf.lookup.StaticHashTable(keys, 0.0)
    spec = tf.TensorSpec([None], tf.int64)
    made, _ = pruned(lambda x: {"seen": table.lookup(x)}, spec)
    found = made([tf.constant([2, 1], tf.int64)], None)
    np.testing.assert_array_equal(found["seen"], [20.0, 10.0])


def test_pythons_random_numbers_are_those_of_the_step():
    def step(x):
        draw = tf.numpy_function(lambda: np.float32(np.random.random()), [], tf.float32)
        return {"seen": draw}

    made, _ = pruned(step, FLOAT)
    np.random.seed(3)
    shown = float(made([tf.ones((1, 3))], None)["seen"])
    assert shown == np.float32(np.random.random())
    assert made.runs_python
