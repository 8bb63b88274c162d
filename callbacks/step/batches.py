"""Batches out of the iterator that `fit` hands to its training function."""

from typing import Any

import tensorflow as tf
from keras import tree

ITERATORS = (tf.data.Iterator, tf.distribute.DistributedIterator)
DATA_ENDS = (StopIteration, tf.errors.OutOfRangeError)


def take_batch(iterator: Any) -> Any:
    """The next batch, None at the end of the data; of a `tf.data.Iterator` an Optional.

    Trying has no side effect, as it would have in Keras' own step.
    """
    if isinstance(iterator, tf.data.Iterator):
        optional = iterator.get_next_as_optional()
        return optional if optional.has_value() else None
    try:
        return next(iterator)
    except DATA_ENDS:
        return None


def batch_spec(iterator: Any) -> Any:
    """The type of what `take_batch` returns: the iterator's, not that of one batch.

    With it, the step compiles to the same arithmetic as Keras' own, which takes the
    batch from the iterator inside its graph; a batch of known size does not (mean(x)
    becomes x * constant).
    """
    spec = iterator.element_spec
    return tf.OptionalSpec(spec) if isinstance(iterator, tf.data.Iterator) else spec


def spec_key(spec: Any) -> Any:
    """The same for batches that one trace can take."""
    return str(tree.map_structure(lambda _: 0, spec)), tuple(tree.flatten(spec))


def without_optionals(batch: Any) -> Any:
    """What `take_batch` returned, as `train_step` takes it; inside a graph."""
    if isinstance(batch, tf.experimental.Optional):
        batch = batch.get_value()
    # Keras' data pipeline may say None by an Optional.
    return tree.map_structure(
        lambda x: None if isinstance(x, tf.experimental.Optional) else x, batch
    )


def batch_size(batch: Any) -> int | None:
    """Examples in what `take_batch` returned, on all replicas; None if it has none."""
    for x in tree.flatten(without_optionals(batch)):
        parts = getattr(x, "values", None) or (x,)  # of a batch on several replicas
        shapes: list[Any] = [getattr(part, "shape", ()) for part in parts]
        if all(map(len, shapes)):
            return sum(int(shape[0]) for shape in shapes)
    return None


class Batches:
    """The batches of one call of the training function: of `fit`, or of a loop's own.

    `fit` hands over an iterator, `train_on_batch` a generator of one batch.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._raw = None if isinstance(source, ITERATORS) else next(source)
        self._first: Any = None

    def spec(self) -> Any:
        """The type of what `take` returns."""
        if isinstance(self._source, ITERATORS):
            return batch_spec(self._source)
        self._first = tree.map_structure(_as_tensor, self._raw)
        return tree.map_structure(tf.type_spec_from_value, self._first)

    def take(self) -> Any:
        """The next, None at the end."""
        if isinstance(self._source, ITERATORS):
            return take_batch(self._source)
        first, self._first = self._first, None
        return first

    def rest(self) -> Any:
        """What the original is to be called with, if none was taken."""
        return self._source if isinstance(self._source, ITERATORS) else [self._raw]

    def steps(self, model: Any) -> int:
        """How many steps the call is at most."""
        return model.steps_per_execution if isinstance(self._source, ITERATORS) else 1


def _as_tensor(x: Any) -> Any:
    if x is None:  # as Keras' data pipeline says it
        return tf.experimental.Optional.empty(tf.TensorSpec(()))
    return x if tf.is_tensor(x) else tf.convert_to_tensor(x)
