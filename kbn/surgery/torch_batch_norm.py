"""Batch norms of PyTorch as layers of ours, and the other way round."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from kbn.layer import BatchNormalization
from kbn.private import keras as private
from kbn.private import torch as private_torch
from kbn.surgery.freeze import KERAS, Layer, describe, is_frozen

Module = Any

# A BatchNorm1d takes (N, C) and (N, C, L): it has no one rank.
RANKS = {"BatchNorm2d": 4, "BatchNorm3d": 5}


def from_torch_batch_norm(
    module: Module, axis: int = 1, **kwargs: Any
) -> BatchNormalization:
    """A `kbn.BatchNorm` that computes, trains and tracks as a module of PyTorch does.

    Its momentum is 1 - module.momentum: torch's is the share of the new batch, Keras'
    that of the old average. None is the cumulative average in both, and the number of
    batches so far comes along. Its moving variance is the unbiased one, which torch
    tracks. It is built, has the module's weights, epsilon and, unless it is float32,
    dtype, and shares no memory with it. Whether the module is in `train()` or `eval()`
    mode does not matter: Keras has `training=` of each call for that.

    Args:
        module: A `torch.nn.BatchNorm1d`, `BatchNorm2d`, `BatchNorm3d`, or a
            `SyncBatchNorm` of the default process group, which gets
            `synchronized=True`.
        axis: The axis of the channels in what the layer will be given. 1, as in torch;
            -1 for a network whose channels come last.
        **kwargs: Further arguments of `kbn.BatchNorm`, such as `name`.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: `module` is of another class, is lazy and has not seen a batch,
            does more than its class's `forward` (a method of its own, a hook, a
            parametrization), or does not track statistics, which a layer of Keras
            always does.

    Example:
        >>> import kbn, torch
        >>> layer = kbn.from_torch_batch_norm(torch.nn.BatchNorm2d(3, momentum=0.25))
        >>> layer.momentum, layer.epsilon, layer.unbiased
        (0.75, 1e-05, True)
    """
    torch = _torch("kbn.from_torch_batch_norm")
    kind = _kind(torch, module)
    # float32 is left to the policy: the statistics are float32 or wider under each.
    sample = module.running_mean
    dtype = str(sample.dtype).removeprefix("torch.")
    if dtype != "float32":
        kwargs = {"dtype": dtype, **kwargs}
    settings = {
        "axis": axis,
        "momentum": None if module.momentum is None else _flipped(module.momentum),
        "epsilon": module.eps,
        "scale": module.weight is not None,
        "center": module.bias is not None,
        "unbiased": True,
        "synchronized": kind == "SyncBatchNorm",
    }
    layer = BatchNormalization(**{**settings, **kwargs})
    rank = RANKS.get(kind, 2 if axis in (1, -1) else 3)
    shape: list[int | None] = [None] * rank
    shape[axis] = len(sample)
    layer.build(tuple(shape))
    if kind not in RANKS:
        most = {"max_ndim": 3} if kind == "BatchNorm1d" else {}
        axes = {axis: len(sample)}
        layer.input_spec = keras.layers.InputSpec(min_ndim=2, axes=axes, **most)
        # Else a saved model would build it for rank 2 before it sees its inputs.
        private.forget_build_shapes(layer)
    for ours, theirs in _pairs(layer, module):
        values = theirs.detach().cpu().to(torch.float64).numpy()
        ours.assign(np.array(np.broadcast_to(values, ours.shape)))
    return layer


def to_torch_batch_norm(layer: Layer, dimensions: int | None = None) -> Module:
    """A module of PyTorch with a batch norm's weights, epsilon and momentum.

    In inference the two agree, and in training the outputs and gradients do; so does
    the running variance where the layer has `unbiased=True`, as torch always tracks the
    unbiased one. The module expects its channels on axis 1, wherever the layer has
    them. Where the layer has no gamma or beta but the other, the module has ones or
    zeros that do not train. Regularizers, constraints and `warmup` have no place in a
    module, and it counts its batches once, not for each channel. A
    frozen layer becomes a module in `eval()` mode, with `requires_grad` as gamma and
    beta train; `train()` on a module around it would undo that.

    Args:
        layer: A `kbn.BatchNorm` or a `keras.layers.BatchNormalization`, built.
        dimensions: 1, 2 or 3, for a `BatchNorm1d`, `2d` or `3d`. None: as the layer's
            inputs are: rank 2 and 3 give 1, rank 4 gives 2, rank 5 gives 3. Has no
            meaning with `synchronized=True`, which gives a `SyncBatchNorm`.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: `layer` is not a batch norm, is not built, has inputs of another
            rank, or uses what torch does not have: `renorm`, `virtual_batch_size`,
            several axes.

    Example:
        >>> import kbn, torch
        >>> layer = kbn.BatchNorm(momentum=0.75)
        >>> layer.build((None, 8, 8, 3))
        >>> module = kbn.to_torch_batch_norm(layer)
        >>> type(module).__name__, module.num_features, module.eps, module.momentum
        ('BatchNorm2d', 3, 0.001, 0.25)
    """
    torch = _torch("kbn.to_torch_batch_norm")
    _require_plain(layer)
    if getattr(layer, "synchronized", False):
        make = torch.nn.SyncBatchNorm
    else:
        make = getattr(torch.nn, f"BatchNorm{_dimensions(layer, dimensions)}d")
    module = make(
        layer.moving_mean.shape[0],
        eps=layer.epsilon,
        momentum=None if layer.momentum is None else _flipped(layer.momentum),
        affine=layer.scale or layer.center,
        dtype=getattr(torch, keras.backend.standardize_dtype(layer.moving_mean.dtype)),
    )
    trains = layer.trainable
    with torch.no_grad():
        for ours, theirs in _pairs(layer, module):
            values = np.array(ops.convert_to_numpy(ours))
            # One number of batches for all channels.
            theirs.copy_(torch.tensor(values if theirs.ndim else values.max(initial=0)))
    if layer.scale or layer.center:
        module.weight.requires_grad_(trains and layer.scale)
        module.bias.requires_grad_(trains and layer.center)
    return module.eval() if is_frozen(layer) else module


def _torch(function: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{function} needs PyTorch, which is not installed: pip install torch"
        ) from error
    return torch


def _kind(torch: Any, module: Module) -> str:
    """The name of the module's class, one that can be converted."""
    nn = torch.nn
    given = type(module).__name__
    lazy = nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d
    if isinstance(module, lazy):
        raise ValueError(
            f"{given} does not know its channels yet: run the module on a batch first."
        )
    for kind in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"):
        theirs = getattr(nn, kind)
        if isinstance(module, theirs):
            break
    else:
        raise ValueError(
            "Expected a torch.nn.BatchNorm1d, BatchNorm2d, BatchNorm3d or "
            f"SyncBatchNorm, received {given}."
        )
    for what in _beside(torch, module, theirs):
        raise ValueError(
            f"{given} is a {kind} with {what}, which a layer would not follow. Take "
            "that out of the module, and put a layer that does it beside this one."
        )
    if module.running_mean is None:
        raise ValueError(
            f"{given}(track_running_stats=False) uses the batch's statistics in "
            "inference too, and a layer of Keras always tracks them. Make a "
            "kbn.BatchNorm by hand, and call it with training=True."
        )
    if getattr(module, "process_group", None) is not None:
        raise ValueError(
            f"{given} has a process_group of its own: kbn.BatchNorm(synchronized=True) "
            "takes the statistics over the default group."
        )
    return kind


