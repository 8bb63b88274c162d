"""How a training step is looked at on torch."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import torch

from kbn.private import keras as private
from kbn.private import torch as private_torch

from . import tensors
from .calls import AGAIN
from .evaluation import LossEvaluation, python_state_kept, random_state_kept
from .inventory import Contents, Inventory
from .looker import Looker
from .looker import leaving as leaving
from .notes import Noter, Notes
from .optimizers import loss_scale
from .probe import Asked, Recorded, Seen

host = tensors


@contextlib.contextmanager
def state_kept(model: Any, variables: Iterable[Any] = ()) -> Iterator[None]:
    """Put back what one more pass through a model changes.

    Generators of random numbers, attributes of its objects, tensors and buffers among
    those, the modes of its modules, and the values of these `variables` of Keras.

    Raises:
        ValueError: A hook of the user's own would run once more.
    """
    modules = [*model.modules()]
    if any(map(private_torch.hooks, modules)):
        raise ValueError("its hooks would run once more")
    modes = [(module, module.training) for module in modules]
    tensors = {id(x): x for x in (*_held(model), *(v.value for v in variables))}
    before = [(x, x.detach().clone()) for x in tensors.values() if x.is_leaf]
    has_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if has_gpu else ()
    try:
        with (
            random_state_kept(),
            private.global_seeds_kept(),
            torch.random.fork_rng(devices),
            python_state_kept(model),
        ):
            yield
    finally:
        with torch.no_grad():
            for x, value in before:
                x.copy_(value)
        for module, mode in modes:
            module.training = mode


def _held(model: Any) -> Iterator[Any]:
    """Tensors that are no variables of Keras: buffers, and attributes of layers."""
    yield from model.buffers()
    for layer in (model, *Inventory(model).layers.values()):
        for x in vars(layer).values():
            if isinstance(x, torch.Tensor) and not isinstance(x, torch.nn.Parameter):
                yield x


@contextlib.contextmanager
def unapplied(optimizers: Iterable[Any]) -> Iterator[None]:
    """Optimizers that apply nothing for a while, and so are not built."""
    held = [vars(one) for one in optimizers]
    before = [own.get("apply") for own in held]
    for own in held:
        own["apply"] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for own, apply in zip(held, before, strict=True):
            if apply is None:
                del own["apply"]
            else:
                own["apply"] = apply


@contextlib.contextmanager
def gradients_kept(model: Any) -> Iterator[None]:
    """Put back the `grad` of each parameter: a step may add to that of the last one."""
    before = [(p, p.grad) for p in model.parameters()]
    for p, grad in before:
        p.grad = None if grad is None else grad.clone()
    try:
        yield
    finally:
        for p, grad in before:
            p.grad = grad


def as_array(variable: Any) -> Any:
    """A variable as an array: of one on the CPU, the same memory."""
    return keras.ops.convert_to_numpy(variable.value)


def is_first_process() -> bool:
    """See `probe.backend`."""
    from torch import distributed

    is_alone = not (distributed.is_available() and distributed.is_initialized())
    return is_alone or distributed.get_rank() == 0


def device() -> str:
    """On what torch computes."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


