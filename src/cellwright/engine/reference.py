"""The reference engine: the cell's own function, stepped in PyTorch.

Any device, any floating dtype, autograd of any order. Every other engine is held to
its values and gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..language import Cell


def run(
    cell: Cell,
    W: Any,
    x: Tensor,
    states: Sequence[Tensor],
    inputs: Mapping[str, Tensor],
    *,
    reverse: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Walk a cell over a sequence.

    Args:
        cell: the equations.
        W: the weights, such as `layer.cells[0]`.
        x: (T, B, input_size), T ≥ 1.
        states: the initial states, (B, size) each.
        inputs: the named inputs, (T, B, size) each.
        reverse: walk from the last step to the first.

    Returns:
        The outputs (T, B, output_size), in the order of x, and the final states.
    """
    graph = cell.graph
    extra = not graph.output_is_state
    outputs: list[Tensor] = []
    current = list(states)
    steps = range(len(x))
    for t in reversed(steps) if reverse else steps:
        now = {name: value[t] for name, value in inputs.items()}
        results = cell(W, x[t], *current, **now)
        results = list(results) if isinstance(results, tuple | list) else [results]
        output = results.pop(0) if extra else results[0]
        current = [_like(r, s) for r, s in zip(results, current, strict=True)]
        outputs.append(output if extra else current[0])
    if reverse:
        outputs.reverse()
    return _stack(outputs, x), current


def _like(new: Any, old: Tensor) -> Tensor:
    """A new state has the old one's shape even if it depends on no row (a weight)."""
    if not isinstance(new, Tensor):
        return torch.full_like(old, new)
    return new if new.shape == old.shape else new.expand_as(old)


def _stack(outputs: list[Tensor], x: Tensor) -> Tensor:
    shape = (*x.shape[1:-1], outputs[0].shape[-1])
    return torch.stack([o.expand(shape) for o in outputs])
