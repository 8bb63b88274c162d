"""What to do with batch norm in fine tuning? The choices side by side, seed by seed.

A network learns one half of the classes of scikit-learn's digits. Its hidden layers are
then fine-tuned, under a new last layer, on a few digits of the other half. All choices
of a seed start from the same weights and see the same batches. Prints a table.

    python fine_tuning.py [--seeds N] [--digits N]
"""

from collections.abc import Callable
from typing import NamedTuple

import command
import keras
import numpy as np
from rich.progress import track
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn

OLD, NEW = range(5), range(5, 10)  # classes
BATCH_SIZE, EPOCHS = 8, 10  # of the fine tuning
HIDDEN = 4  # layers of the network below this one are kept: Dense, norm, ReLU, ...


class Choice(NamedTuple):
    """What is done with the batch norms of `model` before and after its training."""

    name: str
    before: Callable = lambda model, x: None
    after: Callable = lambda model, x: None


def recompute(model, x):
    """Statistics of the digits that there are to train on."""
    kbn.update_bn_stats(model, x, verbose=0)


def recompute_and_freeze(model, x):
    """The same before training, where they stay then."""
    recompute(model, x)
    kbn.freeze_batch_norm(model, train_affine=True)


CHOICES = (
    Choice("train all"),
    Choice(
        "freeze statistics",
        lambda model, x: kbn.freeze_batch_norm(model, train_affine=True),
    ),
    Choice("freeze all", lambda model, x: kbn.freeze_batch_norm(model)),
    Choice("recompute after", after=recompute),
    Choice("recompute, freeze", recompute_and_freeze),
)


def build():
    """Two hidden layers of 128 and a last one of as many units as half has classes."""
    network = keras.Sequential([keras.Input((64,))])
    for _ in range(2):
        network.add(keras.layers.Dense(128))
        network.add(kbn.BatchNorm())
        network.add(keras.layers.ReLU())
    network.add(keras.layers.Dense(len(OLD)))
    return network


def train(network, x, y, rate, epochs, batch_size):
    """By plain SGD."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(rate), loss)
    network.fit(x, y, batch_size, epochs, verbose=0)


def half(x, y, classes):
    """The digits of these classes, and their labels from 0."""
    rows = np.isin(y, classes)
    return x[rows], y[rows] - min(classes)


class Seed:
    """A network that knows the old classes, and digits of the new ones."""

    def __init__(self, seed, digits):
        self.seed = seed
        x, y = load_digits(return_X_y=True)
        x = (x / 16).astype("float32")
        new_x, new_y = half(x, y, NEW)
        self.x, self.x_test, self.y, self.y_test = train_test_split(
            new_x, new_y, train_size=digits, stratify=new_y, random_state=seed
        )
        keras.utils.set_random_seed(seed)
        network = build()
        train(network, *half(x, y, OLD), rate=0.2, epochs=30, batch_size=32)
        self.weights = network.get_weights()

    def measure(self, choice):
        """Test accuracy on the new classes, in percent."""
        keras.utils.set_random_seed(self.seed)
        network = build()
        last = network.layers[-1].get_weights()
        network.set_weights(self.weights)
        network.layers[-1].set_weights(last)
        choice.before(network, self.x)
        train(network, self.x, self.y, 0.05, EPOCHS, BATCH_SIZE)
        choice.after(network, self.x)
        logits = network.predict(self.x_test, verbose=0)
        return 100 * np.mean(logits.argmax(axis=1) == self.y_test)


def row(choice, accuracies, baseline):
    """Of the Markdown table. accuracies, baseline: (seeds,)."""
    cells = [choice.name, f"{accuracies.mean():.1f} ± {accuracies.std(ddof=1):.1f}"]
    if accuracies is baseline:
        return [*cells, "", "", ""]
    differences = accuracies - baseline
    mean, error = differences.mean(), stats.sem(differences)
    reach = stats.t.ppf(0.975, len(differences) - 1) * error
    pooled = np.sqrt((accuracies.var(ddof=1) + baseline.var(ddof=1)) / 2)
    better = mean - reach > 0
    worse = mean + reach < 0
    return [
        *cells,
        f"{mean:+.2f} ({mean - reach:+.2f} to {mean + reach:+.2f})",
        f"{mean / pooled:+.1f}" if pooled else "",
        "better" if better else "worse" if worse else "not shown",
    ]


def main():
    """Measure every choice for every seed, print the table."""
    parser = command.parser(__doc__)
    # An interval needs two.
    parser.add_argument("--seeds", type=command.whole(2), default=5, metavar="N")
    parser.add_argument(
        "--digits",
        type=command.whole(10, 800),
        default=100,
        metavar="N",
        help="of the new classes to fine-tune on (100); the rest are for the test",
    )
    options = parser.parse_args()
    accuracies = np.empty((len(CHOICES), options.seeds))
    for seed in track(range(options.seeds), "Fine-tuning"):
        lab = Seed(seed, options.digits)
        accuracies[:, seed] = [lab.measure(choice) for choice in CHOICES]
    print(
        f"Test accuracy (%) on digits {min(NEW)} to {max(NEW)}, fine-tuned on "
        f"{options.digits} of them; mean ± standard deviation over {options.seeds} "
        "seeds;\nmean difference within the pairs and its 95 % interval; Cohen's d.\n"
    )
    print("| batch norm | accuracy | against train all | d | here |")
    print("|---|---|---|---|---|")
    for choice, found in zip(CHOICES, accuracies, strict=True):
        print(f"| {' | '.join(row(choice, found, accuracies[0]))} |")


if __name__ == "__main__":
    main()
