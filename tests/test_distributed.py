"""Replicas: statistics of all of them together, and moving averages they share."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import kbn
from tests import oracle, two_workers, watched_models
from tests.cases import BACKEND
from tests.running import array
from tests.test_examples import check_distributed

EPSILON = 1e-3


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def said_by(*commands):
    """What processes print that run at once: each is Python with these arguments."""
    environment = {**os.environ, "KERAS_BACKEND": BACKEND, "CUDA_VISIBLE_DEVICES": ""}
    workers = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=Path(__file__).parent.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    found = []
    try:
        for worker in workers:
            said, _ = worker.communicate(timeout=300)
            assert worker.returncode == 0, said
            found.append(said)
    finally:
        for worker in workers:
            worker.kill()
    return found


@pytest.mark.skipif(BACKEND == "jax", reason="JAX shards one process's arrays")
def test_two_processes_equal_one(tmp_path):
    """Two processes on loopback: gRPC on TensorFlow, gloo on torch."""
    ports = free_ports(2 if BACKEND == "tensorflow" else 1)
    outputs = [tmp_path / f"{rank}.npz" for rank in (0, 1)]
    command = ["-m", "tests.two_workers"]
    said_by(
        *(
            [*command, str(rank), *ports, str(output)]
            for rank, output in enumerate(outputs)
        )
    )
    seen = [np.load(output) for output in outputs]
    for mean in two_workers.MEANS:
        expect_whole_batch(
            mean,
            [
                {key.split()[1]: x[key] for key in x if key.startswith(f"{mean} ")}
                for x in seen
            ],
        )


@pytest.mark.skipif(BACKEND != "jax", reason="elsewhere `fit` is of one process")
@pytest.mark.long
@pytest.mark.parametrize("kind", ["nan", "model"])
def test_monitor_of_two_processes_sees_what_that_of_one_does(kind, tmp_path):
    def trained(processes, watched):
        (port,), log_dir = free_ports(1), str(tmp_path / f"{processes}{watched}")
        rest = [str(processes), port, log_dir, kind, watched]
        commands = [
            ["-m", "tests.two_watched", str(rank), *rest] for rank in range(processes)
        ]
        said = said_by(*commands)
        return said, [json.loads(one.splitlines()[-1]) for one in said]

    said, (first, second) = trained(2, "watched")
    assert first["history"].keys() == second["history"].keys()
    _, (alone,) = trained(1, "watched")
    assert first["alerts"] == second["alerts"] == alone["alerts"]
    assert first["history"].keys() == alone["history"].keys()
    for tag, (steps, values) in alone["history"].items():
        if tag.startswith(("speed/", "memory/")):
            continue  # of the machine
        assert first["history"][tag][0] == steps
        np.testing.assert_allclose(
            first["history"][tag][1], values, rtol=1e-3, atol=1e-5, err_msg=tag
        )
    assert len([*(tmp_path / "2watched").glob("*.kbn")]) == 1  # the first writes
    _, (unwatched, _) = trained(2, "unwatched")
    np.testing.assert_array_equal(first["losses"], unwatched["losses"])
    if kind == "nan":
        assert first["alerts"] == [["non_finite_data", 3]]
        assert "NaN or Inf in x" in said[0]
        assert "NaN or Inf in x" not in said[1]  # nor speaks another


@pytest.mark.skipif(BACKEND == "tensorflow", reason="see test_examples.py")
def test_example_trains_the_network_of_one_process():
    (said,) = said_by(["examples/distributed.py"])
    check_distributed(said[said.index(" " * 17) :], None)


def expect_whole_batch(mean, parts):
    """`parts` are what the replicas saw of `two_workers.batch(mean)`."""
    x, dy = two_workers.batch(mean)
    exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, dy.astype("f8"))
    for name in ("y", "dx"):
        together = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(together, getattr(exact, name), atol=2e-5)
    for part in parts:
        for name in ("dgamma", "dbeta"):
            np.testing.assert_allclose(part[name], getattr(exact, name), atol=2e-5)
        np.testing.assert_allclose(part["mean"], exact.mean, rtol=1e-6)
        np.testing.assert_allclose(part["variance"], exact.variance, rtol=1e-5)


if BACKEND == "tensorflow":
    import tensorflow as tf

    from tests.replicas import two_replicas

    @pytest.fixture
    def strategy():
        return two_replicas()

    def replicate(strategy, *arrays):
        """Each array's rows, as `two_workers.ROWS` deals them out."""
        return [
            strategy.experimental_distribute_values_from_function(
                lambda c, a=a: tf.constant(
                    a[two_workers.ROWS[c.replica_id_in_sync_group]]
                )
            )
            for a in arrays
        ]

    def run(strategy, layer, x, dy, mask=None):
        weights = [layer.gamma.value, layer.beta.value]

        @tf.function
        def step(x, dy, mask=None):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, mask=mask)
            return y, *tape.gradient(y, [x, *weights], dy)

        masks = [] if mask is None else [mask]
        results = strategy.run(step, args=replicate(strategy, x, dy, *masks))
        y, dx, dgamma, dbeta = (strategy.experimental_local_results(r) for r in results)
        moving = [
            strategy.experimental_local_results(w.value)
            for w in (layer.moving_mean, layer.moving_variance)
        ]
        return [
            {
                "y": y[i].numpy(),
                "dx": dx[i].numpy(),
                "dgamma": sum(g.numpy() for g in dgamma),
                "dbeta": sum(g.numpy() for g in dbeta),
                "mean": moving[0][i].numpy(),
                "variance": moving[1][i].numpy(),
            }
            for i in (0, 1)
        ]

    def build(strategy, **arguments):
        with strategy.scope():
            layer = kbn.BatchNorm(momentum=0.0, **arguments)
            layer.build((None, 3))
        return layer

    @pytest.mark.parametrize("mean", two_workers.MEANS)
    def test_synchronized_replicas_equal_one(strategy, mean):  # D3
        layer = build(strategy, synchronized=True)
        x, dy = two_workers.batch(mean)
        expect_whole_batch(mean, run(strategy, layer, x, dy))

    def test_synchronized_replicas_honour_the_mask(strategy):  # D4
        layer = build(strategy, synchronized=True)
        x, dy = two_workers.batch(5.0)
        mask = np.arange(12) % 3 > 0
        mask[7:] = False  # the second replica has no say
        parts = run(strategy, layer, x, dy, mask)
        exact = oracle.normalize(
            x, 1.0, 0.0, -1, EPSILON, dy.astype("f8"), mask[:, None]
        )
        y = np.concatenate([part["y"] for part in parts])
        dx = np.concatenate([part["dx"] for part in parts])
        np.testing.assert_allclose(y, exact.y, atol=1e-5)
        np.testing.assert_allclose(dx, exact.dx, atol=1e-5)
        np.testing.assert_allclose(parts[1]["mean"], exact.mean, rtol=1e-6)

    def test_synchronized_replica_may_be_empty(strategy, monkeypatch):
        monkeypatch.setattr(two_workers, "ROWS", {0: slice(0, 12), 1: slice(12, 12)})
        layer = build(strategy, synchronized=True)
        x, dy = two_workers.batch(1e3)
        expect_whole_batch(1e3, run(strategy, layer, x, dy))

    def test_moving_statistics_are_averaged_by_count(strategy):  # D2
        layer = build(strategy)
        x, dy = two_workers.batch(0.0)
        x[7:] += 10
        parts = run(strategy, layer, x, dy)
        first, second = x[:7].astype("f8"), x[7:].astype("f8")
        mean = (7 * first.mean(0) + 5 * second.mean(0)) / 12
        variance = (7 * first.var(0) + 5 * second.var(0)) / 12
        for part in parts:
            np.testing.assert_allclose(part["mean"], mean, rtol=1e-5)
            np.testing.assert_allclose(part["variance"], variance, rtol=1e-5)
        np.testing.assert_allclose(array(layer.moving_mean.value), mean, rtol=1e-5)

    def test_empty_or_poisoned_replica_has_no_say(strategy, monkeypatch):  # D1, D8
        for rows, spoil in (({0: slice(0, 12), 1: slice(12, 12)}, 0), (None, np.nan)):
            if rows is not None:
                monkeypatch.setattr(two_workers, "ROWS", rows)
            layer = build(strategy)
            x, dy = two_workers.batch(2.0)
            kept = x
            if rows is None:
                kept, x = x[:7], x.copy()
                x[7:] = spoil
            parts = run(strategy, layer, x, dy)
            for part in parts:
                expected = kept.astype("f8").mean(0)
                np.testing.assert_allclose(part["mean"], expected, rtol=1e-5)
            monkeypatch.undo()

    @pytest.mark.parametrize("synchronized", [False, True])
    @pytest.mark.parametrize("average", [{"momentum": None}, {"warmup": True}], ids=str)
    def test_replicas_count_the_batches_that_entered_together(
        strategy, average, synchronized
    ):
        with strategy.scope():
            layer = kbn.BatchNorm(synchronized=synchronized, **average)
            layer.build((None, 3))
        state = oracle.State(3, EPSILON, layer.momentum, warmup=layer.warmup)
        for number in range(3):
            x, dy = two_workers.batch(float(number))
            if number == 0:
                x[:, 0] = np.nan  # of both replicas: the batch does not count there
            elif number == 1 and not synchronized:
                x[7:, 1] = np.nan  # of one: the other's share counts
            parts = run(strategy, layer, x, dy)
            kept = np.isfinite(x)
            mean = np.where(kept, x, 0).sum(0) / np.maximum(kept.sum(0), 1)
            none = np.zeros(3)
            state.update(oracle.Normalized(none, mean, none, kept.sum(0), *[none] * 3))
        np.testing.assert_array_equal(state.batches, [2, 3, 3])
        counters = strategy.experimental_local_results(layer.num_batches_tracked.value)
        for counter, part in zip(counters, parts, strict=True):
            np.testing.assert_array_equal(counter, state.batches)
            np.testing.assert_allclose(part["mean"], state.moving_mean, rtol=1e-5)

    def test_where_no_collective_is_allowed_the_update_is_local(strategy):
        layer = build(strategy)
        x, _ = two_workers.batch(0.0)
        x[7:] += 10

        @tf.function
        def step(x, condition):
            return tf.cond(condition, lambda: layer(x, training=True), lambda: x)

        strategy.run(step, args=(*replicate(strategy, x), tf.constant(True)))
        moving = strategy.experimental_local_results(layer.moving_mean.value)
        np.testing.assert_allclose(moving[0], x[:7].mean(0), atol=1e-6)
        np.testing.assert_allclose(moving[1], x[7:].mean(0), rtol=1e-5)

    def test_synchronized_call_outside_of_a_replica_says_so(strategy):
        layer = build(strategy, synchronized=True)
        with (
            strategy.scope(),
            pytest.raises(ValueError, match=r"outside of a replica.*strategy\.run"),
        ):
            layer(two_workers.batch(0.0)[0], training=True)


