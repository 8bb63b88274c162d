"""Rules on the learning rate: by how far the first steps move the weights."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from .gradients import global_norm
from .loss import NO_BETTER, epoch_loss, is_slowed, train_loss
from .optimizers import learning_rate, learning_rates
from .record import PLAIN, kind_of
from .remedy import (
    USUAL,
    USUAL_RATE,
    Remedy,
    change_rate,
    keep_float32,
    of_optimizer,
    rate_at,
    set_rate,
)
from .rule import Reading, Rule
from .targets import guess
from .view import View
from .weights import update_from_init

STEPS = 32  # of the beginning, which show what the rate does to the initial weights
AIM = 0.01  # the update of the first step that a rate to go to would make
FAR_ABOVE = 5.0  # times
LARGEST = 1.0  # rate to go to
CLIPS = ("global_clipnorm", "clipnorm", "clipvalue")  # arguments of optimizers
TIGHT = 100.0  # times that gradients are above what they are clipped to


class _OfRate(Rule):
    """What both rules measure: the u of `LearningRateTooHigh`."""

    reads: ClassVar = (
        update_from_init,
        learning_rate,
        learning_rates,
        train_loss,
        epoch_loss,
    )
    keeps: ClassVar = {
        update_from_init: 1,
        learning_rate: 1,
        learning_rates: 1,
        train_loss: 1,
        epoch_loss: 100,
        guess: 1,
    }

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A rate whose first step would move the weights by 1e-2 of their size.

        At least twice or at most half the rate. Where that is not known, a tenth of it,
        or the usual one, at least ten times the rate.
        """
        if view.record.is_half:
            return keep_float32()
        to, rate = fitting_rate(view, reading.where), rate_at(view, reading.where)
        if rate is not None:
            usual, nearest = (10, 2) if reading.below else (0.1, 0.5)
            bound = max if reading.below else min
            kind = kind_of(view.record.optimizer_of(reading.where))
            known = USUAL.get(kind, USUAL_RATE) if reading.below else rate
            to = bound(known, rate * usual) if to is None else bound(to, rate * nearest)
        more = "" if reading.below else ", and start anew"
        return set_rate(view, reading.where, to, reading.below, more)


@dataclass(frozen=True)
class LearningRateTooHigh(_OfRate):
    """The first steps throw the weights far, and the loss has not fallen since.

    The largest u of the looks in the first 32 steps above `update`, while the loss is
    above 90 % of the first that was logged, or of that of guessing. Once it has fallen,
    the rate is still the cause of dead units, of drifting weights and the like. Not
    where the other first steps of an adaptive optimizer are small: a constraint, or a
    pruning, has rewritten the weights.
    u = ||w_after - w_before|| / ||w_0||, the median over the kernels that an optimizer
    trains, ||w_0|| at least that of weights of deviation 1 / sqrt(inputs of a unit).
    Beside the weights as they are, the illness hides itself: Adam at 0.5 has 3.1, 0.69,
    0.28, 0.10 in steps 1, 2, 4, 8.

    No unit. Source: kbn's own measurements, on 18 networks: healthy up to 0.27, Adam at
    0.1 0.5, at 0.5 2.6, SGD at 5 0.6 to 1.5. Batch norm may learn at 1.7: its loss
    falls.
    """

    title: ClassVar = "the learning rate is too high"

    update: float = 0.3
    patience: int = 4

    reads_broken: ClassVar = True  # by weights that were thrown too far

    def readings(self, view: View) -> Iterable[Reading]:
        """Of each optimizer; good where the loss has fallen."""
        for reading in self.suspicions(view):
            yield reading._replace(value=0.0) if _is_down(view) else reading

    def suspicions(self, view: View) -> Iterable[Reading]:
        """Of each optimizer, wherever the loss is."""
        if train_loss not in view or view.first(train_loss) is None or view.step == 1:
            return
        if view.record.is_half and not math.isfinite(view[train_loss]):
            return  # float16 overflows at any rate
        for name, updates in _early(view).items():
            largest = 0.0 if _is_fitting(view, name) else max(updates.values())
            yield Reading(name, largest, self.update)

    def explain(self, reading: Reading, view: View) -> str:
        moved = (
            f"One of the first steps moved the weights by {reading.value:.2g} of their "
            "size at the start"
        )
        if _is_down(view):
            return f"{moved}. The loss has fallen since; what that step did has stayed."
        return f"{moved}, and the loss is no better than then or than guessing."


@dataclass(frozen=True)
class LearningRateTooLow(_OfRate):
    """Steps hardly move the weights, and the loss stays where it was.

    u of the first looks and of the last, as in `LearningRateTooHigh`, below `update`
    and above 0, while the loss of an epoch, after two epochs and 100 steps, is within
    3 % of the first one, or no better than guessing. Left out while a schedule warms
    up, or has lowered the rate to less than a tenth, where the monitor did not see the
    first steps of the optimizer, and below 75 % of what guessing gives: fine tuning
    moves little.

    No unit. Source: kbn's own measurements: Adam at 1e-6 has 5e-6, SGD at 1e-4 6e-6;
    networks that learn in eight epochs have 4e-4 and more.
    """

    title: ClassVar = "the learning rate is too low"

    update: float = 3e-5
    steps: int = 100

    keeps: ClassVar = _OfRate.keeps | {global_norm: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        loss, first = view.get(epoch_loss), view.first(epoch_loss)
        if loss is None or first is None or not view.past(epoch_loss):
            return
        if view.step < self.steps or is_slowed(view):
            return
        known = view.newest(guess)
        is_flat = abs(first - loss) < 0.03 * abs(first)
        is_flat |= known is not None and loss >= NO_BETTER * known
        is_trained = known is not None and loss < 0.75 * known
        if is_trained or view.record.is_from_scratch is False:
            return
        early = _early(view)
        for name, last in _last(view).items():
            if last > 0 and name in early:
                # One whose first steps were large has died of them.
                largest = max(last, *early[name].values())
                yield Reading(
                    name, largest if is_flat else 1.0, self.update, below=True
                )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """A looser clip or smaller epsilon, where that holds the steps; or a rate."""
        where = reading.where
        held = looser_clip(view, where) or smaller_epsilon(view, where)
        return held or super().remedy(reading, view)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"A step moves the weights by {reading.value:.1g} of their size at the "
            "start, and the loss stays where it was."
        )


