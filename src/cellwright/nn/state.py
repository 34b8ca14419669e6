"""Carried states: cut their gradient, start some of their rows anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..language import ArgumentError
from ..language.arguments import describe, whole_numbers

#: A recurrent state: a tensor, None, or a tuple, list or dict of states.
State = Any


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a nested state, keeping its structure."""
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {key: map_state(function, value) for key, value in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [map_state(function, value) for value in state]
        if hasattr(state, "_fields"):  # a named tuple takes its fields one by one
            return type(state)(*parts)
        return type(state)(parts)
    return state


def detach(state: State) -> State:
    """The same values with no past: the cut of truncated BPTT."""
    return map_state(Tensor.detach, state)


def reset_rows(layer: Any, state: State, rows: Any) -> State:
    """A carried state whose chosen rows are the layer's own initial values.

    Args:
        layer: a `Recurrent`, or `LSTM`, `GRU`, `RNN`.
        state: as the layer returned it, (num_layers · directions, B, size) each; None,
            before the first call, stays None.
        rows: (B,) booleans, or integers 0 and 1, as `resets=` has them: a tensor, a
            NumPy array or a list.

    Raises:
        ArgumentError: rows of another kind or shape, such as numbers of rows.
    """
    if state is None:
        return None
    first = state if isinstance(state, Tensor) else state[0]
    batch = first.shape[1]
    chosen = whole_numbers(rows)
    if chosen is None or chosen.shape != (batch,) or not _is_mask(chosen):
        raise ArgumentError(
            f"[reset_rows] one boolean for each row; received "
            f"{describe(rows if chosen is None else chosen)}, expected ({batch},) of "
            "torch.bool, or of integers 0 and 1. To name rows by their numbers: mask = "
            f"torch.zeros({batch}, dtype=torch.bool); mask[numbers] = True"
        )
    own = iter(layer.first_states(batch))
    mask = chosen.to(first.device, torch.bool)[:, None]
    return map_state(lambda s: torch.where(mask, next(own), s), state)


def _is_mask(rows: Tensor) -> bool:
    return rows.dtype == torch.bool or bool(((rows == 0) | (rows == 1)).all())