if BACKEND == "jax":
    import jax

    def test_synchronized_shards_equal_the_whole():
        """Mapped axes are merged over; under jit a sharded batch is whole already."""
        mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = jax.sharding.PartitionSpec("batch")
        layer = kbn.BatchNorm(synchronized=True, momentum=0.0)
        layer.build((None, 3))
        names = [v.path for v in layer.variables]
        values = [v.value for v in layer.variables]

        def step(x, values):
            mapping = list(zip(layer.variables, values, strict=True))
            with keras.StatelessScope(mapping) as scope:
                y = layer(x, training=True)
            moved = [scope.get_current_value(v) for v in layer.variables]
            return y, [v[None] for v in moved]

        x, dy = two_workers.batch(1e4)
        exact = oracle.normalize(x, 1.0, 0.0, -1, EPSILON, dy.astype("f8"))
        everywhere = jax.sharding.PartitionSpec()
        sharded = jax.shard_map(
            step, mesh=mesh, in_specs=(spec, everywhere), out_specs=(spec, spec)
        )
        (y, moved), pullback = jax.vjp(lambda x: sharded(x, values), x)
        np.testing.assert_allclose(y, exact.y, atol=2e-5)
        for shard in (0, 1):
            state = dict(zip(names, (v[shard] for v in moved), strict=True))
            mean = state[layer.moving_mean.path]
            np.testing.assert_allclose(mean, exact.mean, rtol=1e-6)
            variance = state[layer.moving_variance.path]
            np.testing.assert_allclose(variance, exact.variance, rtol=1e-5)
        (dx,) = pullback((dy, [np.zeros_like(v) for v in moved]))
        np.testing.assert_allclose(dx, exact.dx, atol=2e-5)

    def test_a_watched_fit_on_two_devices_is_that_on_one(tmp_path):
        """Not a bit of the fit is another, and its numbers are those of one device."""
        states, histories = [], []
        devices = keras.distribution.DataParallel(devices=jax.devices()[:2])
        try:
            for distribution in (None, devices):
                keras.distribution.set_distribution(distribution)
                for watched in (False, True):
                    keras.backend.clear_session(free_memory=False)
                    keras.utils.set_random_seed(0)
                    model, x, y = watched_models.sequential()
                    log_dir = tmp_path / str(distribution is None)
                    monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=2)
                    fit = {"batch_size": 16, "verbose": 0, "shuffle": False}
                    model.fit(x[:48], y[:48], callbacks=[monitor] * watched, **fit)
                    states.append([*model.get_weights()])
                    histories += [monitor.history] * watched
        finally:
            keras.distribution.set_distribution(None)
        for unwatched, watched in (states[:2], states[2:]):
            for one, other in zip(unwatched, watched, strict=True):
                np.testing.assert_array_equal(one, other)
        one, two = histories
        assert one.keys() == two.keys()
        assert "gradient_norm/global" in one
        for tag, (_, numbers) in one.items():
            np.testing.assert_allclose(two[tag][1], numbers, 1e-4, 1e-6, err_msg=tag)
