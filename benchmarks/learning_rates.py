"""At which learning rates does the demo's network train, without and with batch norm?

Prints a Markdown table: the mean and the range over the seeds of the final accuracy on
the test digits, the mean number of steps to 95 % over the seeds that got there, and how
many those were.

    python benchmarks/learning_rates.py [--seeds N] [--epochs N] [--rates R R ...]
"""

import keras
import reporting

from kbn_command import demo

LEARNING_RATES = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument("--seeds", type=reporting.whole(1), default=10, metavar="N")
    parser.add_argument("--epochs", type=reporting.whole(1), default=15, metavar="N")
    parser.add_argument(
        "--rates",
        type=reporting.positive,
        nargs="+",
        default=LEARNING_RATES,
        metavar="RATE",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.epochs, options.rates = 1, 1, options.rates[:1]
    side = "test accuracy | steps to 95 % (seeds)"
    print(f"| learning rate | without: {side} | with batch norm: {side} |")
    print("|---|---|---|---|---|")
    for rate in options.rates:
        cells = [f"{rate:g}"]
        for batch_norm in (False, True):
            cells += summarize(measure(rate, batch_norm, options))
        print("|", " | ".join(cells), "|", flush=True)


def measure(rate, batch_norm, options):
    runs = []
    for seed in range(options.seeds):
        keras.backend.clear_session(free_memory=False)
        digits = demo.load_digits(seed)
        runs.append(
            demo.train(
                digits, batch_norm, options.epochs, seed, None, learning_rate=rate
            )
        )
    return runs


def summarize(runs):
    accuracies = [run.test_accuracy[-1] for run in runs]
    steps = [s for run in runs if (s := run.steps_to(demo.TARGET)) is not None]
    mean = sum(accuracies) / len(accuracies)
    return [
        f"{mean:.1%} ({min(accuracies):.1%} to {max(accuracies):.1%})",
        f"{sum(steps) / len(steps):.0f} ({len(steps)})" if steps else "not reached (0)",
    ]


if __name__ == "__main__":
    main()
