"""Gradients of an engine's operation by torch's own operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def gradients_of(
    again: Callable[[Sequence[Any]], Sequence[Tensor]],
    tensors: Sequence[Any],
    grads: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients by torch's own operations; differentiable ones in a double backward.

    Args:
        again: the reference: tensors to results.
        grads: the cotangent of each result; None for zero.
        needed: for each tensor, whether its gradient is wanted.
    """
    twice = torch.is_grad_enabled()
    if not twice:  # leaves: nothing behind them is walked
        tensors = [
            t if t is None else t.detach().requires_grad_(need)
            for t, need in zip(tensors, needed, strict=True)
        ]
    else:  # one may be made of another: an alias has its own share alone
        tensors = [
            t.view_as(t) if need else t for t, need in zip(tensors, needed, strict=True)
        ]
    with torch.enable_grad():
        results = again(tensors)
    pairs = [(r, g) for r, g in zip(results, grads, strict=True) if g is not None]
    pairs = [(r, g) for r, g in pairs if r.requires_grad]
    if not pairs:  # such as behind `step`
        return [None for _ in needed]
    sought = [t for t, need in zip(tensors, needed, strict=True) if need]
    found = list(
        torch.autograd.grad(
            [r for r, _ in pairs],
            sought,
            [g for _, g in pairs],
            create_graph=twice,
            allow_unused=True,
        )
    )
    return [found.pop(0) if need else None for need in needed]
