"""The rules that a monitor has unless told otherwise."""

from collections.abc import Iterable
from typing import Any

from .activations import DeadRelu, PoorInit, Saturated
from .batch_norm import (
    BnCollapsed,
    BnMomentGap,
    BnSmallBatch,
    BnStatsCold,
    BnTrainEvalGap,
)
from .finiteness import NonFinite
from .gradients import ExplodingGradient, GradientImbalance, VanishingGradient
from .inputs import InputScale
from .loss import LossNotDecreasing, LossSpike, Overfit
from .loss_scale import LossScaleCollapse
from .rule import Rule
from .updates import UnchangedWeight, UpdateRatioHigh, UpdateRatioLow
from .weights import WeightDrift, WeightExplosion

DEFAULT = (
    NonFinite(),
    LossScaleCollapse(),
    ExplodingGradient(),
    VanishingGradient(),
    GradientImbalance(),
    UpdateRatioLow(),
    UpdateRatioHigh(),
    UnchangedWeight(),
    DeadRelu(),
    Saturated(),
    PoorInit(),
    WeightDrift(),
    WeightExplosion(),
    LossNotDecreasing(),
    LossSpike(),
    Overfit(),
    BnTrainEvalGap(),
    BnStatsCold(),
    BnMomentGap(),
    BnCollapsed(),
    BnSmallBatch(),
    InputScale(),
)


def default_rules(*changed: Rule) -> list[Rule]:
    """All rules with their default limits, these in the place of their namesakes.

    Example:
        >>> from kbn.callbacks import rules
        >>> mine = rules.default_rules(rules.VanishingGradient(ratio=1e-3))
        >>> len(mine)
        22
    """
    mine = {rule.name: rule for rule in [*DEFAULT, *listed(changed)]}
    return [*mine.values()]


def listed(rules: Any) -> list[Rule]:
    """What the argument `rules` of a monitor means: "default", a list, or None.

    Raises:
        ValueError: It is something else, or two rules have one name.
    """
    if rules is None:
        return []
    if isinstance(rules, str):
        if rules != "default":
            raise ValueError(f"rules={rules!r}: expected 'default', a list or None")
        return [*DEFAULT]
    if not isinstance(rules, Iterable):
        raise ValueError(f"rules={rules!r}: expected 'default', a list or None")
    found = [*rules]
    for rule in found:
        if not isinstance(rule, Rule):
            hint = " Call it: a rule is an instance." if isinstance(rule, type) else ""
            raise ValueError(f"rules has {rule!r}, which is not a kbn rule.{hint}")
    names = [rule.name for rule in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"rules has two of {', '.join(twice)}. For the default rules with another "
            "limit, use kbn.callbacks.rules.default_rules(...)."
        )
    return found
