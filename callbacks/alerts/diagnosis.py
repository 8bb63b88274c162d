"""Which symptoms follow from which cause: several that are open are one diagnosis."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .alert import rank
from .symptoms import Symptom

# The stages of an explanation: what stands in one explains what stands in a later one.
# Facts of the data and the model, however late they are known.
DATA = ("non_finite_data",)
FACTS = (
    "output_mismatch",
    "bn_not_updated",
    "bn_small_batch",
    "poor_init",
    "input_scale",
    "skewed",
    "target_scale",
    "not_shuffled",
    "schedule_length",
)
# What the initial weights do: only if it is there at the first look, before any step.
START = (
    "exploding_gradient",
    "gradient_imbalance",
    "saturated",
    "dead_relu",
    "vanishing_gradient",
    "bn_collapsed",
)
RATE = ("learning_rate_too_high", "learning_rate_too_low")
# What follows in training.
EFFECTS = (
    "class_imbalance",
    "bn_stats_cold",
    "weight_explosion",
    "update_ratio_high",
    "non_finite",
    "loss_scale_collapse",
    "zero_weights",
    "bn_collapsed",
    "gradient_imbalance",
    "saturated",  # no gradient passes it, and none makes it
    "vanishing_gradient",
    "collapsed",
    "not_learning",  # units that die of it are no cause
    "exploding_gradient",
    "loss_spike",
    "weight_drift",
    "dead_relu",
    "unchanged_weight",
    "bn_train_eval_gap",
    "overfit",
)
STAGES = (DATA, FACTS, START, RATE, EFFECTS)
IN_ORDER = (START, EFFECTS)  # of these, the first that is there explains the others
# Causes that explain no more than these.
ONLY = {
    "bn_stats_cold": ("bn_train_eval_gap", "overfit", "class_imbalance"),
    "class_imbalance": ("not_learning", "overfit", "bn_train_eval_gap"),
    "bn_train_eval_gap": ("overfit",),
    "skewed": ("overfit",),
    "overfit": (),
    "schedule_length": (),
}


class Placed(NamedTuple):
    """A symptom with its stage, and its place in that."""

    stage: int
    place: int
    symptom: Symptom


def explained(
    symptoms: Sequence[Symptom], is_from_start: Callable[[Symptom], bool]
) -> dict[str, list[Symptom]]:
    """{rule of each cause: the symptoms that it explains}, the first cause first.

    Rules that are in no stage, as those of a user, are causes that explain nothing.
    """
    causes: dict[str, list[Symptom]] = {}
    known: list[Placed] = []
    placed = [_place(one, is_from_start(one)) for one in symptoms]
    for one in sorted(placed, key=lambda x: x[:2]):
        for cause in known:
            if _explains(cause, one):
                causes[cause.symptom.alert.rule].append(one.symptom)
                break
        else:
            known.append(one)
            causes[one.symptom.alert.rule] = []
    return causes


def _place(symptom: Symptom, is_from_start: bool) -> Placed:
    rule = symptom.alert.rule
    for i, stage in enumerate(STAGES):
        if rule in stage and (stage is not START or is_from_start):
            return Placed(i, stage.index(rule), symptom)
    return Placed(len(STAGES), 0, symptom)


def _explains(cause: Placed, effect: Placed) -> bool:
    one, other = cause.symptom.alert, effect.symptom.alert
    if effect.stage == len(STAGES):
        return False
    if one.rule in ONLY and other.rule not in ONLY[one.rule]:
        return False
    # A note explains notes alone.
    if rank(one.level) < min(rank(other.level), rank("warning")):
        return False
    is_in_order = STAGES[cause.stage] in IN_ORDER
    return cause.stage < effect.stage or is_in_order
