"""Steps with attention by hand, in plain PyTorch: one sequence, one step at a time.

They read weights by name and call nothing of cellwright. There is no padding here: a
row's items are a tensor (n, size) of just that many rows, and n may be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from oracles import logistic


def affine(gate: Any, *operands: Tensor) -> Tensor:
    """W·[operands] + b of one row, or of the rows of items."""
    rows = torch.cat(operands, -1) @ gate.weight.T
    return rows if gate.bias is None else rows + gate.bias


def attend(scores: Tensor, values: Tensor) -> Tensor:
    """softmax(scores)ᵀ values; zeros of no items. Scores are (n, 1) or (n, units)."""
    powers = torch.exp(scores - scores.max().detach() if len(scores) else scores)
    weights = powers / powers.sum(0)
    return (
        (weights * values).sum(0) if len(scores) else values.new_zeros(values.shape[1])
    )


def bahdanau_gru(W, x, items, h):
    """Bahdanau et al. 2015, A.1.2 and A.2.2."""
    aligned = torch.tanh(h @ W.query.weight.T + affine(W.key, items))
    a = attend(affine(W.e, aligned), items)
    z, r = (logistic(affine(gate, h, x, a)) for gate in (W.z, W.r))
    n = torch.tanh(affine(W.n, r * h, x, a))
    h = (1 - z) * h + z * n
    return h, [h]


def luong_lstm(W, x, items, a, h, c, general=False):
    """Luong et al. 2015, equations 5 and 7, scores "dot" and "general" of section 3.1,
    after an LSTM that is fed a."""
    f, i, o = (logistic(affine(gate, h, x, a)) for gate in (W.f, W.i, W.o))
    c = f * c + i * torch.tanh(affine(W.g, h, x, a))
    h = o * torch.tanh(c)
    keys = items @ W.key.weight.T if general else items
    context = attend((keys @ h)[:, None], items)
    a = torch.tanh(torch.cat([context, h]) @ W.a.weight.T)
    return a, [a, h, c]


def scan(
    step: Callable[..., Any],
    W: Any,
    x: Tensor,
    items: Tensor,
    states: Sequence[Tensor],
    own: Sequence[Tensor],
    *,
    lengths: Sequence[int],
    item_lengths: Sequence[int],
    resets: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Every row by itself: y (T, B, size), and the final states (B, size) each.

    Args:
        x: (T, B, size); `items`: (S, B, size); `states`: (B, size) each.
        own: what a reset starts from, (size,) each.
        resets: (T, B) booleans.
    """
    steps, batch = x.shape[:2]
    columns, finals = [], []
    for row in range(batch):
        now, seen = [s[row] for s in states], items[: item_lengths[row], row]
        order = range(lengths[row])
        outputs: dict[int, Tensor] = {}
        for t in reversed(order) if reverse else order:
            before = t + 1 if reverse else t
            again = resets is not None and before < lengths[row]
            if again and resets[before, row]:  # type: ignore[index]
                now = list(own)
            outputs[t], now = step(W, x[t, row], seen, *now)
        size = next(iter(outputs.values())).shape if outputs else states[0].shape[1:]
        zero = x.new_zeros(size)
        columns.append(torch.stack([outputs.get(t, zero) for t in range(steps)]))
        finals.append(now)
    return torch.stack(columns, 1), [torch.stack(s) for s in zip(*finals, strict=True)]


STEPS = {"bahdanau_gru": bahdanau_gru, "luong_lstm": luong_lstm}
