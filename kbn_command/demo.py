"""The lesson's network on handwritten digits, with and without batch norm."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import kbn
from kbn_command.defaults import (
    BATCH_SIZE,
    LEARNING_RATE,
    STEPS_PER_EPOCH,
    TRAINING_DIGITS,
)

# The default 0.99 would remember its starting values through half of such a short run.
MOMENTUM = 0.9

TARGET = 0.95  # test accuracy
LOOK_EVERY = 7  # steps between two points of the curves: 6 looks an epoch
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass
class Digits:
    """Scaled to [0, 1]; x: (N, 64) float32, y: (N,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclasses.dataclass
class Curves:
    """The curves of one run; every list has one entry a look."""

    steps: list[int] = dataclasses.field(default_factory=list)
    train_loss: list[float] = dataclasses.field(default_factory=list)
    test_loss: list[float] = dataclasses.field(default_factory=list)
    train_accuracy: list[float] = dataclasses.field(default_factory=list)
    test_accuracy: list[float] = dataclasses.field(default_factory=list)
    quantiles: list[np.ndarray] = dataclasses.field(default_factory=list)  # (5,)
    shift: list[float] = dataclasses.field(default_factory=list)  # half an epoch apart

    def steps_to(self, accuracy: float) -> int | None:
        """The first look at which the test accuracy is reached; None: never."""
        for step, reached in zip(self.steps, self.test_accuracy, strict=True):
            if reached >= accuracy:
                return step
        return None


def verdict(without: Curves, with_: Curves) -> str:
    """Whether batch norm helps in these two runs, by what they reached."""
    before, after = without.steps_to(TARGET), with_.steps_to(TARGET)
    ends = (
        f"{with_.test_accuracy[-1]:.1%} with batch norm, "
        f"{without.test_accuracy[-1]:.1%} without"
    )
    if before is None and after is None:
        return f"Neither network reaches {TARGET:.0%}: they end at {ends}."
    if before is None or after is None:
        which = "with" if before is None else "without"
        return f"Only the network {which} batch norm reaches {TARGET:.0%}: {ends}."
    if before == after:
        return (
            f"Both networks reach {TARGET:.0%} after {after} steps; they end at {ends}."
        )
    sooner = "sooner" if after < before else "later"
    return (
        f"Both networks reach {TARGET:.0%}, {sooner} with batch norm: after {after} "
        f"steps instead of {before}. They end at {ends}."
    )


def load_digits(seed: int) -> Digits:
    """Split scikit-learn's 1797 digits of 8 x 8 pixels."""
    from sklearn import datasets, model_selection

    x, y = datasets.load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = model_selection.train_test_split(
        (x / 16.0).astype("float32"),
        y,
        train_size=TRAINING_DIGITS,
        stratify=y,
        random_state=seed,
    )
    return Digits(x_train, y_train, x_test, y_test)


def build_network(batch_norm: bool, learning_rate: float) -> keras.Sequential:
    """Dense 256, batch norm (or not) before the ReLU, 10 classes."""
    # Named, so that both runs have the same tags and TensorBoard overlays them.
    network = keras.Sequential(name="digits")
    network.add(keras.Input((64,)))
    network.add(keras.layers.Dense(256, name="hidden"))
    if batch_norm:
        network.add(kbn.BatchNorm(momentum=MOMENTUM, name="batch_norm"))
    network.add(keras.layers.ReLU(name="relu"))
    network.add(keras.layers.Dense(10, name="logits"))
    network.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return network


def is_logged(step: int) -> bool:
    """When the monitor looks: at the first steps, then twice an epoch."""
    return step in (1, 2, 4, 8) or step % (STEPS_PER_EPOCH // 2) == 0


def loss_and_accuracy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats, share of right answers; logits: (N, 10)."""
    with np.errstate(invalid="ignore"):  # Inf - Inf, of a network that has diverged
        shifted = logits - logits.max(axis=1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(axis=1))
    of_label = shifted[np.arange(len(labels)), labels]
    right = logits.argmax(axis=1) == labels
    return float(np.mean(log_total - of_label)), float(np.mean(right))


class Observer(keras.callbacks.Callback):
    """Fills Curves in inference mode, so that looking changes no weight."""

    def __init__(self, digits: Digits, curves: Curves, on_step: Callable[[], None]):
        super().__init__()
        self.digits = digits
        self.curves = curves
        self.on_step = on_step
        self.step = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Look at the untrained network."""
        self.look()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count the step; look when it is due."""
        self.step += 1
        self.on_step()
        if self.step % LOOK_EVERY == 0:
            self.look()

    def look(self) -> None:
        """Add one point to every curve."""
        digits, curves = self.digits, self.curves
        logits = self.model.predict_on_batch(digits.x_train)
        train_loss, train_accuracy = loss_and_accuracy(logits, digits.y_train)
        logits = self.model.predict_on_batch(digits.x_test)
        test_loss, test_accuracy = loss_and_accuracy(logits, digits.y_test)
        kernel = keras.ops.convert_to_numpy(self.model.layers[0].kernel)  # (64, 256)
        curves.steps.append(self.step)
        curves.train_loss.append(train_loss)
        curves.test_loss.append(test_loss)
        curves.train_accuracy.append(train_accuracy)
        curves.test_accuracy.append(test_accuracy)
        with np.errstate(invalid="ignore"):
            curves.quantiles.append(np.quantile(kernel, QUANTILES))


def train(
    digits: Digits,
    batch_norm: bool,
    epochs: int,
    seed: int,
    log_dir: Path | None,
    on_step: Callable[[], None] = lambda: None,
    learning_rate: float = LEARNING_RATE,
) -> Curves:
    """Train one network; both start from the same weights and see the same batches."""
    keras.utils.set_random_seed(seed)
    curves = Curves()
    callbacks: list[keras.callbacks.Callback] = [Observer(digits, curves, on_step)]
    if log_dir is not None:
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=is_logged)
        callbacks.append(monitor)
    build_network(batch_norm, learning_rate).fit(
        digits.x_train,
        digits.y_train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=(digits.x_test, digits.y_test) if log_dir else None,
        verbose=0,
        callbacks=callbacks,
    )
    if log_dir is not None:
        _, curves.shift = monitor.history.get("activation_shift/relu", ([], []))
    return curves
