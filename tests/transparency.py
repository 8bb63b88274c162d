"""The matrix of trainings that a monitor must not change, as data.

A case is a kind of model and one level of each factor: how the step is executed, in
which precision, by which optimizer, on which data, and how the monitor looks.
"""

from collections.abc import Iterator
from typing import NamedTuple

import keras
from allpairspy import AllPairs

from tests import watched_models

BACKEND = keras.backend.backend()


def sgd(**options):
    return keras.optimizers.SGD(0.1, momentum=0.9, **options)


EXECUTIONS = {
    "graph": {},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "steps-2": {"steps_per_execution": 2},
    "steps-3": {"steps_per_execution": 3},  # the last call of an epoch is a short one
    "mirrored": {},
    "xla-steps-2": {"jit_compile": True, "steps_per_execution": 2},
    "eager-steps-2": {"run_eagerly": True, "steps_per_execution": 2},
    "mirrored-eager": {"run_eagerly": True},
    "mirrored-steps-2": {"steps_per_execution": 2},
    "mirrored-xla": {"jit_compile": True},
}
if BACKEND == "jax":  # whose graph is one of XLA
    EXECUTIONS = {k: x for k, x in EXECUTIONS.items() if k[:3] not in ("xla", "mir")}
    EXECUTIONS["plain"] = {"jit_compile": False}
if BACKEND == "torch":  # which has no graph
    EXECUTIONS = {name: EXECUTIONS[name] for name in ("graph", "xla")}
LONG = "torch", "xla"
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")  # float16 scales the loss
OPTIMIZERS = {
    "momentum": sgd,
    "adam": lambda: keras.optimizers.Adam(0.01),
    "clipnorm": lambda: sgd(clipnorm=0.1, weight_decay=0.01),
    "global-clipnorm": lambda: sgd(global_clipnorm=0.1),
    "ema": lambda: sgd(use_ema=True, ema_overwrite_frequency=3),
    "accumulation": lambda: sgd(gradient_accumulation_steps=2),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(sgd(), 256.0),
    "static-scale": lambda: sgd(loss_scale_factor=64.0),
}
DATA = (
    "arrays",
    "generator",
    "py-dataset",
    "unknown-length",
    "validation",
    "class-weight",
    "sample-weight",
)
LOOKS = {
    "epoch": {},
    "every-step": {"log_freq": 1},
    "every-second": {"log_freq": 2},
    "function": {"log_freq": lambda step: step % 3 == 2},
    "weights-only": {"watch": ("weights",), "log_freq": 2},
    "gradients-only": {"watch": ("gradients",)},
}


class Case(NamedTuple):
    kind: str
    execution: str = "graph"
    precision: str = "float32"
    optimizer: str = "momentum"
    data: str = "arrays"
    looks: str = "epoch"

    def __str__(self):
        plain = Case(self.kind)
        return "-".join(
            level
            for level, usual in zip(self, plain, strict=True)
            if level != usual or level == self.kind
        )


class Refusal(NamedTuple):
    """A combination that Keras cannot train, watched or not, and how it says so."""

    where: dict[str, str]
    error: type[Exception]
    message: str


KERAS_CANNOT = [
    # A tensor of one replica's graph is asked for in another's.
    Refusal({"execution": "mirrored-steps-2"}, Exception, "cond/.*Placeholder"),
    # Found while tracing, if the first step is watched.
    Refusal(
        {"kind": "gan", "execution": "mirrored"},
        Exception,
        "cond/.*Placeholder|Unable to lift tensor",
    ),
    # One compiled function cannot reach the variables of two devices.
    Refusal({"execution": "mirrored-xla"}, Exception, "tfvariable_on_a_different"),
    # The gradient of a loop whose length is not known to XLA.
    Refusal({"kind": "looped", "execution": "xla"}, Exception, "accumulator"),
    Refusal({"kind": "looped", "execution": "xla-steps-2"}, Exception, "accumulator"),
    # Conditions on gradients that are summed over replicas; sparse ones divided.
    Refusal(
        {"execution": "mirrored", "optimizer": "accumulation"},
        RuntimeError,
        "merge_call",
    ),
    Refusal({"execution": "mirrored", "optimizer": "ema"}, RuntimeError, "merge_call"),
    Refusal(
        {"kind": "recurrent", "optimizer": "static-scale"}, TypeError, "IndexedSlices"
    ),
    Refusal({"kind": "two_outputs", "data": "class-weight"}, ValueError, "single out"),
    # This one has no target and no loss of its own to evaluate.
    Refusal({"kind": "gan", "data": "class-weight"}, IndexError, "out of range"),
    Refusal({"kind": "gan", "data": "validation"}, ValueError, "No loss to compute"),
]
if BACKEND != "tensorflow":  # no replicas, and no sparse gradients
    kinds = watched_models.KINDS
    KERAS_CANNOT = [
        x for x in KERAS_CANNOT if "data" in x.where and x.where["kind"] in kinds
    ]


