"""The rules by which a monitor calls a training ill, and what a rule is.

Each says in its docstring what it measures, and takes its limits as arguments.

Example:
    >>> import kbn
    >>> from kbn.callbacks import rules
    >>> strict = rules.default_rules(rules.VanishingGradient(ratio=0.05, patience=2))
    >>> monitor = kbn.callbacks.TrainingMonitor("logs", rules=strict)
"""

from .signals.activations import DeadRelu as DeadRelu
from .signals.activations import Saturated as Saturated
from .signals.batch_norm import BnCollapsed as BnCollapsed
from .signals.batch_norm import BnNotUpdated as BnNotUpdated
from .signals.batch_norm import BnSmallBatch as BnSmallBatch
from .signals.batch_norm import BnStatsCold as BnStatsCold
from .signals.batch_norm import BnTrainEvalGap as BnTrainEvalGap
from .signals.collapse import Collapsed as Collapsed
from .signals.data import InputScale as InputScale
from .signals.data import Skewed as Skewed
from .signals.decay import StrongDecay as StrongDecay
from .signals.default import default_rules as default_rules
from .signals.default import gone as __getattr__  # noqa: F401
from .signals.finiteness import NonFinite as NonFinite
from .signals.finiteness import NonFiniteData as NonFiniteData
from .signals.gradients import ExplodingGradient as ExplodingGradient
from .signals.gradients import GradientImbalance as GradientImbalance
from .signals.gradients import VanishingGradient as VanishingGradient
from .signals.guessing import ClassImbalance as ClassImbalance
from .signals.guessing import NotLearning as NotLearning
from .signals.guessing import Overfit as Overfit
from .signals.guessing import TargetScale as TargetScale
from .signals.learning_rate import LearningRateTooHigh as LearningRateTooHigh
from .signals.learning_rate import LearningRateTooLow as LearningRateTooLow
from .signals.loss import LossSpike as LossSpike
from .signals.movement import UnchangedWeight as UnchangedWeight
from .signals.movement import UpdateRatioHigh as UpdateRatioHigh
from .signals.movement import WeightDrift as WeightDrift
from .signals.movement import WeightExplosion as WeightExplosion
from .signals.optimizers import LossScaleCollapse as LossScaleCollapse
from .signals.rule import Reading as Reading
from .signals.rule import Rule as Rule
from .signals.schedule import ScheduleLength as ScheduleLength
from .signals.start import PoorInit as PoorInit
from .signals.targets import NotShuffled as NotShuffled
from .signals.targets import OutputMismatch as OutputMismatch
from .signals.tensors import ZeroWeights as ZeroWeights
from .signals.view import View as View
