"""Tensors of TensorFlow as arrays; batches out of what `fit` hands over, and back."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from kbn.private import tensorflow as private

ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)
DATA_ENDS = (StopIteration, tf.errors.OutOfRangeError)


def array(tensor: Any) -> Any:
    """A tensor as an array, without a copy if it can be."""
    return np.asarray(tf.convert_to_tensor(tensor))


def as_array(variable: Any) -> Any:
    """A variable of Keras as an array, as `array`."""
    value = variable.value
    if not isinstance(value, tf.Variable) or hasattr(value, "values"):
        return array(value)  # of several replicas
    # A fifth of the time of `convert_to_tensor`, and there are hundreds of variables.
    return np.asarray(
        tf.raw_ops.ReadVariableOp(resource=value.handle, dtype=value.dtype)
    )


def tensor(x: Any) -> Any:
    """What a batch holds, as a tensor of whatever kind."""
    is_composite = isinstance(x, tf.__internal__.CompositeTensor)
    return x if is_composite else tf.convert_to_tensor(x)


def without_optionals(batch: Any) -> Any:
    """A batch as `train_step` takes it: Keras' data pipeline may say None by one."""
    return tree.map_structure(
        lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch
    )


def parts(x: Any) -> Sequence[Any]:
    """What each replica has of it."""
    return x.values if isinstance(x, tf.distribute.DistributedValues) else (x,)


def is_of_fit(source: Any) -> bool:
    """Whether `fit` hands it over; `train_on_batch` does a generator of one batch."""
    return isinstance(source, ITERATORS)


def take_batch(iterator: Any) -> Any:
    """The next batch, None at the end of the data.

    Trying has no side effect, as it would have in Keras' own step.
    """
    if isinstance(iterator, tf.data.Iterator):
        optional = iterator.get_next_as_optional()
        return optional.get_value() if optional.has_value() else None
    try:
        return next(iterator)
    except DATA_ENDS:
        return None


def flat(batch: Any) -> list[Any]:
    """Its tensors in the order in which a `tf.function` takes them, dense parts of
    others, and of each replica.
    """
    leaves = tf.nest.flatten(without_optionals(batch), expand_composites=True)
    return [tf.convert_to_tensor(x) for x in leaves if x is not None]


class HandBack:
    """An iterator of the type of another, that gives batches which that one gave.

    So the training function takes it for the other one, and trains as traced.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._batches: list[Any] = []
        self._spec: Any = None
        self._dataset: Any = None
        self._iterator: Any = None

    def __call__(self, batches: Sequence[Any], like: Any, steps: int) -> Any:
        """The iterator; `steps`: how many will be taken from it, if there are."""
        spec = like.element_spec
        if self._dataset is None or self._spec != spec:
            self._spec, self._iterator = spec, None
            self._dataset = self._new_dataset(like)
        self._batches[:] = batches
        if not isinstance(like, tf.data.Iterator):
            # Its threads ask for more than they are asked for: a new one each time.
            self._batches[:] = [one for batch in batches for one in _replicas(batch)]
            return iter(self._dataset)
        if self._iterator is None:
            self._iterator = iter(self._dataset)  # takes 20 ms: kept
        iterator = self._iterator
        if len(batches) < steps:
            self._iterator = None  # it will see the end
        return iterator

    def _new_dataset(self, like: Any) -> Any:
        spec = self._spec
        if isinstance(like, tf.data.Iterator):
            return _generated(self._given, spec)
        spec = tf.nest.map_structure(private.spec_of_replica, spec)
        return self._strategy.distribute_datasets_from_function(
            lambda context: _generated(self._given, spec)
        )

    def _given(self) -> Iterator[Any]:
        while self._batches:
            yield self._batches.pop(0)
        self._iterator = None  # asked for more than it has, it is over


def _generated(generator: Any, spec: Any) -> Any:
    options = tf.data.Options()
    # Nothing may be taken before it is asked for.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    dataset = tf.data.Dataset.from_generator(generator, output_signature=spec)
    return dataset.with_options(options)


def _replicas(batch: Any) -> list[Any]:
    def part(index: int) -> Any:
        return tree.map_structure(lambda x: [*parts(x), x][index], batch)

    return [part(i) for i in range(max(len(parts(x)) for x in tree.flatten(batch)))]


def spec_of(batch: Any) -> Any:
    """The type of batches like this one, of any number of examples."""

    def spec(x: Any) -> Any:
        if x is None:
            return None
        found = tf.type_spec_from_value(x)
        if isinstance(found, tf.TensorSpec) and found.shape.rank:
            return tf.TensorSpec([None, *found.shape[1:]], found.dtype)
        return found

    return tree.map_structure(spec, without_optionals(batch))
