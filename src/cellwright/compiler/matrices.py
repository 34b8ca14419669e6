"""Matrices: what a stage of a matrix's rows sees, and what it makes.

A stage of matrices has a row for each row of every block. It sees a vector as one
number for each row of a block, each column, or each block; `Form` of `core/program.h`.
A matrix is computed in registers, from matrices and vectors that are in memory; what is
made of it is stored as the vector that it is.

The same serves vectors in heads: `sum(v, heads=n)` and `spread` are of n blocks of one
row.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from ..language import OPS, Graph, Node, verify
from ..language.graph import State, Weight
from ..language.sizes import MatrixSize
from .bindings import Binding
from .differentiate import VectorJacobian, verified

# How an operation sees what it reads; others see a vector as a number for each block.
_READS = {
    "outer": ("rows", "columns"),
    "matvec": ("matrix", "columns"),
    "vecmat": ("rows", "matrix"),
    "scale_rows": ("matrix", "rows"),
    "scale_columns": ("matrix", "columns"),
    "to_matrix": ("matrix",),
    "row_dots": ("matrix", "matrix"),
    "column_dots": ("matrix", "matrix"),
}
# And how the vector lies that it makes of matrices.
_MAKES = {
    "matvec": "rows",
    "row_dots": "rows",
    "vecmat": "columns",
    "column_dots": "columns",
    "spread": "matrix",
    "to_vector": "matrix",
}


_LEAVES = ("constant", "weight")


def is_matrix(node: Node | State | Weight) -> bool:
    return isinstance(node.size, MatrixSize)


def flatten_affines(
    graph: Graph, binding: Binding
) -> tuple[Graph, Binding, Sequence[int]]:
    """The same step, in which an affine map gives a vector, which is then a matrix.

    Returns:
        The step, its binding, and for each old node the new one of the same value.
    """
    flat = {w.name for w in graph.weights if w.kind == "matrix" and is_matrix(w)}
    if not flat:
        return graph, binding, range(len(graph.nodes))
    nodes: list[Node] = []
    new: dict[int, int] = {}
    for number, node in enumerate(graph.nodes):
        node = node.on(tuple(new[a] for a in node.args))
        if node.options.get("weight") in flat:
            size = node.size
            assert isinstance(size, MatrixSize)
            nodes.append(replace(node, size=int(size)))
            attrs = (("columns", int(size.columns)), ("rows", int(size.rows)))
            node = Node("to_matrix", (len(nodes) - 1,), attrs, size, node.source)
        nodes.append(node)
        new[number] = len(nodes) - 1
    weights = tuple(
        replace(w, size=int(w.size)) if w.name in flat else w for w in graph.weights
    )
    step = graph.with_nodes(nodes, new, weights=weights)
    found = verify(step, after="flatten_affines", internal=True)
    return found, binding, list(new.values())


def read(node: Node) -> tuple[int, ...]:
    """The arguments whose values an operation reads: of some, others give the size."""
    if node.op in ("row_dots", "column_dots"):
        return node.args[:2]
    return node.args[:1] if node.op in OPS and OPS[node.op].copies else node.args


def matrix_of(nodes: Sequence[Node], node: Node) -> MatrixSize | None:
    """The matrix whose rows a node is computed from, or of; `None`: there is none."""
    for size in (node.size, *(nodes[a].size for a in read(node))):
        if isinstance(size, MatrixSize):
            return size
    heads = int(node.options.get("heads") or 1)
    if heads == 1 or node.op not in ("sum", "spread"):
        return None
    vector = node.size if node.op == "spread" else nodes[node.args[0]].size
    return MatrixSize(heads, int(vector), heads)


def form(nodes: Sequence[Node], node: Node, place: int) -> str:
    """How a stage of matrices sees an argument of a node."""
    arg = nodes[node.args[place]]
    if is_matrix(arg) or node.op == "sum":
        return "matrix"
    if node.op in _READS:
        return _READS[node.op][place]
    return "number" if int(arg.size) == 1 else "heads"


def made_form(node: Node) -> str:
    """How the vector lies that a node makes of a matrix."""
    sums = "number" if int(node.size) == 1 else "heads"
    return _MAKES.get(node.op, sums)


def with_copies(vjp: VectorJacobian, places: Container[int]) -> VectorJacobian:
    """The same derivative, which finds what it makes matrices of in memory.

    Its nodes compute forward values again where they need them. A stage of matrices
    reads vectors from memory alone: so the derivative has such a vector as a value of
    its own, and the matrices that are made of it.

    Args:
        places: forward nodes that are in memory.
    """
    copies = _Copies(vjp, places)
    nodes, first = vjp.nodes, len(vjp.forward.nodes)
    for node in nodes[first:]:
        if matrix_of(nodes, node):
            for arg in read(node):
                copies.copy(arg)
    if not copies.new:
        return vjp
    shift = len(copies.nodes)

    def moved(number: int) -> int:
        return number + shift if number >= first else number

    def of(node: Node) -> Node:
        new = copies.new if matrix_of(nodes, node) else {}
        return node.on(tuple(new.get(a, moved(a)) for a in node.args))

    derivative = [of(node) for node in nodes[first:]]
    product = replace(
        vjp,
        nodes=(*nodes[:first], *copies.nodes, *derivative),
        cotangent_of={n: moved(c) for n, c in vjp.cotangent_of.items()},
    )
    return verified(product, after="with_copies")


class _Copies:
    """Forward values as values of the derivative.

    Attributes:
        nodes: after the forward ones.
        new: forward node → its copy.
    """

    def __init__(self, vjp: VectorJacobian, places: Container[int]) -> None:
        self.forward, self.places = vjp.forward.nodes, places
        self.nodes: list[Node] = []
        self.new: dict[int, int] = {}

    def copy(self, number: int) -> int:
        """A value, or its copy where it is neither in memory nor a leaf."""
        there = number >= len(self.forward) or number in self.places
        if there or number in self.new or self.forward[number].op in _LEAVES:
            return self.new.get(number, number)
        node = self.forward[number]
        if is_matrix(node):
            args = [self.copy(a) if a in read(node) else a for a in node.args]
            made = node.on(tuple(args))
        else:
            made = Node("identity", (number,), (), node.size, node.source)
        self.nodes.append(made)
        self.new[number] = len(self.forward) + len(self.nodes) - 1
        return self.new[number]


def weights_of_matrices(nodes: Sequence[Node]) -> dict[int, str]:
    """The weights that stages of matrices read, by node: they have to be in memory."""
    readers = [node for node in nodes if matrix_of(nodes, node)]
    numbers = {a for node in readers for a in read(node)}
    numbers |= {n for n, node in enumerate(nodes) if is_matrix(node)}
    return {n: nodes[n]["weight"] for n in numbers if nodes[n].op == "weight"}
