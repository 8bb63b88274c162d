"""Training steps written by hand, as one writes them on TensorFlow and on torch.

On JAX such a step has no side effect, and every network would be written anew: there
`Own` trains by Keras' step, and the others are left out of the zoo.
"""

import keras

IS_JAX = keras.backend.backend() == "jax"


def minimize(loss_of, weights, optimizer):
    """One step of the optimizer on `loss_of()`; the loss."""
    if keras.backend.backend() == "torch":
        import torch

        for weight in weights:
            weight.value.grad = None
        loss = loss_of()
        loss.backward()
        with torch.no_grad():
            optimizer.apply([weight.value.grad for weight in weights], weights)
        return loss.detach()
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_of()
    optimizer.apply(tape.gradient(loss, weights), weights)
    return loss


class _OwnStep(keras.Model):
    """Trains on `loss_of(x)`."""

    def __init__(self):
        super().__init__()
        self.built = True  # its layers are; it is never called
        self.tracker = keras.metrics.Mean(name="loss")

    def loss_of(self, x):
        """The loss of a batch."""
        raise NotImplementedError

    def after_step(self):
        """What follows the optimizer."""

    @property
    def metrics(self):
        """The mean of the losses."""
        return [self.tracker]

    def train_step(self, batch):
        """One step by the compiled optimizer."""
        weights = self.trainable_variables
        loss = minimize(lambda: self.loss_of(batch[0]), weights, self.optimizer)
        self.after_step()
        return self._told(loss)

    def test_step(self, batch):
        """The same without the step."""
        return self._told(self.loss_of(batch[0]))

    def _told(self, loss):
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


class _KerasStep(keras.Model):
    """Trains on `loss_of(x)`, which is its output; nothing follows the optimizer."""

    def call(self, x):
        """The loss of a batch."""
        return self.loss_of(x)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The output."""
        return y_pred


Own = _KerasStep if IS_JAX else _OwnStep
