"""The rule on what presses the weights to 0: weight decay and regularizers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from .guessing import FAR_BELOW, KEEPS, LossCourse
from .loss import epoch_loss
from .remedy import Remedy, ask, of_optimizer, rate_at
from .rule import Reading, Rule
from .view import View

USUAL_SHARE = 1e-5  # of a weight that a step of Adam's usual decay and rate takes away


@dataclass(frozen=True)
class StrongDecay(Rule):
    """Weight decay or regularizers take away what the gradients add.

    lr * weight_decay of an optimizer, the share of each weight that a step takes away,
    above `share`; or the largest of what regularizers added to the loss at the end of
    an epoch, over the loss of guessing, above `penalty`. After two epochs and `steps`
    optimizer steps, while the loss without penalties is above 0.9 of that of guessing.

    No unit. Source: kbn's own; tried on digits: networks learn with L2 of 1e-3, 1e-2;
    with 1 and 10 they do not, and 10 added 333 times the loss of guessing.
    """

    title: ClassVar = "the weights are pressed to 0"

    share: float = 0.01
    penalty: float = 1.0
    steps: int = 100

    reads: ClassVar = (epoch_loss,)
    keeps: ClassVar = KEEPS

    def readings(self, view: View) -> Iterable[Reading]:
        course = LossCourse(view)
        if len(course.train) < 2 or not course.guess or course.guess <= 0:
            return
        is_late = course.steps[-1] >= self.steps
        is_lost = is_late and course.train[-1] >= FAR_BELOW * course.guess
        for optimizer in view.record.optimizers:
            where = view.record.optimizer_name(str(optimizer.get("name")))
            decay = (optimizer.get("settings") or {}).get("weight_decay") or 0.0
            taken = (rate_at(view, where) or 0.0) * decay if is_lost else 0.0
            yield Reading(where, taken, self.share)
        added = course.penalty / course.guess if is_lost else 0.0
        yield Reading(view.record.model_name, added, self.penalty)

    def explain(self, reading: Reading, view: View) -> str:
        if reading.limit == self.share:
            return (
                f"Weight decay takes {reading.value:.2g} of every weight away in each "
                "step, more than the gradients add, and nothing is learned."
            )
        return (
            f"Regularizers added up to {reading.value:.3g} times as much to the loss "
            "as guessing costs: training made the weights small, and nothing else."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """The usual decay; no regularizers, where they are known."""
        if reading.limit == self.share:
            settings = view.record.optimizer_of(reading.where).get("settings") or {}
            old = settings["weight_decay"]
            new = float(f"{old * USUAL_SHARE / reading.value:.1g}")
            words = f"Lower weight_decay from {old:g} to about {new:g}."
            return of_optimizer(view, reading.where, "weight_decay", old, new, words)
        layers = [x for x in view.record.layers if x.get("regularized")]
        if not layers:
            return ask("Leave out the regularizers, or make them far weaker.")
        what = layers[0]["regularized"][0]
        names = tuple(str(x["name"]) for x in layers if what in x["regularized"])
        return Remedy(
            "layer",
            what,
            names,
            words=f"Leave out the {what} of {', '.join(names[:4])}"
            f"{' and others' * (len(names) > 4)}, or make it a thousand times weaker.",
        )
