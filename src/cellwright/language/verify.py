"""Checks a graph against the rules it must keep; run after every pass."""

from __future__ import annotations

from .errors import CellError
from .graph import AFFINE, LEAVES, TOTAL, Graph, Node
from .ops import OPS


def verify(graph: Graph, *, after: str, internal: bool = False) -> Graph:
    """Return `graph` unchanged, or say which rule it breaks.

    Args:
        after: the pass that made the graph, for the message.
        internal: operations that no cell can write may occur.

    Raises:
        CellError: names the pass, the node and the user's source line.
    """
    known = _Known(graph)
    for number, node in enumerate(graph.nodes):
        problem = _problem(known, number, node, internal)
        if problem:
            raise CellError(
                f"[{node.source}, cell {graph.name!r}, after {after}] node {number} "
                f"({node.op}): {problem}"
            )
    if any(known.of_child[i] for i in (graph.output, *graph.updates)):
        raise CellError(
            f"[cell {graph.name!r}, after {after}] a result has one value for each "
            "child; expected one for the node"
        )
    count = len(graph.nodes)
    references = [graph.output, *graph.updates, *(i for _, i in graph.names)]
    if any(not 0 <= i < count for i in references):
        raise CellError(
            f"[cell {graph.name!r}, after {after}] a result or name points outside "
            f"the graph; received {max(references)}, expected below {count}"
        )
    if len({name for name, _ in graph.names}) != len(graph.names):
        raise CellError(f"[cell {graph.name!r}, after {after}] a name occurs twice")
    return graph


class _Known:
    """What a graph declares, gathered once for all of its nodes."""

    def __init__(self, graph: Graph) -> None:
        self.nodes, self.children = graph.nodes, graph.children or ("",)
        self.weights = {w.name: w for w in graph.weights}
        self.sizes = {
            "input": {i.name: i.size for i in graph.inputs},
            "state": {s.name: s.size for s in graph.states},
            "weight": {w.name: w.size for w in graph.weights if w.kind != "matrix"},
        }
        forward = all(a < n for n, node in enumerate(graph.nodes) for a in node.args)
        self.of_child = graph.per_child if forward else []  # else refused at once


def _problem(graph: _Known, number: int, node: Node, internal: bool) -> str | None:
    if any(not 0 <= a < number for a in node.args):
        return f"reads a later node; received {node.args}, expected below {number}"
    if node.op in LEAVES:
        return "a leaf reads nothing" if node.args else _leaf_problem(graph, node)
    if node.op == AFFINE:
        return _affine_problem(graph, node)
    if node.op == TOTAL:
        return _total_problem(graph, node)
    if node.op not in OPS:
        return f"unknown operation; received {node.op!r}"
    return _operation_problem(graph, node, internal)


def _leaf_problem(graph: _Known, node: Node) -> str | None:
    if node.op == "constant":
        return None if node.size == 1 else "a constant has size 1"
    if node.op == "state" and node.options.get("child", "") not in graph.children:
        return f"no child {node.options.get('child')!r} is declared"
    name = node["weight" if node.op == "weight" else "name"]
    if graph.sizes[node.op].get(name) != node.size:
        return f"{node.op} {name!r} of size {node.size} is not declared"
    return None


def _total_problem(graph: _Known, node: Node) -> str | None:
    (arg,) = node.args
    if not graph.of_child[arg]:
        return "a total sums what each child has; received one value of the node"
    return None if node.size == graph.nodes[arg].size else "a total keeps the size"


def _affine_problem(graph: _Known, node: Node) -> str | None:
    weight = graph.weights.get(node["weight"])
    sizes = tuple(graph.nodes[a].size for a in node.args)
    if weight is None or weight.kind != "matrix":
        return f"no matrix {node['weight']!r} is declared"
    if (weight.size, weight.operands) != (node.size, sizes):
        return f"matrix {weight.name!r} maps {weight.operands}; received {sizes}"
    if weight.columns and not (
        weight.columns in OPS and OPS[weight.columns].keeps_size
    ):
        return f"matrix {weight.name!r}: no column goes through {weight.columns!r}"
    return None


def _operation_problem(graph: _Known, node: Node, internal: bool) -> str | None:
    op = OPS[node.op]
    if len(node.args) != op.arity:
        return f"received {len(node.args)} arguments, expected {op.arity}"
    if set(node.options) != set(op.attrs):
        return f"received options {sorted(node.options)}, expected {sorted(op.attrs)}"
    if op.kind == "internal" and not internal:
        return "this operation belongs to derivatives, not to a cell"
    for position, arg in enumerate(node.args):
        known = OPS.get(graph.nodes[arg].op)
        is_condition = known is not None and known.kind == "comparison"
        if is_condition != (op.name == "where" and position == 0):
            return "comparisons stand inside where(...) only"
    sizes = [graph.nodes[a].size for a in node.args]
    if op.size == "one":
        return None if node.size == 1 else "a reduction gives size 1"
    if op.size == "first":
        return None if node.size == sizes[0] else f"expected size {sizes[0]}"
    wide = {s for s in sizes if isinstance(s, int) and s != 1}
    if len(wide) > 1 or (node.size not in sizes):
        return f"sizes {sizes} do not give {node.size}"
    return None
