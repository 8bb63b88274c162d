"""Probes of one layer on one device: its statistics, masks, precision and arguments.

Each takes a layer class and returns (what was seen, whether that is the defect). The
truth is float64 NumPy. `tests.defects` is the table of them.
"""

import warnings

import keras
import numpy as np
from keras import ops

from tests import oracle
from tests.running import Runner, array

NAN = float("nan")


def normal(*shape, mean=0.0, std=1.0, dtype="float32"):
    return (np.random.default_rng(0).normal(size=shape) * std + mean).astype(dtype)


def exact(x, axis=-1, mask=None):
    """Output, mean and variance of a new layer, in float64."""
    return oracle.normalize(x, 1.0, 0.0, axis, 1e-3, np.zeros(x.shape), mask)


def statistics(layer):
    return array(layer.moving_mean.value), array(layer.moving_variance.value)


def train(layer, x, mask=None):
    """Output, moving mean and moving variance after a training step."""
    x = ops.convert_to_tensor(x)
    mask = None if mask is None else ops.convert_to_tensor(mask)
    return array(layer(x, training=True, mask=mask)), *statistics(layer)


def error(got, wanted):
    return float(np.abs(got - wanted).max())


def relative(got, wanted):
    return float(np.abs(got / wanted - 1).max())


def attempt(function, *arguments, **keywords):
    """What comes of a call: its result, or the exception in its stead."""
    try:
        return function(*arguments, **keywords)
    except Exception as exception:
        return exception


def worst(limit, **errors):
    """The errors as text, an exception by its name, and whether one is past its limit.

    `limit`: of each error, or a list of one for each.
    """
    limits = limit if isinstance(limit, list) else [limit] * len(errors)
    seen, good = [], True
    for (name, e), most in zip(errors.items(), limits, strict=True):
        failed = isinstance(e, Exception)
        seen.append(f"{name} {type(e).__name__ if failed else f'{e:.1e}'}")
        good &= not failed and e <= most  # False for NaN
    return ", ".join(seen), not good


# --- what enters the moving statistics


def empty_batch(cls):
    """No element: the statistics stay as they are, every gradient is 0."""
    layer = cls()
    outcome = Runner(layer, "eager", True, (0, 4))(np.zeros((0, 4)), np.zeros((0, 4)))
    mean, variance = statistics(layer)
    good = (mean == 0).all() and (variance == 1).all()
    good &= (outcome.dgamma == 0).all() and (outcome.dbeta == 0).all()
    seen = mean[0], variance[0], outcome.dgamma[0]
    return "mean {:.2g}, variance {:.2g}, dgamma {:.2g}".format(*seen), not good


def fully_masked_batch(cls):
    """20 batches of which no element counts: mean 5, variance 4 stay, no gradient."""
    layer = cls(
        momentum=0.9,
        moving_mean_initializer=keras.initializers.Constant(5.0),
        moving_variance_initializer=keras.initializers.Constant(4.0),
    )
    x, mask = normal(8, 4, mean=5.0), np.zeros(8, bool)
    run = Runner(layer, "eager", True, x.shape, mask.ndim)
    for _ in range(20):
        outcome = run(x, x, mask)
    mean, variance = statistics(layer)
    good = (mean == 5).all() and (variance == 4).all() and np.isfinite(outcome.y).all()
    good &= all((d == 0).all() for d in (outcome.dx, outcome.dgamma, outcome.dbeta))
    return f"mean {mean[0]:.3g}, variance {variance[0]:.3g}", not good


def non_finite_batch(cls):
    """A channel's NaN or Inf stays out of its average; its output still shows it."""
    found = {}
    for poison in (NAN, np.inf):
        clean, bad = normal(8, 2, mean=3.0), normal(8, 2)
        bad[0, 0] = poison
        layer = cls(momentum=0.5)
        y, *_ = train(layer, bad)
        _, mean, variance = train(layer, clean)
        # Channel 0 saw the clean batch only, channel 1 both.
        old_mean = np.array([0, bad[:, 1].mean() / 2])
        old_variance = np.array([1, 0.5 + bad[:, 1].var() / 2])
        wrong = [
            error(mean, (old_mean + clean.mean(0)) / 2),
            error(variance, (old_variance + clean.var(0)) / 2),
        ]
        shown = np.isfinite(y).any(0).tolist() == [False, True]
        found[f"after {poison}: error"] = float(np.max(wrong)) if shown else NAN
    return worst(1e-6, **found)


