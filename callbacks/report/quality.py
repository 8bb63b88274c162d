"""What Google's guidelines for model quality ask, ticked off for a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..alerts.alert import Alert, rank
from ..signals.record import Record
from .course import Course


class Statement(NamedTuple):
    """`words`: what is asked; `reads`: tags and prefixes of tags that show it.

    `rules`: those of which an open alert speaks against it; `record`: what a run record
    has to have instead of tags.
    """

    words: str
    reads: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    record: tuple[str, ...] = ()


# A row of docs/model_quality.md each: those that a log can show.
STATEMENTS = (
    Statement(
        "the loss is a number",
        ("Epoch/loss", "loss/train"),
        ("non_finite", "non_finite_data", "loss_scale_collapse"),
    ),
    Statement("weights do not become 0", ("weight_growth/",), ("zero_weights",)),
    Statement(
        "gradients neither vanish nor explode",
        ("gradient_norm/global",),
        ("vanishing_gradient", "exploding_gradient", "gradient_imbalance"),
    ),
    Statement(
        "weights move, and stay within bounds",
        ("weight_drift/", "update_ratio/"),
        ("weight_drift", "weight_explosion", "update_ratio_high", "unchanged_weight"),
    ),
    Statement("covariate shift is seen", ("activation_shift/",)),
    Statement(
        "most units are active",
        ("zeros/activations/", "health/saturated/"),
        ("dead_relu", "saturated"),
    ),
    Statement(
        "it beats a guess",
        ("loss/guess",),
        ("not_learning", "collapsed", "output_mismatch"),
    ),
    Statement("it does not overfit", ("Epoch/val_loss",), ("overfit",)),
    Statement(
        "the data are scaled and balanced",
        ("inputs/", "targets/"),
        ("input_scale", "target_scale", "class_imbalance"),
    ),
    Statement("training data are shuffled", ("targets/",), ("not_shuffled",)),
    Statement("validation data are of their kind", ("skew/",), ("skewed",)),
    Statement(
        "batch norm's statistics fit",
        ("batch_norm_gap/",),
        ("bn_stats_cold", "bn_train_eval_gap", "bn_not_updated", "bn_small_batch"),
    ),
    Statement("the run can be made again", record=("hparams", "versions", "commit")),
    Statement("speed and memory are known", ("speed/steps", "memory/host")),
)


@dataclass(frozen=True)
class Ticked:
    """A statement beside a run: "healthy", the level of an alert, or "unknown"."""

    words: str
    level: str
    shown: str


def ticked(
    courses: Mapping[str, Course], record: Record, alerts: Sequence[Alert]
) -> list[Ticked]:
    """The statements; none of a run of which nothing is known."""
    if not courses:
        return []
    return [_tick(one, courses, record, alerts) for one in STATEMENTS]


def _tick(
    one: Statement,
    courses: Mapping[str, Course],
    record: Record,
    alerts: Sequence[Alert],
) -> Ticked:
    against = [
        alert
        for alert in alerts
        if alert.is_open and {alert.rule, *alert.symptoms} & {*one.rules}
    ]
    if against:
        worst = max(against, key=lambda alert: rank(alert.level))
        return Ticked(one.words, worst.level, f"{worst.rule} in {worst.where}")
    missing = [key for key in one.record if not record.known.get(key)]
    known = [x for x in one.reads if any(tag.startswith(x) for tag in courses)]
    if missing or not (known or one.record):
        without = ", ".join(missing or one.reads)
        return Ticked(one.words, "unknown", f"without {without}")
    return Ticked(one.words, "healthy", ", ".join(known or one.record))
