"""The check of a model and its data before they are trained."""

import warnings
from dataclasses import replace
from typing import Any

import keras
from keras import tree

from kbn.private import keras as private
from kbn.surgery import graph

from ..alerts.alert import Alert, rank
from ..alerts.follow import Follower
from ..watch.evidence import non_finite
from ..watch.tensors import tensor
from . import examples, rules, trial
from .examples import Examples
from .labels import misfits
from .lines import Check, Facts, lines

PLACES = {"x": "inputs", "y": "targets"}


def check(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int = 32,
    verbose: int = 1,
) -> Check:
    """Look for what is wrong with a model and its data, before they are trained.

    A copy of the model is trained for 24 steps under the monitor, another learns one
    batch by heart, without dropout and penalties; the monitor's rules judge what that
    shows, as they do in a training, and a few of the check's own. It takes seconds for
    small models; of large ones, about as long as 24 steps and, unless one batch is
    learned sooner, 500 steps on 32 examples.

    Nothing is changed: weights, the optimizer, what was compiled and the seeds of the
    model, of Keras, NumPy, Python and the backend stay as they are. A data set that
    shuffles anew each time it is read does so here as well.

    Each line that fails has diagnoses, by the monitor's names, with a remedy each. What
    cannot be checked is a line that says why: a `train_step` of its own is watched, but
    only Keras' own learns a batch by heart.

    Args:
        model: A compiled `keras.Model`.
        x: As for `fit`: arrays, a list or dictionary of several inputs, or what gives
            batches (x, y) again and again: a `tf.data.Dataset`, a `PyDataset`, a torch
            `DataLoader`.
        y: As for `fit`. None where `x` gives batches.
        sample_weight: As for `fit`.
        batch_size: Of arrays, as for `fit`.
        verbose: 1 prints the table, 0 does not.

    Returns:
        A `Check`: `lines`, `ok`, `alerts` and `remedies`. As a string it is the table.

    Raises:
        ValueError: It is no Keras model, or not compiled; x and y are nothing that
            `fit` takes, or do not fit the model.

    Example:
        >>> import keras, kbn, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> x, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3
        >>> found = kbn.check(model, x, y, verbose=0)
        >>> found.ok, found.alerts[0].rule
        (False, 'output_mismatch')

    Reference:
        Google Cloud, "Guidelines for developing high-quality, predictive ML solutions":
        a model learns a handful of examples by heart, or there is a bug.
    """
    graph.require_layer(model, "kbn.check", " Call kbn.check(model, x, y).")
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"kbn.check received {model.name!r} ({type(model).__name__}), which is not "
            "compiled: its loss and optimizer are checked too. Call model.compile("
            "optimizer, loss) first."
        )
    with trial.seeds_kept(), warnings.catch_warnings():
        # It is `unchanged_weight` here.
        warnings.filterwarnings("ignore", "Gradients do not exist")
        given = examples.read(x, y, sample_weight, batch_size, trial.STEPS)
        found = _Looker(model, given).look()
    if verbose:
        print(found)
    return found


class _Looker(Facts):
    """One check: each part of it adds the facts that it has seen."""

    def __init__(self, model: Any, given: Examples) -> None:
        super().__init__(given)
        self._model, self._x = model, given.batches[0][0]
        self._has_own_step = any(
            getattr(type(model), name) is not getattr(keras.Model, name)
            for name in ("train_step", "compute_loss")
        )

    def look(self) -> Check:
        """All lines."""
        found = non_finite(self.given.everything)
        self.scalars = {
            f"health/non_finite/{PLACES[part]}/{name}": float(count)
            for (part, name), (count, _) in found.items()
            if part in PLACES
        }
        alerts: list[Alert] = []
        try:
            start = trial.copy(self._model, self._x)
        except ValueError as error:
            self.why_none = str(error)
        else:
            self._call(start)
            if not self._has_own_step:
                alerts = misfits(start, self.given, self.outputs)
            if not alerts:
                self._train(start)
                self._learn(start)
        alerts = alerts or self._judge()
        return Check(str(self._model.name), lines(self, alerts))

    def _call(self, model: Any) -> None:
        """Call it on a batch, which builds it."""
        x = self._x
        try:
            if not model.built:
                model(tree.map_structure(tensor, x), training=False)
            self.outputs = trial.outputs(model, x, training=False)
        except Exception as error:
            if not self._has_own_step:
                raise ValueError(
                    f"kbn.check received x of shape {trial.shapes(x)} in a batch, on "
                    f"which {model.name!r} cannot be called: {error}"
                ) from error
            name = type(error).__name__
            self.why_no_call = f"the model is not called on x ({name})"

    def _few(self, model: Any) -> examples.Batch:
        """Some examples: as many as the model is made for, if that is fixed."""
        shapes = [one.shape for one in getattr(model, "inputs", None) or ()]
        fixed = next((shape[0] for shape in shapes if shape[0]), None)
        return self.given.few(fixed or trial.EXAMPLES)

    def _train(self, start: Any) -> None:
        """The trial, and what its model gives then."""
        x, model = self._few(start)[0], trial.copy(start, self._x)
        try:
            self.record, self.entries = trial.train(model, self.given.batches)
        except Exception as error:
            if not self._has_own_step:
                raise
            self.why_none = f"its own train_step raises {error!r} in a copy"
            return
        if self.outputs:
            given = trial.outputs(model, x, training=False)
            self.measure(rules.SPREAD, trial.spread(given))
            self.measure(rules.MIXED, trial.mixed(model, x, given))

    def _learn(self, start: Any) -> None:
        if self._has_own_step:
            self.why_not_learned = "the model trains by a step or loss of its own"
            return
        model = trial.copy(start, self._x)
        settings = private.compile_settings(self._model) or {}
        learned = trial.learn(model, settings, self._few(model))
        for name, course in learned.courses.items():
            self.measure("by_heart", learned.steps)
            share = 1.0 if course.is_right else course.share
            self.measure(f"{rules.WAY}{name}", share)
        for path in learned.unmoved:
            self.measure(f"{rules.UNMOVED}{path}", 0.0)

    def _judge(self) -> list[Alert]:
        """What the rules say; effects are symptoms of the first cause beside them."""
        follower = Follower(rules.RULES)
        follower.record({**self.record, "fit": {"steps": self.given.steps}})
        for entry in self.all_entries():
            follower.look(*entry)
        follower.end()
        for error in follower.failures.values():
            raise error
        grave = [x for x in follower.open if rank(x.level) >= rank("warning")]
        effects = [x for x in grave if x.rule in rules.EFFECTS]
        causes = [x for x in grave if x not in effects]
        if not causes:
            return follower.open
        names = (*causes[0].symptoms, *(x.rule for x in effects))
        rest = [x for x in follower.open if x not in (causes[0], *effects)]
        return [replace(causes[0], symptoms=names), *rest]
