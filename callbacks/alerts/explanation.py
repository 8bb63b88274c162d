"""What a diagnosis means, in the words of the rule that finds it."""

import difflib
import inspect
import textwrap

from ..signals.default import DEFAULT, HEIRS
from ..signals.rule import Rule

RULES = {rule.name: rule for rule in DEFAULT}
CLASSES = {type(rule).__name__: rule for rule in DEFAULT}


def find(name: str) -> Rule:
    """The rule of this diagnosis; of one that is gone, the heir.

    name: `dead_relu`, or the rule's class, `DeadRelu`.

    Raises:
        KeyError: There is none; says which are near.
    """
    known = RULES | CLASSES
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    rule = known.get(name) or known.get(HEIRS.get(camel, camel))
    if rule is None:
        near = difflib.get_close_matches(name.lower(), RULES, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "kbn explain lists all"
        raise KeyError(f"there is no diagnosis {name!r}; {hint}")
    return rule


def command(name: str) -> str:
    """What to type to read more of this diagnosis; of a rule of one's own, its name."""
    return f"kbn explain {name}" if name in RULES else name


def cure(rule: type[Rule]) -> str:
    """What its alerts say to try, in general: the first paragraph about its remedy."""
    return (inspect.getdoc(rule.remedy) or "").partition("\n\n")[0]


def explanation(rule: Rule) -> str:
    """Title, what is measured, what to try, and the limits with their defaults."""
    cured = f"What to try: {cure(type(rule))}"
    told = f"{cured} An alert says it for the layer, with a number."
    limits = f"The rule and its limits: kbn.callbacks.rules.{rule!r}"
    below = [textwrap.fill(x, 88, break_on_hyphens=False) for x in (told, limits)]
    title, words = f"{rule.name}: {rule.title}", inspect.getdoc(type(rule)) or ""
    return "\n\n".join([title, words, *below])


def overview() -> str:
    """A line for each diagnosis."""
    width = max(map(len, RULES))
    return "\n".join(f"{name:{width}}  {rule.title}" for name, rule in RULES.items())
