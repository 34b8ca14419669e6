"""Which states of a cell obey a linear recurrence, found in its graph.

A state is `"diagonal"` where new = a · old + b, unit by unit, and neither a nor b reads
it: they read inputs, weights, and states that can be scanned before this one. States
that read one another are linear together: a complex number as two states, for one. Then
the scan over time needs no product, and ∂new/∂old is a itself, whatever the state.

A state that is a matrix is `"matrix"` where new = Σ A · old · B + b with factors that
read it no more than a does: the delta rule's old · (I − β k kᵀ), for one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .graph import AFFINE, Graph, Node, reachable
from .ops import OPS
from .sizes import MatrixSize

DIAGONAL, MATRIX = "diagonal", "matrix"
# How a value depends on the states in question.
_FREE, _DIAGONAL, _MATRIX, _OTHER = range(4)
# In which arguments together an operation is linear, whatever the others: unit by unit,
# and otherwise.
_LINEAR_IN = {
    "add": [(0, 1)],
    "sub": [(0, 1)],
    "neg": [(0,)],
    "identity": [(0,)],
    "mul": [(0,), (1,)],
    "div": [(0,)],
    "where": [(1, 2)],
    "scale_rows": [(0,)],
    "scale_columns": [(0,)],
}
_MIXES_IN = {
    "matvec": [(0,), (1,)],
    "outer": [(0,), (1,)],
    "scale_rows": [(1,)],
    "scale_columns": [(1,)],
    "sum": [(0,)],
    "spread": [(0,)],
}


def linear_in(graph: Graph) -> dict[str, str | None]:
    """For each state of a cell: `"diagonal"`, `"matrix"`, or `None`: it is not linear.

    Args:
        graph: of a cell, bound or not. The states of trees' cells are not linear: a
            child's state comes from no step before.
    """
    found = {name: kind for group, kind in _groups(graph) for name in group}
    return {state.name: found.get(state.name) for state in graph.states}


def diagonal_groups(graph: Graph) -> list[set[str]]:
    """The diagonal states, those together that read one another."""
    return [group for group, kind in _groups(graph) if kind == DIAGONAL]


def _groups(graph: Graph) -> list[tuple[set[str], str]]:
    """The linear states, those together that read one another, and how."""
    reads = {} if graph.children else state_reads(graph)
    sizes = {s.name: s.size for s in graph.states}
    updates = dict(zip(sizes, graph.updates, strict=True))
    found: list[tuple[set[str], str]] = []
    for name in reads:
        group = {other for other in reads[name] if name in reads[other]} | {name}
        if any(group == known for known, _ in found):
            continue
        kinds = _kinds(graph, group)
        kind = max(kinds[updates[other]] for other in group)
        own = {sizes[other] for other in group}
        if kind <= _DIAGONAL and len(own) == 1:
            found.append((group, DIAGONAL))
        elif kind <= _MATRIX and any(isinstance(size, MatrixSize) for size in own):
            found.append((group, MATRIX))
    return found


def describe_linear(graph: Graph) -> list[str]:
    """What `linear_in` found, in words: a line for each kind of linear states.

    Such as `linear in h: diagonal; all products before the scan`.
    """
    kinds = linear_in(graph)
    nodes = graph.nodes
    operands = [a for node in nodes if node.op == AFFINE for a in node.args]
    read = any(nodes[n].op == "state" for n in reachable(nodes, operands))
    where = "no product inside the scan" if read else "all products before the scan"
    named = {
        kind: ", ".join(name for name in kinds if kinds[name] == kind)
        for kind in (DIAGONAL, MATRIX)
    }
    of = {DIAGONAL: where, MATRIX: "each step multiplies it by a matrix"}
    found = [(kind, names) for kind, names in named.items() if names]
    return [f"linear in {names}: {kind}; {of[kind]}" for kind, names in found]


def operands(node: Node) -> tuple[int, ...]:
    """The arguments whose values a node reads; of others it takes the size alone."""
    copies = node.op in OPS and OPS[node.op].copies
    return node.args[:1] if copies else node.args


def _read(nodes: Sequence[Node], results: Iterable[int]) -> set[int]:
    """The nodes whose values some results follow from."""
    return reachable([node.on(operands(node)) for node in nodes], results)


def state_reads(graph: Graph) -> dict[str, set[str]]:
    """For each state, those whose old values it reads, at this step or before."""
    names = [s.name for s in graph.states]
    reads: dict[str, set[str]] = {}
    for name, update in zip(names, graph.updates, strict=True):
        nodes = (graph.nodes[n] for n in _read(graph.nodes, [update]))
        reads[name] = {node["name"] for node in nodes if node.op == "state"}
    for through in names:
        for name in names:
            if through in reads[name]:
                reads[name] |= reads[through]
    return reads


def _kinds(graph: Graph, states: Collection[str]) -> list[int]:
    """How each value depends on these states: not at all, linearly, otherwise."""
    kinds: list[int] = []
    for node in graph.nodes:
        if node.op == "state":
            kinds.append(_DIAGONAL if node["name"] in states else _FREE)
        else:
            kinds.append(_kind(node, [kinds[a] for a in operands(node)]))
    return kinds


def _kind(node: Node, args: list[int]) -> int:
    """The same of one operation, from its arguments'."""
    most = max(args, default=_FREE)
    if most in (_FREE, _OTHER):
        return most
    reading = {place for place, kind in enumerate(args) if kind}
    for table, least in ((_LINEAR_IN, _DIAGONAL), (_MIXES_IN, _MATRIX)):
        if any(reading <= {*places} for places in table.get(node.op, ())):
            return max(most, least)
    return _OTHER
