"""The private names of torch that kbn uses, as torch 2.13 has them."""

from typing import Any


def _cannot_tell() -> bool:
    return True


def hooks(module: Any) -> list[str]:
    """The kinds of hooks that run when a module is called, of those that it has.

    Without a name there is none of that kind.
    """
    # https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/modules/module.py#L480
    kinds = ("forward_pre", "forward", "backward_pre", "backward")
    return [kind for kind in kinds if getattr(module, f"_{kind}_hooks", None)]


def is_in_backward() -> bool:
    """Whether a backward pass runs now in this thread: what is rematerialized does.

    Without the name, what runs again in it is taken for further calls.
    """
    # https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_C/__init__.pyi.in
    import torch  # a page or a converter may read this module without it

    task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
    return bool(task() != -1)


# is_transformed(): whether anything but autograd sees what is called now: a transform
# of functorch, a mode, forward mode. No public question tells. Without the names we
# take every call for one: the formula that they get is right for all of them.
# https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_C/__init__.pyi.in
try:
    from torch._C import (
        _are_functorch_transforms_active,  # vmap, grad, jvp
        _len_torch_dispatch_stack,  # fake tensors, make_fx
        _len_torch_function_stack,
    )
    from torch.autograd import forward_ad

    forward_ad._current_level  # noqa: B018

    def is_transformed() -> bool:
        """Whether anything but autograd sees this call."""
        return bool(
            _are_functorch_transforms_active()
            or _len_torch_dispatch_stack()
            or _len_torch_function_stack()
            or forward_ad._current_level >= 0
        )
except (ImportError, AttributeError):
    is_transformed = _cannot_tell