class Probe(Looker):
    """Looks at training steps of one model: see `probe.Probe`.

    A step is noted while it runs. One that `torch.compile` has compiled is left alone,
    for it would be compiled anew: right before, the model's own step runs eagerly on
    the same batch, and what that changes is put back.
    """

    data_ends = (StopIteration,)
    within = "a function of its own. It logs metrics, weights and batch norm."

    def __init__(
        self, model: Any, asked: Asked, contents: Contents, say: Callable[..., None]
    ) -> None:
        super().__init__(model, asked, contents, say)
        self.function = model.train_function
        self._evaluation = LossEvaluation(model, self._losses)
        self._is_keras = type(model).train_step is keras.Model.train_step
        self._noter = Noter(model, scratch_graph, _scale, _kept)

    def steps(self, batches: Sequence[Any]) -> int:
        """See `probe.Probe`."""
        return len(batches)

    def record(self, given: tuple[Any, ...]) -> tuple[tuple[Any, ...], Recorded]:
        """See `probe.Probe`; a call is given its batches in a list."""
        recorded = Recorded(iter(()))
        recorded.last = given[0][-1]
        return given, recorded

    def number(self, loss: Any, waits: bool) -> float | None:
        """See `probe.Probe`; of a GPU, torch does not tell."""
        if isinstance(loss, torch.Tensor):
            loss = loss.detach()  # else it warns
        is_there = not getattr(loss, "is_cuda", False)
        return float(loss) if waits or is_there else None

    def look(
        self, evaluates: bool, notes: Callable[[], None], batches: Sequence[Any]
    ) -> tuple[Any, Seen]:
        """See `probe.Probe`."""
        self._begin(notes)
        if self._is_blind:
            return self.function(batches), Seen()
        first = batches[0]
        seen = Seen(batch_size=self._reader.batch_size(first))
        evaluated = None
        if evaluates and self._wishes.wants_evaluation:
            evaluated = self._evaluation(first)
        is_compiled = bool(self._model.jit_compile)
        step = self._probed_step if is_compiled else self._noted_step
        returned = step(batches, seen)
        return self._finished(returned, seen, evaluated)

    def _losses(self, loss: Callable[[Any], Any], batch: Any) -> Any:
        """See `LossEvaluation`."""
        with state_kept(self._model), torch.no_grad():
            return np.array([[float(loss(batch))]])

    def _noted_step(self, batches: Sequence[Any], seen: Seen) -> Any:
        first, *rest = batches
        notes = Notes(before_apply=self._note_what_is_built)
        read = self._reader_of(first, notes, seen)
        with self._noter.step(notes, first):
            returned = self.function([first])
        self._try_to(read)
        return self.function(rest) if rest else returned

    def _probed_step(self, batches: Sequence[Any], seen: Seen) -> Any:
        optimizers = self._contents.of(self._model).optimizers.values()
        is_built = self._is_keras or all(one.built for one in optimizers)
        if self._model.built and is_built:  # else the probe would build them
            self._try_to(functools.partial(self._probe, batches[0], seen))
        return self.function(batches)

    def _probe(self, batch: Any, seen: Seen) -> None:
        model, notes = self._model, Notes()
        optimizers = self._contents.of(model).optimizers.values()
        held = [*model.non_trainable_variables, *model.metrics_variables]
        if not self._is_keras:  # its second update may read what the first has written
            held += [x for one in (model, *optimizers) for x in one.variables]
        read = self._reader_of(batch, notes, seen)
        with (
            gradients_kept(model),
            state_kept(model, held),
            unapplied(optimizers if self._is_keras else ()),
            self._noter.step(notes, batch),
        ):
            model.train_step(batch)
        read()

    def _reader_of(self, batch: Any, notes: Notes, seen: Seen) -> Callable[[], None]:
        """What reads the step, once it has run, with what it was given."""
        weights = self._contents.of(self._model).weights if self._asked.signals else {}
        before = {path: _kept(weight.value) for path, weight in weights.items()}
        given = keras.tree.map_structure(_kept, batch)  # a step may write to it
        return lambda: self._reader.read_eagerly(given, notes, before, seen)


make = Probe


def scratch_graph() -> Any:
    """Where the caller is: see `CallLog`. There are no graphs."""
    return AGAIN if private_torch.is_in_backward() else None


def _kept(x: Any) -> Any:
    """A tensor as it is now, on the host; anything else as it is."""
    if not isinstance(x, torch.Tensor) or x.is_meta:
        return x.copy() if isinstance(x, np.ndarray) else x
    dense = x.detach() if x.layout is torch.strided else x.detach().to_dense()
    return dense.to("cpu", copy=True)


def _scale(optimizer: Any) -> Any:
    return _kept(loss_scale(optimizer))
