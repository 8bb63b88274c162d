"""The demo's picture: loss curves and weight bands of a run without and one with."""

from pathlib import Path

import numpy as np

from kbn.demo import LEARNING_RATE, Curves

# Okabe and Ito's vermilion and blue: distinct for every kind of colour vision, and in
# print (https://jfly.uni-koeln.de/color/).
WITHOUT, WITH = "#D55E00", "#0072B2"
GUESSING = float(np.log(10))  # nats: the loss of ten equal probabilities


def draw_picture(without: Curves, with_: Curves, path: Path) -> None:
    """Write a PNG: losses above, 5-25-50-75-95% bands of the weights below."""
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def draw_losses(axes: Axes) -> None:
        for curves, colour, name in (
            (without, WITHOUT, "without batch norm"),
            (with_, WITH, "with batch norm"),
        ):
            axes.plot(curves.steps, curves.train_loss, color=colour, linewidth=2)
            axes.plot(curves.steps, curves.test_loss, ":", color=colour, linewidth=1.5)
            axes.annotate(
                f"{name}:\n{curves.test_accuracy[-1]:.1%} test accuracy",
                (curves.steps[-1], curves.test_loss[-1]),
                xytext=(8, 0),
                textcoords="offset points",
                color=colour,
                fontweight="bold",
                va="center",
                annotation_clip=False,
            )
        axes.axhline(
            GUESSING,
            color="0.6",
            linewidth=1,
            linestyle="--",
            label="guessing",
            zorder=0,
        )
        axes.plot([], [], color="0.3", linewidth=2, label="training digits")
        axes.plot([], [], ":", color="0.3", linewidth=1.5, label="test digits")
        axes.legend(loc="lower left", frameon=False)
        axes.set_yscale("log")
        axes.set_ylabel("cross-entropy (nats)")
        axes.set_xlabel("training step")

    def draw_bands(axes: Axes, curves: Curves, colour: str, name: str) -> None:
        bands = np.transpose(curves.quantiles)  # (5, looks)
        axes.fill_between(
            curves.steps, bands[0], bands[4], color=colour, alpha=0.25, linewidth=0
        )
        axes.fill_between(
            curves.steps, bands[1], bands[3], color=colour, alpha=0.45, linewidth=0
        )
        axes.plot(curves.steps, bands[2], color=colour, linewidth=2)
        for quantile, label in ((0, "5%"), (2, "median"), (4, "95%")):
            axes.annotate(
                label,
                (curves.steps[-1], bands[quantile, -1]),
                xytext=(4, 0),
                textcoords="offset points",
                color="0.3",
                fontsize=9,
                va="center",
                annotation_clip=False,
            )
        axes.set_title(
            f"{name}: 90% of the weights\nend between "
            f"{bands[0, -1]:+.2f} and {bands[4, -1]:+.2f}",
            color=colour,
            fontsize=11,
            fontweight="bold",
            loc="left",
        )
        axes.set_xlabel("training step")

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: dict[str, Axes] = figure.subplot_mosaic(
        [["loss", "loss"], ["without", "with"]]
    )
    panels["with"].sharey(panels["without"])
    figure.suptitle(
        f"Same network, same learning rate ({LEARNING_RATE:g}): "
        f"{with_.test_accuracy[-1]:.0%} right with batch norm, "
        f"{without.test_accuracy[-1]:.0%} without",
        fontsize=14,
        fontweight="bold",
    )
    draw_losses(panels["loss"])
    draw_bands(panels["without"], without, WITHOUT, "Without batch norm")
    draw_bands(panels["with"], with_, WITH, "With batch norm")
    panels["without"].set_ylabel(
        "weights of the first Dense layer\n(bands: 5-95%, 25-75%)"
    )
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    figure.savefig(path, dpi=110)
