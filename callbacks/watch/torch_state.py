"""What a forward pass on torch may change, kept as it is while one more runs."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from kbn.private import keras as private
from kbn.private import torch as private_torch

from .inventory import Inventory
from .python_state import python_state_kept, random_state_kept


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
