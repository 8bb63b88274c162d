"""What one monitor wants of a model's training steps, and what it is told of each."""

from collections.abc import Collection
from typing import Any, TypeAlias

from . import probe
from .step import Seen, Sketch, TwinStep

Rows: TypeAlias = dict[str, Any]  # tag -> a Summary, or (replicas, row)
STEP = "_kbn_step"


class Twin:
    """What one monitor wants to see of a model's training steps, and sees of each."""

    def __init__(
        self,
        model: Any,
        train_function: Any,
        watch: Collection[str],
        select: probe.Select,
        sample_size: int,
    ) -> None:
        self.hidden: set[str] = set()
        self.applied: list[str] = []
        # Whether the next step shows the loss of both modes.
        self.evaluates_next = False
        self.model = model
        self.watch = watch
        self.sample_size = sample_size
        self.layers: dict[str, probe.Layer] = {}
        self.norms: dict[str, probe.Layer] = {}
        self._train_function = train_function
        self._select = select
        self._step: TwinStep | None = None
        self._wanted: tuple[Sketch | None, list[str]] = None, []

    def is_of(self, train_function: Any) -> bool:
        """Whether the model was not compiled again since: it has the same function."""
        return self._train_function is train_function

    @property
    def step(self) -> TwinStep:
        """The step that all who watch this model look at: tracing it is expensive.

        It is kept on the function that it is the twin of, and goes with it.
        """
        kept = getattr(self._train_function, "__dict__", {})
        self._step = kept.get(STEP, self._step)
        if self._step is None or self._step.model is not self.model:
            self._step = kept[STEP] = TwinStep(self.model)
        return self._step

    @property
    def wants_evaluation(self) -> bool:
        """Whether the next step shows the loss of both modes."""
        return self.evaluates_next and "batch_norm" in self.watch

    def find_layers(self) -> None:
        """The layers as they are now."""
        layers = probe.named_layers(self.model, self._select)
        if layers == self.layers:
            return
        self.layers = layers
        self._wanted = None, []
        self.norms = {}
        if "batch_norm" in self.watch:
            norms = probe.batch_norms(self.model, self._select)
            self.norms = {name: layers[name] for name in norms}

    def rows(self, seen: Seen) -> Rows:
        """Of what a step saw, what this monitor wants of it."""
        self.applied = self.applied or seen.sketch.applied
        try:
            return self._rows(seen)
        except Exception as error:  # a training is not to fail for its statistics
            self.hidden.add(f"statistics ({error!r})")
            return {}

    def _rows(self, seen: Seen) -> Rows:
        sketch = seen.sketch
        if self._wanted[0] is not sketch:
            self._wanted = sketch, self._wanted_of(sketch)
        evaluates, self.evaluates_next = self.wants_evaluation, False
        rows = seen.rows(self._wanted[1], self.sample_size)
        lost = [tag for tag in self._wanted[1] if tag in sketch.failed]
        self.hidden |= {f"{tag} ({sketch.failed[tag]!r})" for tag in lost}
        return rows | seen.evaluated if evaluates else rows

    def _wanted_of(self, sketch: Sketch) -> list[str]:
        """Its tags that are wanted; notes which of those are hidden."""
        weights = probe.named_weights(self.model, self._select)
        wants_activations = "activations" in self.watch
        wants_gradients = "gradients" in self.watch
        owners = {
            "activations": self.layers if wants_activations else {},
            "health": self.layers if wants_activations else {},
            "gradients": weights if wants_gradients else {},
            "moments": self.norms,
            "loss": {"": None},
        }
        tags = {t: o for t, o in sketch.owners.items() if o in owners[t.split("/")[0]]}
        reach = {*(self.layers if wants_activations else self.norms)}
        reach |= {*probe.optimizers(self.model)} if wants_gradients else set()
        known = {*probe.named_layers(self.model), *probe.optimizers(self.model)}
        self.hidden |= {x for x in sketch.hidden if x in reach or x not in known}
        if wants_gradients and not sketch.applied:
            self.hidden.add("gradients (no optimizer was applied in its reach)")
        return [*tags]
