"""One of several processes that train one network on JAX, under Keras' distribution.

python -m tests.two_watched RANK PROCESSES PORT LOG KIND WATCHED: a JSON line of the
losses, of what a monitor saw and of its alerts. KIND is "model" (each device has a part
of the weights) or "nan" (of the batch, and one has a NaN).
"""

import json
import os
import sys

DEVICES, BATCH, STEPS = 2, 16, 6


def begin(rank, processes, port):
    os.environ["KERAS_BACKEND"] = "jax"
    import jax

    jax.config.update("jax_num_cpu_devices", DEVICES // processes)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    import keras

    if processes > 1:
        keras.distribution.initialize(f"127.0.0.1:{port}", processes, rank)


def distribution(kind, processes):
    from keras import distribution

    devices = distribution.list_devices()
    known = {"auto_shard_dataset": processes == 1}  # else each is given its share
    if kind == "nan":
        return distribution.DataParallel(devices=devices, **known)
    mesh = distribution.DeviceMesh((1, DEVICES), ["batch", "model"], devices)
    layout = distribution.LayoutMap(mesh)
    layout["dense.*kernel"], layout["dense.*bias"] = (None, "model"), ("model",)
    return distribution.ModelParallel(layout_map=layout, **known)


def trained(rank, processes, log_dir, kind, is_watched):
    import keras
    import numpy as np

    import kbn

    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(distribution(kind, processes))
    inputs = [keras.layers.Input((8,)), keras.layers.Dense(4), kbn.BatchNorm()]
    model = keras.Sequential([*inputs, keras.layers.ReLU(), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 8)).astype("float32")
    y = rng.normal(size=(STEPS * BATCH, 2)).astype("float32")
    if kind == "nan":
        x[2 * BATCH, 0] = np.nan  # of the third step, and of the first process
        parts = [a.reshape(STEPS, processes, -1, a.shape[-1]) for a in (x, y)]
        x, y = (part[:, rank].reshape(-1, part.shape[-1]) for part in parts)
    monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=2)
    fit = {"batch_size": len(x) // STEPS, "shuffle": False, "verbose": 0}
    callbacks = [monitor] if is_watched else []
    history = model.fit(x, y, epochs=2, callbacks=callbacks, **fit).history
    alerts = [[alert.rule, alert.step] for alert in monitor.alerts]
    return {"losses": history["loss"], "history": monitor.history, "alerts": alerts}


def main():
    rank, processes, port, log_dir, kind, watched = sys.argv[1:]
    rank, processes = int(rank), int(processes)
    begin(rank, processes, port)
    found = trained(rank, processes, log_dir, kind, watched == "watched")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