def fitting_rate(view: View, where: str) -> float | None:
    """A rate whose first step would have moved the weights by 1e-2 of their size.

    Of the optimizer of that name, or of the one that trains a layer or variable. None
    where that is not known: SGD at a start near 0 has next to no gradient at first,
    which says little.
    """
    name = view.record.optimizer_name(where)
    first = _early(view).get(name, {})
    rates = view.early(learning_rates.tag_of(name) if name else learning_rate.tag)
    aims = [AIM * rate / first[step] for step, rate in rates if first.get(step)]
    is_plain = kind_of(view.record.optimizer_of(where)) in PLAIN
    aim = median(aims[:1] if is_plain else aims[:4]) if aims else math.inf
    aim *= _damping(view, where)
    return aim if aim <= LARGEST else None


def _damping(view: View, where: str) -> float:
    """What momentum leaves of a rate: all up to 0.9, which steps are measured with.

    A gradient moves the weights 1 / (1 - momentum) times over the steps to come.
    """
    momentum = _settings(view, where).get("momentum") or 0.0
    return min(1.0, (1 - momentum) / 0.1) if momentum < 1 else 1.0


def _is_fitting(view: View, where: str) -> bool:
    """Whether an adaptive optimizer's first steps are small but for one.

    A constraint or a pruning that rewrites the weights makes one step large.
    """
    rate, fitting = rate_at(view, where), fitting_rate(view, where)
    if kind_of(view.record.optimizer_of(where)) in PLAIN or rate is None:
        return False
    return fitting is not None and fitting >= 0.5 * rate


def looser_clip(view: View, where: str) -> Remedy | None:
    """Clip gradients to the norm that they have; None where they are not far above."""
    settings, norm = _settings(view, where), view.newest(global_norm)
    for name in CLIPS:
        old = settings.get(name)
        if old and norm is not None and TIGHT * old < norm < math.inf:
            new = float(f"{norm:.1g}")
            words = f"Raise {name} from {old:g} to about {new:g}: all gradients "
            words += f"together have norm {norm:.2g}."
            return of_optimizer(view, where, name, old, new, words)
    return None


def smaller_epsilon(view: View, where: str) -> Remedy | None:
    """Keras' epsilon; None where the optimizer's is not far above what it is added to.

    Adam and its like divide by the root mean square of a gradient plus epsilon.
    """
    old, norm = _settings(view, where).get("epsilon"), view.newest(global_norm)
    count = view.record.kernel_elements
    if not old or norm is None or not count or old * count**0.5 < TIGHT * norm:
        return None
    words = f"Lower epsilon from {old:g} to 1e-07: it is what gradients are divided by."
    return of_optimizer(view, where, "epsilon", old, 1e-7, words)


def _settings(view: View, where: str) -> Mapping[str, Any]:
    return view.record.optimizer_of(where).get("settings") or {}


def lower(view: View, where: str) -> Remedy:
    """A rate that fits the first steps, at most a tenth of the one that trains this."""
    if view.record.is_half:
        return keep_float32()
    rate, fitting = rate_at(view, where), fitting_rate(view, where)
    if rate is None or fitting is None:
        return change_rate(view, where)
    return set_rate(view, where, min(fitting, 0.1 * _damping(view, where) * rate))


def is_high(view: View, where: str) -> bool:
    """Whether the rate is far above one that fits the first steps."""
    rate, fitting = rate_at(view, where), fitting_rate(view, where)
    return rate is not None and fitting is not None and rate > FAR_ABOVE * fitting


def _is_down(view: View) -> bool:
    """Whether the loss is below the first one, and below that of guessing.

    That of the look's batch; and of the last epoch, unless that fell.
    """
    loss, first, known = view[train_loss], view.first(train_loss), view.newest(guess)
    if first is None or loss >= first - 0.1 * abs(first):
        return False
    if known is None:
        return True
    *before, epoch = [0.0, *view.past(epoch_loss)]
    is_stuck = len(before) > 1 and epoch >= 0.9 * max(known, before[-1])
    return loss < 0.9 * known and not is_stuck


def _early(view: View) -> Mapping[str, Mapping[int, float]]:
    """{optimizer: {step: u}} of the first looks; a step that moved nothing is none."""
    found: dict[str, dict[int, list[float]]] = {}
    for path in view.record.kernels:
        of_optimizer = found.setdefault(view.record.optimizer_name(path), {})
        for step, value in view.early(update_from_init.tag_of(path)):
            if step <= STEPS and value > 0:
                of_optimizer.setdefault(step, []).append(value)
    return {
        name: {step: median(values) for step, values in steps.items()}
        for name, steps in found.items()
        if steps
    }


def _last(view: View) -> Mapping[str, float]:
    """{optimizer: u of the last look}."""
    found: dict[str, list[float]] = {}
    for path in view.record.kernels:
        last = view.past(update_from_init.tag_of(path), last=1)
        found.setdefault(view.record.optimizer_name(path), []).extend(last)
    return {name: median(values) for name, values in found.items() if values}
