"""The check of a model and its data before they are trained."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import keras
from keras import tree

from kbn.private import keras as private
from kbn.surgery import compiling, copying, graph

from ..alerts.alert import Alert, rank
from ..alerts.follow import Follower
from ..signals.rule import Rule
from ..signals.targets import OutputMismatch
from ..watch.evidence import non_finite
from ..watch.layers import attribute
from ..watch.targets import Supervision, supervised
from . import by_heart, examples, forward, rules, seeds, trial
from .examples import Examples
from .facts import Facts
from .labels import faults
from .lines import lines
from .table import Check

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
    _require(model)
    with seeds.kept():
        given = examples.read(x, y, sample_weight, batch_size, trial.STEPS)
        found = _Looker(model, given).look()
    if verbose:
        print(found)
    return found


def _require(model: Any) -> None:
    graph.require_layer(model, "kbn.check", " Call kbn.check(model, x, y).")
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"kbn.check received {model.name!r} ({type(model).__name__}), which is not "
            "compiled: its loss and optimizer are checked too. Call model.compile("
            "optimizer, loss) first."
        )


class _Looker:
    """One check, which puts together what its parts have seen."""

    def __init__(self, model: Any, given: Examples) -> None:
        self._model, self._given = model, given
        self._facts = Facts(given)
        self._has_own_step = any(
            getattr(type(model), name) is not getattr(keras.Model, name)
            for name in ("train_step", "compute_loss")
        )

    def look(self) -> Check:
        """All lines."""
        facts = self._facts
        found = non_finite(self._given.everything)
        facts.scalars |= {
            f"health/non_finite/{PLACES[part]}/{name}": float(count)
            for (part, name), (count, _) in found.items()
            if part in PLACES
        }
        try:
            start = self._copied(self._model)
        except ValueError as error:
            facts.why_none = str(error)
            return self._check(self._alerts())
        self._call(start)
        misfits = [*self._misfits(start)]
        if not misfits:
            self._train(start)
            self._learn(start)
        return self._check(misfits or self._alerts())

    def _check(self, alerts: list[Alert]) -> Check:
        return Check(self._model.name, lines(self._facts, alerts))

    def _copied(self, model: Any) -> Any:
        """A copy that is compiled alike.

        Raises:
            ValueError: It cannot be copied, or not compiled.
        """
        twin, layers = copying.copy(model)
        if type(model).compile is keras.Model.compile:
            compiling.compile_like(model, twin, layers)
        else:  # what it has kept, by the names that it has for it
            for name, value in vars(model).items():
                if isinstance(value, keras.optimizers.Optimizer | keras.losses.Loss):
                    setattr(twin, name, compiling.copied(value))
            settings = private.compile_settings(model) or {}
            keras.Model.compile(twin, **compiling.copied(settings))
        if not twin.compiled:
            raise ValueError(f"The copy of {model.name!r} could not be compiled.")
        return twin

    def _call(self, model: Any) -> None:
        """Call it on a batch, which builds it."""
        x = self._given.first[0]
        try:
            if not model.built:
                model(tree.map_structure(forward.tensor, x), training=False)
            self._facts.outputs = forward.outputs(model, x, training=False)
        except Exception as error:
            if self._has_own_step:
                name = type(error).__name__
                self._facts.why_no_call = f"the model is not called on x ({name})"
                return
            shapes = tree.map_structure(lambda one: tuple(one.shape), x)
            raise ValueError(
                f"kbn.check received x of shape {shapes} in a batch, on which "
                f"{model.name!r} cannot be called: {error}"
            ) from error

    def _misfits(self, model: Any) -> Iterator[Alert]:
        """Of targets with which no step can be made."""
        x, y, weights = self._given.first
        if self._has_own_step or y is None:
            return
        failure = None
        try:  # what tells the losses by their outputs
            given = model(tree.map_structure(forward.tensor, x), training=False)
            model.compute_loss(x, tree.map_structure(forward.tensor, y), given, weights)
        except Exception as error:
            failure = error
        whole = Supervision(self._given.everything[1], None, self._facts.outputs)
        for head, targets, _, output in supervised(model, whole):
            ignored = attribute(head.loss, "ignore_class")
            for fault in faults(head.loss_name, targets, output, ignored):
                failure = None
                yield _alert(OutputMismatch(), head.name, fault)
        if failure is not None:
            shapes = tree.map_structure(lambda one: tuple(one.shape), y)
            raise ValueError(
                f"kbn.check received y of shape {shapes} in a batch, of which the loss "
                f"cannot be computed: {failure}"
            ) from failure

    def _train(self, start: Any) -> None:
        """The trial, and what its model gives then."""
        facts = self._facts
        model = self._copied(start)
        if not (self._has_own_step or model.optimizer.built):
            # In the first step TensorFlow would trace all twice.
            model.optimizer.build(model.trainable_variables)
        try:
            facts.record, facts.entries = trial.train(model, self._given.batches)
        except Exception as error:
            if not self._has_own_step:
                raise
            facts.why_none = f"its own train_step raises {error!r} in a copy"
            return
        if facts.outputs:
            batch = self._given.first
            given = forward.outputs(model, batch[0], training=False)
            facts.measure(rules.SPREAD, forward.spread(given))
            facts.measure(rules.MIXED, forward.mixed(model, batch, given))

    def _learn(self, start: Any) -> None:
        facts, settings = self._facts, private.compile_settings(self._model)
        if self._has_own_step:
            facts.why_not_learned = "the model trains by a step or loss of its own"
            return
        batch = self._given.rows(by_heart.EXAMPLES)
        model, _ = copying.copy(start)
        learned = by_heart.learn(model, settings or {}, batch)
        facts.learned = learned
        for name, course in learned.courses.items():
            share = 1.0 if course.is_right else course.share
            facts.measure(f"{rules.WAY}{name}", share)
        facts.measure(rules.STEPS_TAKEN, float(learned.steps))
        for path in learned.unmoved:
            facts.measure(f"{rules.UNMOVED}{path}", 0.0)

    def _alerts(self) -> list[Alert]:
        """What the rules say, effects as symptoms of their cause."""
        follower = Follower(rules.RULES)
        record = {**self._facts.record, "fit": {"steps": self._given.steps}}
        follower.record(record)
        for step, scalars in self._facts.all_entries():
            follower.look(step, scalars)
        follower.end()
        for error in follower.failures.values():
            raise error
        return _explained(follower.open)


def _alert(rule: Rule, where: str, fault: Any) -> Alert:
    message = f"{fault.message} {fault.remedy.words}"
    return Alert(
        rule.name,
        "critical",
        where,
        0,
        None,
        fault.share,
        0.0,
        message,
        title=rule.title,
        remedy=fault.remedy,
    )


def _explained(alerts: list[Alert]) -> list[Alert]:
    """Effects that only a check finds as symptoms of the first cause beside them."""
    is_grave = {id(x): rank(x.level) >= rank("warning") for x in alerts}
    causes = [x for x in alerts if x.rule not in rules.EFFECTS and is_grave[id(x)]]
    effects = [x for x in alerts if x.rule in rules.EFFECTS and is_grave[id(x)]]
    if not causes or not effects:
        return alerts
    names = (*causes[0].symptoms, *(x.rule for x in effects))
    cause = replace(causes[0], symptoms=names)
    rest = [x for x in alerts if x not in (causes[0], *effects)]
    return [cause, *rest]
