"""What one call of a model shows: tensors by name."""

from collections.abc import Callable
from typing import Any, TypeAlias

from kbn.private import keras as private

from .optimizers import loss_scaling

Tensor: TypeAlias = Any


class CallLog:
    """Tensors by name, and the optimizers that were applied.

    `graph()` says where the caller is: None if eager. Only what happens in the graph of
    its birth can be noted. `scale(optimizer)`: what to note of the factor in gradients;
    by default the factor itself, for which a graph gets an op.
    """

    def __init__(
        self,
        graph: Callable[[], Any],
        scale: Callable[[Any], Any] | None = None,
    ) -> None:
        self._graph = graph
        self.scale = scale or (lambda x: loss_scaling(x).given(x))
        self._here = graph()
        self.activations: dict[str, tuple[Tensor, str]] = {}  # with its layer's name
        self.norm_inputs: dict[str, tuple[Tensor, str]] = {}  # in training, unmasked
        self.outputs: list[Tensor] = []  # of the whole model
        self.losses: list[tuple[Tensor, list[Tensor]]] = []  # with what they are of
        self.gradients: dict[str, tuple[Tensor, Any]] = {}  # with its loss scale
        self.applied: list[str] = []
        self.hidden: set[str] = set()
        self._numbers: dict[tuple[str, str], int] = {}

    @property
    def is_here(self) -> bool:
        """Whether what happens now can be noted: see `reaches`."""
        return self._graph() is self._here

    def reaches(self, name: str) -> bool:
        """Whether what `name` does now can be noted; if not, notes that it cannot.

        A tensor born inside a loop, a condition or a nested function cannot leave it.
        """
        if self.is_here:
            return True
        # While a layer is built, Keras calls it in a scratch graph: no call to miss.
        if not private.is_scratch(self._graph()):
            self.hidden.add(name)
        return False

    def try_to(self, note: Callable[[], None], what: str) -> None:
        """Note something; whatever that meets, the training is not to notice."""
        try:
            note()
        except Exception as error:
            self.hidden.add(f"{what} ({error!r})")

    def number(self, name: str, kind: str = "") -> str:
        """`name`, then name#1, name#2; each kind of notes counts for itself."""
        number = self._numbers.get((kind, name), 0)
        self._numbers[kind, name] = number + 1
        return f"{name}#{number}" if number else name
