"""Targets beside outputs, as a step's loss was given them, over all looks at a model.

What guessing would give is asked of the compiled losses themselves, so weights,
smoothing and ignored classes count as they do in training.
"""

import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import tree

from kbn.private import keras as private

from ..signals.subjects import Array, Guess, Head, Penalty, Subject
from ..signals.targets import (
    BINARY,
    CLASSES,
    LOSSES,
    NUMBERS,
    RANGES,
    UNIT,
    KnownLoss,
    batch_effect,
)
from . import activations
from .inventory import Inventory
from .layers import DROPOUT, attribute, graph_of
from .tensors import to_numpy

Path: TypeAlias = tuple[Any, ...]
KEPT = 2**18  # numbers of targets, or of outputs, to ask a loss about
MANY = 1000  # classes, or numbers of an example, that are counted one by one
GROWN = 1.25  # times as many targets, of which a guess is asked for anew
FEW = 30  # labels a class: with fewer, their shares are taken to be equal
LOOKS = 4096  # of which targets are counted: more say nothing new
SEVERAL = 4  # looks: of fewer, the batches may be those of sorted data
SORTED = 0.1  # batch_effect above which the labels that were seen stand for no others
TINY = 1e-7  # Keras' epsilon: probabilities below it are cut
BY_HEART = 0.9  # of the way from the guess to the floor
CLOSE = 0.01  # of two losses that are one, in 16 bits


@dataclass(frozen=True)
class Supervision:
    """What the loss of one step was given: arrays.

    `outputs`: by place in y_pred. `inputs`: a hash of what the model was given, which
    tells batches of the same labels apart.
    """

    y: Any
    weights: Any
    outputs: Mapping[Path, Array]
    inputs: int = 0


class HeadProgress(NamedTuple):
    """How far one output has come with a batch: losses, `floor` the lowest possible.

    `is_right`: whether all of its labels are; False of numbers.
    """

    loss: float
    guess: float
    floor: float
    is_right: bool

    @property
    def share(self) -> float:
        """Of the way from the guess to the floor."""
        return (self.guess - self.loss) / max(self.guess - self.floor, TINY)

    @property
    def is_known(self) -> bool:
        """Whether the batch is known by heart."""
        return self.is_right or self.share >= BY_HEART


def progress(model: Any, given: Supervision) -> dict[str, HeadProgress]:
    """By output, how far a model has come with a batch; of those that can be judged."""
    found = {}
    for head, y, weights, output in supervised(model, given):
        head.add(y, weights, output)
        head.undoes = head.undoes and head.gives_probabilities
        known = head.progress()
        if known is not None and head.weight:
            found[head.name] = known
    return found


def supervised(model: Any, given: Supervision) -> Iterator[tuple[Any, ...]]:
    """(head, targets, weights, output) of each loss that was compiled."""
    losses = private.compiled_losses(model) if _is_compiled(model) else None
    pairs = _pairs(losses, given) if losses else ()
    for one, pair in zip(losses or (), pairs, strict=True):
        yield _Head(_name(one, losses or ()), one), *pair


def setting(loss: Any, name: str) -> Any:
    """An argument that a loss was made with; None if it is not known.

    From Keras 3.16 on, not all of them are attributes too.
    """
    known = attribute(loss, name)
    if known is not None or not isinstance(loss, keras.Loss):
        return known
    try:
        return loss.get_config().get(name)
    except Exception:  # a user's own may have none
        return None


