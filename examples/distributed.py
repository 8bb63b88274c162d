"""Two worker processes train one network; synchronized batch norm makes them one.

Each worker sees half of every batch. With synchronized=True they normalize by the
statistics of the whole batch, so the network they train is the one that a single
process trains on whole batches. The script starts the workers itself, a cluster of
MultiWorkerMirroredStrategy on this machine's loopback. Keras' own `fit` does not run
under that strategy: the training loop is written out.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import command
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # warnings and errors only
WORKERS, STEPS, BATCH_SIZE = 2, 20, 64


def train(worker=None):
    """Train on the whole batches, or as one of the workers on its share of them."""
    import tensorflow as tf

    # Before anything else: it has to be the first to touch the devices.
    strategy = (
        tf.distribute.get_strategy()
        if worker is None
        else tf.distribute.MultiWorkerMirroredStrategy()
    )
    import keras

    import kbn

    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = keras.Sequential(
            [
                keras.Input((20,)),
                keras.layers.Dense(32),
                kbn.BatchNorm(synchronized=True, momentum=0.9),
                keras.layers.ReLU(),
                keras.layers.Dense(1),
            ]
        )
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(network.trainable_variables)

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            squares = tf.square(network(x, training=True) - y)
            loss = tf.reduce_sum(squares) / BATCH_SIZE  # of the whole batch
        weights = network.trainable_variables
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        optimizer.apply(gradients, weights)  # adds up those of the workers
        return loss

    @tf.function
    def step(x, y):
        losses = strategy.run(replica_step, args=(x, y))
        return strategy.reduce("SUM", losses, axis=None)

    share = slice(None) if worker is None else slice(worker, None, WORKERS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        x = rng.normal(5, 2, (BATCH_SIZE, 20)).astype("float32")
        y = x[:, :1] * x[:, 1:2] / 10
        loss = step(tf.constant(x[share]), tf.constant(y[share]))
    return [np.array(loss), *network.get_weights()]


def free_addresses():
    """Ports of the loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(WORKERS)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def train_together(directory):
    """Start the workers, wait for them, and return what each has trained."""
    cluster = {"worker": free_addresses()}
    outputs = [Path(directory, f"{worker}.npz") for worker in range(WORKERS)]
    processes = []
    for worker, output in enumerate(outputs):
        task = {"type": "worker", "index": worker}
        config = json.dumps({"cluster": cluster, "task": task})
        environment = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": ""}
        arguments = ["--worker", str(worker), "--output", str(output)]
        process = [sys.executable, __file__, *arguments]
        processes.append(subprocess.Popen(process, env=environment))
    try:
        # One that has failed would keep the other waiting.
        while None in (codes := [p.poll() for p in processes]) and not any(codes):
            time.sleep(0.1)
        if any(codes):
            sys.exit("A worker failed: see its message above.")
    finally:
        for process in processes:
            process.kill()
    return [list(np.load(output).values()) for output in outputs]


def main():
    """Compare two workers with one process."""
    parser = command.parser(__doc__)
    parser.add_argument(
        "--worker", type=int, choices=range(WORKERS), help=argparse.SUPPRESS
    )
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        np.savez(options.output, *train(options.worker))
        return
    with tempfile.TemporaryDirectory() as directory:
        first, second = train_together(directory)
    alone = train()
    names = (
        "loss,kernel 1,bias 1,gamma,beta,moving mean,moving variance,kernel 2,bias 2"
    )
    print(f"{'':17}{'one process':>14}{'worker 0 differs by':>21}{'worker 1':>12}")
    for name, one, *parts in zip(names.split(","), alone, first, second, strict=True):
        size, *apart = np.abs(one).max(), *(np.abs(one - part).max() for part in parts)
        print(f"{name:17}{size:14.4g}{apart[0]:21.1e}{apart[1]:12.1e}")


if __name__ == "__main__":
    main()
