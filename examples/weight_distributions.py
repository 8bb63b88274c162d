"""How the weights and activations of a network move in training, with and without.

Draws ridges as in TensorBoard, and logs the same to
TensorBoard with the monitor.

    python weight_distributions.py [--epochs N] [--out DIR]
"""

import command
import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn

RUNS = {"without batch norm": "#D55E00", "with batch norm": "#0072B2"}
BATCH_SIZE, STEPS = 32, 42  # an epoch of 1344 digits
LEARNING_RATE = 0.5  # of those at which both networks train well
SHOWN = {
    "weights of hidden layer 2": np.linspace(-0.4, 0.4, 81),
    "what enters its ReLUs": np.linspace(-4, 4, 81),
}


def build(batch_norm):
    """Two hidden layers of 128; every layer named, so that TensorBoard overlays."""
    network = keras.Sequential([keras.Input((64,))], name="digits")
    for i in (1, 2):
        network.add(keras.layers.Dense(128, name=f"hidden_{i}"))
        if batch_norm:
            network.add(kbn.BatchNorm(momentum=0.9, name=f"batch_norm_{i}"))
        network.add(keras.layers.ReLU(name=f"relu_{i}"))
    network.add(keras.layers.Dense(10, name="logits"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(LEARNING_RATE), loss, metrics=["accuracy"])
    return network


class Recorder(keras.callbacks.Callback):
    """Histograms before training and after every epoch."""

    def __init__(self, x):
        super().__init__()
        self.x = x
        self.looks = {name: [] for name in SHOWN}

    def on_train_begin(self, logs=None):
        """Look at the untrained network."""
        relu = self.model.get_layer("relu_2")
        self.view = keras.Model(self.model.inputs[0], relu.input)
        self.on_epoch_end(-1)

    def on_epoch_end(self, epoch, logs=None):
        """Add a histogram of each of SHOWN."""
        kernel = self.model.get_layer("hidden_2").get_weights()[0]
        # As in training, by the statistics of the batch; then as if nothing had been.
        weights = self.model.get_weights()
        entering = keras.ops.convert_to_numpy(self.view(self.x, training=True))
        self.model.set_weights(weights)
        values = kernel, entering
        for (name, edges), array in zip(SHOWN.items(), values, strict=True):
            inside = np.clip(array, edges[0], edges[-1])
            self.looks[name].append(np.histogram(inside, edges, density=True)[0])


def draw_ridges(axes, edges, looks, colour):
    """One ridge a look, the latest in front."""
    middles = (edges[1:] + edges[:-1]) / 2
    distance = STEPS  # between two baselines, on the axis of steps
    height = 4 * distance / np.max(looks)
    for number, look in enumerate(looks):
        base = number * distance
        ridge = base - height * look
        shade = 0.25 + 0.6 * number / max(1, len(looks) - 1)
        axes.fill_between(middles, base, ridge, color="white", zorder=number)
        axes.fill_between(
            middles, base, ridge, color=colour, alpha=shade, linewidth=0, zorder=number
        )
        axes.plot(middles, ridge, color="white", linewidth=0.8, zorder=number)
    axes.set_ylim(distance * (len(looks) - 0.7), -4.3 * distance)  # downwards
    axes.set_yticks(range(0, distance * len(looks), 2 * distance))
    axes.spines[["top", "right", "left"]].set_visible(False)


def main():
    """Train both networks, draw their ridges."""
    parser = command.parser(__doc__)
    parser.add_argument("--epochs", type=command.whole(1), default=10, metavar="N")
    command.add_out(parser, "weight-distributions")
    options = parser.parse_args()
    epochs = options.epochs
    out = command.new_directory(parser, options.out)
    digits, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (digits / 16).astype("float32"),
        labels,
        train_size=BATCH_SIZE * STEPS,
        stratify=labels,
        random_state=0,
    )
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 2, sharex="row", sharey=True)
    for column, (run, colour) in enumerate(RUNS.items()):
        keras.utils.set_random_seed(0)  # the same starting weights and batches
        recorder = Recorder(x_test)
        log_dir = out / "logs" / run.replace(" ", "_")
        monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=STEPS // 2)
        network = build(run == "with batch norm")
        network.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=[recorder, monitor])
        accuracy = network.evaluate(x_test, y_test, verbose=0)[1]
        print(f"{run}: test accuracy {accuracy:.1%}")
        for axes, (name, edges) in zip(panels[:, column], SHOWN.items(), strict=True):
            looks = recorder.looks[name]
            draw_ridges(axes, edges, looks, colour)
            middles = (edges[1:] + edges[:-1]) / 2
            spreads = [np.sqrt(np.average(middles**2, weights=look)) for look in looks]
            grows = f"root mean square {spreads[0]:.2f} to {spreads[-1]:.2f}"
            print(f"  {name}: {grows}")
            axes.set_title(
                f"{run}: {name}\n{grows}",
                color=colour,
                weight="bold",
                size=11,
                loc="left",
            )
            axes.set_xlabel("value")
    for axes in panels[:, 0]:
        axes.set_ylabel("training step")
    picture = out / "weight_distributions.png"
    figure.savefig(picture, dpi=100)
    print(f"Figure: {picture}")
    print(f"Now run: tensorboard --logdir {out / 'logs'}")


if __name__ == "__main__":
    main()
