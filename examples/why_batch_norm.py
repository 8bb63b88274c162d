"""Does batch norm do what is said of it? Each claim measured, seed by seed, in pairs.

The networks of a pair have the same starting weights and see the same batches of the
same digits; one has batch norm before each activation (claims.py has them). Prints a
table and draws a figure. Then the other side: how long validation lags behind training
by how the moving statistics are averaged (lag.py), as a table and a figure.

    python why_batch_norm.py [--seeds N] [--dataset digits|mnist] [--quick] [--out DIR]
"""

import textwrap
from typing import NamedTuple

import command
import lag
import numpy as np
from claims import CLAIMS, Claim, Lab, load
from matplotlib.figure import Figure
from rich.progress import track
from scipy import stats

WITHOUT, WITH = "#D55E00", "#0072B2"  # distinct for every kind of colour vision


class Finding(NamedTuple):
    """One claim, measured: a number a seed, and what they say together."""

    claim: Claim
    without: np.ndarray  # (seeds,)
    with_: np.ndarray

    def distances(self):
        """What is compared: the values, or how far they are from 0."""
        pair = (self.without, self.with_)
        return np.abs(pair) if self.claim.better == "near 0" else np.array(pair)

    def difference(self):
        """Mean over the pairs, and its 95 % interval by Student's t."""
        before, after = self.distances()
        mean, error = np.mean(after - before), stats.sem(after - before)
        reach = stats.t.ppf(0.975, len(before) - 1) * error
        return mean, mean - reach, mean + reach

    def effect_size(self):
        """Cohen's d: the difference in pooled standard deviations."""
        before, after = self.distances()
        pooled = np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / 2)
        return (after.mean() - before.mean()) / pooled if pooled else np.inf

    def verdict(self):
        """Whether the claim holds here, as far as the interval tells."""
        _, low, high = self.difference()
        if self.claim.better == "higher":
            low, high = -high, -low
        return "yes" if high < 0 else "the reverse" if low > 0 else "not shown"

    def row(self):
        """Of the Markdown table."""
        claim = self.claim
        sides = [
            f"{side.mean():.3g} ± {side.std(ddof=1):.2g}"
            for side in (self.without, self.with_)
        ]
        mean, low, high = self.difference()
        difference = f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"
        measured = f"{claim.measured} ({claim.unit}; {claim.better} is better)"
        size = f"{self.effect_size():+.1f}"
        cells = (claim.said, measured, *sides, difference, size, self.verdict())
        return f"| {' | '.join(cells)} |"


def draw(findings, path):
    """A panel a claim: a line joins the two networks of a seed."""
    figure = Figure(figsize=(13, 10), layout="constrained")
    seeds = len(findings[0].without)
    holds = [finding.verdict() for finding in findings].count("yes")
    figure.suptitle(
        f"{holds} of {len(findings)} claims about batch norm hold on these digits\n",
        weight="bold",
        size=15,
    )
    panels = figure.subplots(3, 5)
    for axes, finding in zip(panels.flat, findings, strict=False):
        claim, verdict = finding.claim, finding.verdict()
        pair = (finding.without, finding.with_)
        axes.plot([0, 1], pair, color="0.8", linewidth=1, zorder=0)
        for x, values, colour in zip((0, 1), pair, (WITHOUT, WITH), strict=True):
            axes.scatter([x] * seeds, values, s=12, color=colour, alpha=0.4)
            mean, deviation = values.mean(), values.std(ddof=1)
            axes.errorbar(x, mean, deviation, fmt="o", color=colour, capsize=6)
        said = textwrap.fill(claim.said, 20)
        axes.set_title(f"{said}:\n{verdict}", weight="bold", size=11)
        colours = {"yes": "black", "not shown": "0.5", "the reverse": "crimson"}
        axes.title.set_color(colours[verdict])
        axes.set_xlabel(textwrap.fill(claim.measured, 34), size=8)
        axes.set_ylabel(f"{claim.unit} ({claim.better} is better)", size=9)
        axes.set_xticks([0, 1], ["without", "with"])
        axes.set_xlim(-0.4, 1.4)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(findings) :]:
        axes.set_axis_off()
    panels.flat[-1].text(
        0.5,
        0.5,
        f"small dots: {seeds} seeds,\na line joins the two\nnetworks of a seed\n\n"
        "large dots and bars:\nmean and standard\ndeviation\n\n"
        "yes: the 95 % interval of\nthe paired difference\nlies on the better side",
        ha="center",
        va="center",
        size=10,
    )
    figure.savefig(path, dpi=100)


def main():
    """Measure every claim, print the table, draw the figure."""
    parser = command.parser(__doc__)
    # An interval needs two.
    parser.add_argument("--seeds", type=command.whole(2), default=5, metavar="N")
    parser.add_argument("--dataset", choices=("digits", "mnist"), default="digits")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 2 epochs")
    command.add_out(parser, "why-batch-norm")
    options = parser.parse_args()
    seeds, epochs = (2, 2) if options.quick else (options.seeds, 10)
    x, y = load(options.dataset)
    directory = command.new_directory(parser, options.out)
    figure = directory / "why_batch_norm.png"
    values = np.empty((len(CLAIMS), 2, seeds))
    labs = {
        (batch_norm, seed): Lab(x, y, bool(batch_norm), seed, epochs)
        for seed in range(seeds)
        for batch_norm in (0, 1)
    }
    for number, *key in track([*np.ndindex(values.shape)], "Measuring"):
        values[number, *key] = CLAIMS[number].measure(labs[tuple(key)])
    findings = [
        Finding(claim, *pair) for claim, pair in zip(CLAIMS, values, strict=True)
    ]
    print("| batch norm ... | measured | without | with | difference | d | here |")
    print("|---|---|---|---|---|---|---|")
    for finding in findings:
        print(finding.row())
    draw(findings, figure)
    print(f"Figure: {figure}")
    found = lag.curves(x, y, range(seeds), options.quick)
    print(lag.table(found))
    figure = Figure(figsize=(11, 4), layout="constrained")
    figure.suptitle("Validation lags until the moving statistics have followed")
    lag.draw(found, figure.subplots(1, 2))
    figure.savefig(directory / "validation_lag.png", dpi=100)
    print(f"Figure: {directory / 'validation_lag.png'}")


if __name__ == "__main__":
    main()
