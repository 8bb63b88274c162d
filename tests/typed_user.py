"""A user's file, for mypy and Pyright: test_typing.py shows it to both.

An `ignore` that is not needed is an error there, so each of them is a mistake that both
must find.
"""

import kbn
from kbn.callbacks import TrainingMonitor, UpdateBatchNormStats

layer: kbn.BatchNorm = kbn.BatchNormalization(axis=[1, 2], momentum=None, unbiased=True)
layer.reset_running_stats()
kbn.BatchNorm(momentum="high")  # type: ignore[arg-type]
kbn.BatchNorm(-1, 0.99, 1e-3, True, True, virtual_batch_size="all")  # type: ignore[arg-type]

monitor = TrainingMonitor("logs", log_freq=lambda step: step % 100 == 1, layers="dense")
steps, values = monitor.history["learning_rate"]
best: float = min(values)
TrainingMonitor(log_freq=0.5)  # type: ignore[arg-type]
TrainingMonitor(log_frequency="epoch")  # type: ignore[arg-type]

kbn.unfreeze_batch_norm(kbn.freeze_batch_norm(layer, train_affine=True))
kbn.update_bn_stats(layer, [], steps=3, exact=True, batch_size=8, verbose=0)
kbn.update_bn_stats(layer, [], steps="all")  # type: ignore[arg-type]
again: kbn.BatchNorm = kbn.from_torch_batch_norm(kbn.to_torch_batch_norm(layer))
UpdateBatchNormStats([], steps=3, restore=True)
UpdateBatchNormStats()  # type: ignore[call-arg]

# By a plain `import kbn`.
strict = kbn.callbacks.rules.default_rules(kbn.callbacks.rules.VanishingGradient(0.1))
watched: TrainingMonitor = kbn.callbacks.TrainingMonitor("logs", rules=strict)
messages: list[str] = [alert.message for alert in watched.alerts]
kbn.callbacks.TrainingMonitor(watch=5)  # type: ignore[arg-type]
kbn.callbacks.rules.VanishingGradient(ratio="low")  # type: ignore[arg-type]
with kbn.capture(watched.model, layers="dense") as seen:
    pass
hidden: set[str] = seen.hidden
kbn.capture(watched.model, layers=3)  # type: ignore[arg-type]
