"""The compiled core: what is there of it, and how tensors are handed to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...language import ArgumentError
from ..tracing import NO_MEMORY
from .openmp import share_threads

_core: Any
try:
    # `from ... import` would blame a circular import where the file is missing.
    import cellwright._core as _core
except ImportError as error:  # a pure Python build, or a broken one
    _core = None
    MISSING = str(error)
_SHARES_THREADS = _core is not None and share_threads(_core)

# Address, elements, and 2 where those are in bf16; or left to the core.
Memory = tuple[int, int] | tuple[int, int, int] | None


def info() -> dict[str, Any]:
    """What runs here: instruction sets, the one chosen, threads."""
    if _core is None:
        return {"native": False, "reason": MISSING}
    return {
        "native": True,
        "isas": _core.isas(),
        "isa": _core.isa(),
        "refused": _core.refused_isas(),
        "threads": _core.threads(torch.get_num_threads()),
        "pool": "torch's" if _SHARES_THREADS else "own",
    }


def check_environment() -> None:
    """Raise ArgumentError where CELLWRIGHT_ISA or CELLWRIGHT_THREADS make no sense."""
    if _core is not None:
        _core.isa()
        _core.threads(1)


def run_core(
    program: Any,
    schedule: Any,
    element: int,
    arrays: Sequence[Memory],
    weights: tuple[Sequence[Memory], Sequence[Memory]],
    finals: Sequence[tuple[int, int, int, int]],
    isa: str,
    read: Sequence[Tensor | None],
) -> None:
    """Run a compiled program over a schedule; the caller keeps all memory alive.

    Args:
        schedule: the core's form of it.
        element: bytes of a number.
        arrays: in the program's order.
        weights: the parameters, as the binding lists them, and where the core writes
            their gradients.
        finals: copies of final states that the core makes: array, row, address, count.
        isa: an instruction set by name; "" is the best.
        read: the tensors behind the memory, to say what is wrong with them.
    """
    parameters, gradients = weights
    threads = torch.get_num_threads()
    try:
        _core.run(
            program,
            schedule,
            element,
            arrays,
            parameters,
            gradients,
            threads,
            isa,
            finals,
        )
    except ValueError:
        check_memory(read)
        raise


def memory(tensors: Sequence[Tensor | None]) -> list[Memory]:
    """Where contiguous tensors are, as the core takes them; `None` is left to it."""
    return [
        None
        if t is None
        else (t.data_ptr(), t.numel())
        if t.dtype is not torch.bfloat16
        else (t.data_ptr(), t.numel(), 2)
        for t in tensors
    ]


def cut(whole: Tensor | None, counts: Sequence[int]) -> list[Memory]:
    """So many numbers for each count, one after the other, in one tensor."""
    if whole is None:
        return [None] * len(counts)
    address, element = whole.data_ptr(), whole.element_size()
    half = whole.dtype is torch.bfloat16
    parts: list[Memory] = []
    for count in counts:
        parts.append((address, count, 2) if half else (address, count))
        address += count * element
    return parts


def check_memory(tensors: Sequence[Tensor | None]) -> None:
    """Say why the core refused tensors, if it is that they have no memory.

    Raises:
        ArgumentError: a tensor that stands for others, such as a DTensor.
    """
    for tensor in tensors:
        if tensor is not None and tensor.numel() and not tensor.data_ptr():
            raise ArgumentError(NO_MEMORY.format(received=type(tensor).__name__))