# The data end by an exception in the middle of a step. On a busy machine, one replica
# has then counted that step and the other has not: in one unwatched run of eight.
KERAS_VARIES = [
    {"execution": "mirrored", "data": data} for data in ("generator", "unknown-length")
]


def meets(where, case):
    return all(getattr(case, name) == level for name, level in where.items())


def refusal(case):
    return next((r for r in KERAS_CANNOT if meets(r.where, case)), None)


def is_repeatable(case):
    """Whether Keras trains it, and twice to the same bits."""
    return not refusal(case) and not any(meets(where, case) for where in KERAS_VARIES)


def is_trained_by_keras(execution, **levels) -> bool:
    """Whether a plain model trains with these."""
    return refusal(Case("sequential", execution, **levels)) is None


def interplay() -> Iterator[Case]:
    """Every pair of levels of the factors at least once; each kind gets its share."""
    usual = [x for x in ("eager", "graph", "steps-2", "steps-3") if x in EXECUTIONS]
    rows = [*AllPairs([usual, PRECISIONS, [*OPTIMIZERS], DATA, [*LOOKS]])]
    # Slow, and not with every optimizer: each level of the others once or twice.
    applied = [x for x in OPTIMIZERS if is_trained_by_keras("mirrored", optimizer=x)]
    ends = {level["data"] for level in KERAS_VARIES}
    data = [level for level in DATA if level not in ends]
    for number in range(len(OPTIMIZERS) if "mirrored" in EXECUTIONS else 0):
        levels = [x[number % len(x)] for x in (PRECISIONS, applied, data, [*LOOKS])]
        rows.append(["mirrored", *levels])
    # XLA compiles for seconds: it meets a few of the others, and so does JAX without.
    few = [["adam", "accumulation"], ["arrays", "unknown-length"], ["every-second"]]
    compiled = [x for x in ("xla", "plain") if x in EXECUTIONS]
    if BACKEND == "torch":  # it compiles for minutes
        yield Case("dropout", "xla", looks="every-second")
    else:
        rows += [*AllPairs([compiled, PRECISIONS[:2], *few])]
    uses: dict[tuple[str, str], int] = {}
    for levels in rows:
        # The kind that was met least, first of all in this way of execution.
        def met(kind, execution=levels[0]):
            everywhere = sum(n for (k, _), n in uses.items() if k == kind)
            return uses.get((kind, execution), 0), everywhere

        cases = [Case(kind, *levels) for kind in watched_models.KINDS]
        kind = min((case.kind for case in cases if is_repeatable(case)), key=met)
        uses[kind, levels[0]] = uses.get((kind, levels[0]), 0) + 1
        yield Case(kind, *levels)


def every_kind_in_every_mode() -> Iterator[Case]:
    """The full product of the kinds and the levels of one factor at a time."""
    for kind in watched_models.KINDS:
        yield Case(kind)
        factors = (EXECUTIONS, PRECISIONS, OPTIMIZERS, DATA, LOOKS)
        for name, levels in zip(Case._fields[1:], factors, strict=True):
            for level in list(levels)[1:]:
                if (BACKEND, level) != LONG:
                    yield Case(kind, **{name: level})


def cases() -> list[Case]:
    """The chosen ones, in an order that is the same in every process."""
    kinds = list(watched_models.KINDS)
    found = [*interplay()]
    found += [Case(**{"kind": kinds[0], **r.where}) for r in KERAS_CANNOT]
    return [x for x in dict.fromkeys(found) if is_repeatable(x) or refusal(x)]


def further_cases() -> list[Case]:
    """Every kind in every mode, without the chosen cases."""
    further = dict.fromkeys(every_kind_in_every_mode())
    chosen = {*cases()}
    return [x for x in further if x not in chosen and (is_repeatable(x) or refusal(x))]


# Our layer, Python of the user's own, several optimizers.
OWN_WAYS = ("kbn_layers", "subclassed", "gan")


def short_cases() -> set[Case]:
    """Those that are not `long`: the first of each execution and of a few kinds."""
    first: dict[str, Case] = {}
    for case in cases():
        # Loops are traced long.
        is_long = case.kind == "recurrent" or (BACKEND, case.execution) == LONG
        if not refusal(case) and not is_long:
            first.setdefault(case.execution, case)
            # XLA compiles for seconds, a replica is a model more.
            is_slow = case.execution.startswith(("xla", "mirrored"))
            if case.kind in OWN_WAYS and not is_slow:
                first.setdefault(case.kind, case)
    return {*first.values()}
