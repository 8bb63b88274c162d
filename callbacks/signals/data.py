"""What goes into the model: columns of its inputs, their scale, validation beside."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import rows
from .activations import activation_std, dead_units, input_mean, input_std, saturated
from .batch_norm import merge_moments
from .loss import NO_BETTER, train_loss
from .registry import Chart, Guide, signal
from .remedy import Remedy, ask
from .rule import Reading, Rule
from .shift import activation_shift, merged
from .subjects import Array, Input, Moments
from .targets import guess
from .view import View
from .weights import update_ratio

# A last axis of more columns is none of features; of more elements, a part is read.
COLUMNS, ELEMENTS = 4096, 2**20


class Columns(NamedTuple):
    """The largest column of an input; `small`, `offset` of all: see their signals."""

    number: int
    mean: float
    std: float
    small: float
    offset: float


def _moments_of_columns(x: Any, given: Input) -> Any:
    """(1 + 2 C,), of the last axis; (1,) of an input without columns."""
    if x.ndim < 2 or not 1 < x.shape[-1] <= COLUMNS:
        return np.zeros(1)
    flat = x.reshape(-1, x.shape[-1])
    return rows.moments_row(flat[:: -(-flat.size // ELEMENTS)], [-1])


def columns_of(elements: float, mean: Array, variance: Array) -> Columns:
    """What is told of an input's columns, from mean and variance of each: (C,)."""
    mean, variance = (np.where(np.isfinite(x), x, 0.0) for x in (mean, variance))
    size, spread = np.sqrt(np.square(mean) + variance), np.sqrt(variance.sum())
    number = int(np.argmax(size))
    # A column of zeros, as at the border of an image, lacks nothing.
    small = np.mean(size[size > 0] < 0.01 * size[number]) if size[number] else 0.0
    offset = np.linalg.norm(mean) / spread if spread else np.nan
    largest = float(mean[number]), float(np.sqrt(variance[number]))
    return Columns(number, *largest, float(small), float(offset))


def _columns(given: Input) -> tuple[Columns] | None:
    replicas = given.rows.get("inputs/<name>/column")  # (replicas, 1 + 2 C)
    if replicas is None or replicas.shape[1] < 2:
        return None
    parts = [Moments(row[0], *np.split(row[1:], 2)) for row in replicas]
    return (columns_of(*merge_moments(parts)),)


_LARGEST = Chart("Health", "largest column of the inputs")


@signal(
    "inputs/<name>/column",
    of=Input,
    row=_moments_of_columns,
    given=_columns,
    chart=_LARGEST,
)
def column(columns: Columns) -> float:
    """Number of the input's largest column, from 0: of the largest root mean square.

    A column is an index of the last axis, of at most 4096. Of a large input a part is
    read.
    """
    return float(columns.number)


@signal("inputs/<name>/column_mean", of=Input, given=_columns, chart=_LARGEST)
def column_mean(columns: Columns) -> float:
    """Mean of the input's largest column."""
    return columns.mean


@signal("inputs/<name>/column_std", of=Input, given=_columns, chart=_LARGEST)
def column_std(columns: Columns) -> float:
    """Standard deviation of the input's largest column: 0 of one that is constant."""
    return columns.std


@signal(
    "inputs/<name>/small_columns",
    of=Input,
    given=_columns,
    unit="share of the columns that are not all 0, 0 to 1",
    chart=Chart("Health", "small columns of the inputs"),
)
def small_columns(columns: Columns) -> float:
    """Share of an input's columns whose root mean square is below 1 % of the largest's.

    They make less than 1 % of what the first layer gives, and are hardly learned from.
    """
    return columns.small


@signal(
    "inputs/<name>/offset",
    of=Input,
    given=_columns,
    unit="standard deviations",
    chart=Chart("Health", "distance of the inputs from 0"),
)
def input_offset(columns: Columns) -> float | None:
    """`sqrt(sum(mean^2) / sum(variance))` over an input's columns.

    So many times are the outputs of the first layer, at random weights, farther from 0
    than they differ between examples.
    """
    return columns.offset if np.isfinite(columns.offset) else None


