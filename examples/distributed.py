"""Two processes train one network, each on half of every batch, and are watched.

With synchronized=True batch norm normalizes by the statistics of the whole batch, so
the network they train is the one that a single process trains on whole batches. Each
backend has an engine of its own: MultiWorkerMirroredStrategy on TensorFlow,
`keras.distribution` on JAX, DistributedDataParallel on torch. Only on JAX does Keras'
`fit` run over processes: elsewhere the loop is written out, and calls the monitor. The
script starts the processes itself, on this machine's loopback; the first has the log.
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


def made(kbn):
    """The network, and its optimizer."""
    import keras

    keras.utils.set_random_seed(0)
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
    network.compile(optimizer, "mse")
    return network, optimizer


def batches(worker):
    """Of each batch what one of the workers is to have, or a process alone."""
    share = slice(None) if worker is None else slice(worker, None, WORKERS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        x = rng.normal(5, 2, (BATCH_SIZE, 20)).astype("float32")
        y = x[:, :1] * x[:, 1:2] / 10
        yield x[share], y[share]


def loop(network, step, worker, log_dir):
    """Train by a `step` of one's own; the monitor is called as `fit` would call it."""
    import keras

    import kbn

    monitor = kbn.callbacks.TrainingMonitor(log_dir)
    callbacks = keras.callbacks.CallbackList([monitor], model=network)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    losses = []
    for i, (x, y) in enumerate(batches(worker)):
        callbacks.on_train_batch_begin(i)
        losses.append(float(step(x, y)))
        callbacks.on_train_batch_end(i, {"loss": losses[-1]})
    callbacks.on_epoch_end(0, {"loss": np.mean(losses)})
    callbacks.on_train_end()
    return np.mean(losses)


def train_tensorflow(worker, addresses, log_dir):
    """Under MultiWorkerMirroredStrategy."""
    import tensorflow as tf

    if worker is not None:
        task = {"type": "worker", "index": worker}
        cluster = {"cluster": {"worker": addresses}, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
    # Before anything else: it has to be the first to touch the devices.
    strategy = (
        tf.distribute.get_strategy()
        if worker is None
        else tf.distribute.MultiWorkerMirroredStrategy()
    )
    import kbn

    with strategy.scope():
        network, optimizer = made(kbn)

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

    def step_on(x, y):
        return step(tf.constant(x), tf.constant(y))

    return loop(network, step_on, worker, log_dir), network


def train_torch(worker, addresses, log_dir):
    """Under DistributedDataParallel."""
    import torch
    from torch import distributed

    if worker is not None:
        where = {"init_method": f"tcp://{addresses[0]}", "world_size": WORKERS}
        distributed.init_process_group("gloo", rank=worker, **where)
    import kbn

    network, optimizer = made(kbn)
    weights = network.trainable_variables
    parallel = network
    if worker is not None:
        parallel = torch.nn.parallel.DistributedDataParallel(network)

    def step(x, y):
        network.zero_grad()
        y_pred = parallel(torch.tensor(x), training=True)
        loss = torch.mean((y_pred - torch.tensor(y)) ** 2)
        loss.backward()  # gives the mean of the workers' gradients to each
        with torch.no_grad():
            optimizer.apply([weight.value.grad for weight in weights], weights)
            if worker is not None:
                distributed.all_reduce(loss.div_(WORKERS))
        return loss.detach()

    return loop(network, step, worker, log_dir), network


def train_jax(worker, addresses, log_dir):
    """Under `keras.distribution`, which needs no synchronized=True: it does no harm."""
    import jax
    import keras

    if worker is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize(addresses[0], WORKERS, worker)
        devices = keras.distribution.list_devices()
        parallel = keras.distribution.DataParallel(
            devices=devices,
            auto_shard_dataset=False,  # each has its share
        )
        keras.distribution.set_distribution(parallel)
    import kbn

    network, _ = made(kbn)
    x, y = map(np.concatenate, zip(*batches(worker), strict=True))
    monitor = kbn.callbacks.TrainingMonitor(log_dir)
    size = {"batch_size": len(x) // STEPS, "shuffle": False, "verbose": 0}
    history = network.fit(x, y, **size, callbacks=[monitor])
    return history.history["loss"][0], network


def train(worker=None, addresses=(), log_dir="logs"):
    """Train on whole batches, or as one of the workers on its share of them."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    engines = {
        "tensorflow": train_tensorflow,
        "torch": train_torch,
        "jax": train_jax,
    }
    engine = engines[os.environ["KERAS_BACKEND"]]
    loss, network = engine(worker, addresses, log_dir)
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
    addresses = free_addresses()
    outputs = [Path(directory, f"{worker}.npz") for worker in range(WORKERS)]
    processes = []
    for worker, output in enumerate(outputs):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        arguments = ["--worker", str(worker), "--output", str(output)]
        arguments += ["--addresses", *addresses]
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
    parser.add_argument("--addresses", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        log_dir = Path(options.output).with_name("together")
        trained = train(options.worker, options.addresses, log_dir)
        np.savez(options.output, *trained)
        return
    with tempfile.TemporaryDirectory() as directory:
        first, second = train_together(directory)
        alone = train(log_dir=Path(directory, "alone"))
        show(alone, first, second)
        reports(directory)


def show(alone, first, second):
    """By how much the workers' loss and weights differ from those of one process."""
    names = (
        "loss,kernel 1,bias 1,gamma,beta,moving mean,moving variance,kernel 2,bias 2"
    )
    print(f"{'':17}{'one process':>14}{'worker 0 differs by':>21}{'worker 1':>12}")
    for name, one, *parts in zip(names.split(","), alone, first, second, strict=True):
        size, *apart = np.abs(one).max(), *(np.abs(one - part).max() for part in parts)
        print(f"{name:17}{size:14.4g}{apart[0]:21.1e}{apart[1]:12.1e}")


def reports(directory):
    """What the monitors say of both trainings: a log each, for two workers too."""
    import kbn

    print()
    for name in ("alone", "together"):
        found = kbn.callbacks.Report.read(Path(directory, name))
        print(f"{name:17}{found.verdict}")


if __name__ == "__main__":
    main()
