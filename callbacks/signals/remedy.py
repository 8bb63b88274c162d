"""What to try first against an illness: in words, and as data for a program."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from kbn.momentum import fitting_momentum

from .record import kind_of
from .view import View

Value: TypeAlias = bool | float | str | Sequence[float] | None

# Rates to begin with, where nothing else is known.
USUAL = {"SGD": 0.05, "Adagrad": 0.05, "Ftrl": 0.05, "Adadelta": 1.0}
USUAL_RATE = 2e-3  # of all the others, whose steps are as large as the rate
TWO_FLAT_ENDS = ("sigmoid", "hard_sigmoid", "tanh", "hard_tanh", "softsign")


@dataclass(frozen=True)
class Remedy:
    """One change that is worth trying first.

    By its `kind`:

    - "learning_rate": the rate of the optimizer `where`, of class `what`;
    - "optimizer": its argument `what`: a clip, epsilon, weight_decay, or decay_steps or
      boundaries of its schedule;
    - "layer": the argument `what` of the layers `where`: momentum, rate, activation,
      kernel_initializer or recurrent_initializer;
    - "fit": its argument `what`: batch_size, shuffle, or class_weight, where "balanced"
      means weights in proportion to 1 / frequency;
    - "data": "drop_rows" that have NaN or Inf; "scale_targets" to (y - mean) / std,
      `new` is (mean, std), with no activation at the end;
    - "insert": "Normalization", adapted, before the inputs `where`; "BatchNorm" before
      the activations, as `kbn.insert_batch_norm` does;
    - "replace": the batch norms `where` by "BatchNorm" with warm-up;
    - "ask": what no program can do.

    Args:
        kind: One of those.
        what: What is changed.
        where: Layers, inputs, outputs or optimizers; empty for the only one, or all.
        old: The value that it has; None where there is none, or it is not known.
        new: The value to go to.
        words: The same as a sentence.

    Example:
        >>> from kbn.callbacks import Remedy
        >>> Remedy("fit", "batch_size", old=1, new=32, words="Use batches of 32.")
        Remedy(kind='fit', what='batch_size', where=(), old=1, new=32, \
words='Use batches of 32.')
    """

    kind: str
    what: str = ""
    where: tuple[str, ...] = ()
    old: Value = None
    new: Value = None
    words: str = ""

    def __str__(self) -> str:
        return self.words

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> "Remedy":
        """The remedy of a `dataclasses.asdict`; other keys are passed over.

        Example:
            >>> import dataclasses
            >>> from kbn.callbacks import Remedy
            >>> first = Remedy("fit", "shuffle", new=True)
            >>> Remedy.from_dict(dataclasses.asdict(first)) == first
            True
        """
        found = {x.name: known[x.name] for x in fields(cls) if x.name in known}
        for name, value in found.items():
            if isinstance(value, list):
                found[name] = tuple(value)
        return cls(**found)


def ask(words: str) -> Remedy:
    """What only a person can do."""
    return Remedy("ask", words=words)


def together(remedies: Sequence[Remedy]) -> Remedy | None:
    """The first of them, at the places of all that are like it; None of none."""
    if not remedies:
        return None
    first, *_ = remedies
    alike = [x for x in remedies if (x.what, x.new) == (first.what, first.new)]
    where = dict.fromkeys(place for x in alike for place in x.where)
    return replace(first, where=tuple(where))


def keep_float32() -> Remedy:
    """Weights of float32, where they are of float16."""
    return ask(
        "Keep the weights in float32: keras.config.set_dtype_policy("
        '"mixed_float16"). float16 ends at 65504 and begins at 6e-8, which is above '
        "Adam's epsilon."
    )


def of_optimizer(
    view: View, where: str, what: str, old: Value, new: Value, words: str
) -> Remedy:
    """Another argument of the optimizer that trains a layer or variable."""
    name = view.record.optimizer_name(where)
    return Remedy("optimizer", what, (name,) if name else (), old, new, words)


def clip(to: float) -> Remedy:
    """Clip the gradient's global norm."""
    return Remedy(
        "optimizer",
        "global_clipnorm",
        new=to,
        words=f"Set global_clipnorm={to:.2g} in the optimizer.",
    )


def change_rate(view: View, where: str = "", by: float = 0.1) -> Remedy:
    """Multiply a learning rate: of the optimizer that trains a layer or variable."""
    rate = rate_at(view, where)
    return set_rate(view, where, None if rate is None else by * rate, by > 1)


def set_rate(
    view: View, where: str, to: float | None, is_raised: bool = False, more: str = ""
) -> Remedy:
    """Go to another learning rate; `ask` where the old or the new one is not known.

    more: the end of the sentence.
    """
    rate = rate_at(view, where)
    if rate is None or to is None or not 0 < to < math.inf:
        return ask(f"{'Raise' if is_raised else 'Lower'} {view.rate_of(where)}{more}.")
    kind = kind_of(view.record.optimizer_of(where))
    name = view.record.optimizer_name(where)
    whose = f"{kind}'s" if kind else "the"
    verb = "Lower" if to < rate else "Raise"
    new = float(f"{to:.1g}")
    return Remedy(
        "learning_rate",
        kind,
        (name,) if name else (),
        old=float(f"{rate:.4g}"),
        new=new,
        words=f"{verb} {whose} learning rate from {rate:.3g} to about {new:.6g}{more}.",
    )


def rate_at(view: View, where: str) -> float | None:
    """The learning rate of the optimizer that trains a layer or variable.

    None if it is not known, or no number above 0 that can be changed.
    """
    name, rates = view.record.optimizer_of(where).get("name"), view.learning_rates
    rate = rates.get("", rates.get(str(name)))
    return rate if rate is not None and 0 < rate < math.inf else None


def insert_batch_norm(view: View) -> Remedy:
    """Batch norm before the activations; another activation where it is there."""
    if view.record.is_normalized:
        return replace_activation(view)
    steps = view.record.steps_per_epoch
    given = f", steps_per_epoch={steps}" if steps else ""
    if steps and fitting_momentum(steps) is None:
        given = ", warmup=True"
    return Remedy(
        "insert",
        "BatchNorm",
        words="Put batch norm before the activations: "
        f"kbn.insert_batch_norm(model{given}).",
    )


def replace_activation(view: View) -> Remedy:
    """ReLU for what has two flat ends; `ask` where nothing has."""
    flat = [x for x in view.record.layers if x.get("activation") in TWO_FLAT_ENDS]
    hidden = tuple(
        str(x["name"])
        for x in flat
        # A cell's state is bounded by its function: with ReLU it explodes.
        if not x.get("is_output") and "RNN" not in x.get("is", ())
    )
    if not hidden:
        return ask("Make it shallower, or add residual connections.")
    named = ", ".join(hidden[:4]) + " and others" * (len(hidden) > 4)
    return Remedy(
        "layer",
        "activation",
        hidden,
        new="relu",
        words=f'Use activation="relu" in {named}: what it lets pass is not made '
        "smaller.",
    )


def scale_targets(name: str, mean: float, scale: float, more: str = "") -> Remedy:
    """Train on targets less their mean, over a scale; more: the end of the sentence."""
    return Remedy(
        "data",
        "scale_targets",
        (name,),
        new=(float(f"{mean:.4g}"), float(f"{scale:.4g}")),
        words=f"Train on (targets {'-+'[mean < 0]} {abs(mean):.4g}) / {scale:.4g}"
        f"{more}.",
    )