class HeadReader:
    """Reads the heads of one model: outputs with a loss, see `subjects.Head`."""

    def __init__(self) -> None:
        self._heads: dict[str, _Head] = {}
        self._losses: list[Any] = []
        self._is_whole: bool | None = None  # the step's loss is theirs; None: unknown

    @property
    def state(self) -> tuple[Any, ...]:
        """Differs when what is to be described does."""
        undone = tuple((name, x.undoes) for name, x in self._heads.items())
        return undone, self._is_whole

    def read(
        self, model: Any, given: Supervision | None, trained: float | None
    ) -> list[Subject]:
        """What a look says; `trained`: the step's loss, None if it is not known."""
        losses = private.compiled_losses(model)
        if given is None or not losses or not _is_compiled(model):
            return []
        if [id(x.loss) for x in losses] != [id(x.loss) for x in self._losses]:
            self._losses, self._heads, self._is_whole = losses, {}, None
        pairs = _pairs(losses, given)
        for one, (y, weights, output) in zip(losses, pairs, strict=True):
            name = _name(one, losses)
            head = self._heads.get(name)
            if head is None:
                head = self._heads[name] = _Head(name, one)
            head.add(y, weights, output, given.inputs)
        if self._is_whole is None and trained is not None:
            self._is_whole = self._compare(trained, _penalty(model))
        found: list[Subject] = [
            self._heads[_name(one, losses)].subject(_end(model, *place)[0])
            for one, place in zip(losses, _places(losses), strict=True)
        ]
        return found + (self._guesses() if self._is_whole else [])

    def penalty(self, model: Any) -> list[Subject]:
        """What regularizers add now, where there is a guess to compare with."""
        value = _penalty(model) if self._is_whole else 0.0
        return [Penalty("", value=value)] if value else []

    def why_no_guess(self, model: Any) -> str | None:
        """Why it is not known what guessing would give; None: it is, or may be."""
        if not _is_compiled(model):
            return "the model has a train_step or a compute_loss of its own"
        if self._is_whole is False:
            return "the step's loss is not that of the compiled losses alone"
        losses = private.compiled_losses(model) or []
        heads = [_Head(one.name, one) for one in losses]
        unknown = [head.title for head in heads if not head.has_guess]
        if not unknown:
            return None
        return f"no closed form is known of {', '.join(map(str, unknown))}"

    def describe(
        self, model: Any, inventory: Inventory, final: Collection[str]
    ) -> list[dict[str, Any]]:
        """The heads as JSON has them; none where the losses are not Keras' to know."""
        losses = private.compiled_losses(model) if _is_compiled(model) else None
        found = []
        losses = losses or []
        for one, place in zip(losses, _places(losses), strict=True):
            name = _name(one, losses)
            head = self._heads.get(name) or _Head(name, one)
            known = [inventory.layers[x] for x in final if x in inventory.layers]
            activation, layer, before = _end(model, *place, known)
            found.append(
                {
                    "name": name,
                    "loss": head.loss_name,
                    "takes_logits": head.takes_logits,
                    "activation": activation,
                    "activation_before": before,
                    "layer": attribute(layer, "name"),
                    "units": head.units or _units(layer),
                    "is_only": len(losses) == 1,
                }
            )
        return found

    def _compare(self, trained: float, penalty: float) -> bool:
        """Whether the step's loss is that of the heads and nothing else.

        Whether Keras took logits instead of probabilities that are called logits, as
        TensorFlow's functions do where a softmax or sigmoid comes right before.
        """
        heads = [*self._heads.values()]
        slack = CLOSE * abs(trained) + 0.5 * penalty + 1e-6
        for undoes in (False, True):
            for head in heads:
                head.undoes = undoes and head.gives_probabilities
            losses = [head.batch_loss() for head in heads]
            known = [x for x in losses if x is not None]
            if len(known) < len(heads):
                break
            off = trained - penalty - sum(known)
            # From probabilities that were cut, the loss is smaller than from logits.
            is_cut = any(head.is_cut for head in heads) and off > 0
            if abs(off) <= slack or is_cut:
                return True
        for head in heads:  # not known: nothing is said of it
            head.undoes = head.gives_probabilities
        return False

    def _guesses(self) -> list[Subject]:
        each = [(head, head.guess()) for head in self._heads.values()]
        known = [(head, *one) for head, one in each if one is not None]
        found: list[Subject] = [Guess(x.name, loss=y, error=z) for x, y, z in known]
        if len(known) == len(each):
            loss = sum(head.weight * loss for head, loss, _ in known)
            error = sum(abs(head.weight) * error for head, _, error in known)
            found.append(Guess("", loss=loss, error=error))
        return found


