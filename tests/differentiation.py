"""Gradients by the backend's own means, to compare with, and for steps of one's own."""

from collections.abc import Callable
from typing import Any

import keras


def value_and_gradients(
    loss: Callable[[], Any], weights: list[Any]
) -> tuple[Any, list[Any]]:
    """What `loss` gives, and its gradients by these weights of Keras."""
    if keras.backend.backend() == "torch":
        import torch

        value = loss()
        return value, [*torch.autograd.grad(value, [x.value for x in weights])]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss()
    return value, tape.gradient(value, weights)
