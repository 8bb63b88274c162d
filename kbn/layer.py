"""The batch normalization layer: its weights, its config, one call that routes."""

import warnings
from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from kbn import arguments, folding, kernels, moving_average, renorm
from kbn.arguments import Shape, Tensor
from kbn.kernels.arithmetic import where_present, wide_dtype


@keras.saving.register_keras_serializable(package="kbn")
class BatchNormalization(keras.layers.Layer):
    """Normalize each channel over the batch, then scale and shift it.

    In training, with `mean` and `variance` of the batch over all axes but `axis`::

        y = gamma * (x - mean) / sqrt(variance + epsilon) + beta
        moving_mean     <- momentum * moving_mean     + (1 - momentum) * mean
        moving_variance <- momentum * moving_variance + (1 - momentum) * variance

    In inference, and always while `trainable` is False or `freeze_statistics` is True,
    `moving_mean` and `moving_variance` take the place of `mean` and `variance`.

    A drop-in for `keras.layers.BatchNormalization`: the same arguments, weights,
    config and numbers. The statistics and the affine weights are float32 or wider under
    every dtype policy, and the statistics are taken from the inputs as given, not from
    a 16-bit copy. A batch without (unmasked) elements, or a channel whose batch
    statistics are not finite, leaves the moving statistics as they are.

    Args:
        axis: The axis of the channels, an integer, or a list of integers: each
            combination of places on them is then a channel.
        momentum: Of the moving averages, from 0 (the last batch) to 1 (never move). It
            is the share of the old average, PyTorch's that of the new batch: its
            momentum=0.1 is 0.9 here. None: the average over all batches so far, each
            with the same weight.
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
        synchronized: Whether the batch is that of all replicas together: those of the
            distribution strategy on TensorFlow, of the mapped mesh axes on JAX, of the
            default process group on torch. Without it, TensorFlow's replicas normalize
            each its own part and average their moving statistics.
        unbiased: Whether `moving_variance` has Bessel's correction, n / (n - 1), as in
            PyTorch.
        warmup: Whether the moving statistics follow at once. The first batch counts
            fully, the t-th by max(1 - momentum, 10 / (t + 9)), which is 1 - momentum
            from t = 10 / (1 - momentum) - 9 on: 991 for 0.99. Without it they start
            from the initializers, and inference lags behind training for about
            5 / (1 - momentum) steps.
        virtual_batch_size: Optional size of the groups, along axis 0, that are
            normalized each by its own statistics in training (ghost batch norm); the
            last one may be short. The moving statistics take their mean, weighted by
            group size.
        freeze_statistics: Whether to normalize with the moving statistics in training
            too, and to leave them as they are. Gamma and beta are still trained, which
            `trainable=False` would stop as well.
        **kwargs: Those of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Any rank from 1, of shape (..., C, ...) with C at `axis`, not None.
        training: Whether to use (and track) the statistics of the batch; a bool, 0 or
            1, None, or in a `tf.function` a boolean tensor.
        mask: Optional booleans (or numbers: not 0 means True), True where an element
            counts. Its dimensions are the leading ones of `inputs`, the channels'
            axis among them, and it broadcasts over the rest: (batch, time) covers
            (batch, time, C). For inputs (batch, C, time) give (batch, 1, time). In
            inference a mask is ignored, whatever its shape.

    Raises:
        TypeError: An argument has the name that it has elsewhere, such as `eps`; the
            message says what it is called here.
        ValueError: An argument, the inputs' shape or, in training, the mask's shape is
            out of range.

    Weights, each of shape (C,): gamma, beta, moving_mean, moving_variance; with renorm
    moving_stddev, renorm_mean, renorm_stddev; with momentum=None or warmup=True
    num_batches_tracked, which counts for each channel the batches that entered. With
    several axes their shape is that of the inputs with 1 elsewhere.

    Example:
        >>> import keras, kbn
        >>> model = keras.Sequential([keras.layers.Dense(8), kbn.BatchNorm()])
        >>> y = model(keras.ops.ones((4, 3)), training=True)
        >>> tuple(y.shape)
        (4, 8)

    Reference:
        Ioffe & Szegedy (2015), https://arxiv.org/abs/1502.03167; Ioffe (2017),
        https://arxiv.org/abs/1702.03275.
    """

    # The class has the name of Keras' class, because Keras derives the keys of a
    # checkpoint from it; its public name is kbn.BatchNorm.

    def __init__(
        self,
        axis: int | list[int] = -1,
        momentum: float | None = 0.99,
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
        *,
        unbiased: bool = False,
        warmup: bool = False,
        virtual_batch_size: int | None = None,
        freeze_statistics: bool = False,
        **kwargs: Any,
    ) -> None:
        arguments.refuse_slips(kwargs)
        super().__init__(**kwargs)
        # The statistics come from the inputs as given: autocast would round them first.
        self.autocast = False
        self.supports_masking = True
        self.axis = arguments.axis(axis)
        self.momentum = (
            None if momentum is None else arguments.fraction("momentum", momentum)
        )
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
        self.unbiased = unbiased
        self.warmup = warmup
        if warmup:
            arguments.check_warmup(self.momentum)
        self.virtual_batch_size = arguments.group_size(virtual_batch_size)
        self.freeze_statistics = freeze_statistics
        if synchronized and virtual_batch_size is not None:
            raise ValueError(
                "BatchNorm(synchronized=True, virtual_batch_size="
                f"{virtual_batch_size}): one makes the batch larger, the other "
                "smaller; leave one of them out."
            )
        self.gamma = None
        self.beta = None

    def build(self, input_shape: Shape) -> None:
        """Create the weights."""
        axes = arguments.canonical_axes(self.axis, input_shape)
        sizes = dict(
            zip(axes, arguments.channel_sizes(self.axis, input_shape), strict=True)
        )
        if self.virtual_batch_size is not None and 0 in axes:
            raise ValueError(
                f"BatchNorm(axis={self.axis}, virtual_batch_size="
                f"{self.virtual_batch_size}) received inputs of shape "
                f"{tuple(input_shape)}: virtual batches cut axis 0, which holds "
                "channels."
            )
        shape = tuple(sizes.values())
        if len(axes) > 1:
            shape = tuple(sizes.get(i, 1) for i in range(len(input_shape)))
        dtype = wide_dtype(self.variable_dtype)

        def add(name: str, initializer: Any, **options: Any) -> Any:
            return self.add_weight(
                name=name,
                initializer=initializer,
                trainable=name in ("gamma", "beta"),
                autocast=False,
                **{"shape": shape, "dtype": dtype, **options},
            )

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
        for name, initializer in self._running_initializers().items():
            # "int", not "int32", which TensorFlow keeps off a GPU.
            options = {"dtype": "int"} if name == "num_batches_tracked" else {}
            setattr(self, name, add(name, initializer, **options))
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes=sizes)

    def reset_running_stats(self) -> None:
        """Set the moving statistics to what they were before any batch.

        Example:
            >>> import keras, kbn
            >>> layer = kbn.BatchNorm(momentum=0.0)
            >>> y = layer(keras.ops.full((4, 1), 5.0), training=True)
            >>> layer.get_weights()[2]
            array([5.], dtype=float32)
            >>> layer.reset_running_stats()
            >>> layer.get_weights()[2]
            array([0.], dtype=float32)
        """
        for name, initializer in self._running_initializers().items():
            weight = getattr(self, name)
            weight.assign(initializer(weight.shape, dtype=weight.dtype))

    def set_weights(self, weights: list[Any]) -> None:
        """Set the values of all weights, in the order of `get_weights()`."""
        if self._lacks_counter(len(weights)):
            raise ValueError(
                f"{len(weights)} arrays are too few for '{self.name}', which has "
                f"{len(self.weights)} weights: num_batches_tracked, the last, is "
                "missing. Give np.full(channels, t), where t is the number of batches "
                "that the moving statistics have seen."
            )
        super().set_weights(weights)

    def load_own_variables(self, store: Any) -> None:
        """Load the weights of a file, which may be those of Keras' layer."""
        if self._lacks_counter(len(store.keys())):
            if self.momentum is None:
                raise ValueError(
                    f"'{self.name}' averages over all batches (momentum=None), and the "
                    "file has no num_batches_tracked: nobody knows how many batches "
                    "its statistics have seen. Give the layer a momentum."
                )
            counter = self.num_batches_tracked
            full = ops.full(counter.shape, moving_average.full(self.momentum))
            last = str(len(self.weights) - 1)
            store = {**dict(store), last: full}
        super().load_own_variables(store)

    def _lacks_counter(self, number: int) -> bool:
        """Whether so many weights are all of this layer's but its counter."""
        counts = getattr(self, "num_batches_tracked", None) is not None
        return counts and number == len(self.weights) - 1

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The inputs' shape."""
        arguments.canonical_axes(self.axis, input_shape)
        return input_shape

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Normalize `inputs`; see the class."""
        x = self._prepared(inputs)
        axes = arguments.canonical_axes(self.axis, x.shape)
        moves = self.trainable and not self.freeze_statistics
        if moves and training is not None:
            y = kernels.switch(
                training,
                lambda: self._train(x, mask, axes),
                lambda: self._infer(x, axes),
            )
        else:
            y = self._infer(x, axes)
        return _cast(y, self.compute_dtype)

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """`layer_call` itself: run again, it would count the batch twice."""
        return layer_call

    def get_config(self) -> dict[str, Any]:
        """The arguments; those that Keras' layer lacks only where they are set."""
        names = ("unbiased", "warmup", "virtual_batch_size", "freeze_statistics")
        own = {name: value for name in names if (value := getattr(self, name))}
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
            **own,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BatchNormalization":
        """The layer of a config; one of Keras 2 may be among them."""
        config = dict(config)
        retired = {key: config.pop(key, None) for key in ("fused", "adjustment")}
        retired = {key: value for key, value in retired.items() if value is not None}
        if retired:
            given = ", ".join(f"{key}={value!r}" for key, value in retired.items())
            warnings.warn(
                f"BatchNorm ignores {given} of a Keras 2 config: kbn chooses the "
                "fastest exact kernel by itself and knows no adjustment.",
                stacklevel=2,
            )
        return super().from_config(config)

    def _running_initializers(self) -> dict[str, Any]:
        """The weights that batches move, in the order of `weights`."""

        def stddev(shape: Any, dtype: Any = None) -> Tensor:
            return ops.sqrt(self.moving_variance_initializer(shape, dtype=dtype))

        start = {
            "moving_mean": self.moving_mean_initializer,
            "moving_variance": self.moving_variance_initializer,
        }
        if self.renorm:
            # The paper averages the deviation, not the variance.
            start["moving_stddev"] = stddev
            start["renorm_mean"] = self.moving_mean_initializer
            start["renorm_stddev"] = stddev
        if self.momentum is None or self.warmup:
            start["num_batches_tracked"] = initializers.Zeros()
        return start

    def _prepared(self, inputs: Tensor) -> Tensor:
        """The inputs in the compute dtype, or as wide as the statistics."""
        x = ops.convert_to_tensor(inputs)
        given = keras.backend.standardize_dtype(x.dtype)
        if given == self.compute_dtype:
            return x
        return _cast(x, wide_dtype(self.compute_dtype))

    def _infer(self, x: Tensor, axes: list[int]) -> Tensor:
        folded = folding.fold(x, None, axes)
        weights = self.moving_mean, self.moving_variance, self.gamma, self.beta
        mean, variance, gamma, beta = map(folded.tiled, weights)
        y = kernels.normalize_fixed(
            folded.x, mean, variance, gamma, beta, folded.axis, self.epsilon
        )
        return folded.unfold(y)

    def _train(self, x: Tensor, mask: Tensor | None, axes: list[int]) -> Tensor:
        if mask is not None:
            mask = arguments.aligned_mask(mask, x.shape)
        folded = folding.fold(x, mask, axes, self.virtual_batch_size)
        x, mask, axis = folded.x, folded.mask, folded.axis
        gamma, beta = folded.tiled(self.gamma), folded.tiled(self.beta)
        settings = axis, self.epsilon, mask, self.synchronized
        if self.renorm:
            # The corrected output is rounded once, at the end.
            x = ops.cast(x, wide_dtype(x.dtype))
            y, mean, variance, count = kernels.normalize_batch(x, None, None, *settings)
            r, d = renorm.correction(
                mean,
                variance,
                count,
                folded.tiled(self.renorm_mean),
                folded.tiled(self.renorm_stddev),
                self.epsilon,
                self.renorm_clipping or {},
            )
            beta = where_present(beta, count)
            y = renorm.corrected(y, r, d, gamma, beta, axis)
        else:
            y, mean, variance, count = kernels.normalize_batch(
                x, gamma, beta, *settings
            )
        moving_average.track(self, mean, variance, count)
        return folded.unfold(y)


def _cast(x: Tensor, dtype: str) -> Tensor:
    """`x` in `dtype`. In eager mode `ops.cast` costs a call that changes nothing."""
    if keras.backend.standardize_dtype(x.dtype) == dtype:
        return x
    return ops.cast(x, dtype)
