"""The registry of signals: one entry says all that there is to say about one.

TensorBoard's descriptions, the dashboard, the table in the docs, alerts and reports are
made from it. Adding a signal touches the file of its family, and its test.
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from .guide import Guide as Guide
from .subjects import Layers, Subject


@dataclass(frozen=True)
class Chart:
    """Where the dashboard draws a signal; those of one title share a chart.

    `tags`: a regular expression of the tags to draw, where the pattern's own is not it.
    """

    category: str
    title: str
    tags: str | None = None


@dataclass(frozen=True, eq=False)
class Signal:
    """One thing that is measured; what reads it names this object, not its tag.

    Called as the function that it was, it is its `value`.

    Attributes:
        tag: The tag in TensorBoard, with `<layer>`, `<path>` and so on for the names.
        of: What it is computed of: a class of `subjects`.
        value: On the host, from what `given` takes out of the subject: a number for a
            scalar, an array or a Summary for a histogram. None: there is no value.
        given: The arguments of `value`; None: the subject has none.
        where: Whether the subject has this signal at all.
        row: In the step, from the tensor and the subject: a row of float64, in NumPy or
            in TensorFlow as the tensor is. The rows of the replicas come to the subject
            as `rows[tag]`, (replicas, n). None: nothing but what the subject has.
        is_histogram: Whether the value is drawn as a histogram.
        unit: The unit, or what the number is a share of.
        source: Where formula or guide values come from, if not from here.
        guide: Guide values, as numbers.
        chart: Its chart on the dashboard.
        watch: What in the monitor's `watch` asks for it; None: what its subject does.
        description: A sentence, and what a reader has to know, as Markdown.
    """

    tag: str
    of: type[Subject]
    value: Callable[..., Any] = field(repr=False)
    given: Callable[[Any], tuple[Any, ...] | None] = field(repr=False)
    where: Callable[[Any], bool] | None = field(default=None, repr=False)
    row: Callable[[Any, Any], Any] | None = field(default=None, repr=False)
    is_histogram: bool = False
    unit: str = ""
    source: str = ""
    guide: Guide | None = None
    chart: Chart | None = None
    watch: str | None = None
    description: str = ""

    @functools.cached_property
    def is_of_layers(self) -> bool:
        """Whether it is drawn as its worst layer and its median, if there are two."""
        is_drawn = self.chart is not None and not self.is_histogram
        return is_drawn and self.of.is_one_of_many

    @functools.cached_property
    def name(self) -> str:
        """The tag without the names of layers: `batch_norm_gap/mean`."""
        return re.sub("/?<[a-z]+>", "", self.tag).strip("/")

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """Matches the tags of this signal."""
        return re.compile(self.chart_regex)

    @functools.cached_property
    def chart_regex(self) -> str:
        """The same as TensorBoard's dashboard takes it."""
        parts = re.split("<[a-z]+>", self.tag)
        return f"^{'.+'.join(map(re.escape, parts))}$"

    @functools.cached_property
    def _around(self) -> list[str]:
        """What stands before the name in a tag, and after it."""
        return re.split("<[a-z]+>", self.tag, maxsplit=1)

    @functools.cached_property
    def key(self) -> str:
        """What rules find it by: its tag, or the beginning of its tags."""
        return self.tag.partition("<")[0]

    def __call__(self, *arguments: Any) -> Any:
        """See `value`."""
        return self.value(*arguments)

    def tag_of(self, name: str) -> str:
        """The tag for a subject of this name."""
        return name.join(self._around)

    def name_in(self, tag: str) -> str:
        """The name of the subject in one of its tags."""
        before, after = self._around
        return tag.removeprefix(before).removesuffix(after)

    def of_subject(self, subject: Any) -> Any:
        """Its value there; None if there is none."""
        if self.row is not None and self.tag not in subject.rows:
            return None
        arguments = self.given(subject)
        return None if arguments is None else self.value(*arguments)

    def text(self) -> str:
        """What TensorBoard shows beside its charts, as Markdown."""
        parts = [inspect.cleandoc(self.description)]
        parts += [f"Unit: {self.unit}."] if self.unit else []
        parts += [self.guide.sentence()] if self.guide else []
        parts += [f"Source: {self.source}."] if self.source else []
        return "\n\n".join(parts)


# In the order of the table in the docs.
REGISTRY: dict[str, Signal] = {}
_by_subject: dict[type, list[Signal]] = {}  # of the registry


def signal(tag: str, **entry: Any) -> Callable[[Callable[..., Any]], Signal]:
    """Register a pure function as the value of a signal: see `Signal`.

    Its docstring is the description.
    """

    def register(function: Callable[..., Any]) -> Signal:
        description = entry.pop("description", function.__doc__ or "")
        new = Signal(tag, value=function, description=description, **entry)
        add(new)
        return new

    return register


def add(new: Signal) -> None:
    """Enter a signal; a ValueError if its tag is taken."""
    if new.tag in REGISTRY:
        raise ValueError(f"There is a signal {new.tag!r} already.")
    REGISTRY[new.tag] = new
    _by_subject.clear()


def arrange(modules: Sequence[str]) -> None:
    """Put the signals in the order of the modules that they were written in."""
    ordered = sorted(
        REGISTRY.items(), key=lambda item: modules.index(item[1].value.__module__)
    )
    REGISTRY.clear()
    REGISTRY.update(ordered)


def of(subject: Any, watch: Collection[str] | None = None) -> list[Signal]:
    """The signals that a subject has; those on request only where `watch` asks."""
    kind = type(subject)
    known = _by_subject.get(kind)
    if known is None:
        known = _by_subject[kind] = [x for x in REGISTRY.values() if x.of is kind]
    return [
        x
        for x in known
        if (x.watch is None or watch is None or x.watch in watch)
        and (x.where is None or x.where(subject))
    ]


def find(tag: str) -> Signal | None:
    """The signal that a tag belongs to."""
    return next((x for x in REGISTRY.values() if x.regex.fullmatch(tag)), None)


def over_layers(one: Signal) -> list[str]:
    """The tags of its worst layer and its median; none if it is not of layers."""
    if not one.is_of_layers:
        return []
    layers = Layers(one.name, guide=one.guide)
    return [x.tag_of(one.name) for x in of(layers)]


def describe(tag: str) -> str:
    """What TensorBoard shows about a tag, as Markdown; empty for an unknown tag."""
    found = find(tag)
    if found is None or found.of is not Layers:
        return "" if found is None else found.text()
    one = next(x for x in REGISTRY.values() if tag in over_layers(x))
    parts = [found.text(), f"`{one.tag}`: {one.text()}"]
    if one.guide is not None and tag.startswith("layers/worst/"):
        parts.insert(1, one.guide.direction())
    return "\n\n".join(parts)


def table() -> str:
    """The table of all tags in the docs, as Markdown."""
    rows = ["| tag | kind | what | healthy |", "|---|---|---|---|"]
    for one in REGISTRY.values():
        kind = "histogram" if one.is_histogram else "scalar"
        first, *_ = inspect.cleandoc(one.description).split("\n\n")
        first = first.replace("\n", " ").replace("|", "\\|")
        healthy = one.guide.range() if one.guide else ""
        rows.append(f"| `{one.tag}` | {kind} | {first} | {healthy} |")
    return "\n".join(rows)
