"""What ends unwatched ends watched: any training, by a fuzzer."""

import collections
import os
import tempfile

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings

from kbn.callbacks import TrainingMonitor
from tests import trainings, watched_models
from tests.event_files import read_log, steps

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
EXAMPLES = settings.default.max_examples // 8
PHASES = [Phase.explicit, Phase.generate]  # making a failure smaller takes minutes
TRIED: collections.Counter = collections.Counter()
pytestmark = [
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
    # Keras': of what is not there when another callback stops in its first batch.
    pytest.mark.filterwarnings("ignore:Early stopping conditioned on metric"),
    pytest.mark.filterwarnings("ignore:Learning rate reduction is conditioned"),
    pytest.mark.filterwarnings("ignore:The model does not have any trainable"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist for variables"),
]


@settings(max_examples=EXAMPLES, phases=PHASES)
@given(training=trainings.trainings)
def survives(training):
    TRIED["trainings"] += 1
    error, expected, _ = trainings.run(training, [])
    with tempfile.TemporaryDirectory() as log_dir:
        monitor = TrainingMonitor(log_dir, **trainings.MONITORS[training.monitor])
        watched_error, state, models = trainings.run(training, [monitor])
        logs = [read_log(place) for place, *_ in os.walk(log_dir)]
    assert type(watched_error) is type(error), (error, watched_error)
    for array, other in zip(state, expected, strict=True):
        np.testing.assert_array_equal(array, other)
    for log in logs:
        for tag in log:
            assert steps(log, tag) == sorted(set(steps(log, tag))), tag
    assert any(logs) or error is not None
    for model in models:
        # After an exception the function may stay in place, where it only hands on.
        if ON_TENSORFLOW and error is None and model.train_function is not None:
            watched_models.assert_unwatched(model)
        else:
            watched_models.assert_nothing_is_overridden(model)
    TRIED["errors"] += error is not None


@pytest.mark.long
def test_what_ends_unwatched_ends_watched():
    survives()
    # Most of many are trainings that end well.
    assert TRIED["errors"] < max(TRIED["trainings"] / 2, min(TRIED["trainings"], 5))
