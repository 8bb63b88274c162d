"""The rules that a monitor has unless told otherwise."""

import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Never

from . import (
    activations,
    batch_norm,
    collapse,
    data,
    decay,
    finiteness,
    gradients,
    guessing,
    learning_rate,
    loss,
    movement,
    optimizers,
    schedule,
    start,
    targets,
    tensors,
)
from .rule import Rule

FAMILIES = (
    finiteness,
    optimizers,
    gradients,
    movement,
    tensors,
    learning_rate,
    decay,
    schedule,
    activations,
    start,
    targets,
    guessing,
    collapse,
    loss,
    batch_norm,
    data,
)


def _rules_in(family: ModuleType) -> Iterator[type[Rule]]:
    """The rules of a family's file, in the order in which they are written."""
    for one in vars(family).values():
        is_rule = isinstance(one, type) and issubclass(one, Rule)
        if (
            is_rule
            and one.__module__ == family.__name__
            and not inspect.isabstract(one)
        ):
            yield one


DEFAULT = tuple(one() for family in FAMILIES for one in _rules_in(family))


def default_rules(*changed: Rule) -> list[Rule]:
    """All rules with their default limits, these in the place of their namesakes.

    Example:
        >>> from kbn.callbacks import rules
        >>> mine = rules.default_rules(rules.VanishingGradient(ratio=1e-3))
        >>> len(mine) == len(rules.default_rules())
        True
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
    if isinstance(rules, str) and rules == "default":
        return [*DEFAULT]
    if isinstance(rules, str | type) or not isinstance(rules, Iterable):
        raise ValueError(
            f"rules={rules!r}: expected 'default', a list or None{_meant(rules)}"
        )
    found = [*rules]
    for rule in found:
        if not isinstance(rule, Rule):
            shown = rule.__name__ if isinstance(rule, type) else repr(rule)
            call = _call_of(rule)
            hint = f" Did you mean {call}? A rule is an instance." if call else ""
            raise ValueError(f"rules has {shown}, which is not a kbn rule.{hint}")
    names = [rule.name for rule in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"rules has two of {', '.join(twice)}. For the default rules with another "
            "limit, use kbn.callbacks.rules.default_rules(...)."
        )
    return found


# {the name of a rule that is gone, of its class or its alerts: that of its heir}.
HEIRS = {
    "BnMomentGap": "BnTrainEvalGap",
    "LossNotDecreasing": "NotLearning",
    "UpdateRatioLow": "LearningRateTooLow",
}


def gone(name: str) -> Never:
    """Raise an AttributeError; of a rule that is gone, it names the heir."""
    place = "kbn.callbacks.rules"
    if name in HEIRS:
        raise AttributeError(f"{place}.{name} is gone: use {HEIRS[name]}")
    raise AttributeError(f"module {place!r} has no attribute {name!r}")


def _meant(rules: Any) -> str:
    """What was meant by what is neither a list of rules nor "default"."""
    call = repr(rules) if isinstance(rules, Rule) else _call_of(rules)
    if call:
        return f". Did you mean rules=[{call}]?"
    instead = {"all": "'default'", "defaults": "'default'", "none": "None"}
    instead |= {"false": "None", "true": "'default'"}
    meant = instead.get(str(rules).lower())
    if rules is default_rules:
        meant = "default_rules()"
    return f". Did you mean rules={meant}?" if meant else ""


def _call_of(rule: Any) -> str:
    """`DeadRelu()` for the class, its name, or the name of its alerts; else empty."""
    if isinstance(rule, type):
        return f"{rule.__name__}()" if issubclass(rule, Rule) else ""
    named = {one.name: type(one).__name__ for one in DEFAULT}
    name = named.get(rule, rule) if isinstance(rule, str) else ""
    name = HEIRS.get("".join(map(str.title, name.split("_"))), HEIRS.get(name, name))
    return f"{name}()" if name in named.values() else ""
