"""One of two processes that train one batch norm layer together.

python -m tests.two_workers RANK PORT... OUT: rank 0 or 1; one loopback port for each
worker (TensorFlow) or for the store (torch). Writes an .npz of what it saw of a batch
of each of `MEANS`, under "<mean> <name>".
"""

import json
import os
import sys

import numpy as np

MEANS = [0.0, 1e3, 1e4]
ROWS = {0: slice(0, 7), 1: slice(7, 12)}  # uneven on purpose


def batch(mean):
    """The whole batch, and the gradient of its output."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(12, 3)) + mean).astype("float32")
    return x, rng.normal(size=(12, 3)).astype("float32")


def tensorflow(rank, ports):
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    import kbn

    with strategy.scope():
        layer = kbn.BatchNorm(synchronized=True, momentum=0.0)
        layer.build((None, 3))

    @tf.function
    def step(x, dy):
        weights = [layer.gamma.value, layer.beta.value]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        dx, *gradients = tape.gradient(y, [x, *weights], dy)
        context = tf.distribute.get_replica_context()
        return y, dx, *context.all_reduce("sum", gradients)

    for mean in MEANS:
        x, dy = (tf.constant(values[ROWS[rank]]) for values in batch(mean))
        yield mean, layer, *strategy.run(step, args=(x, dy))


def torch(rank, ports):
    import torch
    from torch import distributed

    address = f"tcp://127.0.0.1:{ports[0]}"
    distributed.init_process_group("gloo", address, rank=rank, world_size=2)

    import kbn

    layer = kbn.BatchNorm(synchronized=True, momentum=0.0)
    layer.build((None, 3))
    weights = [layer.gamma.value, layer.beta.value]
    for mean in MEANS:
        x, dy = (torch.tensor(values[ROWS[rank]]) for values in batch(mean))
        x.requires_grad_(True)
        y = layer(x, training=True)
        dx, *gradients = torch.autograd.grad(y, [x, *weights], dy)
        for gradient in gradients:
            distributed.all_reduce(gradient)
        yield mean, layer, y.detach(), dx, *gradients


def main():
    rank, *ports, out = sys.argv[1:]
    backend = os.environ["KERAS_BACKEND"]
    run = {"tensorflow": tensorflow, "torch": torch}[backend]
    names = ("y", "dx", "dgamma", "dbeta", "mean", "variance")
    seen = {}
    for mean, layer, *values in run(int(rank), ports):
        statistics = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
        for name, value in zip(names, [*values, *statistics], strict=True):
            seen[f"{mean} {name}"] = np.array(value)
    np.savez(out, **seen)


if __name__ == "__main__":
    main()
