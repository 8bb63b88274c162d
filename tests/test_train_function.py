"""kbn.callbacks.train_function: one stand-in for all monitors of a fit."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the other backends need no stand-in", allow_module_level=True)

from kbn.callbacks import TrainingMonitor
from tests import watched_models
from tests.event_files import read_log, steps
from tests.watched_models import BATCH, ROWS

STEPS = -(-ROWS // BATCH)
# Alike and different in when, what and where they look; some steps are due for two.
MONITORS = {
    "every-second": {"log_freq": 2},
    "every-third": {"log_freq": 3, "layers": "head|norm", "sample_size": 64},
    "gradients": {"log_freq": 4, "watch": ("gradients",)},
    "weights": {"watch": ("weights",)},
}


def train(monitors=(), epochs=2, others=(), **options):
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model, x, y = watched_models.sequential(**options)
    fit = {"epochs": epochs, "batch_size": BATCH, "verbose": 0}
    model.fit(x, y, callbacks=[*monitors, *others], **fit)
    return model


def monitors(tmp_path, names=tuple(MONITORS)):
    return [TrainingMonitor(tmp_path / name, **MONITORS[name]) for name in names]


def assert_same_weights(model, expected):
    for weight, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize("mode", ["graph", "eager", "steps_per_execution"])
def test_several_monitors_see_what_each_sees_alone(mode, tmp_path):
    options = {
        "graph": {},
        "eager": {"run_eagerly": True},
        "steps_per_execution": {"steps_per_execution": 3},
    }[mode]
    train(monitors(tmp_path / "together"), **options)
    for name in MONITORS:
        train(monitors(tmp_path / "alone", [name]), **options)
        alone, together = (read_log(tmp_path / k / name) for k in ("alone", "together"))
        assert together.keys() == alone.keys()
        assert any(tag.startswith(("gradients", "weights")) for tag in alone)
        for tag, looks in alone.items():
            assert steps(together, tag) == [step for step, _ in looks]
            for (_, value), (_, expected) in zip(together[tag], looks, strict=True):
                np.testing.assert_array_equal(value, expected, err_msg=f"{name} {tag}")


@pytest.mark.parametrize("names", [[*MONITORS], [*MONITORS][::-1]], ids="-".join)
def test_several_monitors_change_no_bit(names, tmp_path):
    model = train(monitors(tmp_path, names))
    assert_same_weights(model, train())
    assert int(model.optimizer.iterations) == 2 * STEPS


def test_the_last_to_go_puts_the_original_back(tmp_path):
    model = train()
    x, y = watched_models.rows(6), watched_models.classes()
    original = model.train_function
    first, second = monitors(tmp_path, ["every-second", "every-third"])
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.model.train_function)

    fit = {"batch_size": BATCH, "verbose": 0}
    model.fit(x, y, callbacks=[first, second, Spy()], **fit)
    assert len(seen[0].watchers) == 0
    assert seen[0].original is original
    assert model.train_function is original
    model.fit(x, y, callbacks=[second], **fit)  # and one of them alone again
    assert model.train_function is original
    looks = steps(read_log(tmp_path / "every-third"), "activations/head")
    assert looks == [9, 12, 15]
    assert steps(read_log(tmp_path / "every-second"), "activations/head") == [10, 12]


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("culprit", ["another callback", "a schedule"])
def test_an_exception_takes_all_of_them_away(culprit, tmp_path):
    both = monitors(tmp_path, ["every-second", "every-third"])

    def schedule(step):
        if step == 3:
            raise KeyboardInterrupt
        return step == 1

    last = TrainingMonitor(tmp_path / "last", log_freq=schedule)
    others = [Stop()] if culprit == "another callback" else [last]
    x, y = watched_models.rows(6), watched_models.classes()

    def interrupted(callbacks, others):
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        model, *_ = watched_models.sequential()
        fit = {"batch_size": BATCH, "verbose": 0}
        with pytest.raises(KeyboardInterrupt):
            model.fit(x, y, epochs=2, callbacks=[*callbacks, *others], **fit)
        return model, fit

    model, fit = interrupted(both, others)
    # A schedule is asked before its step, a callback after it.
    done = 3 if culprit == "another callback" else 2
    assert int(model.optimizer.iterations) == done
    model.fit(x, y, **fit)
    assert type(model.train_function).__name__ == "function"
    log = read_log(tmp_path / "every-second")
    assert steps(log, "activations/head") == [2]
    # and each watches again
    model.fit(x, y, callbacks=both, **fit)
    assert type(model.train_function).__name__ == "function"
    looks = steps(read_log(tmp_path / "every-third"), "activations/head")
    first = [3] if culprit == "another callback" else []
    end = done + 2 * STEPS
    assert looks == first + [s for s in range(done + STEPS + 1, end + 1) if s % 3 == 0]