def skipped_step(cls):
    """An Inf in the batch: LossScaleOptimizer skips the step, so does the average."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), cls()])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "mse")
    x = normal(8, 3)
    x[0, 0] = np.inf
    model.train_on_batch(x, np.zeros((8, 4), "float32"))
    mean, variance = statistics(model.layers[-1])
    weights = all(np.isfinite(array(w.value)).all() for w in model.trainable_weights)
    text = f"mean {mean[0]:.3g}, variance {variance[0]:.3g}, weights finite: {weights}"
    return text, not (weights and np.isfinite([mean, variance]).all())


def small_batch_variance(cls, **arguments):
    """The moving variance of batches of 2, averaged over 20000 channels, is 1."""
    _, _, variance = train(cls(momentum=0.0, **arguments), normal(2, 20000))
    return f"variance {variance.mean():.2f} for 1", not abs(variance.mean() - 1) < 0.05


def unbiased_variance(cls):
    """The same with unbiased=True; and a batch of 1, which has none, moves nothing."""
    text, defective = small_batch_variance(cls, unbiased=True)
    _, _, alone = train(cls(momentum=0.0, unbiased=True), normal(1, 2))
    return f"{text}; of a batch of 1: {alone[0]:.2g}", defective or error(alone, 1) > 0


# --- masks


def mask_error(cls, shape, mask_shape, axis=-1, lift=None):
    """Of the moving mean, where `lift` says what the mask means in the inputs' rank."""
    x = normal(*shape, mean=3.0)
    mask = np.random.default_rng(1).random(mask_shape) < 0.5
    mask.flat[0], mask.flat[1] = True, False
    _, mean, _ = train(cls(axis=axis, momentum=0.0), x, mask)
    return error(mean, exact(x, axis, lift(mask)).mean)


def mask_of_one_channel(cls):
    """C = 1 with a mask: the moving mean is that of the elements that count."""
    last = attempt(mask_error, cls, (4, 5, 1), (4, 5), lift=lambda m: m[..., None])
    first = attempt(mask_error, cls, (4, 1, 5), (4, 1), 1, lift=lambda m: m[..., None])
    return worst(1e-6, axis_last=last, axis_1=first)


def mask_of_time_channels_first(cls):
    """x (N, C, T) with a mask (N, 1, T), C equal to T and not."""
    square = attempt(mask_error, cls, (2, 4, 4), (2, 1, 4), 1, lift=lambda m: m)
    other = attempt(mask_error, cls, (2, 4, 6), (2, 1, 6), 1, lift=lambda m: m)
    return worst(1e-6, C_equals_T=square, C_differs=other)


def mask_that_broadcasts(cls):
    """A mask of the inputs' rank, and one of the leading dimensions."""
    same = attempt(mask_error, cls, (2, 3, 5), (2, 3, 1), lift=lambda m: m)
    leading = attempt(
        mask_error, cls, (2, 3, 4, 5), (2, 3), lift=lambda m: m[..., None, None]
    )
    return worst(1e-6, same_rank=same, leading=leading)


def mask_weights(cls, weighted=True):
    """A mask [1, .5, 0, 0] weighs; if not `weighted`, non-zero means present."""
    x, mask = normal(4, 2, mean=3.0), np.array([1, 0.5, 0, 0], "float32")
    _, mean, _ = train(cls(momentum=0.0), x, mask)
    wanted = np.average(x.astype("f8"), 0, mask if weighted else mask != 0)
    return f"mean {mean[0]:.4g} for {wanted[0]:.4g}", not error(mean, wanted) <= 1e-6


# --- precision


