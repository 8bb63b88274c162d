"""Which symptoms follow from which cause: several that are open are one diagnosis."""

from collections.abc import Callable, Sequence

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
    "target_scale",
    "not_shuffled",
)
# What the initial weights do, if it is there from the first look on. The first of
# several explains the others.
START = (
    "exploding_gradient",
    "gradient_imbalance",
    "saturated",
    "dead_relu",
    "vanishing_gradient",
    "bn_collapsed",
)
RATE = ("learning_rate_too_high", "learning_rate_too_low")
# What follows in training: the first of several explains the others.
COURSE = (
    "class_imbalance",
    "bn_stats_cold",
    "weight_explosion",
    "update_ratio_high",
    "exploding_gradient",
    "loss_spike",
    "non_finite",
    "loss_scale_collapse",
    "weight_drift",
    "saturated",
    "dead_relu",
    "bn_collapsed",
    "gradient_imbalance",
    "vanishing_gradient",
    "unchanged_weight",
    "not_learning",
    "bn_train_eval_gap",
    "overfit",
)
# Causes that explain no more than these.
ONLY = {
    "bn_stats_cold": ("bn_train_eval_gap", "overfit", "class_imbalance"),
    "class_imbalance": ("not_learning", "overfit", "bn_train_eval_gap"),
    "bn_train_eval_gap": ("overfit",),
    "overfit": (),
}


def explained(
    symptoms: Sequence[Symptom], is_from_start: Callable[[Symptom], bool]
) -> dict[str, list[Symptom]]:
    """{rule of each cause: the symptoms that it explains}, the first cause first.

    Rules that are not in the table, as those of a user, are causes of their own.
    """
    placed = [(_place(x.alert.rule, is_from_start(x)), x) for x in symptoms]
    placed.sort(key=lambda one: one[0])
    causes: dict[str, list[Symptom]] = {}
    known: list[tuple[tuple[int, int], Symptom]] = []
    for place, symptom in placed:
        cause = next(
            (one for at, one in known if _explains(at, one, place, symptom)), None
        )
        if cause is None:
            known.append((place, symptom))
            causes[symptom.alert.rule] = []
        else:
            causes[cause.alert.rule].append(symptom)
    return causes


def _place(rule: str, is_from_start: bool) -> tuple[int, int]:
    """(stage, place in it); those of no stage come last."""
    for i, stage in enumerate((DATA, FACTS, START, RATE, COURSE)):
        if rule in stage and (stage is not START or is_from_start):
            return i, stage.index(rule)
    return OTHERS, 0


OTHERS = 5  # the stage of rules that are in none
IN_ORDER = (2, 4)  # stages of which the first explains the others


def _explains(
    at: tuple[int, int], cause: Symptom, place: tuple[int, int], effect: Symptom
) -> bool:
    name, other = cause.alert.rule, effect.alert.rule
    if place[0] == OTHERS or other not in ONLY.get(name, (other,)):
        return False
    if rank(cause.alert.level) < min(rank(effect.alert.level), rank("warning")):
        return False
    return at[0] < place[0] or (at[0] == place[0] and at[0] in IN_ORDER)