@dataclass(frozen=True)
class InputScale(Rule):
    """The inputs are far from zero mean and unit spread.

    |mean| above `mean` or standard deviation above `std` of an input, at its first
    look, where a kernel is the first to multiply it: not where it is an index, nor
    behind a layer that scales or normalizes, nor where that kernel's outputs are
    normalized next; past reshapes and augmentation, and into nested models. Of a model
    that is no graph, where it has one input of numbers.

    Or both below `least`, or the deviation 0: all its elements are the same. A
    "warning" where the loss after 100 steps is no better than that of guessing.

    "info": Adam often copes. A "warning" where it shows harm: more than half of the
    columns are below 1 % of the largest; the columns together lie more than `offset` of
    their standard deviations from 0; a step changes the first kernel by more than
    `ratio` of itself; that layer is dead, saturated, or has a standard deviation above
    `outputs`; or the loss is above `guesses` times that of guessing, after 100 steps or
    where a step moves that layer not at all: a softmax of 0 and 1 passes no gradient.

    In units of the input. Sources: DLCheck (mean 10, standard deviation 100); measured
    on digits of 0 to 255, wine and breast cancer: Adam on images 0.03 and 80, SGD 0.3
    to 10; columns of unequal size 0.81 to 0.86 in the place of 0.96.
    """

    title: ClassVar = "the inputs are badly scaled"

    mean: float = 10.0
    std: float = 100.0
    least: float = 1e-3
    offset: float = 10.0
    ratio: float = 0.3
    outputs: float = 1000.0
    guesses: float = 3.0

    reads: ClassVar = (
        input_mean,
        update_ratio,
        activation_std,
        dead_units,
        saturated,
        train_loss,
    )
    keeps: ClassVar = {input_mean: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        values = view.under(input_mean)
        for name in [x.removesuffix("/mean") for x in values if x.endswith("/mean")]:
            first = view.record.input(name)
            if first.get("fate") != "kernel":
                continue
            mean = abs(view.first(input_mean.tag_of(name)) or 0.0)
            std = view.first(input_std.tag_of(name)) or 0.0
            if std == 0 or max(mean, std) < self.least:
                level = "warning" if _is_guessing(view) else "info"
                yield Reading(name, std, self.least, level, below=True)
                continue
            pairs = [(mean, self.mean), (std, self.std)]
            value, limit = max(pairs, key=lambda pair: pair[0] / pair[1])
            harm = self._harm(name, str(first.get("layer")), view)
            yield Reading(name, value, limit, "warning" if harm else "info")

    def _harm(self, name: str, layer: str, view: View) -> str:
        """What shows that it does harm; empty if nothing does."""
        small = view.get(small_columns.tag_of(name)) or 0.0
        ratios = view.under(update_ratio)
        own = [x for k, x in ratios.items() if layer in k.split("/")]
        moved = max(own, default=0.0)
        dead, flat, spread = (
            view.get(one.tag_of(layer)) or 0.0
            for one in (dead_units, saturated, activation_std)
        )
        offset = view.get(input_offset.tag_of(name)) or 0.0
        loss, guessed = view.get(train_loss), view.get(guess)
        if small > 0.5:
            return f"{small:.0%} of its columns are below 1% of the largest"
        if offset > self.offset:
            return f"it lies {offset:.2g} standard deviations from 0"
        if moved > self.ratio:
            return f"this step changed {layer} by {moved:.2g} of itself"
        if dead > 0.7 or flat > 0.6:
            what = "units are dead" if dead > 0.7 else "outputs are saturated"
            return f"{max(dead, flat):.0%} of the {what} in {layer}"
        if spread > self.outputs:
            return f"the outputs of {layer} have standard deviation {spread:.2g}"
        is_still = bool(own) and not moved
        if loss and guessed and loss > self.guesses * guessed:
            stuck = f", and this step did not move {layer}" * is_still
            if view.step >= 100 or is_still:
                return f"the loss is {loss / guessed:.2g} times that of guessing{stuck}"
        return ""

    def explain(self, reading: Reading, view: View) -> str:
        values = view.under(input_mean)
        name = reading.where
        shown = _shown(values, f"{name}/mean", f"{name}/std")
        if reading.below:
            means = "all its elements are the same, and there is nothing to learn from"
            if reading.value:
                means = "the first layer makes next to nothing of it"
            return f"The input {name} {shown}: {means}."
        harm = self._harm(name, str(view.record.input(name).get("layer")), view)
        number, which = values.get(f"{name}/column"), ""
        if number is not None:
            largest = _shown(values, f"{name}/column_mean", f"{name}/column_std")
            which = f"; its largest column, {number:.0f}, {largest}"
        means = harm or (
            "the gradients of the first layer are as large, and one learning rate does "
            "not fit all layers"
        )
        return f"The input {name} {shown}{which}: {means}."

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Normalize the inputs first, with a Normalization that is adapted to them."""
        name, values, drop = reading.where, view.under(input_mean), ""
        if reading.below and not reading.value:
            return ask(f"See why the input {name} is the same for all examples.")
        number = values.get(f"{name}/column")
        if number is not None:
            mean, std = values[f"{name}/column_mean"], values[f"{name}/column_std"]
            if std <= 1e-4 * abs(mean):
                drop = f"Drop column {number:.0f}, which is constant. "
        return Remedy(
            "insert",
            "Normalization",
            (name,),
            words=f"{drop}Adapt a keras.layers.Normalization to the training data and "
            "put it first, or for images Rescaling(1 / 255).",
        )


def _is_guessing(view: View) -> bool:
    """Whether 100 steps have brought the loss not below that of guessing."""
    loss, guessed = view.get(train_loss), view.newest(guess)
    if loss is None or not guessed or view.step < 100:
        return False
    return loss >= NO_BETTER * guessed


def _shown(values: Mapping[str, float], mean: str, std: str) -> str:
    words = (("mean", values.get(mean)), ("standard deviation", values.get(std)))
    known = [f"{word} {value:.3g}" for word, value in words if value is not None]
    return f"has {', '.join(known)}"


def columns_row(x: Any, given: Input) -> Any:
    """See `rows.units_row`: the units are columns, as of `inputs/<name>/column`."""
    return rows.units_row(x, -1) if x.ndim > 1 and len(x) > 1 else np.zeros(1)


def _both(given: Input) -> tuple[Array, Array] | None:
    training, validation = given.rows["skew/<name>"], given.validation
    if validation is None or validation.shape[1:] != training.shape[1:]:
        return None
    return (merged(training), merged(validation)) if training.shape[1] > 2 else None


@signal(
    "skew/<name>",
    of=Input,
    row=columns_row,
    given=_both,
    unit="standard deviations in training",
    guide=Guide(healthy=(0, 1), sick=(None, 3)),
    source="training-serving skew, Google's guidelines for model quality",
    chart=Chart("Health", "validation data beside the batch"),
)
def skew(training: Array, validation: Array) -> float | None:
    """How far the validation data lie from the batch, column by column.

    As `activation_shift`, of the columns of an input: the distance between means and
    deviations, less what two samples of the same data would differ by. From the first
    validation on, where `validation_data` are NumPy arrays: a batch of anything else
    cannot be looked at without taking it.

    training, validation: (2 + 2 columns,), examples, noise, means and deviations.
    """
    value: float | None = activation_shift(training, validation)
    return value


@dataclass(frozen=True)
class Skewed(Rule):
    """The validation data are of another kind than the training data.

    `skew` of an input above `deviations`. Other scaling, units or preprocessing show
    so; classes in other proportions, augmentation and later times of a series do not,
    as a rule.

    Unit: standard deviations of the training batch. Source: measured on healthy
    networks of the zoo, at most 0.3; digits times 255 beside digits: 460.
    """

    title: ClassVar = "validation data are of another kind"

    deviations: float = 3.0

    reads: ClassVar = (skew,)

    def readings(self, view: View) -> Iterable[Reading]:
        for name, value in view.under(skew).items():
            yield Reading(name, value, self.deviations)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"In the input {reading.where}, the validation data lie "
            f"{reading.value:.2g} standard deviations from the training data: what is "
            "measured on them is of another task."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Prepare both in one way."""
        return ask(
            "Prepare the validation data by the same code as the training data: the "
            "same scaling, with the training data's numbers, and the same units."
        )
