"""Which calls a `log_freq` looks at, without a model."""

import pytest

from kbn.callbacks.schedule import schedule_of


def due(log_freq, epochs, steps, per_call=1, before=0):
    """First steps of the calls that are looked at."""
    asks, found, looked = schedule_of(log_freq), [], before
    first = before + 1
    for _ in range(epochs):
        is_new = True
        for index in range(0, steps, per_call):
            called = range(first, first + min(per_call, steps - index))
            if asks(called, before, looked, index == 0, is_new):
                looked, is_new = called.start, False
                found.append(called.start)
            first = called.stop
    return found


def test_auto_looks_at_powers_of_two_and_at_epochs_long_after():
    assert due("auto", 2, 20) == [1, 2, 4, 8, 16, 32]
    assert due("auto", 4, 40) == [1, 2, 4, 8, 16, 32, 64, 121, 128]
    assert due("auto", 3, 300) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 301, 512, 601]


def test_auto_counts_from_the_first_step_that_was_watched():
    assert due("auto", 1, 10, before=1000) == [1001, 1002, 1004, 1008]


@pytest.mark.parametrize("per_call", [3, 7, 100])
def test_a_call_of_several_steps_looks_once(per_call):
    found = due("auto", 1, 100, per_call)
    powers = [2**i for i in range(7)]
    calls = range(1, 101, per_call)
    holds = [first for first in calls if {*range(first, first + per_call)} & {*powers}]
    assert found == holds


@pytest.mark.parametrize("per_call", [1, 4])
def test_others_as_ever(per_call):
    def is_due(step):
        return step % 5 == 0

    assert due(5, 2, 20, per_call) == due(is_due, 2, 20, per_call)
    assert due("epoch", 3, 20, per_call) == [1, 21, 41]
