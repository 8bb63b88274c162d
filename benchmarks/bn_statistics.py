"""Population statistics: how exact, how dear, and what they do to a validation loss?

First table: `kbn.update_bn_stats` in one pass and exact, over uneven batches, against
the statistics of all data at once in float64, by what inference gives each layer; its
time beside one epoch of `predict` over the same data, both traced before.

Second table: validation loss of a short training at momentum 0.99, without and with
`kbn.callbacks.UpdateBatchNormStats`, in one pass and exact; the mean over the seeds,
the mean difference within the pairs and its 95 % interval.

    python benchmarks/bn_statistics.py [--seeds N] [--rounds N] [--quick] [--losses]
"""

import statistics

import keras
import numpy as np
import reporting
from scipy import stats
from timing import interleaved, ratio

import kbn
from kbn.surgery.statistics import Update

BATCH_SIZE = 32


def dense(depth):
    """`depth` blocks of 64, each with a batch norm."""
    network = keras.Sequential([keras.Input((64,))])
    for _ in range(depth):
        network.add(keras.layers.Dense(64))
        network.add(kbn.BatchNorm())
        network.add(keras.layers.ReLU())
        network.add(keras.layers.Dropout(0.2))
    return network


def residual(blocks):
    """Residual blocks of two convolutions of 16 channels, on 16 x 16 images."""
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(16, 3, padding="same")(x)
    for _ in range(blocks):
        y = x
        for _ in range(2):
            y = keras.layers.ReLU()(kbn.BatchNorm()(y))
            y = keras.layers.Conv2D(16, 3, padding="same")(y)
        x = x + y
    return keras.Model(inputs, kbn.BatchNorm()(x))


MODELS = {
    "2 dense layers": lambda: dense(2),
    "10 dense layers": lambda: dense(10),
    "residual, 9 batch norms": lambda: residual(4),
}


def errors(model, x):
    """Worst error of a mean in deviations, and of a variance, relative, by layer.

    Against what inference gives each batch norm of all of x at once, in float64.
    """
    norms = [layer for layer in model.layers if isinstance(layer, kbn.BatchNorm)]
    view = keras.Model(model.inputs, [layer.input for layer in norms])
    means, variances = [], []
    for layer, seen in zip(norms, view.predict(x, len(x), verbose=0), strict=True):
        rows = np.float64(seen).reshape(-1, seen.shape[-1])
        mean, variance = rows.mean(0), rows.var(0)
        own_mean, own_variance = layer.get_weights()[2:]
        means.append(
            np.max(np.abs(own_mean - mean) / np.sqrt(variance + layer.epsilon))
        )
        variances.append(
            np.max(np.abs(own_variance - variance) / (variance + layer.epsilon))
        )
    return max(means), max(variances)


def passes(model, x):
    """How often exact reads the data."""
    read = []

    class Read(keras.utils.PyDataset):
        def __getitem__(self, index):
            read.append(index)
            return x[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]

        def __len__(self):
            return -(-len(x) // BATCH_SIZE)

    Update(model, Read(), exact=True)()
    return len(read) // -(-len(x) // BATCH_SIZE)


def exactness(samples, rounds):
    """The first table."""
    print(
        f"{samples} samples in batches of {BATCH_SIZE}, the last one short; "
        f"{keras.backend.backend()}, keras {keras.__version__}, float32.\n"
    )
    print(
        "| model | one pass: error of mean | of variance | exact: error of mean | "
        "of variance | passes | one pass / epoch of predict | exact / epoch |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        model = make()
        shape = (samples, *model.input_shape[1:])
        x = np.random.default_rng(0).normal(1, 2, shape).astype("float32")
        one, exact = (
            Update(model, x, exact=e, batch_size=BATCH_SIZE) for e in (False, True)
        )
        cells = []
        for update in (one, exact):
            update()
            cells += [f"{error:.1e}" for error in errors(model, x)]
        cells.append(str(passes(model, x)))
        times = interleaved(
            {
                "predict": lambda x: model.predict(x, BATCH_SIZE, verbose=0),  # noqa: B023
                "one": lambda _: one(),  # noqa: B023
                "exact": lambda _: exact(),  # noqa: B023
            },
            x,
            rounds=rounds,
            repeats=1,
        )
        cells += [str(ratio(times[way], times["predict"])) for way in ("one", "exact")]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def loss_of(seed, callback, steps):
    """Validation loss after a short training."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1024, 64)).astype("float32") * np.geomspace(0.1, 10, 64) + 3
    y = np.tanh(x @ rng.normal(size=(64, 3)) / 20)
    model = dense(3)
    model.add(keras.layers.Dense(3))
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    train, held = slice(0, 768), slice(768, None)
    history = model.fit(
        x[train],
        y[train],
        BATCH_SIZE,
        epochs=steps // 24,
        validation_data=(x[held], y[held]),
        callbacks=callback(x[train]),
        verbose=0,
    )
    return history.history["val_loss"][-1]


def losses(seeds, lengths):
    """The second table."""
    print(f"\nMomentum 0.99, batches of {BATCH_SIZE}, seeds 0 to {seeds - 1}.\n")
    print("| steps | without | one pass | difference | exact | difference |")
    print("|---|---|---|---|---|---|")
    callbacks = (
        lambda x: kbn.callbacks.UpdateBatchNormStats(x),
        lambda x: kbn.callbacks.UpdateBatchNormStats(x, exact=True),
    )
    for steps in lengths:
        without = [loss_of(seed, lambda x: [], steps) for seed in range(seeds)]
        cells = [str(steps), f"{statistics.mean(without):.4f}"]
        for callback in callbacks:
            with_ = [loss_of(seed, callback, steps) for seed in range(seeds)]
            cells += [f"{statistics.mean(with_):.4f}", interval(with_, without)]
        print(f"| {' | '.join(cells)} |", flush=True)


def interval(after, before):
    """The mean difference within the pairs and its 95 % interval (Student's t)."""
    differences = np.subtract(after, before)
    mean, error = differences.mean(), stats.sem(differences)
    reach = stats.t.ppf(0.975, len(differences) - 1) * error
    return f"{mean:+.4f} ({mean - reach:+.4f} to {mean + reach:+.4f})"


def main():
    parser = reporting.parser(__doc__)
    parser.add_argument("--seeds", type=reporting.whole(2), default=5, metavar="N")
    parser.add_argument("--rounds", type=reporting.whole(1), default=9, metavar="N")
    parser.add_argument("--losses", action="store_true", help="only the second table")
    options = parser.parse_args()
    if options.quick:
        MODELS.pop("residual, 9 batch norms", None)
        MODELS.pop("10 dense layers", None)
        exactness(100, 2)
        losses(2, [24])
        return
    if not options.losses:
        exactness(2000, options.rounds)
    losses(options.seeds, [24, 96, 384])


if __name__ == "__main__":
    main()
