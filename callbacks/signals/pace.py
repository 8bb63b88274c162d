"""Speed and memory: what a training takes, beside what it learns."""

from .registry import Chart, signal
from .subjects import Pace


@signal(
    "speed/steps",
    of=Pace,
    given=lambda pace: (pace.steps, pace.seconds) if pace.seconds > 0 else None,
    unit="steps a second",
    chart=Chart("Training", "steps a second"),
)
def steps_a_second(steps: int, seconds: float) -> float:
    """Steps a second between the look before and this one.

    By the clock, without the time of looks and of validation; with that of loading
    data and of other callbacks. Not where every step is looked at.
    """
    return steps / seconds


@signal(
    "speed/examples",
    of=Pace,
    given=lambda pace: (
        (pace.steps * pace.batch_size, pace.seconds)
        if pace.batch_size and pace.seconds > 0
        else None
    ),
    unit="examples a second",
    chart=Chart("Training", "examples a second"),
)
def examples_a_second(examples: int, seconds: float) -> float:
    """The same in examples, by the size of the first batch that was looked at."""
    return examples / seconds


@signal(
    "memory/host",
    of=Pace,
    given=lambda pace: None if pace.memory is None else (pace.memory,),
    unit="MiB",
    chart=Chart("Training", "memory of the host, at most"),
)
def host_memory(memory: float) -> float:
    """The most memory that the process has held so far: its peak resident set.

    What grows from epoch to epoch is held by somebody. A device's memory is not in it,
    and Windows does not tell.
    """
    return memory