def _beside(torch: Any, module: Module, cls: Any) -> Iterator[str]:
    """Name what a module does beside the `forward` of its class of torch."""
    if type(module).forward is not cls.forward or "forward" in vars(module):
        yield "a forward() of its own"
    if type(module).__call__ is not torch.nn.Module.__call__:
        yield "a __call__() of its own"
    for kind in private_torch.hooks(module):
        yield f"a {kind.replace('_', '-')} hook"
    if torch.nn.utils.parametrize.is_parametrized(module):
        yield f"a parametrization of its {', '.join(module.parametrizations)}"


def _require_plain(layer: Layer) -> None:
    """Refuse a layer that is no built batch norm, or does what torch cannot do."""
    if not isinstance(layer, KERAS | BatchNormalization):
        raise ValueError(
            "Expected a kbn.BatchNorm or keras.layers.BatchNormalization, received "
            f"{type(layer).__name__}."
        )
    if type(layer).call not in (KERAS.call, BatchNormalization.call):
        raise ValueError(
            f"{describe(layer)} has a call() of its own, which a module would not "
            "follow."
        )
    if not layer.built:
        raise ValueError(f"{describe(layer)} is not built: call it on a batch first.")
    renorm = {"renorm": True} if layer.renorm else {}
    groups = getattr(layer, "virtual_batch_size", None)
    virtual = {} if groups is None else {"virtual_batch_size": groups}
    several = {"axis": layer.axis} if isinstance(layer.axis, list) else {}
    for name, value in {**renorm, **virtual, **several}.items():
        raise ValueError(
            f"{describe(layer)} has {name}={value}: torch has no such option."
        )


def _dimensions(layer: Layer, given: int | None) -> int:
    if given is not None:
        if isinstance(given, bool) or given not in (1, 2, 3):
            raise ValueError(
                f"Expected dimensions to be 1, 2 or 3, received {given!r}."
            )
        return given
    spec = layer.input_spec
    rank = spec.ndim or spec.max_ndim
    found = {2: 1, 3: 1, 4: 2, 5: 3}.get(rank)
    if found is None:
        raise ValueError(
            f"{describe(layer)} is built for inputs of rank {rank}; torch has batch "
            "norms for ranks 2 to 5. Say which with dimensions=1, 2 or 3."
        )
    return found


def _pairs(layer: Layer, module: Module) -> list[tuple[Any, Any]]:
    """The variables of a layer with the tensors of a module that they stand for."""
    names = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
        "num_batches_tracked": "num_batches_tracked",
    }
    pairs = (
        (getattr(layer, a, None), getattr(module, b, None)) for a, b in names.items()
    )
    return [(a, b) for a, b in pairs if a is not None and b is not None]


def _flipped(momentum: float) -> float:
    """1 - momentum, so that there and back again is the same number."""
    return round(1 - momentum, 15)
