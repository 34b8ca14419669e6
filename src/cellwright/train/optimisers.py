"""Optimisers by name, with weight decay on matrices only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..language.errors import ArgumentError

OPTIMISERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices decay, biases and other vectors do not.

    A bias, a diagonal peephole or a scalar has no product to keep small; pulling it
    towards zero only moves a gate from where it was put.
    """
    matrices, vectors = [], []
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = (matrices, weight_decay), (vectors, 0.0)
    return [{"params": ps, "weight_decay": decay} for ps, decay in groups if ps]


def make_optimiser(
    name: str,
    model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), Adam (Kingma & Ba 2015) or SGD by name.

    Args:
        name: one of `OPTIMISERS`.
        model: its parameters are grouped by `decay_groups`.
        lr: the peak learning rate; a schedule scales it.
        weight_decay: decoupled for AdamW, added to the gradient for Adam and SGD.
        betas: decay of the two moments (Adam and AdamW).
        momentum: of SGD, in Nesterov's form unless 0.
        fused: one pass over all parameters, which is faster and rounds otherwise; None
            leaves it to torch.

    Raises:
        ArgumentError: another name.
    """
    if name not in OPTIMISERS:
        raise ArgumentError(
            f"[optimiser] no such optimiser; received {name!r}, "
            f"expected one of {', '.join(OPTIMISERS)}"
        )
    own: dict[str, Any] = {"betas": betas}
    if name == "sgd":
        own = {"momentum": momentum, "nesterov": momentum > 0}
    groups = decay_groups(model, weight_decay)
    return OPTIMISERS[name](groups, lr=lr, fused=fused, **own)


def set_rate(optimiser: torch.optim.Optimizer, factor: float) -> float:
    """Set every group's rate to `factor` times its peak; returns the first's."""
    for group in optimiser.param_groups:
        # The peak travels with the optimiser's state, so a resumed run knows it.
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = factor * group["initial_lr"]
    return optimiser.param_groups[0]["lr"]
