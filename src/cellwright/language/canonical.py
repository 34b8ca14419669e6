"""The canonical order of a graph: statements, each with its expression inlined.

Nodes are in the order in which the printed form would record them, so that
print → parse gives an equal graph.
"""

from __future__ import annotations

from dataclasses import replace

from .graph import (
    AFFINE,
    ATTENTION,
    ITEM,
    LEAVES,
    Graph,
    Node,
    before_steps,
    reachable,
    select,
)
from .names import check_names, name_values
from .ops import OPS
from .sizes import MatrixSize

_DECLARED = ("input", ITEM, "state")  # the leaves that are arguments of the function
DEEPEST = 64  # operations within one another on a line; Python's parser takes 200


def statements(graph: Graph) -> list[int]:
    """The nodes that get a line of their own: named, returned, not read just once.

    A leaf gets one where it was named by `cellwright.name`; so does what is nested
    deeper than a line should be. What `attend` is made of is written as one.
    """
    uses = _written_uses(graph)
    wanted = {number for _, number in graph.names} | {graph.output, *graph.updates}
    named = {number for name, number in graph.names if name in graph.explicit}
    found: list[int] = []
    depths: list[int] = []
    for number, node in enumerate(graph.nodes):
        depth = 1 + max((depths[a] for a in node.args), default=0)
        own = number in wanted or uses[number] != 1 or depth > DEEPEST
        if number in named or (own and not _has_no_line(graph, number)):
            found.append(number)
            depth = 0
        depths.append(depth)
    return found


def unwritten_spreads(graph: Graph) -> set[int]:
    """The spreads of one number a head that `f * C` stands for, C a matrix."""
    if not graph.has_matrices:
        return set()
    uses, named = graph.uses(), {number for _, number in graph.names}
    found: set[int] = set()
    for node in graph.nodes:
        if node.op not in OPS or OPS[node.op].size != "broadcast":
            continue
        matrices = (a for a in node.args if _is_own_matrix(graph.nodes[a]))
        partner = next(matrices, None)
        for arg in node.args:
            spread = graph.nodes[arg]
            if spread.op == "spread" and spread.args[1] == partner:
                once = uses[arg] == 1 and arg not in named
                found.update([arg] if once and spread["heads"] > 1 else [])
    return found


def _is_own_matrix(node: Node) -> bool:
    return isinstance(node.size, MatrixSize) and node.op != "spread"


def _written_uses(graph: Graph) -> list[int]:
    """How often each value is written: scores in every `attend` of their weights."""
    uses = graph.uses()
    for number in unwritten_spreads(graph):
        uses[graph.nodes[number].args[1]] -= 1
    for number, node in enumerate(graph.nodes):
        if node.op == ATTENTION:
            uses[node.args[0]] += uses[number] - 1
    return uses


def shown_statements(graph: Graph) -> list[int]:
    """Those with an equation: an attention has one, if no line of its own; a product
    that is added to another once has none."""
    attentions = (n for n, node in enumerate(graph.nodes) if node.op == ATTENTION)
    return sorted({*statements(graph), *attentions} - _summands(graph))


def _summands(graph: Graph) -> set[int]:
    """The products of a step that only a sum reads, and that bear no given name."""
    uses, once = graph.uses(), before_steps(graph.nodes)
    named = {number for name, number in graph.names if name in graph.explicit}
    read = (a for n in graph.nodes if n.op in ("add", "sub") for a in n.args)
    products = (a for a in read if graph.nodes[a].op == AFFINE)
    return {a for a in products if uses[a] == 1 and a not in named and not once[a]}


def _has_no_line(graph: Graph, number: int) -> bool:
    """Leaves, and the attention and the product within an `attend`."""
    node = graph.nodes[number]
    read = [node.op, *(graph.nodes[a].op for a in node.args[:1])]
    return node.op in LEAVES or ATTENTION in read


def canonical(graph: Graph) -> Graph:
    """`graph` in written order under its names, without what nothing reads.

    What its printed form says is the same graph again: names and order follow from its
    structure and from the order of its lines alone. So names are found again once dead
    values are gone, since such a reader may have cost an affine its gate's name; and
    at the end, as an affine may stand on a later line than it was recorded.
    """
    named = name_values(graph)
    live = _without_dead(named)
    written = name_values(_written(live if live is named else name_values(live)))
    check_names(written)
    return written


def _written(graph: Graph) -> Graph:
    """The nodes in the order in which the printed form records them."""
    order: dict[int, None] = {}

    def record(number: int) -> None:
        if number not in order:
            for arg in graph.nodes[number].args:
                record(arg)
            order[number] = None

    for number in (*_leaves(graph), *statements(graph), *graph.updates, graph.output):
        record(number)
    nodes, new = select(graph.nodes, order)
    weights = {w.name: w for w in graph.weights}
    used = dict.fromkeys(n["weight"] for n in nodes if "weight" in n.options)
    names = tuple(sorted(graph.names, key=lambda item: new[item[1]]))
    return replace(graph, names=names).with_nodes(
        nodes,
        new,
        weights=tuple(weights[name] for name in used),
        explicit=tuple(name for name, _ in names if name in graph.explicit),
    )


def _leaves(graph: Graph) -> list[int]:
    """Inputs, items, then the states, child by child, in the order declared."""
    labels = [i.name for i in (*graph.inputs, *graph.items)]
    for child in graph.children or ("",):
        labels += [f"{child}.{s.name}" if child else s.name for s in graph.states]
    leaves = [i for i, n in enumerate(graph.nodes) if n.op in _DECLARED]
    return sorted(leaves, key=lambda i: labels.index(graph.nodes[i].label))


def _without_dead(graph: Graph) -> Graph:
    """Drop what no result and no name reaches, unless a weight is in it.

    A weight that is used but never read is still one of the function's weights.
    """
    nodes, uses = graph.nodes, graph.uses()
    weighted: list[bool] = []
    for node in nodes:
        weighted.append(node.op == "weight" or any(weighted[a] for a in node.args))
    # An attention has a name of itself, whether anything reads it or not.
    named = {i for i in graph.values.values() if nodes[i].op != ATTENTION}
    roots = {graph.output, *graph.updates, *named}
    for number, node in enumerate(nodes):
        if node.op == AFFINE or (weighted[number] and not uses[number]):
            roots.add(number)
    live = reachable(nodes, roots)
    live.update(i for i, node in enumerate(nodes) if node.op in _DECLARED)
    if len(live) == len(nodes):
        return graph
    graph = replace(graph, names=tuple(pair for pair in graph.names if pair[1] in live))
    return graph.with_nodes(*select(nodes, sorted(live)))
