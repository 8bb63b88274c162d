"""What is known of a run beside its curves: configuration, metrics, the verdict."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..alerts.alert import Alert, rank
from ..alerts.record import Record
from ..log.logged import LoggedRun
from .course import Course

HEALTHY, UNKNOWN = "healthy", "unknown"
# Beside the metrics of `fit`: tag -> name.
OTHERS = {
    "loss_gap/train_eval": "loss gap, evaluation to training mode",
    "gradient_norm/global": "gradient norm, before clipping",
    "learning_rate": "learning rate",
    "loss_scale": "loss scale",
}


@dataclass(frozen=True)
class Metric:
    """One metric in training and in validation; one of them may be missing."""

    name: str
    training: Course | None
    validation: Course | None = None

    @property
    def courses(self) -> Iterator[tuple[str, Course]]:
        """("training" or "validation", its course) of those there are."""
        for kind, course in (
            ("training", self.training),
            ("validation", self.validation),
        ):
            if course is not None and len(course.steps):
                yield kind, course

    @property
    def is_log(self) -> bool:
        """Whether to draw it on a logarithmic axis: all above 0, over two decades."""
        finite = [course for _, course in self.courses if len(course.finite)]
        low = min((course.minimum for course in finite), default=0.0)
        high = max((course.maximum for course in finite), default=0.0)
        return low > 0 and high / low > 100


def metrics_of(courses: Mapping[str, Course]) -> list[Metric]:
    """Loss first, then the metrics of `fit`, then gradient norm and learning rate."""
    names = [tag.removeprefix("epoch/") for tag in courses if tag.startswith("epoch/")]
    # `val_` of a metric that is there, or of one that is only validated.
    bare = dict.fromkeys(
        name.removeprefix("val_") if name.startswith("val_") else name for name in names
    )
    ordered = sorted(bare, key=lambda name: (name != "loss", not name.endswith("loss")))
    found = [
        Metric(name, courses.get(f"epoch/{name}"), courses.get(f"epoch/val_{name}"))
        for name in ordered
    ]
    if "loss" not in bare and "loss/train" in courses:
        found.insert(0, Metric("loss of the looked-at batch", courses["loss/train"]))
    found += [
        Metric(name, courses[tag]) for tag, name in OTHERS.items() if tag in courses
    ]
    return found


def has_batch_norm(record: Record) -> bool | None:
    """Whether a layer normalizes over the batch; None if no layer is known."""
    return None if record.is_empty else any(True for _ in record.batch_norms())


def configuration(run: LoggedRun) -> dict[str, dict[str, str]]:
    """{group: {name: value}}, in words."""
    known = run.record
    record = Record(known)
    model = _mapping(known.get("model"))
    norms = Counter(
        str(layer.get("type"))
        for layer in record.layers
        if isinstance(layer, Mapping) and layer.get("batch_norm")
    )
    groups: dict[str, dict[str, Any]] = {
        "model": {
            "name": model.get("name"),
            "type": model.get("type"),
            "parameters": _thousands(model.get("parameters")),
            "layers": len(record.layers) or None,
            "batch norm": ", ".join(f"{n} {kind}" for kind, n in norms.items())
            or ("none" if record.layers else None),
            "loss": model.get("loss"),
            "dtype policy": model.get("dtype_policy"),
        },
        "training": {**_training(known), **_mapping(known.get("hparams"))},
        "log": {
            "looks": len({entry.step for entry in run.entries}) or None,
            "steps": _steps(run),
            "time": _time(run),
            **_options(_mapping(known.get("options"))),
        },
        "versions": dict(_mapping(known.get("versions"))),
    }
    for i, optimizer in enumerate(record.optimizers):
        name = "optimizer" if i == 0 else f"optimizer {i + 1}"
        groups["training"] |= {name: _optimizer(optimizer)}
    return {
        group: {str(k): str(v) for k, v in values.items() if v not in (None, "")}
        for group, values in groups.items()
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _training(known: Mapping[str, Any]) -> dict[str, Any]:
    fit = _mapping(known.get("fit"))
    return {
        "epochs": fit.get("epochs"),
        "steps of an epoch": fit.get("steps"),
        "batch size": fit.get("batch_size"),
        "seed": fit.get("seed"),
    }


def _optimizer(optimizer: Any) -> str:
    optimizer = _mapping(optimizer)
    kind = str(optimizer.get("type") or "").rpartition(".")[2]
    rate = optimizer.get("learning_rate")
    parts = [kind, f"learning rate {rate:g}" if isinstance(rate, float | int) else ""]
    settings = _mapping(optimizer.get("settings"))
    told = (
        *("momentum", "nesterov", "weight_decay", "beta_1", "beta_2"),
        *("clipnorm", "global_clipnorm", "clipvalue"),
    )
    parts += [f"{k} {settings[k]}" for k in told if settings.get(k)]
    parts += ["loss scaling"] if optimizer.get("loss_scaling") else []
    return ", ".join(filter(None, parts))


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    rules, watch = options.get("rules"), options.get("watch")
    return {
        "log_freq": options.get("log_freq"),
        "watch": ", ".join(map(str, watch)) if isinstance(watch, Sequence) else None,
        "layers": options.get("layers"),
        "rules": len(rules) if isinstance(rules, Sequence) else None,
    }


def _thousands(number: Any) -> str | None:
    return f"{number:,}" if isinstance(number, int) else None


def _steps(run: LoggedRun) -> str | None:
    if not run.entries:
        return None
    return f"{run.entries[0].step} to {run.entries[-1].step}"


def _time(run: LoggedRun) -> str | None:
    if not run.entries:
        return None
    first, last = run.entries[0].seconds, run.entries[-1].seconds
    try:
        began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(first))
    except (OverflowError, ValueError, OSError):  # a clock that was wrong
        return None
    return f"{began}, {duration(last - first)}"


def duration(seconds: float) -> str:
    """`3 min 20 s`."""
    if not 0 <= seconds < 1e9:
        return "of unknown length"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def level_of(run: LoggedRun) -> str:
    """The gravest of the open alerts; "healthy", or "unknown" where nobody asked."""
    levels = [alert.level for alert in run.alerts if alert.is_open]
    if levels:
        return max(levels, key=rank)
    rules = _mapping(run.record.get("options")).get("rules")
    return UNKNOWN if run.is_empty or rules == [] else HEALTHY


def verdict(run: LoggedRun, courses: Mapping[str, Course]) -> str:
    """One sentence: is it healthy, if not what is wrong, and since when."""
    level = level_of(run)
    if run.is_empty:
        return "Nothing is logged of a training here."
    extent = _extent(run, courses)
    if level == UNKNOWN:
        return f"Nobody judged: no rules were applied to {extent}."
    ill = sorted(
        (x for x in run.alerts if x.is_open), key=lambda x: (-rank(x.level), x.step)
    )
    over = sum(not x.is_open and not x.is_superseded for x in run.alerts)
    past = f"; {over} {'alert was' if over == 1 else 'alerts were'} over by then"
    if not ill:
        return f"Healthy at the end of {extent}{past * bool(over)}."
    words = {"critical": "Critically ill", "warning": "Ill", "info": "Mind one thing"}
    worst = words[level] if len(ill) == 1 or level != "info" else "Mind some things"
    others = f", and {len(ill) - 1} more open" if len(ill) > 1 else ""
    return f"{worst}: {named(ill[0])} since {since(ill[0])}{others}, after {extent}."


def named(alert: Alert) -> str:
    """`dead_relu in hidden and 2 more`."""
    more = f" and {alert.others} more" if alert.others else ""
    return f"{alert.rule} in {alert.where}{more}"


def since(alert: Alert) -> str:
    """`step 40, epoch 2`."""
    epoch = "" if alert.epoch is None else f", epoch {alert.epoch}"
    return f"step {alert.step}{epoch}"


def measure(alert: Alert) -> str:
    """`0.75, above its limit 0.5`; nothing where it is beside the point."""
    side = "below" if alert.value < alert.limit else "above"
    return f"{alert.value:.3g}, {side} the limit {alert.limit:.3g}"


def _extent(run: LoggedRun, courses: Mapping[str, Course]) -> str:
    last = run.entries[-1].step
    steps = f"{last:,} {'step' if last == 1 else 'steps'}"
    epochs = courses.get("epoch")
    if epochs is None or not len(epochs.finite):
        return steps
    count = int(epochs.last) if epochs.non_finite == 0 else int(epochs.maximum)
    return f"{steps}, {count} {'epoch' if count == 1 else 'epochs'}"
