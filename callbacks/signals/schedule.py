"""The rule on the length of a schedule of the learning rate."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .loss import epoch_loss
from .optimizers import learning_rate, learning_rates
from .remedy import Remedy, ask
from .rule import Reading, Rule
from .targets import guess
from .view import Tag, View

OVER = 0.01  # of the rate at the start, below which a schedule is over
SEEN_OVER = 1e-3  # of the largest rate, where only what it was is known
Config = Mapping[str, Any]


def _end_of_cosine(config: Config) -> float:
    is_low = config["alpha"] <= OVER
    return config["decay_steps"] + config["warmup_steps"] if is_low else math.inf


def _end_of_polynomial(config: Config) -> float:
    is_low = config["end_learning_rate"] <= OVER * config["initial_learning_rate"]
    return config["decay_steps"] if is_low and not config["cycle"] else math.inf


def _end_of_exponential(config: Config) -> float:
    if not 0 < config["decay_rate"] < 1:
        return math.inf
    return config["decay_steps"] * math.log(OVER) / math.log(config["decay_rate"])


def _end_of_inverse_time(config: Config) -> float:
    return config["decay_steps"] * (1 / OVER - 1) / config["decay_rate"]


def _end_of_pieces(config: Config) -> float:
    first, *later = config["values"]
    low = [i for i, rate in enumerate(later) if max(later[i:]) <= OVER * first]
    return config["boundaries"][low[0]] if low else math.inf


# By the class of the schedule: the step from which on its rate is next to nothing.
ENDS: Mapping[str, Callable[[Config], float]] = {
    "CosineDecay": _end_of_cosine,
    "PolynomialDecay": _end_of_polynomial,
    "ExponentialDecay": _end_of_exponential,
    "InverseTimeDecay": _end_of_inverse_time,
    "PiecewiseConstantDecay": _end_of_pieces,
}
# These are meant to come to their end.
ARRIVING = ("CosineDecay", "PolynomialDecay")


@dataclass(frozen=True)
class ScheduleLength(Rule):
    """A schedule of the learning rate does not fit the length of the training.

    Steps until its rate is below 1 % of the first, over those that `fit` plans: a note
    below `short`, as the steps after it change next to nothing; and above `long`, as
    the training ends while the rate is still high. A warning once it is over and the
    loss of an epoch is above `learned` times that of guessing. Of Keras' CosineDecay
    and PolynomialDecay; and of ExponentialDecay, InverseTimeDecay and
    PiecewiseConstantDecay, which have no end to come to and are only too short. Of any
    other, or of a callback: the step from which on the rate has been below 0.1 % of the
    largest, for a tenth of the training. Only of an optimizer that had taken no step,
    in a fit of several epochs.

    No unit. Source: kbn's own: between them a schedule covers most of the training.
    """

    title: ClassVar = "the schedule does not fit the training"

    short: float = 0.6
    long: float = 2.0
    learned: float = 0.5

    reads: ClassVar = (learning_rate, learning_rates)
    keeps: ClassVar[Mapping[Tag, int]] = {
        learning_rate: 100,
        learning_rates: 100,
        epoch_loss: 1,
        guess: 1,
    }

    def readings(self, view: View) -> Iterable[Reading]:
        planned = view.record.planned_steps
        if not planned or not view.record.is_from_scratch:
            return
        for optimizer in view.record.optimizers:
            kind, end = _schedule(optimizer)
            if not math.isfinite(end):
                kind, end = "", _seen_end(view, str(optimizer.get("name")), planned)
            share = end / planned
            if not math.isfinite(share):
                continue
            is_short = share < 1 or kind not in ARRIVING
            limit = self.short if is_short else self.long
            is_lost = view.step > end and not self._has_learned(view)
            level = "warning" if is_short and is_lost else "info"
            yield Reading(str(optimizer["name"]), share, limit, level, is_short)

    def _has_learned(self, view: View) -> bool:
        loss, guessed = view.newest(epoch_loss), view.newest(guess)
        if loss is None or guessed is None:  # not known
            return True
        return loss < self.learned * guessed

    def explain(self, reading: Reading, view: View) -> str:
        planned = view.record.planned_steps or 0
        end = f"{reading.value * planned:.0f}"
        if reading.below:
            return (
                f"The learning rate is next to 0 from step {end} on, of {planned} that "
                "are planned: what comes after it changes nothing."
            )
        return (
            f"The schedule of the learning rate ends at step {end}, the training at "
            f"step {planned}, with a rate that is still high."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Let the schedule end with the training."""
        name, planned = reading.where, view.record.planned_steps or 0
        (optimizer,) = [x for x in view.record.optimizers if x["name"] == name]
        if not math.isfinite(_schedule(optimizer)[1]):
            return ask("Keep the learning rate up until the loss has fallen.")
        config = optimizer["settings"]["learning_rate"]["config"]
        what = "decay_steps" if "decay_steps" in config else "boundaries"
        old, warm_up = config[what], config.get("warmup_steps", 0)
        new: int | tuple[int, ...]
        # Others than a cosine end after several times their decay_steps.
        if what == "boundaries":
            new = tuple(max(1, round(x / reading.value)) for x in old)
        else:
            new = max(1, planned - warm_up if warm_up else round(old / reading.value))
        shown = [*new] if isinstance(new, tuple) else new
        return Remedy(
            "optimizer",
            what,
            (name,) if len(view.record.optimizers) > 1 else (),
            old=tuple(old) if what == "boundaries" else old,
            new=new,
            words=f"Let the schedule end with the training: {what}={shown}.",
        )


def _schedule(optimizer: Mapping[str, Any]) -> tuple[str, float]:
    """Its class, and its end: infinite where that is not known."""
    settings = optimizer.get("settings") or {}
    known = settings.get("learning_rate")
    is_counted = not settings.get("gradient_accumulation_steps")
    if not isinstance(known, Mapping) or not is_counted:
        return "", math.inf
    kind, config = str(known.get("class_name")), known.get("config") or {}
    try:
        return kind, float(ENDS[kind](config)) if kind in ENDS else math.inf
    # A log of another version of Keras, or a decay by 0.
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return kind, math.inf


def _seen_end(view: View, optimizer: str, planned: int) -> float:
    """The first step of those, up to now, at which the rate was next to nothing."""
    tag = learning_rate.tag
    if tag not in view:
        tag = learning_rates.tag_of(optimizer)
    rate, largest = view.get(tag), view.largest(tag)
    if rate is None or largest is None or not 0 < rate <= SEEN_OVER * largest:
        return math.inf
    end = view.step
    for point in reversed(view.points(tag)):
        if point.value > SEEN_OVER * largest:
            break
        end = point.step
    return end if view.step - end >= 0.1 * planned else math.inf
