"""The batch normalization layer: its weights, its config, one call that routes."""

from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from kbn import arguments, kernels, moving_average, renorm
from kbn.arguments import Shape, Tensor
from kbn.kernels import reference
from kbn.kernels.reference import wide_dtype


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
        self.axis = arguments.integer("axis", axis)
        self.momentum = arguments.fraction("momentum", momentum)
        self.epsilon = arguments.positive("epsilon", epsilon)
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
        self.renorm_clipping = arguments.clipping(renorm_clipping)
        if renorm and renorm_clipping is None:
            self.renorm_clipping = {}  # as Keras' config has it
        self.renorm_momentum = arguments.fraction("renorm_momentum", renorm_momentum)
        self.synchronized = synchronized
        self.gamma = None
        self.beta = None

    def build(self, input_shape: Shape) -> None:
        """Create the weights, each of shape (C,)."""
        axis = arguments.canonical_axis(self.axis, input_shape)
        channels = input_shape[axis]
        if channels is None:
            raise ValueError(
                f"BatchNorm(axis={self.axis}) received inputs of shape "
                f"{tuple(input_shape)}, whose size along that axis is not known. "
                "Give it a size, for instance in keras.Input(shape=...)."
            )

        def add(name: str, initializer: Any, **options: Any) -> Any:
            return self.add_weight(
                name=name,
                shape=(channels,),
                initializer=initializer,
                trainable=name in ("gamma", "beta"),
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
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = add(
                "beta",
                self.beta_initializer,
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
        arguments.canonical_axis(self.axis, input_shape)
        return input_shape

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize `inputs`; see the class."""
        x = self._prepared(inputs)
        axis = self.axis % len(x.shape)
        if mask is not None:
            mask = arguments.aligned_mask(mask, x.shape, axis)
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
        """The constructor's arguments; Keras' own layer takes them too."""
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
        """y = ((x - mean) / stddev * r + d) * gamma + beta, at least float32."""
        wide = ops.cast(x, wide_dtype(x.dtype))
        y, mean, variance, count = kernels.normalize_batch(
            wide, None, None, axis, self.epsilon, mask, self.synchronized
        )
        r, d = renorm.correction(
            mean,
            variance,
            count,
            ops.convert_to_tensor(self.renorm_mean),
            ops.convert_to_tensor(self.renorm_stddev),
            self.epsilon,
            self.renorm_clipping or {},
        )
        gamma, beta = self._affine()
        beta = reference.where_present(beta, count)
        y = renorm.corrected(y, r, d, gamma, beta, axis)
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
