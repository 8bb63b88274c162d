"""The batch normalization layer: arguments, weights, config, and one call that routes."""

import math
import operator
from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from kbn import kernels, moving_average
from kbn.kernels.reference import wide_dtype

Tensor = Any
Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(keras.layers.Layer):
    """Normalize each channel over the batch, then scale and shift it.

    In training, with `mean` and `variance` of the batch over all axes but `axis`::

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta
        moving_mean     <- momentum * moving_mean     + (1 - momentum) * mean
        moving_variance <- momentum * moving_variance + (1 - momentum) * variance

    In inference, and always while `trainable` is False, `moving_mean` and
    `moving_variance` take the place of `mean` and `variance`.

    A drop-in for `keras.layers.BatchNormalization`: the same arguments, weights,
    config and numbers. The statistics and the affine weights are float32 or wider under
    every dtype policy, and the statistics are taken from the inputs as given, not from
    a 16-bit copy. A batch without (unmasked) elements, or a channel whose batch
    statistics are not finite, leaves the moving statistics as they are.

    Args:
        axis: The axis of the channels, an integer.
        momentum: Of the moving averages, from 0 (the last batch) to 1 (never move).
        epsilon: Added to the variance; greater than 0.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer: Initializer of `beta`.
        gamma_initializer: Initializer of `gamma`.
        moving_mean_initializer: Initializer of `moving_mean`.
        moving_variance_initializer: Initializer of `moving_variance`.
        beta_regularizer: Optional regularizer of `beta`.
        gamma_regularizer: Optional regularizer of `gamma`.
        beta_constraint: Optional constraint of `beta`.
        gamma_constraint: Optional constraint of `gamma`.
        renorm: Whether to use batch renormalization (Ioffe, 2017): in training
            `(x - mean) / stddev * r + d` is scaled and shifted, where `r` and `d` lead
            to slowly moving averages of their own, `renorm_mean` and `renorm_stddev`.
        renorm_clipping: Optional dictionary with any of `"rmin"`, `"rmax"`, `"dmax"`:
            `r` is clipped to [rmin, rmax], `d` to [-dmax, dmax].
        renorm_momentum: Momentum of `renorm_mean` and `renorm_stddev`, 0 to 1.
        synchronized: Whether the batch is that of all replicas of the distribution
            strategy together.
        **kwargs: Those of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Any rank from 1, of shape (..., C, ...) with C at `axis`, not None.
        training: Whether to use (and track) the statistics of the batch.
        mask: Optional booleans, True where an element counts. Of the rank of `inputs`:
            broadcast to them. Of lower rank: its dimensions are the leading ones of
            `inputs` that are not `axis`, such as (batch, time).

    Raises:
        ValueError: An argument, the inputs' shape or the mask's shape is out of range.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential([keras.layers.Dense(8), kbn.BatchNorm()])
        >>> model(keras.ops.ones((4, 3)), training=True).shape
        TensorShape([4, 8])

    Reference:
        Ioffe & Szegedy (2015), https://arxiv.org/abs/1502.03167; Ioffe (2017),
        https://arxiv.org/abs/1702.03275.
    """

    # The class has the name of Keras' class, because Keras derives the keys of a
    # checkpoint from it; its public name is kbn.BatchNorm.

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        renorm: bool = False,
        renorm_clipping: dict[str, float] | None = None,
        renorm_momentum: float = 0.99,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # The statistics come from the inputs as given: autocast would round them first.
        self.autocast = False
        self.supports_masking = True
        self.axis = _integer("axis", axis)
        self.momentum = _number("momentum", momentum, 0, 1)
        self.epsilon = _number("epsilon", epsilon, above=0)
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.renorm = renorm
        self.renorm_clipping = _clipping(renorm_clipping)
        if renorm and renorm_clipping is None:
            self.renorm_clipping = {}
        self.renorm_momentum = _number("renorm_momentum", renorm_momentum, 0, 1)
        self.synchronized = synchronized
        self.gamma = None
        self.beta = None

    def build(self, input_shape: Shape) -> None:
        """Create the weights, each of shape (C,)."""
        axis = self._canonical_axis(input_shape)
        channels = input_shape[axis]
        if channels is None:
            raise ValueError(
                f"BatchNorm(axis={self.axis}) received inputs of shape {input_shape}, "
                f"whose size along axis {self.axis} is not known. Give the channel axis "
                "a size, for instance in keras.Input(shape=...)."
            )

        def add(name: str, initializer: Any, trainable: bool = False, **options: Any):
            return self.add_weight(
                name=name,
                shape=(channels,),
                initializer=initializer,
                trainable=trainable,
                dtype=wide_dtype(self.variable_dtype),
                autocast=False,
                **options,
            )

        def stddev(shape: Any, dtype: Any = None) -> Tensor:
            return ops.sqrt(self.moving_variance_initializer(shape, dtype=dtype))

        if self.scale:
            self.gamma = add(
                "gamma",
                self.gamma_initializer,
                trainable=True,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = add(
                "beta",
                self.beta_initializer,
                trainable=True,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )
        self.moving_mean = add("moving_mean", self.moving_mean_initializer)
        self.moving_variance = add("moving_variance", self.moving_variance_initializer)
        if self.renorm:
            # The paper averages the deviation, not the variance.
            self.moving_stddev = add("moving_stddev", stddev)
            self.renorm_mean = add("renorm_mean", self.moving_mean_initializer)
            self.renorm_stddev = add("renorm_stddev", stddev)
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={axis: channels}
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape."""
        self._canonical_axis(input_shape)
        return input_shape

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize `inputs`; see the class."""
        x = self._prepared(inputs)
        axis = self.axis % len(x.shape)
        if mask is not None:
            mask = _aligned_mask(mask, x.shape, axis)
        if not (training and self.trainable):
            y = kernels.normalize_fixed(
                x,
                ops.convert_to_tensor(self.moving_mean),
                ops.convert_to_tensor(self.moving_variance),
                *self._affine(),
                axis,
                self.epsilon,
            )
        elif self.renorm:
            y = self._renormalized(x, axis, mask)
        else:
            y, *statistics = kernels.normalize_batch(
                x, *self._affine(), axis, self.epsilon, mask, self.synchronized
            )
            self._track(*statistics)
        return ops.cast(y, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as `keras.layers.BatchNormalization` has them."""
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "moving_mean_initializer": initializers.serialize(
                self.moving_mean_initializer
            ),
            "moving_variance_initializer": initializers.serialize(
                self.moving_variance_initializer
            ),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
            "synchronized": self.synchronized,
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }

    def _canonical_axis(self, input_shape: Shape) -> int:
        rank = len(input_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"BatchNorm(axis={self.axis}) received inputs of shape "
                f"{tuple(input_shape)}, whose axes are {-rank} to {rank - 1}. "
                "Did you mean axis=-1?"
            )
        return self.axis % rank

    def _prepared(self, inputs: Tensor) -> Tensor:
        """The inputs in the compute dtype, or as wide as the statistics."""
        x = ops.convert_to_tensor(inputs)
        if keras.backend.standardize_dtype(x.dtype) == self.compute_dtype:
            return x
        return ops.cast(x, wide_dtype(self.compute_dtype))

    def _affine(self) -> tuple[Tensor | None, Tensor | None]:
        gamma = None if self.gamma is None else ops.convert_to_tensor(self.gamma)
        beta = None if self.beta is None else ops.convert_to_tensor(self.beta)
        return gamma, beta

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        enters = moving_average.may_enter(mean, variance, count)
        moving_average.update(self.moving_mean, mean, self.momentum, enters)
        moving_average.update(self.moving_variance, variance, self.momentum, enters)

    def _renormalized(self, x: Tensor, axis: int, mask: Tensor | None) -> Tensor:
        """Batch renormalization: y = ((x - mean) / stddev * r + d) * gamma + beta."""
        wide = ops.cast(x, wide_dtype(x.dtype))
        y, mean, variance, count = kernels.normalize_batch(
            wide, None, None, axis, self.epsilon, mask, self.synchronized
        )
        stddev = ops.sqrt(variance + self.epsilon)
        floor = math.sqrt(self.epsilon)  # early in training the average may be near 0
        reference = ops.maximum(self.renorm_stddev, floor)
        clipping = self.renorm_clipping
        r = stddev / reference
        d = (mean - self.renorm_mean) / reference
        if clipping.get("rmin") is not None:
            r = ops.maximum(r, clipping["rmin"])
        if clipping.get("rmax") is not None:
            r = ops.minimum(r, clipping["rmax"])
        if clipping.get("dmax") is not None:
            d = ops.clip(d, -clipping["dmax"], clipping["dmax"])
        gamma, beta = self._affine()
        slope, shift = r, d  # constants to the gradient, as mean and variance are
        if gamma is not None:
            slope, shift = r * gamma, d * gamma
        if beta is not None:
            shift = shift + beta
        along = [-1 if i == axis else 1 for i in range(len(x.shape))]
        y = y * ops.reshape(slope, along) + ops.reshape(shift, along)
        self._track_renorm(mean, variance, count)
        return y

    def _track_renorm(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        enters = moving_average.may_enter(mean, variance, count)
        stddev = ops.sqrt(variance + self.epsilon)
        for variable, value, momentum in (
            (self.renorm_mean, mean, self.renorm_momentum),
            (self.renorm_stddev, stddev, self.renorm_momentum),
            (self.moving_mean, mean, self.momentum),
            (self.moving_stddev, stddev, self.momentum),
        ):
            moving_average.update(variable, value, momentum, enters)
        squared = ops.square(self.moving_stddev) - self.epsilon
        moving_average.update(self.moving_variance, ops.relu(squared), 0.0, enters)


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(
            f"BatchNorm({name}={value!r}): {name} must be an integer."
        ) from None


def _number(
    name: str,
    value: Any,
    low: float | None = None,
    high: float = math.inf,
    above: float | None = None,
) -> float:
    """`value` as a finite float in [low, high], or greater than `above`."""
    if above is not None:
        rule = f"a finite number greater than {above}"
    elif high == math.inf:
        rule = f"a finite number of at least {low}"
    else:
        rule = f"a number from {low} to {high}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    lowest = above if above is not None else low
    inside = math.isfinite(number) and lowest is not None and lowest <= number <= high
    if isinstance(value, bool | str) or not inside or number == above:
        raise ValueError(f"BatchNorm({name}={value!r}): {name} must be {rule}.")
    return number


def _clipping(renorm_clipping: dict[str, float] | None) -> dict[str, float] | None:
    if renorm_clipping is None:
        return None
    given = f"BatchNorm(renorm_clipping={renorm_clipping!r}): "
    if not isinstance(renorm_clipping, dict) or set(renorm_clipping) - {
        "rmin",
        "rmax",
        "dmax",
    }:
        raise ValueError(
            f"{given}renorm_clipping must be a dictionary with no other keys than "
            "'rmin', 'rmax' and 'dmax'."
        )
    values = {k: v for k, v in renorm_clipping.items() if v is not None}
    for key, value in values.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise ValueError(f"{given}{key} must be a number of at least 0.")
    if values.get("rmin", 0) > values.get("rmax", math.inf):
        raise ValueError(f"{given}rmin must not be greater than rmax.")
    return renorm_clipping


def _aligned_mask(mask: Tensor, shape: Shape, axis: int) -> Tensor:
    """`mask` as booleans of the inputs' rank that broadcast to their shape."""
    mask = ops.cast(mask, "bool")
    rank, given = len(shape), len(mask.shape)
    if given < rank:
        others = [i for i in range(rank) if i != axis]
        sizes = list(ops.shape(mask))
        aligned = [1] * rank
        for position, size in zip(others[:given], sizes, strict=True):
            aligned[position] = size
        mask_shape = tuple(
            mask.shape[others.index(i)] if i in others[:given] else 1
            for i in range(rank)
        )
    else:
        aligned, mask_shape = None, tuple(mask.shape)
    if len(mask_shape) != rank or any(
        m is not None and n is not None and m not in (1, n)
        for m, n in zip(mask_shape, shape, strict=True)
    ):
        raise ValueError(
            f"BatchNorm received a mask of shape {tuple(mask.shape)} for inputs of shape "
            f"{tuple(shape)} with channels on axis {axis}. A mask broadcasts to the "
            "inputs, or has the sizes of their leading axes other than the channels'."
        )
    return mask if aligned is None else ops.reshape(mask, aligned)
