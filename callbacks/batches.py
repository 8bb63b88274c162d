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
