"""Checks a graph against the rules it must keep; run after every pass."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import CellError
from .graph import (
    AFFINE,
    ATTENTION,
    CHILDREN,
    COTANGENT,
    EACH,
    ITEM,
    LEAVES,
    TOTAL,
    TRANSPOSED,
    Graph,
    Node,
    read_sets,
    sets,
)
from .ops import CONDITIONS, OPS
from .sizes import Misfit, fits
from .values import matrix_among


def verify(graph: Graph, *, after: str, internal: bool = False) -> Graph:
    """Return `graph` unchanged, or say which rule it breaks.

    Args:
        after: the pass that made the graph, for the message.
        internal: operations that no cell can write may occur.

    Raises:
        CellError: names the pass, the node and the user's source line.
    """
    known = verify_nodes(graph, graph.nodes, after=after, internal=internal)
    count, problem = len(graph.nodes), None
    references = [graph.output, *graph.updates, *(i for _, i in graph.names)]
    if any(not 0 <= i < count for i in references):
        problem = (
            "a result or name points outside the graph; received "
            f"{max(references)}, expected below {count}"
        )
    elif any(known.sets[i] for i in graph.returned):
        problem = "a result has one value for each member of a set; expected one"
    elif len({name for name, _ in graph.names}) != len(graph.names):
        problem = "a name occurs twice"
    if problem:
        raise CellError(f"[cell {graph.name!r}, after {after}] {problem}")
    return graph


def verify_nodes(
    graph: Graph, nodes: Sequence[Node], *, after: str, internal: bool, first: int = 0
) -> _Known:
    """Check nodes, its own or a derivative's after them, against what a graph declares.

    Those before the `first` are known to be right.
    """
    known = _Known(graph, nodes)
    for number in range(first, len(nodes)):
        problem = _problem(known, number, nodes[number], internal)
        if problem:
            raise CellError(
                f"[{nodes[number].source}, cell {graph.name!r}, after {after}] node "
                f"{number} ({nodes[number].op}): {problem}"
            )
    return known


class _Known:
    """What a graph declares, gathered once for all of its nodes."""

    def __init__(self, graph: Graph, nodes: Sequence[Node]) -> None:
        self.nodes, self.children = nodes, graph.children or ("",)
        self.weights = {w.name: w for w in graph.weights}
        self.sizes = {
            "input": {i.name: i.size for i in graph.inputs},
            "state": {s.name: s.size for s in graph.states},
            "weight": {w.name: w.size for w in graph.weights if w.kind != "matrix"},
            ITEM: {i.name: i.size for i in graph.items},
        }
        self.set_of_item = {i.name: i.set for i in graph.items}
        self.declared_sets = {*self.set_of_item.values()}
        if graph.many:
            self.declared_sets.add(CHILDREN)
        ordered = all(a < n for n, node in enumerate(nodes) for a in node.args)
        # Out of order they are refused at once.
        self.sets = sets(nodes, graph.many) if ordered else [None] * len(nodes)


def _problem(graph: _Known, number: int, node: Node, internal: bool) -> str | None:
    if any(not 0 <= a < number for a in node.args):
        return f"reads a later node; received {node.args}, expected below {number}"
    if len(read_sets(node, graph.sets)) > 1:
        return f"reads values of several sets; received {node.args}, expected one set"
    if node.op in OPS:
        return _operation_problem(graph, node, internal)
    rule = _RULES.get(node.op)
    if rule is None or (node.op in _INTERNAL and not internal):
        return f"unknown operation; received {node.op!r}"
    return rule(graph, node)


def _leaf_problem(graph: _Known, node: Node) -> str | None:
    if node.args:
        return "a leaf reads nothing"
    if node.op == COTANGENT:
        return None
    if node.op == "constant":
        return None if node.size == 1 else "a constant has size 1"
    if node.op == "state" and node.options.get("child", "") not in graph.children:
        return f"no child {node.options.get('child')!r} is declared"
    name = node["weight" if node.op == "weight" else "name"]
    if graph.sizes[node.op].get(name) != node.size:
        return f"{node.op} {name!r} of size {node.size} is not declared"
    if node.op == ITEM and node.options.get("set", name) != graph.set_of_item[name]:
        return f"item {name!r} is of the set {graph.set_of_item[name]!r}"
    return None


def _set_problem(graph: _Known, node: Node) -> str | None:
    (arg,) = node.args
    if node.op == EACH and node.options.get("set", CHILDREN) not in graph.declared_sets:
        return f"repeats a value over no set of the graph; received {node.attrs}"
    if (node.op == EACH) == (graph.sets[arg] is not None):
        received = "one value" if graph.sets[arg] is None else "many values"
        return f"a {node.op} goes from a set to one value or back; received {received}"
    return None if node.size == graph.nodes[arg].size else f"a {node.op} keeps the size"


def _affine_problem(graph: _Known, node: Node) -> str | None:
    weight = graph.weights.get(node["weight"])
    sizes = tuple(graph.nodes[a].size for a in node.args)
    if weight is None or weight.kind != "matrix":
        return f"no matrix {node['weight']!r} is declared"
    if (weight.size, weight.operands) != (node.size, sizes):
        return f"matrix {weight.name!r} maps {weight.operands}; received {sizes}"
    columns = OPS.get(weight.columns) if weight.columns else None
    if weight.columns and not (columns and columns.keeps_size):
        return f"matrix {weight.name!r}: no column goes through {weight.columns!r}"
    if weight.antisymmetric and (sizes != (node.size,) or columns):
        return f"matrix {weight.name!r} is antisymmetric, and no square"
    return None


def _transposed_problem(graph: _Known, node: Node) -> str | None:
    weight = graph.weights.get(node["weight"])
    sizes = tuple(graph.nodes[a].size for a in node.args)
    if weight is None or node["operand"] not in range(len(weight.operands)):
        return f"no operand {node['operand']} of a matrix {node['weight']!r}"
    if ((weight.size,), weight.operands[node["operand"]]) != (sizes, node.size):
        return f"matrix {weight.name!r} maps {sizes} back to no {node.size}"
    return None


_INTERNAL = (COTANGENT, TRANSPOSED, EACH)  # what derivatives have beside operations
_RULES = {
    **dict.fromkeys((*LEAVES, COTANGENT), _leaf_problem),
    **dict.fromkeys((TOTAL, ATTENTION, EACH), _set_problem),
    AFFINE: _affine_problem,
    TRANSPOSED: _transposed_problem,
}


def _operation_problem(graph: _Known, node: Node, internal: bool) -> str | None:
    op = OPS[node.op]
    if len(node.args) != op.arity:
        return f"received {len(node.args)} arguments, expected {op.arity}"
    if node.options.keys() != op.attrs.keys() or len(node.attrs) != len(op.attrs):
        return f"received options {sorted(node.options)}, expected {sorted(op.attrs)}"
    if op.kind == "internal" and not internal:
        return "this operation belongs to derivatives, not to a cell"
    for position, arg in enumerate(node.args):
        is_condition = graph.nodes[arg].op in CONDITIONS
        if is_condition != (op.name == "where" and position == 0):
            return "comparisons stand inside where(...) only"
    sizes = [graph.nodes[a].size for a in node.args]
    if op.size != "broadcast":
        try:
            size = op.result_size(sizes, node.options)
        except Misfit as error:
            return str(error)
        return None if node.size == size else f"expected size {size}"
    matrix = matrix_among(sizes)
    wide = [s for s in sizes if s != 1]
    numbers = {s for s in wide if isinstance(s, int)}
    if matrix:
        alike = all(fits(matrix, s) for s in wide) and fits(matrix, node.size)
    else:
        alike = len(numbers) < 2 and node.size in sizes
    return None if alike else f"sizes {sizes} do not give {node.size}"
