"""What the native engine makes of a cell, as text: `cellwright explain CELL`."""

from __future__ import annotations

from ..language import Cell
from ..language.linear import describe_linear
from .bindings import own_parameters
from .chunkwise import STEPS
from .matrices import is_matrix
from .once import made_once, made_once_of_mixed
from .plan import Plan


def explain(cell: Cell, input_size: int = 64, hidden_size: int = 128) -> str:
    """A cell's equations, its programs, what training saves, and what a step costs.

    Args:
        cell: of the zoo or a user's own.
        input_size, hidden_size: the sizes to plan for; other sizes are hidden_size.
    """
    known = {"input_size": input_size}
    sizes = {n: known.get(n, hidden_size) for n in cell.graph.size_names}
    graph = made_once(cell.graph.bind(**sizes)).step
    binding = own_parameters(graph)
    mixed = made_once_of_mixed(graph, binding)
    plan = Plan(graph, binding) if mixed is None else Plan(mixed[0].step, mixed[1])
    graph = plan.graph
    forward, backward = plan.training, plan.backward(("x",))
    # Of a matrix that goes several steps at a time, one in so many steps is kept.
    every = STEPS if plan.goes_in_steps else 1
    states = sum(int(s.size) // (every if is_matrix(s) else 1) for s in graph.states)
    saved = sum(plan.saved_sizes())
    names = {number: name for name, number in graph.names}
    kept = [names.get(n, graph.nodes[n].op) for n in plan.saved]
    training = forward.multiply_adds + backward.multiply_adds
    return "\n".join(
        [
            *cell.equations,
            *describe_linear(cell.graph),
            "",
            f"sizes: {', '.join(f'{n} = {v}' for n, v in sizes.items())}",
            f"kept a row and step for training, in float32: {4 * (states + saved):,} "
            f"bytes (states {4 * states:,}; "
            f"{', '.join(kept) or 'no more'} {4 * saved:,})",
            f"FLOPs a row and step: {2 * plan.inference.multiply_adds:,} in inference, "
            f"{2 * training:,} in training",
            "",
            plan.inference.disassemble(),
            "",
            forward.disassemble(),
            "",
            backward.disassemble(),
        ]
    )
