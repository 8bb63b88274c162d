"""What looks have met of a model that the model itself does not tell."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..signals.subjects import Gradient, Input, Output, Subject, Target


@dataclass
class Met:
    """Over all looks at a model.

    `order`: names of layers as they were first called. `final`: those whose output is
    the model's. `tables`: paths of weights of which rows are taken by indices.
    `inputs`: by their name in x, whether they are whole numbers by type.
    """

    order: dict[str, None] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    inputs: dict[str, bool] = field(default_factory=dict)

    def see(self, subjects: Iterable[Subject]) -> None:
        """Add what a look has met."""
        for subject in subjects:
            if isinstance(subject, Output):
                self.order.setdefault(subject.layer)
                self.final |= {subject.layer} if subject.is_final else set()
            elif isinstance(subject, Gradient) and subject.is_of_rows:
                self.tables.add(subject.path)
            elif isinstance(subject, Input) and not isinstance(subject, Target):
                self.inputs.setdefault(subject.name, subject.is_whole)

    @property
    def state(self) -> tuple[int, ...]:
        """Differs when there is more."""
        return tuple(map(len, (self.order, self.final, self.tables, self.inputs)))
