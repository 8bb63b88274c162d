"""What a user's mypy makes of an installed kbn; .ci/test-wheel runs it, --strict.

An `ignore` that is not needed is an error there, so each of them is a mistake that mypy
must find.
"""

from kbn.callbacks import TrainingMonitor, UpdateBatchNormStats

import kbn

layer: kbn.BatchNorm = kbn.BatchNormalization(axis=[1, 2], momentum=None, unbiased=True)
layer.reset_running_stats()
kbn.BatchNorm(momentum="high")  # type: ignore[arg-type]
kbn.BatchNorm(-1, 0.99, 1e-3, True, True, virtual_batch_size="all")  # type: ignore[arg-type]

monitor = TrainingMonitor("logs", log_freq=lambda step: step % 100 == 1, layers="dense")
steps, values = monitor.history["learning_rate"]
best: float = min(values)
TrainingMonitor(log_freq=0.5)  # type: ignore[arg-type]
TrainingMonitor(log_frequency="epoch")  # type: ignore[call-arg]

kbn.unfreeze_batch_norm(kbn.freeze_batch_norm(layer, train_affine=True))
kbn.update_bn_stats(layer, [], steps=3, exact=True, batch_size=8, verbose=0)
kbn.update_bn_stats(layer, [], steps="all")  # type: ignore[arg-type]
again: kbn.BatchNorm = kbn.from_torch_batch_norm(kbn.to_torch_batch_norm(layer))
UpdateBatchNormStats([], steps=3, restore=True)
UpdateBatchNormStats()  # type: ignore[call-arg]
