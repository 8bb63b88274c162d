"""The rules by which a monitor calls a training ill, and what a rule is.

Each says in its docstring what it measures, and takes its limits as arguments.

Example:
    >>> import kbn
    >>> from kbn.callbacks import rules
    >>> strict = rules.default_rules(rules.VanishingGradient(ratio=0.05, patience=2))
    >>> monitor = kbn.callbacks.TrainingMonitor("logs", rules=strict)
"""

from .alerts.activations import DeadRelu as DeadRelu
from .alerts.activations import PoorInit as PoorInit
from .alerts.activations import Saturated as Saturated
from .alerts.batch_norm import BnCollapsed as BnCollapsed
from .alerts.batch_norm import BnMomentGap as BnMomentGap
from .alerts.batch_norm import BnSmallBatch as BnSmallBatch
from .alerts.batch_norm import BnStatsCold as BnStatsCold
from .alerts.batch_norm import BnTrainEvalGap as BnTrainEvalGap
from .alerts.default import default_rules as default_rules
from .alerts.finiteness import NonFinite as NonFinite
from .alerts.gradients import ExplodingGradient as ExplodingGradient
from .alerts.gradients import GradientImbalance as GradientImbalance
from .alerts.gradients import VanishingGradient as VanishingGradient
from .alerts.inputs import InputScale as InputScale
from .alerts.loss import LossNotDecreasing as LossNotDecreasing
from .alerts.loss import LossSpike as LossSpike
from .alerts.loss import Overfit as Overfit
from .alerts.loss_scale import LossScaleCollapse as LossScaleCollapse
from .alerts.rule import Reading as Reading
from .alerts.rule import Rule as Rule
from .alerts.updates import UnchangedWeight as UnchangedWeight
from .alerts.updates import UpdateRatioHigh as UpdateRatioHigh
from .alerts.updates import UpdateRatioLow as UpdateRatioLow
from .alerts.view import View as View
from .alerts.weights import WeightDrift as WeightDrift
from .alerts.weights import WeightExplosion as WeightExplosion
