"""Gradient norms by parameter, and clipping by norm and by value."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradient_norms(model: nn.Module) -> dict[str, Tensor]:
    """The Euclidean norm of every parameter's gradient, as 0-d tensors."""
    named = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: torch.linalg.vector_norm(grad) for name, grad in named.items()}


def total_norm(norms: dict[str, Tensor]) -> Tensor:
    """The norm of all gradients taken as one vector."""
    if not norms:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(list(norms.values())))


def clip_by_norm(model: nn.Module, limit: float, norm: Tensor) -> None:
    """Scale all gradients so that their total norm is at most `limit`.

    Pascanu, Mikolov & Bengio 2013, algorithm 1: the direction is kept.
    """
    nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)


@torch.no_grad()
def clip_by_value(model: nn.Module, limit: float) -> None:
    """Cut every gradient element to [−limit, limit] (Graves 2013, section 2)."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.clamp_(-limit, limit)