class _Head:
    """One output, its loss, and what was seen of its targets."""

    def __init__(self, name: str, compiled: Any) -> None:
        self.name = name
        self.path = compiled.path
        self.loss = compiled.loss
        self.weight = 1.0 if compiled.weight is None else float(compiled.weight)
        function = attribute(compiled.loss, "fn")
        self.loss_name = attribute(function, "__name__")
        if getattr(keras.losses, str(self.loss_name), None) is not function:
            self.loss_name = None  # a user's own
        self._known = LOSSES.get(str(self.loss_name), KnownLoss(""))
        self.undoes = keras.backend.backend() == "tensorflow"
        self.units: int | None = None
        self.count = 0
        self._y: list[Array] = []  # as it was given, for the loss
        self._weights: list[Array | None] = []
        self._kept = 0
        self._sums: tuple[float, Array, Array] | None = None  # weight, mean, M2
        self._labels: Array | None = None
        self._squares: Array | None = None
        self._looks = 0
        self._guess: tuple[float, float] | None = None
        self._guessed_of, self._guessed_by_shares = 0, False
        self._batch: tuple[Any, Any, Array] | None = None
        self._met: set[int] = set()  # hashes of batches that were counted

    @property
    def has_guess(self) -> bool:
        """Whether the best constant prediction has a closed form."""
        return bool(self._known.constants)

    @property
    def title(self) -> str:
        """The loss for a user to read."""
        return self.loss_name or str(attribute(self.loss, "name", "a loss"))

    @functools.cached_property
    def has_logits(self) -> bool:
        """Whether the loss says that it takes logits."""
        return bool(setting(self.loss, "from_logits"))

    @property
    def takes_logits(self) -> bool:
        """Whether the loss does, and Keras does not see to it that it does not."""
        return self.has_logits and not self.undoes

    @property
    def gives_probabilities(self) -> bool:
        """Whether the outputs of the last look could be."""
        if self._batch is None or not self.has_logits:
            return False
        output = self._batch[2]
        is_unit = bool(((output >= 0) & (output <= 1)).all())
        if self._known.kind == CLASSES:
            return is_unit and bool(np.allclose(output.sum(-1), 1, atol=1e-2))
        return is_unit

    @property
    def is_cut(self) -> bool:
        """Whether probabilities of the last look are as near to 0 as Keras lets."""
        if self._batch is None or self._known.takes != UNIT or self.takes_logits:
            return False
        output = self._batch[2]
        return bool((output < 2 * TINY).any() or (output > 1 - 2 * TINY).any())

    def add(
        self, y: Array, weights: Array | None, output: Array, inputs: int = 0
    ) -> None:
        """What one look has seen, all examples on the first axis."""
        output = np.asarray(output)
        if output.dtype.name not in ("float32", "float64"):
            output = output.astype(np.float32)
        self.units = output.shape[-1]
        self._batch = y, weights, output
        # The first batch of each epoch, where nothing is shuffled, is one batch.
        known = hash((inputs, y.tobytes()))
        if known in self._met or len(self._met) >= LOOKS:
            return
        self._met.add(known)
        self.count += len(y)
        rows = self._rows(y, output)
        if rows is None:
            return
        self._count(rows, None if weights is None else np.asarray(weights))
        size = max(1, math.prod(output.shape[1:]), math.prod(y.shape[1:]))
        room = min(len(y), (KEPT - self._kept) // size)
        if room > 0:
            self._kept += room * size
            self._y.append(y[:room])
            self._weights.append(None if weights is None else weights[:room])

    def _rows(self, y: Array, output: Array) -> Array | None:
        """Targets as rows of numbers: of classes one-hot; None: too many."""
        kind, units = self._known.kind, output.shape[-1]
        if kind == CLASSES and units > MANY:
            return None
        if kind == CLASSES and self.loss_name.startswith("sparse"):
            labels = y.reshape(-1).astype(np.int64)
            ignored = setting(self.loss, "ignore_class")
            known = (labels >= 0) & (labels < units)
            known &= True if ignored is None else labels != ignored
            rows = np.zeros((len(labels), units))
            rows[known, labels[known]] = 1
            return rows
        if kind == CLASSES:
            return y.reshape(-1, units).astype(np.float64)
        if output.ndim > 2 or y.size != output.size or units > MANY:
            return y.reshape(-1, 1).astype(np.float64)
        return y.reshape(-1, units).astype(np.float64)

    def _count(self, rows: Array, weights: Array | None) -> None:
        kind = self._known.kind
        each = np.ones(len(rows))
        if weights is not None and len(rows) % max(weights.size, 1) == 0:
            flat = weights.reshape(-1).astype(np.float64)
            each = np.repeat(flat, len(rows) // flat.size)
        each = np.where(np.isfinite(rows).all(axis=1), each, 0)
        rows = np.where(np.isfinite(rows), rows, 0)
        if kind == CLASSES:
            each = each * (rows.sum(axis=1) > 0)
        total = each.sum()
        if total <= 0:
            return
        mean = each @ rows / total
        squares = each @ np.square(rows - mean)
        self._sums = _merged(self._sums, (total, mean, squares))
        labels = _labels(kind, rows)
        if labels is None:
            return
        if self._labels is None or self._squares is None:
            self._labels, self._squares = np.zeros(len(labels)), np.zeros(len(labels))
        self._labels += labels
        # Pixels of an image and steps of a sequence are no draws of their own.
        if labels.sum() == len(self._batch[0] if self._batch else ()):
            self._squares += np.square(labels) / labels.sum()
            self._looks += 1

    def subject(self, activation: str | None) -> Head:
        """What the looks say of it, see `subjects.Head`."""
        assert self._batch is not None, "see add"
        y, _, output = self._batch
        kind, is_known = self._known.kind, bool(self._known.kind)
        reach: Any = UNIT if kind == BINARY else None
        if kind == NUMBERS:
            reach = RANGES.get(str(activation))
            reach = None if reach is None or np.isinf(reach).all() else reach
        if str(self.loss_name).startswith("categorical"):
            reach, y = (1.0, 1.0), np.sum(y, axis=-1)
            y = y[y != 0] if y.any() else y  # rows of zeros are padding
        takes = self._known.takes
        is_bounded = is_known and not self.takes_logits and not np.isinf(takes).all()
        if self.has_logits and not self.gives_probabilities and is_known:
            given = keras.ops.softmax if kind == CLASSES else keras.ops.sigmoid
            output = to_numpy(given(output))
            is_bounded = False
        mean = variance = None
        if self._sums is not None and is_known:
            total, mean, squares = self._sums
            variance = squares / total
        return Head(
            self.name,
            targets=np.asarray(y, np.float64) if reach else np.zeros(0),
            outputs=output,
            reach=reach,
            takes=takes if is_bounded else None,
            count=self.count,
            mean=mean,
            variance=variance,
            labels=self._labels,
            clusters=(
                (self._squares, self._looks)
                if self._squares is not None and self._looks > 1
                else None
            ),
        )

    # --- asking the loss ---

    def batch_loss(self) -> float | None:
        """Of the last look, with its weight; None if it cannot be had."""
        assert self._batch is not None, "see add"
        y, weights, output = self._batch
        if self.undoes:
            output = self._logits(output)
        value = self._ask(y, output, weights)
        return None if value is None else self.weight * value

    def guess(self) -> tuple[float, float] | None:
        """The loss of the best constant prediction and its standard error.

        Asked for anew once a quarter more targets are known: a loss takes time, and on
        JAX it is compiled for each number of them.
        """
        if not (self._known.constants and self._y):
            return None
        knows = self._knows_shares()
        is_old = self._guess is None or self.count >= GROWN * self._guessed_of
        if is_old or knows != self._guessed_by_shares:
            self._guessed_of, self._guessed_by_shares = self.count, knows
            self._guess = self._guessed()
        return self._guess

    def progress(self) -> HeadProgress | None:
        """Of the last look, beside the guess of its own targets; None: not known."""
        assert self._batch is not None, "see add"
        y, weights, output = self._batch
        rows, guessed, loss = self._rows(y, output), self.guess(), self.batch_loss()
        if rows is None or rows.size != output.size or guessed is None or loss is None:
            return None
        rows = rows.reshape(output.shape)
        best = rows if self._known.kind == NUMBERS else self._as_outputs(rows)
        floor = self._ask(y, best.astype(np.float32), weights)
        if floor is None or guessed[0] - floor <= CLOSE * abs(guessed[0]):
            return None  # of one answer for all there is nothing to learn
        guess, floor = self.weight * guessed[0], self.weight * floor
        return HeadProgress(loss, guess, floor, self._is_right(rows, output))

    def _is_right(self, rows: Array, output: Array) -> bool:
        if self._known.kind == CLASSES:
            known = rows.sum(axis=-1) > 0
            return bool((rows.argmax(-1) == output.argmax(-1))[known].all())
        if self._known.kind == BINARY:
            middle = 0 if self.takes_logits else 0.5
            return bool(((output > middle) == (rows > 0.5)).all())
        return False

    def _as_outputs(self, shares: Array) -> Array:
        """What gives the lowest loss to classes of these shares."""
        units = self.units or 1
        equal = 1 / units if self._known.kind == CLASSES else 0.5
        smoothing = float(setting(self.loss, "label_smoothing") or 0.0)
        shares = (1 - smoothing) * shares + smoothing * equal
        if self.has_logits:
            shares = self._logits(shares)
        return shares

    def _guessed(self) -> tuple[float, float] | None:
        y = np.concatenate(self._y)
        weights = None
        if self._weights[0] is not None:
            weights = np.concatenate([x for x in self._weights if x is not None])
        assert self._batch is not None, "see add"
        batch, _, output = self._batch
        found = []
        for constant in self._constants(y):
            prediction = np.broadcast_to(constant, (len(y), *output.shape[1:]))
            prediction = np.ascontiguousarray(prediction, np.float32)
            value = self._ask(y, prediction, weights)
            if value is None:
                return None
            each = np.asarray(to_numpy(self.loss.call(y, prediction)), np.float64)
            each = each.reshape(len(each), -1).mean(axis=1)
            mean = abs(each.mean())
            share = each.std() / mean / math.sqrt(len(each)) if mean else 0.0
            if setting(self.loss, "reduction") == "sum":
                value *= len(batch) / len(y)
            found.append((value, abs(value) * share))
        return min(found) if found and math.isfinite(min(found)[0]) else None

    def _constants(self, y: Array) -> Iterator[Array]:
        kind, units = self._known.kind, self.units or 1
        if kind == NUMBERS:
            if self._sums is None or self.count < FEW:
                return
            for what in self._known.constants:
                _, mean, _ = self._sums
                rows = y.reshape(-1, len(mean)).astype(np.float64)
                if what == "median":
                    mean = np.median(rows, axis=0)
                if what == "log_mean":
                    mean = np.expm1(np.log1p(np.maximum(rows, 0)).mean(axis=0))
                yield mean
            return
        equal = 1 / units if kind == CLASSES else 0.5
        shares = np.full(units, equal)
        if self._sums is not None and self._knows_shares():
            shares = np.broadcast_to(self._sums[1], shares.shape)
        yield self._as_outputs(shares)

    def _knows_shares(self) -> bool:
        """Whether enough labels were seen, of batches that may stand for all."""
        seen, classes = self.count, 2
        if self._known.kind == CLASSES:
            seen = 0 if self._labels is None else self._labels.sum()
            classes = self.units or 1
        return seen >= FEW * classes and self._is_mixed()

    def _is_mixed(self) -> bool:
        """Whether the batches that were seen may stand for all: none was like another.

        Not of sorted data, nor of a single class.
        """
        if self._labels is None or self._squares is None:
            return True
        if self._looks != len(self._met):  # of pixels, which tell nothing of it
            return True
        if self._looks < SEVERAL or np.count_nonzero(self._labels) < 2:
            return False
        effect = batch_effect(self._labels, self._squares, self._looks)
        return effect is None or effect < SORTED

    def _logits(self, shares: Array) -> Array:
        """Those that give these probabilities."""
        cut = np.clip(shares, TINY, 1 - TINY)
        logits = np.log(cut)
        is_binary = self._known.kind == BINARY
        return logits - np.log1p(-cut) if is_binary else logits

    def _ask(self, y: Any, output: Array, weights: Any) -> float | None:
        try:
            value = to_numpy(self.loss(y, output, sample_weight=weights))
        except Exception:  # of a loss for tensors of the training alone
            return None
        return float(value) if value.ndim == 0 else None


def _labels(kind: str, rows: Array) -> Array | None:
    """How many rows are of each class; None if they are not of one class each."""
    if kind == BINARY and rows.shape[1] == 1:
        rows = np.concatenate([1 - rows, rows], axis=1)
    elif kind != CLASSES:
        return None
    is_one = (rows == 1) & (rows.sum(axis=1, keepdims=True) == 1)
    counts: Array = is_one.sum(axis=0).astype(np.float64)
    return counts


def _merged(
    before: tuple[float, Array, Array] | None, now: tuple[float, Array, Array]
) -> tuple[float, Array, Array]:
    """Weight, mean and sum of squares around it, of two parts."""
    if before is None or before[1].shape != now[1].shape:
        return now
    total = before[0] + now[0]
    apart = now[1] - before[1]
    mean = before[1] + apart * (now[0] / total)
    squares = before[2] + now[2] + np.square(apart) * (before[0] * now[0] / total)
    return total, mean, squares


def _is_compiled(model: Any) -> bool:
    """Whether its steps are Keras' own: the loss is what was compiled."""
    own = type(model)
    return all(
        getattr(own, name, None) is getattr(keras.Model, name)
        for name in ("train_step", "compute_loss")
    )


def _name(one: Any, losses: Sequence[Any]) -> str:
    """`y`, or the name of one of several outputs, as in `fit`'s metrics."""
    return one.name if len(losses) > 1 else "y"


def _places(losses: Sequence[Any]) -> list[tuple[int, int]]:
    """(place among the heads as Keras flattens outputs, how many there are) of each."""
    in_order = sorted(range(len(losses)), key=lambda i: losses[i].path)
    return [(in_order.index(i), len(losses)) for i in range(len(losses))]


def _pairs(losses: Sequence[Any], given: Supervision) -> Iterator[tuple[Any, ...]]:
    """(targets, weights, outputs) of each loss."""
    y = {tuple(path): x for path, x in tree.flatten_with_path(given.y)}
    if y.keys() != given.outputs.keys():
        if len(y) != len(given.outputs):
            raise ValueError("targets and outputs have different structures")
        by_name = {str(path[-1]): x for path, x in y.items() if path}
        names = {one.path: one.name for one in losses}
        in_order = zip(given.outputs, y.values(), strict=True)
        y = {path: by_name.get(names.get(path, ""), x) for path, x in in_order}
    weights = {tuple(p): x for p, x in tree.flatten_with_path(given.weights)}
    common = weights.get(())
    for one in losses:
        yield y[one.path], weights.get(one.path, common), given.outputs[one.path]


def _penalty(model: Any) -> float:
    """What the regularizers of the trainable weights add to the loss."""
    total = 0.0
    for weight in model.trainable_variables:
        regularizer = attribute(weight, "regularizer")
        if regularizer is not None:
            total += float(to_numpy(regularizer(weight)))
    return total


def _end(
    model: Any, place: int, of: int, final: Sequence[Any] = ()
) -> tuple[str | None, Any, str | None]:
    """The activation that an output ends with, its layer, and the activation before.

    Before a layer that is an activation alone. None of what is not known. `place` among
    so many heads. `final`: layers that were seen to give an output, for a model without
    a graph.
    """
    graph = graph_of(model)
    if graph is None:
        layer = final[0] if of == len(final) == 1 else None
        return _activation(layer), layer, None
    output = graph.outputs[place] if len(graph.outputs) == of else None
    layers = _backwards(graph, output)
    last = next(layers, None)
    is_alone = last is not None and not attribute(last, "weights")
    before = _activation(next(layers, None)) if is_alone else None
    return _activation(last), last, before


def _backwards(graph: Any, output: Any) -> Iterator[Any]:
    """The layers that make an output, the last first, as long as there is one input."""
    while (node := _node(graph, output)) is not None:
        layer = node.operation
        inner = graph_of(layer) if isinstance(layer, keras.Model) else None
        inputs = node.arguments.keras_tensors
        if inner is not None and len(layer.outputs) == 1:
            graph, output = inner, layer.outputs[0]
            continue
        if not (_passes_on(layer) and len(inputs) == 1):
            yield layer
        output = inputs[0] if len(inputs) == 1 else None


def _node(graph: Any, output: Any) -> Any:
    for nodes in private.nodes_by_depth(graph).values():
        for node in nodes:
            if any(x is output for x in node.outputs) and not node.is_input:
                return node
    return None


def _passes_on(layer: Any) -> bool:
    """Whether it gives the numbers that it is given."""
    shapes = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute)
    is_activation = isinstance(layer, keras.layers.Activation)
    return isinstance(layer, (*shapes, keras.layers.Identity)) or (
        is_activation and _activation(layer) == "linear"
    )


def _activation(layer: Any) -> str | None:
    if isinstance(layer, DROPOUT):
        return "dropout"
    # keras.ops.softmax is an operation of a class that is not public.
    if isinstance(layer, keras.layers.Softmax) or type(layer).__name__ == "Softmax":
        return "softmax"
    return attribute(activations.activation_of(layer), "name")


def _units(layer: Any) -> int | None:
    shape = attribute(attribute(layer, "output"), "shape")
    return shape[-1] if isinstance(shape, tuple) and shape else None
