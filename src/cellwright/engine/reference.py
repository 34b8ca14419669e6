"""The reference engine: the cell's own function, stepped in PyTorch.

Any device, any floating dtype, autograd of any order. Every other engine is held to
its values and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ..language.evaluate import evaluate, rows_of
from .call import Call
from .engine import Advance, Bound, BoundCell, Engine, Items
from .programs import Programs
from .reference_items import Members
from .reference_trees import scan_trees
from .schedule import Schedule
from .tracing import refuse_jit
from .tree_schedule import TreeSchedule

#: `step(inputs, states) -> (output, new states)` of some rows.
Step = Callable[[list[Tensor], list[Tensor]], tuple[Tensor, list[Tensor]]]
#: Sources, initial states (B, size), reset states (size,), taps.
Parts = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]


class Reference(Engine):
    """The cell's function; its graph where values are recorded, or there are sets."""

    name = "reference"
    caution = "slow, since every step is run in Python"
    records = calls_gates = True

    def obstacle(
        self, bound: BoundCell, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        return None

    def run(self, bound: Bound, call: Call) -> tuple[Tensor, list[Tensor]]:
        programs, W = bound.bound.programs, bound.weights
        sources = [call.x, *(call.inputs[name] for name in programs.inputs[1:])]
        if isinstance(call.batch, TreeSchedule):
            return scan_trees(programs.graph, W, sources, call.batch)
        refuse_jit("the steps of one sequence, as the reference engine takes them")
        schedule = call.batch.schedule(call.reverse)
        states = programs.filled(call.states, W.first_parameter(), schedule.batch)
        parts = sources, [s[0] for s in states], call.reset_state, call.taps
        records: list[Tensor] = []
        if programs.recorded or programs.graph.items:
            members = Members(programs.graph, call.items, call.sets, schedule)
            found = scan_graph(programs, W, parts, schedule, call.static, members)
            y, finals, records = found
        else:
            step = _step_of(bound.bound.cell, W, programs)
            static = [name in call.static for name in programs.inputs]
            y, finals = scan(step, parts, schedule, static)
        return y, [*(f[None] for f in finals), *records]

    def stepper(
        self,
        stack: Sequence[Callable[[], Bound]],
        states: Sequence[Tensor],
        items: Sequence[Items] = (),
        precision: str = "full",
    ) -> Advance:
        """It packs nothing: each step reads the weights as they are."""

        seen = [
            Members(give().bound.programs.graph, *own)
            for give, own in zip(stack, items, strict=False)
        ]

        @torch.no_grad()
        def advance(x: Tensor, named: Sequence[Tensor], y: Tensor) -> None:
            for k, give in enumerate(stack):
                direction = give()
                # Copies: a result may be an old state itself, as in a delay line.
                olds = [state[k].clone() for state in states]
                bound, W = direction.bound, direction.weights
                if seen:
                    step = _step_of_graph(W, bound.programs, seen[k])
                else:
                    step = _step_of(bound.cell, W, bound.programs)
                x, news = step([x, *named], olds)
                for state, new in zip(states, news, strict=True):
                    state[k] = new
            y.copy_(x)

        return advance


def _step_of(cell: Any, W: Any, programs: Programs) -> Step:
    """A step of a cell's function."""
    extra, names = not programs.output_is_state, programs.inputs[1:]

    def step(now: list[Tensor], olds: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        named = dict(zip(names, now[1:], strict=True))
        results = cell(W, now[0], *olds, **named)
        results = list(results) if isinstance(results, tuple | list) else [results]
        output = results.pop(0) if extra else None
        news = [_like(r, s) for r, s in zip(results, olds, strict=True)]
        return rows_of(output if extra else news[0], now[0].shape[0], now[0]), news

    return step


def _step_of_graph(W: Any, programs: Programs, members: Members) -> Step:
    """A step of a cell's graph, which looks at values that are recorded, and at items.

    Its output has the columns of the recorded values after its own.
    """
    graph, recorded, names = programs.graph, programs.recorded, programs.inputs
    shown = [graph.output, *recorded]

    def step(now: list[Tensor], olds: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        rows, like = now[0].shape[0], now[0]
        items, edges = members.of(rows)
        added = dict(zip(recorded, now[len(names) :], strict=False))

        def tap(node: int, value: Any) -> Any:
            if node not in added:
                return value
            return value + members.packed(node, added[node])

        inputs = {**dict(zip(names, now, strict=False)), **items}
        given = {s.name: v for s, v in zip(graph.states, olds, strict=True)}
        values = evaluate(graph, W, inputs, given, edges, tap)
        news = [_like(values[n], s) for n, s in zip(graph.updates, olds, strict=True)]
        columns = [members.padded(n, values[n], rows, like) for n in shown]
        return torch.cat(columns, -1) if recorded else columns[0], news

    return step


def scan_graph(
    programs: Programs,
    W: Any,
    parts: Parts,
    schedule: Schedule,
    static: Collection[str],
    members: Members | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Scan sequences with a cell's graph, looking at some of its values.

    Args:
        programs: whose graph; `recorded` says what to look at.
        W: the weights.
        parts: as `scan` takes them; taps are zeros (T, B, size), one for each recorded
            node or none at all: added to its value, so that their gradient is the
            value's, through all it feeds.
        static: the inputs that are the same at every step.
        members: the items that the steps look at, if the cell has any.

    Returns:
        The outputs, the final states, the recorded values (T, B, size).
    """
    graph = programs.graph
    members = members or Members(graph, {}, {}, schedule)
    step = _step_of_graph(W, programs, members)
    once = [name in static for name in programs.inputs]
    y, finals = scan(step, parts, schedule, once)
    widths = [members.width(n) for n in (graph.output, *programs.recorded)]
    y, *records = y.split(widths, -1)
    return y, finals, records


def scan(
    step: Step, parts: Parts, schedule: Schedule, static: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    """Take a step for each level of a schedule; rows that it names nowhere are zero.

    Sources that are static have one row for each of the batch, for all levels.
    """
    given, states, reset_state, taps = parts
    sources, device = [*given, *taps], given[0].device
    rows, at = (
        None if m is None else m.to(device) for m in (schedule.batch_rows, schedule.at)
    )
    places = None if at is None else _places(schedule, at)
    levels: list[Sequence[Tensor]] = []
    for number, source in enumerate(sources):
        if number < len(static) and static[number]:
            own = source if rows is None else source[rows]
            levels.append([own[:count] for count in schedule.counts])
        else:
            flat = source.reshape(schedule.rows, source.shape[-1])
            levels.append(_levels(flat, schedule, places))
    current = [s if rows is None else s[rows] for s in states]
    begins = _begins(schedule, device)
    outputs: list[Tensor] = []
    for level, count in enumerate(schedule.counts):
        now = [v[level] for v in levels]
        olds = [v[:count] for v in current]
        if level in begins:
            begin = begins[level][:count, None]
            olds = [
                torch.where(begin, f, v) for f, v in zip(reset_state, olds, strict=True)
            ]
        output, news = step(now, olds)
        outputs.append(output)
        current = [
            new if count == old.shape[0] else torch.cat([new, old[count:]])
            for new, old in zip(news, current, strict=True)
        ]
    if rows is None or places is None:
        y = torch.cat(outputs if schedule.offsets[0] == 0 else outputs[::-1])
    else:
        y = torch.cat(outputs)
        y = y.new_zeros(schedule.rows, y.shape[-1]).index_copy(0, places, y)
        current = [
            s.to(v.dtype).index_copy(0, rows, v)
            for s, v in zip(states, current, strict=True)
        ]
    # Copies: a state may be a weight, or an initial state that is passed on.
    finals = [state.clone() for state in current]
    return y.view(*sources[0].shape[:-1], y.shape[-1]), finals


def _places(schedule: Schedule, at: Tensor) -> Tensor:
    """The rows of the levels, one level after the other, among those of a sequence."""
    levels = zip(schedule.offsets, schedule.counts, strict=True)
    return torch.cat([offset + at[:count] for offset, count in levels])


def _levels(
    rows: Tensor, schedule: Schedule, places: Tensor | None
) -> Sequence[Tensor]:
    """The rows of each level, all cut at once: the gradient of one cut alone has as
    many rows as the sequence, and there are as many cuts as steps."""
    if places is not None:
        return rows[places].split(schedule.counts)
    upwards = schedule.offsets[0] == 0
    parts = rows.split(schedule.counts if upwards else schedule.counts[::-1])
    return parts if upwards else parts[::-1]


def _begins(schedule: Schedule, device: torch.device) -> dict[int, Tensor]:
    """For each level that has any, which of its rows start anew."""
    if schedule.resets is None:
        return {}
    level, row = schedule.resets[:, 0], schedule.resets[:, 1]
    mask = torch.zeros(len(schedule.counts), max(schedule.counts), dtype=torch.bool)
    mask[level, row] = True
    mask = mask.to(device)
    return {k: mask[k] for k in level.unique().tolist()}


def _like(new: Any, old: Tensor) -> Tensor:
    """A new state has the old one's shape even if it depends on no row (a weight)."""
    if isinstance(new, Tensor) and new.shape == old.shape:
        return new
    return rows_of(new, old.shape[0], old, old.shape[-1])
