"""The reference engine: the cell's own function, stepped in PyTorch.

Any device, any floating dtype, autograd of any order. Every other engine is held to
its values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..language import Cell, Graph
from ..language.evaluate import evaluate, rows_of
from .schedule import Order, Schedule, dense
from .tracing import refuse_jit

#: `step(inputs, states) -> (output, new states)` of some rows.
Step = Callable[[list[Tensor], list[Tensor]], tuple[Tensor, list[Tensor]]]


def run(
    cell: Cell,
    W: Any,
    x: Tensor,
    states: Sequence[Tensor],
    inputs: Mapping[str, Tensor],
    *,
    reverse: bool = False,
    order: Order | None = None,
    fresh: Sequence[Tensor] = (),
    static: Collection[str] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Walk a cell over a sequence.

    Args:
        cell: the equations.
        W: the weights, such as `layer.cells[0]`.
        x: (T, B, input_size), T ≥ 1; (Σ batch_sizes, input_size) if it is packed.
        states: the initial states, (B, size) each.
        inputs: the named inputs, shaped like x; a static one (B, size).
        reverse: walk from the last step to the first.
        order: lengths, resets or batch sizes; without it every row at every step.
        fresh: what a reset starts from, (size,) each.
        static: the named inputs that are given once for all steps.

    Returns:
        The outputs (T, B, output_size), in the order of x, and the final states.

    Raises:
        ArgumentError: inside torch.jit.trace.
    """
    refuse_jit("the steps of one sequence, as the reference engine takes them")
    extra = not cell.graph.output_is_state
    names = list(inputs)

    def step(now: list[Tensor], olds: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        named = dict(zip(names, now[1:], strict=True))
        results = cell(W, now[0], *olds, **named)
        results = list(results) if isinstance(results, tuple | list) else [results]
        output = results.pop(0) if extra else None
        news = [_like(r, s) for r, s in zip(results, olds, strict=True)]
        return rows_of(output if extra else news[0], now[0].shape[0], now[0]), news

    walk = order.schedule(reverse) if order else dense(x.shape[0], x.shape[1], reverse)
    once = [name in static for name in ("x", *names)]
    return step_through(step, [x, *inputs.values()], states, fresh, walk, once)


def run_graph(
    graph: Graph,
    W: Any,
    sources: Sequence[Tensor],
    states: Sequence[Tensor],
    fresh: Sequence[Tensor],
    walk: Schedule,
    recorded: Sequence[int] = (),
    probes: Sequence[Tensor] = (),
    static: Collection[str] = (),
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Walk a cell by its graph, looking at some of its values.

    Args:
        graph: the cell, with concrete sizes.
        W: the weights.
        sources: x and the named inputs, (T, B, size) each; a static one (B, size).
        states, fresh, walk: as `step_through` takes them.
        recorded: nodes to look at.
        probes: zeros (T, B, size), one for each recorded node or none at all: added to
            its value, so that their gradient is the value's, through all it feeds.
        static: the inputs that are given once for all steps.

    Returns:
        The outputs, the final states, the recorded values (T, B, size).
    """
    names, shown = [i.name for i in graph.inputs], [graph.output, *recorded]
    sizes = [int(graph.nodes[n].size) for n in shown]

    def step(now: list[Tensor], olds: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        added = dict(zip(recorded, now[len(names) :], strict=False))

        def probe(node: int, value: Any) -> Any:
            return value + added[node] if node in added else value

        inputs = dict(zip(names, now, strict=False))
        given = {s.name: v for s, v in zip(graph.states, olds, strict=True)}
        values = evaluate(graph, W, inputs, given, visit=probe)
        news = [_like(values[n], s) for n, s in zip(graph.updates, olds, strict=True)]
        columns = [
            rows_of(values[n], now[0].shape[0], now[0], size)
            for n, size in zip(shown, sizes, strict=True)
        ]
        return torch.cat(columns, -1) if recorded else columns[0], news

    once = [name in static for name in names] + [False] * len(probes)
    y, finals = step_through(step, [*sources, *probes], states, fresh, walk, once)
    y, *records = y.split(sizes, -1)
    return y, finals, records


def step_through(
    step: Step,
    sources: Sequence[Tensor],
    states: Sequence[Tensor],
    fresh: Sequence[Tensor],
    walk: Schedule,
    static: Sequence[bool] = (),
) -> tuple[Tensor, list[Tensor]]:
    """Take a step for each level of a schedule; rows that it names nowhere are zero.

    Sources that are static have a row of each lane, (batch, size), for all levels.
    """
    device = sources[0].device
    lanes, at = (None if m is None else m.to(device) for m in (walk.lanes, walk.at))
    places = None if at is None else _places(walk, at)
    levels: list[Sequence[Tensor]] = []
    for number, source in enumerate(sources):
        if number < len(static) and static[number]:
            own = source if lanes is None else source[lanes]
            levels.append([own[:count] for count in walk.counts])
        else:
            rows = source.reshape(walk.rows, source.shape[-1])
            levels.append(_levels(rows, walk, places))
    current = [s if lanes is None else s[lanes] for s in states]
    begins = _begins(walk, device)
    outputs: list[Tensor] = []
    for level, count in enumerate(walk.counts):
        now = [v[level] for v in levels]
        olds = [v[:count] for v in current]
        if level in begins:
            begin = begins[level][:count, None]
            olds = [torch.where(begin, f, v) for f, v in zip(fresh, olds, strict=True)]
        output, news = step(now, olds)
        outputs.append(output)
        current = [
            new if count == old.shape[0] else torch.cat([new, old[count:]])
            for new, old in zip(news, current, strict=True)
        ]
    if lanes is None or places is None:
        y = torch.cat(outputs if walk.offsets[0] == 0 else outputs[::-1])
    else:
        y = torch.cat(outputs)
        y = y.new_zeros(walk.rows, y.shape[-1]).index_copy(0, places, y)
        current = [
            s.to(v.dtype).index_copy(0, lanes, v)
            for s, v in zip(states, current, strict=True)
        ]
    return y.view(*sources[0].shape[:-1], y.shape[-1]), current


def _places(walk: Schedule, at: Tensor) -> Tensor:
    """The rows of the levels, one level after the other, among those of a sequence."""
    levels = zip(walk.offsets, walk.counts, strict=True)
    return torch.cat([offset + at[:count] for offset, count in levels])


def _levels(rows: Tensor, walk: Schedule, places: Tensor | None) -> Sequence[Tensor]:
    """The rows of each level, all cut at once: the gradient of one cut alone has as
    many rows as the sequence, and there are as many cuts as steps."""
    if places is not None:
        return rows[places].split(walk.counts)
    upwards = walk.offsets[0] == 0
    parts = rows.split(walk.counts if upwards else walk.counts[::-1])
    return parts if upwards else parts[::-1]


def _begins(walk: Schedule, device: torch.device) -> dict[int, Tensor]:
    """For each level that has any, which of its rows start anew."""
    if walk.starts is None:
        return {}
    level, row = walk.starts[:, 0], walk.starts[:, 1]
    mask = torch.zeros(len(walk.counts), max(walk.counts), dtype=torch.bool)
    mask[level, row] = True
    mask = mask.to(device)
    return {k: mask[k] for k in level.unique().tolist()}


def _like(new: Any, old: Tensor) -> Tensor:
    """A new state has the old one's shape even if it depends on no row (a weight)."""
    if isinstance(new, Tensor) and new.shape == old.shape:
        return new
    return rows_of(new, old.shape[0], old, old.shape[-1])
