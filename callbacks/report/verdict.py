"""How a run went, in a word and in a sentence."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..alerts.alert import Alert, and_more, rank
from ..log.logged import LoggedRun
from ..signals.loss import NO_BETTER
from ..signals.record import Record
from ..signals.subjects import EPOCH
from ..signals.targets import guess, penalty
from .configuration import mapping
from .course import Course, courses_of

HEALTHY, UNKNOWN = "healthy", "unknown"  # levels, beside those of alerts
LOSSES = (f"{EPOCH}loss", f"{EPOCH}val_loss")
Courses: TypeAlias = Mapping[str, Course]  # by tag


def open_of(alerts: Sequence[Alert]) -> list[Alert]:
    """The alerts that are not over: the worst first, then the oldest."""
    found = [alert for alert in alerts if alert.is_open]
    return sorted(found, key=lambda x: (-rank(x.level), x.step))


def level_of(run: LoggedRun, courses: Courses) -> str:
    """The level of the worst open alert, or "healthy".

    "unknown" where no rules were applied, or where the loss is that of guessing and no
    rule says why: the training is too short, or has only begun to learn.
    """
    found = open_of(run.alerts)
    if found and found[0].level != "info":
        return found[0].level
    rules = mapping(run.record.get("options")).get("rules")
    if run.is_empty or rules == [] or _guessing(courses) is not None:
        return UNKNOWN
    return found[0].level if found else HEALTHY


def _guessing(courses: Courses) -> tuple[float, float] | None:
    """The loss and that of guessing, if it is no better; penalties do not count.

    The lowest in validation. Of training alone that of the last epoch, after a second:
    the mean over the first says little of how it ended.
    """
    known, train, validation, penalties = (
        courses.get(tag) for tag in (guess.tag, *LOSSES, penalty.tag)
    )
    if known is None or known.last <= 0 or train is None:
        return None
    course = validation if validation is not None else train
    if course is train and len(train.finite) < 2:
        return None
    loss = course.last if course is train else course.minimum
    loss -= 0.0 if penalties is None else penalties.last
    return (loss, known.last) if loss >= NO_BETTER * known.last else None


def verdict(run: LoggedRun, courses: Courses | None = None) -> str:
    """One sentence: whether the run is healthy, else what is wrong, and since when.

    courses: of its entries, if they are at hand.
    """
    if run.is_empty:
        return "Nothing is logged of a training here."
    courses = courses or courses_of(run.entries)
    extent, level = _extent(run, courses), level_of(run, courses)
    goes_on = " The training has not ended." * bool(run.record.get("is_running"))
    found = open_of(run.alerts)
    notes = f"; to note: {', '.join(map(named, found))}" if found else ""
    if level == UNKNOWN and (guessing := _guessing(courses)) is not None:
        loss, known = guessing
        return (
            f"Nothing is learned yet after {extent}: the lowest loss, {loss:.3g}, is "
            f"no better than {known:.3g}, that of always giving one answer. No rule "
            f"can say why yet: train for longer{notes}.{goes_on}"
        )
    if level == UNKNOWN:
        return f"No rules were applied to {extent}."
    if level in (HEALTHY, "info"):
        over = sum(not x.is_open and not x.is_superseded for x in run.alerts)
        past = f"; {over} {'alert was' if over == 1 else 'alerts were'} over by then"
        so_far = "so far, after" if goes_on else "at the end of"
        return f"Healthy {so_far} {extent}{past * bool(over)}{notes}.{goes_on}"
    first, *others = (x for x in found if x.level != "info")
    names = {name for x in (first, *others) for name in (x.rule, *x.symptoms)}
    word = "Critical" if level == "critical" else "Unhealthy"
    word = "Not learning" if "not_learning" in names else word
    title = first.title or first.rule  # of an older log
    is_whole = first.where == Record(run.record).model_name
    place = "" if is_whole else f" in {first.where}{and_more(first.others)}"
    when = f"step {first.step}" if first.epoch is None else f"epoch {first.epoch}"
    cure = f" {first.remedy}" if first.remedy else ""
    rest = f" {len(others)} more open." * bool(others)
    return f"{word} since {when}: {title}{place}.{cure}{rest}{goes_on}"


def summary(run: LoggedRun, command: str) -> str:
    """The verdict, what else is open, and how to see more: a line each."""
    first, *others = open_of(run.alerts)
    lines = [verdict(run)]
    if others and first.level != "info":  # a healthy verdict names all notes
        also = ", ".join(f"{named(alert)} ({alert.level})" for alert in others)
        lines.append(f"  also open: {also}")
    return "\n".join([*lines, f"  more: {command}"])


def named(alert: Alert) -> str:
    """Rule and place of an alert: `dead_relu in hidden and 2 more`."""
    return f"{alert.rule} in {alert.where}{and_more(alert.others)}"


def measure(alert: Alert) -> str:
    """The value and the limit of an alert: `0.75, above the limit 0.5`."""
    side = "below" if alert.value < alert.limit else "above"
    return f"{alert.value:.3g}, {side} the limit {alert.limit:.3g}"


def _extent(run: LoggedRun, courses: Courses) -> str:
    last = run.entries[-1].step
    steps = f"{last:,} {'step' if last == 1 else 'steps'}"
    epochs = courses.get("epoch")
    if epochs is None or not len(epochs.finite):
        return steps
    count = int(epochs.last) if epochs.non_finite == 0 else int(epochs.maximum)
    return f"{steps}, {count} {'epoch' if count == 1 else 'epochs'}"
