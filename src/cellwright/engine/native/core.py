"""The compiled core: what is there of it, and how tensors are handed to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...language import ArgumentError
from ..programs import Programs
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

Memory = tuple[int, int] | None  # address, elements; or left to the core


def info() -> dict[str, Any]:
    """What runs here: instruction sets, the one chosen, threads."""
    if _core is None:
        return {"native": False, "reason": MISSING}
    return {
        "native": True,
        "isas": _core.isas(),
        "isa": _core.isa(),
        "threads": _core.threads(torch.get_num_threads()),
        "pool": "torch's" if _SHARES_THREADS else "own",
    }


def check_environment() -> None:
    """Raise ArgumentError where CELLWRIGHT_ISA or CELLWRIGHT_THREADS make no sense."""
    if _core is not None:
        _core.isa()
        _core.threads(1)


def run_core(
    programs: Programs,
    kind: str,
    schedule: Any,
    arrays: Sequence[Memory],
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor] = (),
    *,
    wanted: tuple[str, ...] = (),
    finals: Sequence[tuple[int, int, int, int]] = (),
    element: int,
    read: Sequence[Tensor | None],
) -> None:
    """Run a program over a schedule.

    Args:
        kind, wanted: as `Programs.compiled` takes them.
        schedule: the core's form of it.
        arrays: in the program's order; all of them are kept alive by the caller.
        parameters: as the binding lists them, contiguous.
        gradients: where the core writes those of the parameters.
        finals: copies of final states that the core makes: array, row, address, count.
        element: bytes of a number.
        read: what the arrays were made of, to say what is wrong with them.
    """
    try:
        _core.run(
            programs.compiled(kind, wanted),
            schedule,
            element,
            arrays,
            memory(parameters),
            memory(gradients),
            torch.get_num_threads(),
            programs.isa,
            finals,
        )
    except ValueError:
        check_memory([*read, *parameters])
        raise


def memory(tensors: Sequence[Tensor | None]) -> list[Memory]:
    """Where contiguous tensors are, as the core takes them; `None` is left to it."""
    return [None if t is None else (t.data_ptr(), t.numel()) for t in tensors]


def cut(whole: Tensor | None, rows: int, sizes: Sequence[int]) -> list[Memory]:
    """A matrix (rows, size) for each size, one after the other, in one tensor."""
    if whole is None:
        return [None] * len(sizes)
    address, element = whole.data_ptr(), whole.element_size()
    parts: list[Memory] = []
    for size in sizes:
        parts.append((address, rows * size))
        address += rows * size * element
    return parts


def check_memory(tensors: Sequence[Tensor | None]) -> None:
    """Say why the core refused tensors, if it is that they have no memory.

    Raises:
        ArgumentError: a tensor that stands for others, such as a DTensor.
    """
    for tensor in tensors:
        if tensor is not None and tensor.numel() and not tensor.data_ptr():
            raise ArgumentError(NO_MEMORY.format(received=type(tensor).__name__))
