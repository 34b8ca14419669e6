"""Sequence models that read some of their own predictions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .state import State


def run_forced(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    inputs: Tensor,
    state: State,
    ratio: float,
    feedback: Callable[[Tensor], Tensor],
) -> tuple[Tensor, State]:
    """Run a model over a window, feeding some of its own predictions back to it.

    Args:
        step: `step(inputs (t, B, …), state) -> (outputs (t, B, …), state)`.
        inputs: (T, B, …) the truth. Its first step is always read as it is.
        state: the state before the window.
        ratio: ε, the probability of reading the truth at a step. 1 runs the window in
            one call; 0 is free running. The coins are torch's global generator's.
        feedback: `feedback(outputs (1, B, …)) -> inputs (1, B, …)`, a sample or a mode
            of the prediction. No gradient flows through it.

    Returns:
        The outputs (T, B, …) and the state after the window.
    """
    if ratio >= 1:
        return step(inputs, state)
    outputs = []
    read = inputs[:1]  # (1, B, …)
    for t in range(len(inputs)):
        output, state = step(read, state)
        outputs.append(output)
        if t + 1 < len(inputs):
            truth, own = inputs[t + 1 : t + 2], feedback(output.detach())
            coins = torch.rand(truth.shape[:2], device=truth.device) < ratio  # (1, B)
            shape = coins.shape + (1,) * (truth.ndim - 2)
            read = torch.where(coins.view(shape), truth, own)
    return torch.cat(outputs), state
