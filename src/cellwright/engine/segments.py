"""A call for kernels that know neither lengths nor resets nor the reverse direction.

They take a batch of whole sequences, or a packed one, whose rows all go forward from
initial states of their own. `scan_segments` cuts a call so, by torch's operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .call import Call
from .schedule import SequenceBatch

#: `scan(sources, batch_sizes, states) -> (y, final states)`: sources (T, B, size) and
#: no sizes, or packed rows (N, size) and the rows of each step; states (1, B, size).
Scan = Callable[
    [list[Tensor], Tensor | None, list[Tensor]], tuple[Tensor, Sequence[Tensor]]
]


def scan_segments(
    call: Call, states: Sequence[Tensor], scan: Scan
) -> tuple[Tensor, list[Tensor]]:
    """A call of sequences, each cut at its resets.

    Args:
        states: the initial ones, (1, B, size) each.

    Returns:
        As `Engine.run`.
    """
    batch = call.batch
    assert isinstance(batch, SequenceBatch)
    sources, x = [call.x, *call.inputs.values()], call.x
    if batch.plain:
        sources = [s.expand(*x.shape[:2], -1) for s in sources]
        if call.reverse:
            sources = [s.flip(0) for s in sources]
        y, news = scan(sources, None, list(states))
        return y.flip(0) if call.reverse else y, list(news)
    segments = batch.segments(call.reverse)
    if not len(segments.rows):
        return _no_steps(call, sources, states, scan)
    known = list(states)
    if call.reset_state:
        pairs = zip(states, call.reset_state, strict=True)
        known = [torch.cat([s, f[None, None]], 1) for s, f in pairs]
    initial = [s[:, segments.initial] for s in known]
    rows = segments.rows.to(x.device)
    sources = [_packed(source, rows, call) for source in sources]
    y, news = scan(sources, segments.batch_sizes, initial)
    whole = y.new_zeros(x.shape[:-1].numel(), y.shape[1]).index_copy(0, rows, y)
    empty = segments.empty.to(x.device)
    finals = [
        torch.where(empty, s, n[:, segments.last])
        for s, n in zip(states, news, strict=True)
    ]
    return whole.view(*x.shape[:-1], -1), finals


def _no_steps(
    call: Call, sources: Sequence[Tensor], states: Sequence[Tensor], scan: Scan
) -> tuple[Tensor, list[Tensor]]:
    """Every row has length 0: a scan of no rows, so that results have gradients, zero
    for each weight, as those of other lengths have."""
    lead = call.x.shape[:-1]
    none = [s.expand(*lead, -1)[:, :0] for s in sources]
    y, news = scan(none, None, [state[:, :0] for state in states])
    whole = y.new_zeros(lead.numel(), y.shape[-1])
    nowhere = torch.empty(0, dtype=torch.int64, device=y.device)
    whole = whole.index_copy(0, nowhere, y.flatten(0, 1))
    finals = [torch.cat(pair, 1) for pair in zip(states, news, strict=True)]
    return whole.view(*lead, -1), finals


def _packed(source: Tensor, rows: Tensor, call: Call) -> Tensor:
    """A source's rows; of one that is the same at every step, those of the batch."""
    if source.shape[:-1] == call.x.shape[:-1]:
        return source.reshape(-1, source.shape[-1])[rows]
    assert isinstance(call.batch, SequenceBatch)
    of_batch = call.batch.batch_rows
    at = rows % call.batch.batch if of_batch is None else of_batch.to(rows.device)[rows]
    return source[at]
