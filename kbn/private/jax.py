"""The private names of JAX that kbn uses, as JAX 0.10 has them."""

from typing import Any


def trace_of(x: Any) -> Any:
    """The trace of the transformation in which a tracer lives; None of an array.

    Without the name, a tracer is taken for an array that can be had.
    """
    # https://github.com/jax-ml/jax/blob/jax-v0.10.2/jax/_src/core.py
    return getattr(x, "_trace", None)


def trace_here() -> Any:
    """The transformation in which the caller is; two of them can be compared."""
    from jax.extend.core import get_opaque_trace_state

    return get_opaque_trace_state()
