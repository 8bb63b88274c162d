"""Times of functions that take turns, and how sure their ratio is."""

import random
import time
from math import floor, sqrt
from statistics import median
from typing import NamedTuple


def interleaved(functions, *arguments, rounds, repeats):
    """{name: milliseconds of one call, one value a round}.

    functions: {name: function}. They take turns, so that the machine's noise meets all
    of them alike, each round in another order: what ran before leaves its traces in the
    caches. Two calls of each come first, unmeasured.
    """
    times = {name: [] for name in functions}
    order = random.Random(0)
    for function in functions.values():
        for _ in range(2):
            function(*arguments)
    for _ in range(rounds):
        for name, function in order.sample([*functions.items()], len(functions)):
            start = time.perf_counter()
            for _ in range(repeats):
                function(*arguments)
            times[name].append((time.perf_counter() - start) / repeats * 1e3)
    return times


class Ratio(NamedTuple):
    """The median of the rounds' ratios, and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self):
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(above, below):
    """Of two lists of times that took turns.

    The interval is that of order statistics: the number of rounds below the true median
    is binomial.
    """
    quotients = sorted(a / b for a, b in zip(above, below, strict=True))
    count = len(quotients)
    rank = max(floor(count / 2 - 0.98 * sqrt(count)), 0)
    return Ratio(median(quotients), quotients[rank], quotients[count - 1 - rank])


def judge(ratios, at_most=None, at_least=None):
    """Whether all `ratios`, {name: Ratio}, keep the limit.

    "yes" by the medians; "within noise: ..." where a median misses but its interval
    does not; else "no: ...", with the names of those that miss.
    """

    def misses(value, best):
        late = at_most is not None and value > at_most
        return late or (at_least is not None and best < at_least)

    missed = [name for name, r in ratios.items() if misses(r.median, r.median)]
    surely = [name for name in missed if misses(ratios[name].low, ratios[name].high)]
    if surely:
        return "no: " + ", ".join(surely)
    return "within noise: " + ", ".join(missed) if missed else "yes"
