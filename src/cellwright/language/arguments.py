"""Numbers as callers have them: Python's, NumPy's, tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without dimensions, as Python's number.

    Anything else stays as it is.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | Tensor) and value.ndim == 0:
        return value.item()
    return value


def whole_numbers(values: Any) -> Tensor | None:
    """Integers, or booleans, as a tensor; `None` where they are neither.

    Args:
        values: a tensor of an integer type or of torch.bool, which stays as it is; a
            NumPy array of such a type; a sequence of numbers (Python's, NumPy's,
            tensors without dimensions), all integers or all booleans, or a rectangle
            of such sequences.
    """
    if isinstance(values, Tensor):
        real = not (values.is_floating_point() or values.is_complex())
        return values if real else None
    if hasattr(values, "__array__"):  # NumPy's, pandas'
        array = np.asarray(values)
        if array.dtype.kind == "b":
            return torch.from_numpy(array.copy())
        if array.dtype.kind in "iu":
            return torch.from_numpy(array.astype(np.int64))
        values = array.tolist() if array.dtype.kind == "O" else None
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        return None
    if not len(values):
        return torch.zeros(0, dtype=torch.int64)
    return _rectangle(values)


def _rectangle(values: Sequence[Any]) -> Tensor | None:
    rows = [_listed(v) for v in values]
    if any(isinstance(row, list) for row in rows):
        parts = [whole_numbers(row) for row in rows]
        tensors = [part for part in parts if part is not None]
        kinds = {(part.shape, part.dtype) for part in tensors}
        whole = len(tensors) == len(parts) and len(kinds) == 1
        return torch.stack(tensors) if whole else None
    for kind, dtype in ((bool, torch.bool), (int, torch.int64)):
        if all(type(row) is kind for row in rows):
            fit = all(-(1 << 63) <= row < 1 << 63 for row in rows)
            return torch.tensor(rows, dtype=dtype) if fit else None
    return None


def _listed(value: Any) -> Any:
    """A number as Python's, a sequence as a list."""
    if isinstance(value, np.ndarray | Tensor | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple | range) else value


def describe(value: Any) -> str:
    """What a message says was received: a shape and a type, or the type."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    return type(value).__name__
