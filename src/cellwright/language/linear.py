"""Which states of a cell obey a linear recurrence, found in its graph.

A state is `"diagonal"` where new = a · old + b, unit by unit, and neither a nor b reads
it: they read inputs, weights, and states that can be scanned before this one. States
that read one another are linear together: a complex number as two states, for one. Then
the scan over time needs no product, and ∂new/∂old is a itself, whatever the state.
"""

from __future__ import annotations

from collections.abc import Collection

from .graph import AFFINE, Graph, Node, reachable

DIAGONAL = "diagonal"
_FREE, _LINEAR, _OTHER = range(3)  # how a value depends on the states in question
# In which arguments together an operation is linear, unit by unit, whatever the others.
_LINEAR_IN = {
    "add": [(0, 1)],
    "sub": [(0, 1)],
    "neg": [(0,)],
    "identity": [(0,)],
    "mul": [(0,), (1,)],
    "div": [(0,)],
    "where": [(1, 2)],
}


def linear_in(graph: Graph) -> dict[str, str | None]:
    """For each state of a cell: `"diagonal"`, or `None` where it is not linear.

    Args:
        graph: of a cell, bound or not. The states of trees' cells are not linear: a
            child's state comes from no step before.
    """
    diagonal = set().union(*diagonal_groups(graph))
    return {s.name: DIAGONAL if s.name in diagonal else None for s in graph.states}


def diagonal_groups(graph: Graph) -> list[set[str]]:
    """The diagonal states, those together that read one another."""
    reads = {} if graph.children else state_reads(graph)
    sizes = {s.name: s.size for s in graph.states}
    updates = dict(zip(sizes, graph.updates, strict=True))
    found: list[set[str]] = []
    for name in reads:
        group = {other for other in reads[name] if name in reads[other]} | {name}
        if group in found or len({sizes[other] for other in group}) > 1:
            continue
        kinds = _kinds(graph, group)
        if all(kinds[updates[other]] != _OTHER for other in group):
            found.append(group)
    return found


def describe_linear(graph: Graph) -> list[str]:
    """What `linear_in` found, in words: a line for the linear states, if there are any.

    Such as `linear in h: diagonal; all products before the scan`.
    """
    names = [name for name, kind in linear_in(graph).items() if kind]
    if not names:
        return []
    nodes = graph.nodes
    operands = [a for node in nodes if node.op == AFFINE for a in node.args]
    read = any(nodes[n].op == "state" for n in reachable(nodes, operands))
    where = "no product inside the scan" if read else "all products before the scan"
    return [f"linear in {', '.join(names)}: {DIAGONAL}; {where}"]


def state_reads(graph: Graph) -> dict[str, set[str]]:
    """For each state, those whose old values it reads, at this step or before."""
    names = [s.name for s in graph.states]
    reads: dict[str, set[str]] = {}
    for name, update in zip(names, graph.updates, strict=True):
        nodes = (graph.nodes[n] for n in reachable(graph.nodes, [update]))
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
            kinds.append(_LINEAR if node["name"] in states else _FREE)
        else:
            kinds.append(_kind(node, [kinds[a] for a in node.args]))
    return kinds


def _kind(node: Node, args: list[int]) -> int:
    """The same of one operation, from its arguments'."""
    if not any(args):
        return _FREE
    for places in _LINEAR_IN.get(node.op, ()):
        most = [_LINEAR if k in places else _FREE for k in range(len(args))]
        if all(kind <= limit for kind, limit in zip(args, most, strict=True)):
            return _LINEAR
    return _OTHER
