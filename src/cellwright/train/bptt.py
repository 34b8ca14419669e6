"""Back-propagation through time, full and truncated.

Full BPTT differentiates through a whole sequence. Truncated BPTT (Williams & Peng 1990)
cuts it into windows: the state is carried over from one window to the next, but its
gradient is not, so memory is bounded by the window and no gradient is longer than it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..nn.state import State, detach, map_state

__all__ = ["State", "backpropagate", "detach", "map_state"]


def backpropagate(
    loss: Callable[[Tensor, Tensor, State], tuple[Tensor, State]],
    inputs: Tensor,
    targets: Tensor,
    *,
    window: int | None = None,
    state: State = None,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> tuple[Tensor, State]:
    """Accumulate the gradient of one batch of sequences, full or truncated.

    Args:
        loss: `loss(inputs, targets, state) -> (sum over the window's steps, state)`.
        inputs: (T, B, …), time first.
        targets: (T, B, …).
        window: steps per window; None is full BPTT.
        state: what the sequence starts from (None: the model's own).
        backward: called with each window's loss.

    Returns:
        The loss summed over all steps, detached, and the detached final state.
    """
    if len(inputs) == 0:
        raise ValueError("[backpropagate] received a sequence of no steps")
    total: Any = 0.0
    length = window or len(inputs)
    for start in range(0, len(inputs), length):
        piece = slice(start, start + length)
        value, state = loss(inputs[piece], targets[piece], state)
        backward(value)
        state = detach(state)
        total = total + value.detach()
    return total, state
