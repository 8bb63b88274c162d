"""Gradients: their sizes, before clipping and without the loss scale; rules on them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import numpy as np

from .loss import epoch_loss, has_learned, train_loss
from .record import PLAIN, kind_of
from .registry import Chart, Guide, signal
from .remedy import Remedy, ask, clip, insert_batch_norm
from .rule import LASTING, Reading, Rule
from .statistics import Summary
from .subjects import Gradient, Whole
from .view import View
from .weights import update_ratio

_NORM = Chart("Training", "gradient norm, before clipping")
PAST = 9_999  # looks that the suggested clip remembers, beside the latest


@signal(
    "gradients/<path>",
    of=Gradient,
    given=lambda gradient: (gradient.summary,),
    is_histogram=True,
    unit="loss per unit of weight",
)
def gradients(summary: Summary) -> Summary:
    """Gradient of the loss by one variable, in the looked-at step.

    Of the real training batch, without the loss scale, before clipping; `#1`, `#2`
    for an optimizer that is applied again in the same step. All in one narrow peak
    at 0, in the first layers only: the gradient vanishes.
    """
    return summary


def _norms(whole: Whole) -> tuple[list[float]] | None:
    calls: dict[int, list[float]] = {}
    for one in whole.subjects:
        if isinstance(one, Gradient) and one.summary is not None and not one.is_again:
            calls.setdefault(one.call, []).append(one.summary.norm)
    return (max(calls.values(), key=_size),) if calls else None


def _size(norms: Sequence[float]) -> tuple[bool, float]:
    norm = math.hypot(*norms)
    return math.isnan(norm), norm


@signal(
    "gradient_norm/global",
    of=Whole,
    given=_norms,
    unit="loss per unit of weight",
    guide=Guide(healthy=(0.3, 10), sick=(None, 1e3)),
    source="Google's tuning playbook (github.com/google-research/tuning_playbook) for "
    "before clipping",
    chart=_NORM,
)
def global_norm(norms: Sequence[float]) -> float:
    """`sqrt(sum ||g||^2)` over the gradients of all weights, before clipping.

    Of several losses with an optimizer each, such as a GAN's, the largest.
    """
    return math.hypot(*norms)


def _all_norms(whole: Whole) -> tuple[list[float]] | None:
    tag = "gradient_norm/global"
    if tag not in whole.scalars:
        return None
    return ([*whole.past(tag)[-PAST:], whole.scalars[tag]],)


@signal(
    "gradient_norm/suggested_clip",
    of=Whole,
    given=_all_norms,
    source="Google's tuning playbook (github.com/google-research/tuning_playbook), "
    "which calls clipping of more than half of the steps extremely aggressive",
    chart=_NORM,
)
def suggested_clip(norms: Sequence[float]) -> float | None:
    """The 90th percentile of the finite global norms at the looks so far.

    A value for `global_clipnorm` that would touch one step in ten; the last 10 000
    looks count.
    """
    finite = [norm for norm in norms if math.isfinite(norm)]
    return float(np.quantile(finite, 0.9)) if finite else None


@signal(
    "gradient_rms/<path>",
    of=Gradient,
    where=lambda gradient: gradient.is_kernel and not gradient.is_again,
    given=lambda gradient: gradient.summary and (gradient.summary,),
    unit="loss per unit of weight",
    guide=Guide(healthy=(1e-5, None), sick=(1e-7, None)),
    chart=Chart("Health", "gradient of each weight"),
)
def gradient_rms(summary: Summary) -> float | None:
    """`sqrt(mean(g^2))` over one weight of two and more dimensions.

    Compared from the first layer to the last, it shows where the gradient vanishes.
    """
    return summary.norm / math.sqrt(summary.count) if summary.count else None


# Layers inside of attention, whose kernels get a gradient of another size than those
# around them: its softmax is flat at first, and a shortcut leads around it.
ATTENTION = {"query", "key", "value", "attention_output"}
EARLIER = 5  # norms before there is a median to speak of
ADAPTIVE = 10.0  # times higher a spike that an optimizer divides away may be


@dataclass(frozen=True)
class ExplodingGradient(Rule):
    """The global gradient norm is far above what training survives.

    ||g|| = sqrt(sum g^2) over all weights. Critical where ||g|| > `norm` * max(1, L),
    L the first loss that was logged, where none is the first norm: targets of 1e4, or a
    loss that is summed over pixels, make gradients of 1e4, which is no illness. A
    warning where ||g|| > `spike` * median of the last 50 logged norms and ||g|| >
    `floor` * max(1, L): late in training the norms are small, and a batch of ten times
    their median is harmless. Without a loss no spike is known to harm. Ten times
    `spike` where the optimizer divides by the size of the gradients, as Adam does: a
    gradient of 100 times their median makes the steps that follow a third as long.

    Unit: loss per unit of weight. Sources: the 1e3 of torchmortem; measured on digits,
    healthy networks have 0.3 to 10.
    """

    title: ClassVar = "the gradient explodes"

    norm: float = 1e3
    spike: float = 10.0
    floor: float = 10.0
    patience: int = 1

    reads: ClassVar = (global_norm, train_loss, gradient_rms)
    keeps: ClassVar = {global_norm: 50, train_loss: 1}
    is_of_model: ClassVar = True

    def readings(self, view: View) -> Iterable[Reading]:
        """Of the model, and with it the kernel with the largest gradient."""
        norm = view.get(global_norm)
        if norm is None:
            return
        kernels = view.under(gradient_rms)
        where = max(sorted(kernels), key=lambda path: kernels[path], default="")
        loss = view.first(train_loss)
        first = view.first(global_norm) if loss is None else loss
        scale = max(1.0, abs(first or 0.0))
        limit, level = self.norm * scale, "critical"
        past = view.past(global_norm)
        if norm <= limit and len(past) >= EARLIER and loss is not None:
            kind = kind_of(view.record.optimizer_of(where))
            times = self.spike * (1 if kind in (*PLAIN, "") else ADAPTIVE)
            spike = max(times * median(past), self.floor * scale)
            limit, level = min(limit, spike), "warning"
        yield Reading(where, norm, limit, level)

    def explain(self, reading: Reading, view: View) -> str:
        at = f", the largest in {reading.where}" if reading.where else ""
        return (
            f"The gradient of all weights has norm {reading.value:.3g}{at}: the next "
            "steps throw the weights far away."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Clip the norm of all gradients, to that of the healthy looks before."""
        past = view.past(global_norm)
        # Of a spike, the norm of the looks before it was healthy.
        return clip(median(past) if reading.level == "warning" else 1.0)


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """The first layers get next to no gradient, the last ones do.

    max_{j<=i} rms(g_j) / max_j rms(g_j) of the i-th trainable kernel in forward order.
    A warning below `ratio`, critical below `critical`. The largest of all before it,
    not its own: one small gradient in the middle is no path that has dried up.
    Embeddings and the parts of attention are left out. A network without any gradient
    has no ratio, and one whose loss has halved learns whatever its ratio is. Where the
    first that has a gradient has a usual one, those before it are cut off, and theirs
    did not vanish.

    No unit. Sources: AUTOTRAINER (Zhang et al., ICSE 2021: first to last layer below
    1e-3); measured on digits: healthy 0.15 to 6, sigmoid networks of 4 hidden layers
    7e-3, of 6 4e-4. An absolute bound, as SageMaker Debugger's mean|g| < 1e-7, finds
    only networks of 8 layers and more, and every network that has fitted its data.
    """

    title: ClassVar = "the gradient vanishes"

    ratio: float = 1e-2
    critical: float = 1e-4
    patience: int = LASTING

    reads: ClassVar = (gradient_rms, train_loss, epoch_loss)
    keeps: ClassVar = {train_loss: 1, epoch_loss: 1}

    def readings(self, view: View) -> Iterable[Reading]:
        excused = has_learned(view)
        for kernels in _by_loss(view):
            largest = max(rms for _, rms in kernels)
            if not 0 < largest < float("inf"):
                continue
            reached = [rms for _, rms in kernels if rms > 0]
            # One step from a usual gradient to none at all: something cuts it off.
            is_cut = reached[0] >= self.ratio * largest
            before = 0.0
            for path, rms in kernels:
                before = max(before, rms)
                is_well = excused or (is_cut and before == 0)
                value = math.inf if is_well else before / largest
                limit, level = self.ratio, "warning"
                if value < self.critical:
                    limit, level = self.critical, "critical"
                yield Reading(path, value, limit, level, below=True)

    def explain(self, reading: Reading, view: View) -> str:
        layer = view.record.layer(reading.where)
        activation = layer.get("activation")
        flat = activation in ("sigmoid", "tanh", "softsign", "hard_sigmoid")
        kind = f" behind {activation}s" if flat else ""
        still = ""
        update = view.get(update_ratio.tag_of(reading.where))
        optimizer = kind_of(view.record.optimizer_of(reading.where))
        if update and update > 1e-4:
            still = (
                f" (its updates are still {update:.1g} of the weight: "
                f"{optimizer or 'the optimizer'} rescales what is left, "
                "noise included)"
            )
        return (
            f"The gradient of {reading.where}{kind} is {reading.value:.1g} of the "
            f"largest in the network, so the first layers do not learn{still}."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Put batch norm before the activations, or use others than sigmoids."""
        return insert_batch_norm(view)


@dataclass(frozen=True)
class GradientImbalance(Rule):
    """The first layers get far more gradient than the last one.

    rms(g_i) / rms(g_last) over the trainable kernels above `ratio`; kernels without
    any gradient, embeddings and the parts of attention are left out. A plain deep
    network with batch norm does this when it is initialized: each layer multiplies the
    gradient by about 1.2.

    No unit. Source: Yang et al., 2019 (arXiv:1902.08129); measured on digits: up to 24
    in health, 44 at 20 layers of relu and batch norm, which train, 1.5e3 to 3e3 at 40,
    which do not.
    """

    title: ClassVar = "the first layers get too much gradient"

    ratio: float = 300.0
    patience: int = LASTING

    reads: ClassVar = (gradient_rms,)

    def readings(self, view: View) -> Iterable[Reading]:
        for kernels in _by_loss(view):
            reached = [(path, rms) for path, rms in kernels if rms > 0]
            for path, rms in reached[:-1]:
                yield Reading(path, rms / reached[-1][1], self.ratio)

    def explain(self, reading: Reading, view: View) -> str:
        return (
            f"The gradient of {reading.where} is {reading.value:.2g} times that of "
            "the last layer, so no learning rate fits both: it grows from layer to "
            "layer on its way back, as in deep networks of batch norm without "
            "shortcuts."
        )

    def remedy(self, reading: Reading, view: View) -> Remedy:
        """Add shortcuts, or take layers away."""
        return ask(
            "Add residual connections or make it shallower; meanwhile lower "
            f"{view.rate_of(reading.where)}."
        )


def _by_loss(view: View) -> Iterable[list[tuple[str, float]]]:
    """(path, rms of the gradient) of the kernels that compare, in forward order.

    Apart for each call of an optimizer: the losses of a GAN are not of one size.
    """
    record, kernels = view.record, view.under(gradient_rms)
    alike = [
        path
        for path in kernels
        if record.is_kernel(path) and not ATTENTION & {*path.split("/")}
    ]
    alike.sort(key=lambda path: (record.position(path), path))
    calls: dict[int, list[tuple[str, float]]] = {}
    for path in alike:
        calls.setdefault(record.call(path), []).append((path, kernels[path]))
    return calls.values()
