"""The demo's picture: loss curves and weight bands of a run without and one with."""

from pathlib import Path
from typing import Any

import numpy as np

from kbn_command.demo import Curves

# Okabe and Ito's vermilion and blue: distinct for every kind of colour vision, and in
# print (https://jfly.uni-koeln.de/color/).
WITHOUT, WITH = "#D55E00", "#0072B2"
GUESSING = float(np.log(10))  # nats: the loss of ten equal probabilities
LINE = 0.085  # of the panel's height: a line of text
ALIKE = 8  # scales of weights that differ by less are drawn on one axis

Axes = Any


def draw_picture(
    without: Curves, with_: Curves, learning_rate: float, path: Path
) -> None:
    """Write a PNG: losses above, 5-25-50-75-95% bands of the weights below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels: dict[str, Axes] = figure.subplot_mosaic(
        [["loss", "loss"], ["without", "with"]]
    )
    if _are_alike(without, with_):
        panels["with"].sharey(panels["without"])
    figure.suptitle(
        f"Same network, same learning rate ({learning_rate:g}): "
        f"{with_.test_accuracy[-1]:.0%} right with batch norm, "
        f"{without.test_accuracy[-1]:.0%} without",
        fontsize=14,
        fontweight="bold",
    )
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
        axes.set_xlim(0, with_.steps[-1])
        axes.set_xlabel("training step")
    _draw_losses(panels["loss"], without, with_)
    _draw_bands(panels["without"], without, WITHOUT, "Without batch norm")
    _draw_bands(panels["with"], with_, WITH, "With batch norm")
    panels["without"].set_ylabel(
        "weights of the first Dense layer\n(bands: 5-95%, 25-75%)"
    )
    figure.savefig(path, dpi=110)


def _are_alike(without: Curves, with_: Curves) -> bool:
    """Whether one axis shows the weights of both runs."""
    scales = [_largest(curves) for curves in (without, with_)]
    return max(scales) < ALIKE * min(scales)


def _largest(curves: Curves) -> float:
    """The largest of the quantiles, without regard to sign or to what is not finite."""
    sizes = np.abs(curves.quantiles)
    return float(sizes[np.isfinite(sizes)].max())  # the starting weights are finite


def _finite_looks(values: Any) -> int:
    """The number of looks before the first one that is not finite."""
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return len(finite) if finite.all() else int(np.argmin(finite))


def _draw_losses(axes: Axes, without: Curves, with_: Curves) -> None:
    runs = ((without, WITHOUT, "without"), (with_, WITH, "with"))
    for curves, colour, _ in runs:
        axes.plot(curves.steps, curves.train_loss, color=colour, linewidth=2)
        axes.plot(curves.steps, curves.test_loss, ":", color=colour, linewidth=1.5)
        known = _finite_looks(curves.train_loss)
        if known < len(curves.steps):
            last = curves.steps[known - 1], curves.train_loss[known - 1]
            axes.plot(*last, "X", color=colour, markersize=10, clip_on=False)
    axes.axhline(
        GUESSING, color="0.6", linewidth=1, linestyle="--", label="guessing", zorder=0
    )
    axes.plot([], [], color="0.3", linewidth=2, label="training digits")
    axes.plot([], [], ":", color="0.3", linewidth=1.5, label="test digits")
    axes.legend(loc="best", frameon=False)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1), max(high, 5))  # all of a decade has ticks that are short
    axes.set_ylabel("cross-entropy (nats)")
    low, high = np.log(axes.get_ylim())
    ends: list[float] = []
    notes = []
    for curves, _, which in runs:
        known = _finite_looks(curves.test_loss)
        end = float(np.log(curves.test_loss[known - 1]))
        ends.append((end - low) / (high - low))
        note = f"{which} batch norm:\n{curves.test_accuracy[-1]:.1%} test accuracy"
        if known < len(curves.steps):
            note += f"\nloss not finite from step {curves.steps[known]}"
        notes.append(note)
    lines = max(note.count("\n") + 1 for note in notes)
    heights = _apart(ends[0], ends[1], lines * LINE)
    for (_, colour, _), note, height in zip(runs, notes, heights, strict=True):
        axes.annotate(
            note,
            (1, height),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _apart(first: float, second: float, least: float) -> tuple[float, float]:
    """The two heights, moved apart where texts of that height would overlap."""
    missing = least - abs(first - second)
    if missing <= 0:
        return first, second
    shift = missing / 2 if first >= second else -missing / 2
    return first + shift, second - shift


def _draw_bands(axes: Axes, curves: Curves, colour: str, name: str) -> None:
    known = _finite_looks(curves.quantiles)
    steps = curves.steps[:known]
    bands = np.transpose(curves.quantiles[:known])  # (5, looks)
    for outer, alpha in ((0, 0.25), (1, 0.45)):
        axes.fill_between(
            steps, bands[outer], bands[4 - outer], color=colour, alpha=alpha, lw=0
        )
    axes.plot(steps, bands[2], color=colour, linewidth=2)
    for quantile, label in ((0, "5%"), (2, "median"), (4, "95%")):
        axes.annotate(
            label,
            (steps[-1], bands[quantile, -1]),
            xytext=(4, 0),
            textcoords="offset points",
            color="0.3",
            fontsize=9,
            va="center",
            annotation_clip=False,
        )
    ends = (
        f"90% of the weights\nend between {bands[0, -1]:+.3g} and {bands[4, -1]:+.3g}"
    )
    if known < len(curves.steps):
        ends = f"weights\nnot finite from step {curves.steps[known]}"
    axes.set_title(
        f"{name}: {ends}", color=colour, fontsize=11, fontweight="bold", loc="left"
    )