def one_pass_variance(cls):
    """The variance of (4096, 4) is within the design's limits, at any mean."""
    found = {}
    for mean in (1e4, 1e6):
        x = normal(4096, 4, mean=mean)
        y, _, variance = train(cls(momentum=0.0), x)
        finite = np.isfinite(y).all()
        found[f"{mean:.0e}:"] = relative(variance, exact(x).variance) if finite else NAN
    text, defective = worst([1e-4, 1e-3], **found)
    return f"error at mean {text}", defective


def naive_mean(cls):
    """Dark frames, mean 250 and std 2, 800 thousand elements a channel."""
    x = normal(16, 224, 224, 3, mean=250.0, std=2.0)
    y, _, variance = train(cls(momentum=0.0), x)
    wanted = exact(x)
    return worst(
        1e-3, y=error(y, wanted.y), variance=relative(variance, wanted.variance)
    )


def float32_into_float16(cls):
    """float32 inputs past 65504 under mixed_float16: y to float16, statistics exact."""
    x = normal(256, 4, mean=1e5, std=10.0)
    y, mean, variance = train(cls(momentum=0.0, dtype="mixed_float16"), x)
    wanted = exact(x)
    return worst(
        2e-3,  # float16 rounds outputs up to 4 by 1e-3
        y=error(y, wanted.y),
        mean=relative(mean, wanted.mean),
        variance=relative(variance, wanted.variance),
    )


def autocast_statistics(cls):
    """float32 inputs under mixed_*: the variance is that of float32."""
    found = {}
    for dtype, mean in (("bfloat16", 1e3), ("float16", 1e4)):
        x = normal(1024, 4, mean=mean)
        _, _, variance = train(cls(momentum=0.0, dtype=f"mixed_{dtype}"), x)
        found[dtype] = relative(variance, exact(x).variance)
    return worst(1e-4, **found)


def stalled_average(cls):
    """100 batches of ones move 16-bit layers' mean on from .98, by momentum .99."""
    wanted, found = 1 - 0.02 * 0.99**100, {}
    for dtype in ("bfloat16", "float16"):
        start = keras.initializers.Constant(0.98)
        layer = cls(momentum=0.99, dtype=dtype, moving_mean_initializer=start)
        for _ in range(100):
            _, mean, _ = train(layer, np.ones((4, 2), dtype="float32"))
        found[dtype] = error(mean, wanted)
    return worst(1e-5, **found)


def float64_layer(cls):
    """dtype="float64", mean 1e6: far more digits than float32 has."""
    x = normal(256, 4, mean=1e6, dtype="float64")
    y, _, variance = train(cls(momentum=0.0, dtype="float64"), x)
    wanted = exact(x)
    return worst(
        1e-8, y=error(y, wanted.y), variance=relative(variance, wanted.variance)
    )


def inference_error(cls, shape, mean):
    """Of inference with the statistics of the inputs, rounded to float32."""
    x = normal(*shape, mean=mean)
    wanted = exact(x)
    layer = cls()
    layer.build(shape)
    layer.moving_mean.assign(wanted.mean)
    layer.moving_variance.assign(wanted.variance)
    args = (*statistics(layer), 1.0, 0.0, -1, 1e-3, np.zeros(shape))
    return error(array(layer(x, training=False)), oracle.normalize_fixed(x, *args).y)


def inference_cancels(cls):
    """Rank 2, exact statistics: y to 1e-5."""
    found = {f"mean {m:.0e}:": inference_error(cls, (512, 4), m) for m in (1e4, 1e6)}
    return worst(1e-5, **found)


def inference_is_backward_stable(cls):
    """The error is at most two units in the last place of x."""
    found = {
        f"mean {m:.0e}:": inference_error(cls, (512, 4), m) / np.spacing(np.float32(m))
        for m in (1e4, 1e6)
    }
    text, defective = worst(2, **found)
    return f"units of x at {text}", defective


