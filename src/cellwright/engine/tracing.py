"""What may go straight into the core, and what must be left for torch to see.

The core reads and writes memory. Whoever looks at torch's operations (a tracer, a
dispatch mode, a tensor subclass, a transform of functions) sees nothing of it, and a
tensor's memory is not always its value. `way` decides, once for every call.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch._ops import (
    _len_torch_dispatch_stack_pre_dispatch as _modes_before_dispatch,
)
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils._python_dispatch import _disable_current_modes

from ..language import ArgumentError

_C: Any = torch._C
_keys, _tracing_state = _C._dispatch_keys, _C._get_tracing_state
_function_modes = _C._len_torch_function_stack
_modes, _transforms = _C._len_torch_dispatch_stack, _C._functorch.peek_interpreter_stack

NO_MEMORY = (
    "[engine] the native engine reads a tensor's memory, and this one has none of its "
    "own; received {received}, expected plain tensors. What fully_shard(layer) shards "
    "is whole while the layer is called (for a stepper: after layer.unshard()); what "
    "is distributed otherwise is refused"
)
_PROXIES = _C._TorchDispatchModeKey.PROXY  # of make_fx
_PLAIN = {Tensor, Parameter, type(None)}  # one made of a subclass has that class

# How torch dispatches the calls of a tensor that is nothing but memory, on the CPU or
# CUDA, whatever the program that imports this has switched on.
with torch.inference_mode(False), _disable_current_modes():
    _memory = torch.empty(0, device="cpu")
    _NEGATIVE: int = _keys(torch._neg_view(_memory)).raw_repr()  # type: ignore[attr-defined]
    _CUDA: int = _C.DispatchKeySet(_C.DispatchKey.CUDA).raw_repr()
    _CUDA |= _C.DispatchKeySet(_C.DispatchKey.AutocastCUDA).raw_repr()
    _ODD = ~(_keys(_memory).raw_repr() | _NEGATIVE | _CUDA)  # all else: see `readable`

# Checks of arguments hold for the call that is traced, as those of torch's own modules.
warnings.filterwarnings(
    "ignore",
    category=torch.jit.TracerWarning,  # type: ignore[attr-defined]
    module=r"cellwright\.",
)


# Without a wrapper, which would cost as much as the question. After a break
# torch.compile takes functions by themselves, where no answer would be right.
@torch.compiler.disable(recursive=False)
def way(
    tensors: Sequence[Tensor | None], *, closely: bool = False
) -> Literal["memory", "op", "reference"]:
    """How a call on these tensors may go, outside of torch.compile.

    Args:
        closely: ask plain tensors too what they are. Without, one that has no memory
            (sparse, batched by torch's older vmap) is an error when it is read: the
            question would be a twentieth of the smallest call.

    Returns:
        "memory": nobody looks, and every tensor is its memory, but for the negative
        bit (see `readable`). "op": as one op, which tracers and tensor subclasses see.
        "reference": through torch's own operations alone.

    Raises:
        ArgumentError: a transform of functions inside torch.jit.trace.
    """
    if _transforms() is not None or forward_ad._current_level >= 0:
        refuse_jit("torch.func and forward-mode differentiation inside it")
        return "reference"
    if observed():
        return "op"
    if not closely and _PLAIN.issuperset(map(type, tensors)):
        return "memory"
    return kind(tensors)


@torch.compiler.disable(recursive=False)
def kind(
    tensors: Sequence[Tensor | None],
) -> Literal["memory", "op", "reference"]:
    """How tensors may go, whoever looks."""
    keys = [_keys(t) for t in tensors if t is not None]
    if all(key.raw_repr() & _ODD == 0 for key in keys):
        return "memory"
    _refuse_distributed(tensors)
    # A subclass that torch asks at every op: fake and functional tensors.
    asked = any(key.has(_C.DispatchKey.Python) for key in keys)
    return "op" if asked else "reference"


def _refuse_distributed(tensors: Sequence[Tensor | None]) -> None:
    """An op would run on each process's part, as if it were the whole."""
    for tensor in tensors:
        if type(tensor).__name__ == "DTensor":  # importing it takes a second
            raise ArgumentError(NO_MEMORY.format(received="DTensor"))


def jit() -> bool:
    """Inside torch.jit.trace or the older torch.onnx.export."""
    return _tracing_state() is not None


def observed() -> bool:
    """Inside torch.jit.trace or a dispatch mode: make_fx, FakeTensorMode, counters."""
    return (
        _tracing_state() is not None
        or _modes() > 0
        # make_fx(pre_dispatch=True) has a stack of its own, and a function mode.
        or (_function_modes() > 0 and _modes_before_dispatch() > 0)
    )


def traced() -> bool:
    """Inside what writes down the operations of a call to run them again."""
    if jit():
        return True
    if _modes() > 0 and _C._get_dispatch_mode(_PROXIES) is not None:
        return True
    return _function_modes() > 0 and _modes_before_dispatch() > 0


def transformed() -> bool:
    """Inside torch.func or forward-mode differentiation, which see through no op."""
    return _transforms() is not None or forward_ad._current_level >= 0


def readable(tensors: Sequence[Tensor | None]) -> list[Any]:
    """Tensors in memory that can be read: contiguous, without the negative bit.

    `contiguous` leaves the bit where one element is contiguous as it is.
    """
    return [
        t if t is None else (t.resolve_neg() if t.is_neg() else t).contiguous()
        for t in tensors
    ]


def refuse_jit(what: str) -> None:
    """What torch.jit.trace would keep as it is in the one call that it sees.

    Raises:
        ArgumentError: inside torch.jit.trace and the older torch.onnx.export.
    """
    if torch.compiler.is_compiling() or not jit():
        return
    if torch.onnx.is_in_onnx_export():
        raise ArgumentError(
            f"[torch.onnx.export] its older form traces; received {what}, which a "
            "trace cannot hold for other inputs. Write the layer or the whole model "
            "with cellwright.export_onnx(model, path, example=x)"
        )
    raise ArgumentError(
        f"[torch.jit.trace] received {what}, which a trace cannot hold for other "
        "inputs; expected a layer of sequences on the native engine, with padded x. "
        "torch.export traces the others too, and cellwright.export_onnx writes them"
    )


def check_values_may_leave() -> None:
    """Recorded values cannot leave what traces the call.

    Raises:
        ArgumentError: inside torch.compile, torch.func, torch.jit.trace, make_fx.
    """
    if torch.compiler.is_compiling():  # without fullgraph, torch runs this part itself
        where, remedy = "torch.compile", "one outside of it, or without fullgraph=True"
    elif transformed():
        where, remedy = "torch.func and forward-mode differentiation", "one outside"
    elif observed():
        where, remedy = "torch.jit.trace, make_fx and dispatch modes", "one outside"
    else:
        return
    raise ArgumentError(
        f"[record] values cannot leave {where}; received a call inside, expected "
        f"{remedy}"
    )


def numbers(what: str, values: Tensor) -> np.ndarray:
    """Lengths, resets or batch sizes as numbers that Python works with.

    Raises:
        ArgumentError: inside torch.jit.trace. Other tracers raise their own errors
            where the numbers are not known.
    """
    if not torch.compiler.is_compiling():
        refuse_jit(f"{what} that are read as numbers")
        if _modes():  # `numpy` reads behind a tracer's back
            values.sum().item()
    values = values.cpu()
    while _C._functorch.is_functorch_wrapped_tensor(values):  # in grad, jvp: any is
        if _C._functorch.is_batchedtensor(values):
            raise ArgumentError(
                f"[{what}] are read as numbers; received a batch of them under "
                "torch.vmap, expected the same for all"
            )
        values = _C._functorch.get_unwrapped(values)
    with _C._DisableFuncTorch():  # `numpy` detaches, and what that gives is wrapped
        return values.numpy()
