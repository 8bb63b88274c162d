"""What is noted inside `jax.grad` and `jax.value_and_grad` leaves them."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from kbn.private.jax import trace_here
from kbn.private.keras import symbolic_scope

from .calls import CallLog

HERE = object()  # the place of all that is in reach
# For all threads: what is replaced is JAX's own.
_replacing = threading.RLock()


class Reach:
    """The transformations of JAX out of which tensors can be had, in one thread.

    A tensor born in a transformation cannot leave it but as an output. A function that
    is differentiated may have more outputs than its value (`has_aux`), so what is noted
    in it is one of them. Loops, conditions, `jax.checkpoint`, `jax.vmap` and an inner
    `jax.jit` have none to spare, and neither has a `grad` that a module has imported by
    name: nothing in them is noted.
    """

    def __init__(self) -> None:
        self._reached: list[Any] = []

    def place(self) -> object:
        """Where the caller is: `HERE`, in reach, or elsewhere. See `CallLog`."""
        trace = trace_here()
        return symbolic_scope() or (HERE if trace in self._reached else trace)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Reach the transformation that the caller is in, for a while."""
        self._reached.append(trace_here())
        try:
            yield
        finally:
            self._reached.pop()

    @contextlib.contextmanager
    def differentiating(self, call_log: CallLog) -> Iterator[None]:
        """Have what this thread notes in a differentiation leave it, for a while."""
        thread = threading.get_ident()
        value_and_grad, grad = jax.value_and_grad, jax.grad

        def is_reached() -> bool:
            return threading.get_ident() == thread and self.place() is HERE

        @functools.wraps(value_and_grad)
        def noted_value_and_grad(
            fun: Any, argnums: Any = 0, has_aux: bool = False, **options: Any
        ) -> Any:
            usual = value_and_grad(fun, argnums, has_aux, **options)
            noted = functools.partial(self._noted, call_log, fun, has_aux)
            differentiated = value_and_grad(noted, argnums, True, **options)

            @functools.wraps(usual)
            def call(*args: Any, **kwargs: Any) -> Any:
                if not is_reached():
                    return usual(*args, **kwargs)
                (value, (aux, tensors)), gradient = differentiated(*args, **kwargs)
                call_log.exchange(tensors)
                return ((value, aux) if has_aux else value), gradient

            return call

        @functools.wraps(grad)
        def noted_grad(
            fun: Any, argnums: Any = 0, has_aux: bool = False, **options: Any
        ) -> Any:
            both = noted_value_and_grad(fun, argnums, has_aux, **options)

            @functools.wraps(grad(fun, argnums, has_aux, **options))
            def call(*args: Any, **kwargs: Any) -> Any:
                value, gradient = both(*args, **kwargs)
                return (gradient, value[1]) if has_aux else gradient

            return call

        with _replacing:
            jax.value_and_grad, jax.grad = noted_value_and_grad, noted_grad
            try:
                yield
            finally:
                jax.value_and_grad, jax.grad = value_and_grad, grad

    def _noted(
        self,
        call_log: CallLog,
        fun: Callable[..., Any],
        has_aux: bool,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """What a function returns, and the tensors that were noted in it."""
        with self.open():
            returned = fun(*args, **kwargs)
        value, aux = returned if has_aux else (returned, None)
        return value, (aux, call_log.tensors())