def rank_1(cls):
    """One number a channel: its own mean, so y is beta."""
    y, mean, variance = train(cls(momentum=0.0), x := normal(5, mean=3.0))
    return worst(1e-6, y=error(y, 0), mean=error(mean, x), variance=error(variance, 0))


# --- arguments


def refusals(cls, arguments, shape=None):
    """What happens to each set of arguments, where a ValueError that says so is due.

    The message holds the name and the value of what is out of range.
    """
    seen, good = [], True
    for keywords in arguments:
        layer = attempt(cls, **keywords)
        if shape and not isinstance(layer, Exception):
            layer = attempt(layer.build, shape)
        name, value = list(keywords.items())[-1]
        if isinstance(value, dict):
            name = value = next(iter(value))
        refused = isinstance(layer, Exception)
        seen.append(type(layer).__name__ if refused else "accepted")
        message = str(layer)
        clear = isinstance(layer, ValueError) and name in message
        clear &= str(value) in message
        good &= clear
    return ", ".join(dict.fromkeys(seen)), not good


def bad_axis(cls):
    """Out of range or no integer: refused; [3], as Keras 2 wrote it: taken."""
    text, defective = refusals(
        cls, [{"axis": 4}, {"axis": -5}, {"axis": 1.7}, {"axis": True}], (2, 3, 3, 4)
    )
    taken = attempt(lambda: train(cls(axis=[3], momentum=0.0), normal(2, 3, 3, 4)))
    if isinstance(taken, Exception):
        return f"{text}; [3]: {type(taken).__name__}", True
    return f"{text}; [3]: taken", defective


def bad_momentum(cls):
    return refusals(cls, [{"momentum": m} for m in (1.5, -1, float("nan"))])


def bad_epsilon(cls):
    return refusals(cls, [{"epsilon": e} for e in (-1, 0, float("inf"))])


def bad_renorm(cls):
    clippings = [{"renorm_clipping": {"rmax": -1}}, {"renorm_clipping": {"max": 1}}]
    text, defective = refusals(
        cls,
        [{"renorm": True, "renorm_momentum": 2}, *clippings]
        + [{"renorm": True, **clipping} for clipping in clippings],
    )
    reverse = attempt(cls, renorm=True, renorm_clipping={"rmin": 3.0, "rmax": 2.0})
    says = isinstance(reverse, ValueError) and "2.0" in str(reverse)
    return (
        f"{text}; message {'with' if says else 'without'} values",
        defective or not says,
    )


def keras_2_config(cls):
    """A config with `fused`, `adjustment` and axis=[3] makes a layer on axis 3."""
    config = {**cls().get_config(), "axis": [3], "fused": True, "adjustment": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may say that `fused` has no meaning now
        layer = attempt(cls.from_config, {**config, "virtual_batch_size": None})
    if isinstance(layer, Exception):
        return f"config {type(layer).__name__}", True
    layer.build((2, 3, 3, 4))
    return "config taken", layer.gamma.shape != (4,)


# --- derivatives


def second_derivatives(cls):
    """The Hessian of sum(y^3) in x, beside central differences of the oracle's dx."""
    import tensorflow as tf

    layer = cls(dtype="float64", momentum=0.0)
    layer.build((6, 3))
    gamma, beta = np.array([1.0, 2.0, 0.5]), np.array([0.5, -1.0, 0.0])
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    x = normal(6, 3, dtype="float64")
    inputs = tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            loss = tf.reduce_sum(layer(inputs, training=True) ** 3)
        dx = inner.gradient(loss, inputs)
    hessian = outer.jacobian(dx, inputs).numpy().reshape(18, 18)

    def slope(x):
        settings = x, gamma, beta, -1, 1e-3
        y = oracle.normalize(*settings, np.zeros(x.shape)).y
        return oracle.normalize(*settings, 3 * y**2).dx.ravel()

    step = 1e-5
    wanted = np.empty((18, 18))
    for i, one in enumerate(np.eye(18).reshape(18, 6, 3) * step):
        wanted[:, i] = (slope(x + one) - slope(x - one)) / (2 * step)
    return worst(1e-3, of_the_hessian=error(hessian, wanted))
